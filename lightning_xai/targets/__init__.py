"""What is explained: a frozen model and the output that it is asked about."""

from lightning_xai.targets.base import Scorer, Target
from lightning_xai.targets.kinds import ANSWERS, Answer, ClassifierTarget, SegmenterTarget, asking, check_range

__all__ = ["ANSWERS", "Answer", "ClassifierTarget", "Scorer", "SegmenterTarget", "Target", "asking", "check_range"]
