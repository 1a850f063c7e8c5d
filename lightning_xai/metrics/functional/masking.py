"""Masking at once: what the image times its map, and the rest, do to the probability (Poppi et al. 2021; CAPE).

In all formulas ``E`` is the map brought to [0, 1], and ``y``, ``o`` and ``d`` are the confidence in the class for the
image ``x``, for ``x * E`` and for ``x * (1 - E)``.
"""

import torch
from torch import Tensor

from lightning_xai.metrics.functional.similarity import pearson


def average_drop(whole: Tensor, kept: Tensor) -> Tensor:
    """Compute the fraction of the confidence that is lost when the image is multiplied by its map.

    ``max(0, y - o) / y`` (Chattopadhay et al. 2018). With ``d`` for ``o`` it is the average drop in deletion (Jung & Oh
    2021).

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
    """Say whether the confidence rises when the image is multiplied by its map.

    ``[y < o]`` (Chattopadhay et al. 2018).

    Args:
        whole: ``y``, any shape.
        kept: ``o``.

    Returns:
        1 or 0.

    Example:
        >>> increase_in_confidence(torch.tensor([0.5, 0.5]), torch.tensor([0.75, 0.25])).tolist()
        [1.0, 0.0]
    """
    return (whole < kept).double()


def complexity(scaled: Tensor) -> Tensor:
    """Compute the mean of a map between 0 and 1: the fraction of the image that it keeps (Poppi et al. 2021, eq. 5).

    Args:
        scaled: ``E``, ``(B, T, *S)``.

    Returns:
        ``(B, T)`` in [0, 1].

    Example:
        >>> complexity(torch.tensor([[[[0.0, 1.0], [0.5, 0.5]]]])).item()
        0.5
    """
    return scaled.flatten(2).double().mean(dim=2)


def coherency(again: Tensor, first: Tensor) -> Tensor:
    """Correlate the map of an image with the map of that image times its map.

    ``(Pearson(E(x * E), E(x)) + 1) / 2`` (Poppi et al. 2021, eq. 4).

    Args:
        again: ``(B, T, *S)``, the map of ``x * E``.
        first: ``(B, T, *S)``, the map of ``x``.

    Returns:
        ``(B, T)`` in [0, 1]; NaN where one of them is constant.

    Example:
        >>> maps = torch.tensor([[[[0.0, 1.0, 2.0]]]])
        >>> round(coherency(3 * maps, maps).item(), 4), round(coherency(-maps, maps).item(), 4)
        (1.0, 0.0)
    """
    return (pearson(again, first) + 1) / 2


def adcc(coherency: Tensor, complexity: Tensor, drop: Tensor) -> Tensor:
    """Compute the harmonic mean of coherency, 1 - complexity and 1 - average drop (Poppi et al. 2021, eq. 7).

    Args:
        coherency: From :func:`coherency`, any shape.
        complexity: From :func:`complexity`.
        drop: From :func:`average_drop`.

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
    """Compute the intersection over union of two maps, each cut at a fraction of its maximum.

    Chowdhury et al. 2024 (CAPE), for the maps of the two most probable classes: low where they tell classes apart.

    Args:
        first: ``(B, T, *S)``.
        second: ``(B, T, *S)``.
        threshold: Fraction of the maximum, above which a pixel counts.

    Returns:
        ``(B, T)`` in [0, 1]; NaN where neither map has a positive value.

    Example:
        >>> top_iou(torch.tensor([[[[1.0, 0.5, 0.0]]]]), torch.tensor([[[[0.0, 3.0, 0.1]]]])).item()
        0.5
    """
    shown = [
        (flat > threshold * flat.amax(dim=2, keepdim=True)) & (flat > 0)
        for flat in (maps.flatten(2) for maps in (first, second))
    ]
    union = (shown[0] | shown[1]).sum(dim=2)
    return torch.where(union > 0, (shown[0] & shown[1]).sum(dim=2).double() / union, float("nan"))
