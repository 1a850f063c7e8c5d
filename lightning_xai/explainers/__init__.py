"""One method, one file; learned or not, the same face."""

from lightning_xai.explainers.amortized_pcim import AmortizedPCIM
from lightning_xai.explainers.base import Explainer
from lightning_xai.explainers.captum import CaptumExplainer
from lightning_xai.explainers.controls import CenterPrior, EdgeMap, RandomMap
from lightning_xai.explainers.pcim import PCIM

__all__ = ["PCIM", "AmortizedPCIM", "CaptumExplainer", "CenterPrior", "EdgeMap", "Explainer", "RandomMap"]
