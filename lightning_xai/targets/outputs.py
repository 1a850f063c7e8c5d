"""What is read from a target's logits: the scalar ``(B, T)`` that an explainer explains and a metric follows."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_xai.functional.segmentation import gather_classes, over_region, overlap_and_total, predicted_pixels
from lightning_xai.structures import Query

#: ``(target, logits (B, K, *S), query) -> (B, T)``.
Output = Callable[[Any, Tensor, Query], Tensor]


def score(target: Any, logits: Tensor, query: Query) -> Tensor:
    """Logit of each class; a segmenter's sum over the region."""
    return over_region(gather_classes(logits, query.targets), query.regions, mean=False)


def probability(target: Any, logits: Tensor, query: Query) -> Tensor:
    """Probability of each class; a segmenter's mean over the region."""
    return over_region(gather_classes(target.activate(logits), query.targets), query.regions, mean=True)


def log_probability(target: Any, logits: Tensor, query: Query) -> Tensor:
    """Logarithm of the probability of each class; a segmenter's mean over the region."""
    logs = F.logsigmoid(logits.float()) if target.activation == "sigmoid" else logits.float().log_softmax(dim=1)
    return over_region(gather_classes(logs, query.targets), query.regions, mean=True)


@torch.no_grad()
def dice(target: Any, logits: Tensor, query: Query) -> Tensor:
    """Dice of the pixels predicted as each class against the region; it has no gradient, and is 0 of two empty sets."""
    assert query.regions is not None
    predicted = predicted_pixels(logits, query.targets, target.activation).flatten(2)
    overlap, total = overlap_and_total(predicted, query.regions.flatten(2))
    return overlap / total.clamp(min=1)


OUTPUTS: dict[str, Output] = {"score": score, "probability": probability, "dice": dice}


def named_output(target: Any, output: str) -> Output:
    """An output by its name.

    Raises:
        ValueError: If there is none, or the target is a classifier and the output its Dice.
    """
    if output not in OUTPUTS or (output == "dice" and not target.dense):
        raise ValueError(
            f"A {type(target).__name__} has no output {output!r}; use {' | '.join(OUTPUTS)} (dice: segmenters)."
        )
    return OUTPUTS[output]
