"""Outputs of a target, read from its logits: the scalar ``(B, T)`` that an explainer explains and a metric follows."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_xai.functional.reference_loss import log_of
from lightning_xai.functional.segmentation import gather_classes, over_region, overlap_and_total, predicted_pixels
from lightning_xai.structures import Query

#: ``(target, logits (B, K, *S), query) -> (B, T)``.
TargetOutput = Callable[[Any, Tensor, Query], Tensor]


class Logit:
    """Reads the logit of each class; a segmenter's sum over the region."""

    def __call__(self, target: Any, logits: Tensor, query: Query) -> Tensor:
        """``(B, T)`` of logits ``(B, K, *S)``."""
        return over_region(gather_classes(logits, query.targets), query.regions, mean=False)


class Probability:
    """Reads the probability of each class; a segmenter's mean over the region."""

    def __call__(self, target: Any, logits: Tensor, query: Query) -> Tensor:
        """``(B, T)`` of logits ``(B, K, *S)``, in [0, 1]."""
        return over_region(gather_classes(target.activate(logits), query.targets), query.regions, mean=True)


def log_probabilities(logits: Tensor, activation: str) -> Tensor:
    """Logarithms of the probabilities ``(B, K, *S)`` of logits, float32, finite also where a probability is 0.

    Args:
        logits: ``(B, K, *S)``.
        activation: ``"softmax"``, ``"sigmoid"``, or ``"none"``: they are probabilities already.
    """
    logits = logits.float()
    if activation == "none":
        return log_of(logits)
    return F.logsigmoid(logits) if activation == "sigmoid" else logits.log_softmax(dim=1)


class LogProbability:
    """Reads the logarithm of the probability of each class; a segmenter's mean over the region."""

    def __call__(self, target: Any, logits: Tensor, query: Query) -> Tensor:
        """``(B, T)`` of logits ``(B, K, *S)``, at most 0."""
        logs = log_probabilities(logits, target.activation)
        return over_region(gather_classes(logs, query.targets), query.regions, mean=True)


class Dice:
    """Computes the Dice of the predicted pixels of each class against the region; no gradient; 0 if both are empty."""

    @torch.no_grad()
    def __call__(self, target: Any, logits: Tensor, query: Query) -> Tensor:
        """``(B, T)`` of logits ``(B, K, *S)``, in [0, 1]."""
        assert query.regions is not None
        predicted = predicted_pixels(logits, query.targets, target.activation).flatten(2)
        overlap, total = overlap_and_total(predicted, query.regions.flatten(2))
        return overlap / total.clamp(min=1)
