"""What is explained: a frozen model and the output of it that maps are about."""

from lightning_xai.targets.base import Target
from lightning_xai.targets.classifier import ClassifierTarget
from lightning_xai.targets.segmenter import SegmenterTarget

__all__ = ["ClassifierTarget", "SegmenterTarget", "Target"]
