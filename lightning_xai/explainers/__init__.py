"""Explainers: each turns images, and queries about them, into maps; one method a file."""

from lightning_xai.explainers.amortized_pcim import AmortizedPCIM
from lightning_xai.explainers.base import Explainer
from lightning_xai.explainers.cam.channel import AblationCAM, ScoreCAM
from lightning_xai.explainers.cam.closed_form import CAM, EigenCAM
from lightning_xai.explainers.cam.gradient import GradCAM, GradCAMPlusPlus, HiResCAM, LayerCAM, XGradCAM, XResCAM
from lightning_xai.explainers.cape.cape import CAPE
from lightning_xai.explainers.captum import CaptumExplainer
from lightning_xai.explainers.pcim import PCIM
from lightning_xai.explainers.reference import CenterPrior, EdgeMap, RandomMap
from lightning_xai.explainers.rise import RISE
from lightning_xai.explainers.unoise import UNoise

__all__ = [
    "CAM",
    "CAPE",
    "PCIM",
    "RISE",
    "AblationCAM",
    "AmortizedPCIM",
    "CaptumExplainer",
    "CenterPrior",
    "EdgeMap",
    "EigenCAM",
    "Explainer",
    "GradCAM",
    "GradCAMPlusPlus",
    "HiResCAM",
    "LayerCAM",
    "RandomMap",
    "ScoreCAM",
    "UNoise",
    "XGradCAM",
    "XResCAM",
]
