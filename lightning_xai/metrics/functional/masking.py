"""Masking at once: what the image times its map, and the rest, do to the probability (Poppi et al. 2021; CAPE).

In all formulas ``E`` is the map brought to [0, 1], and ``y``, ``o`` and ``d`` are the confidence in the class for the
image ``x``, for ``x * E`` and for ``x * (1 - E)``.
"""

import torch
from torch import Tensor

from lightning_xai.metrics.functional.similarity import pearson


def average_drop(whole: Tensor, kept: Tensor) -> Tensor:
    """``max(0, y - o) / y``: the fraction of the confidence that the map alone loses (Chattopadhay et al. 2018).

    Also the average drop in deletion (Jung & Oh 2021), with ``d`` for ``o``.

    Args:
        whole: ``y``, any shape.
        kept: ``o``, or ``d`` for the drop in deletion.

    Returns:
        In [0, 1]; NaN where ``y`` is 0.

    Example:
        >>> average_drop(torch.tensor(0.5), torch.tensor(0.25)).item()
        0.5
    """
    whole, kept = whole.double(), kept.double()
    return torch.where(whole > 0, (whole - kept).clamp(min=0) / whole, float("nan"))


def increase_in_confidence(whole: Tensor, kept: Tensor) -> Tensor:
    """``[y < o]``: whether the map alone is more convincing than the image (Chattopadhay et al. 2018)."""
    return (whole < kept).double()


def complexity(scaled: Tensor) -> Tensor:
    """Mean of ``E`` ``(B, T, *S)``: how much of the image the map keeps (Poppi et al. 2021, eq. 5)."""
    return scaled.flatten(2).double().mean(dim=2)


def coherency(again: Tensor, first: Tensor) -> Tensor:
    """``(Pearson(E(x * E), E(x)) + 1) / 2``: does the map of what the map keeps look alike (Poppi et al. 2021, eq. 4).

    Args:
        again: ``(B, T, *S)``, the map of ``x * E``.
        first: ``(B, T, *S)``, the map of ``x``.

    Returns:
        ``(B, T)`` in [0, 1]; NaN where one of them is constant.
    """
    return (pearson(again, first) + 1) / 2


def adcc(coherency: Tensor, complexity: Tensor, drop: Tensor) -> Tensor:
    """Harmonic mean of coherency, 1 - complexity and 1 - average drop (Poppi et al. 2021, eq. 7).

    Returns:
        In [0, 1]; 0 where one of the three is 0, NaN where one is undefined.

    Example:
        >>> round(adcc(torch.tensor(0.9), torch.tensor(0.2), torch.tensor(0.1)).item(), 4)
        0.864
    """
    parts = torch.stack([coherency.double(), 1 - complexity.double(), 1 - drop.double()])
    value = 3 / (1 / parts.clamp(min=0)).sum(dim=0)
    return torch.where(parts.isnan().any(dim=0), float("nan"), value)


def top_iou(first: Tensor, second: Tensor, threshold: float = 0.2) -> Tensor:
    """Overlap of two maps, each cut at a fraction of its own maximum: low where they tell classes apart.

    Args:
        first: ``(B, T, *S)``.
        second: ``(B, T, *S)``.
        threshold: Fraction of the maximum, above which a pixel counts.

    Returns:
        ``(B, T)`` in [0, 1]; NaN where neither map has a positive value.
    """
    shown = [
        (flat > threshold * flat.amax(dim=2, keepdim=True)) & (flat > 0)
        for flat in (maps.flatten(2) for maps in (first, second))
    ]
    union = (shown[0] | shown[1]).sum(dim=2)
    return torch.where(union > 0, (shown[0] & shown[1]).sum(dim=2).double() / union, float("nan"))
