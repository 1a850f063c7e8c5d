"""Train explainers around frozen image models."""

from lightning_xai.explainers.base import Explainer
from lightning_xai.structures import Explanation, Query
from lightning_xai.targets import ClassifierTarget, SegmenterTarget, Target

__version__ = "0.1.0"
__all__ = ["ClassifierTarget", "Explainer", "Explanation", "Query", "SegmenterTarget", "Target", "__version__"]
