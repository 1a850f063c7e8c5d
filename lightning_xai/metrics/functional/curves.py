"""Scores of curves: what a model's output does while pixels are hidden or shown."""

from collections.abc import Sequence

import torch
from torch import Tensor


def trapezoid(curve: Tensor, fractions: Sequence[float] | None = None) -> Tensor:
    """Compute the area under a curve: the deletion AUC, the insertion AUC, or one order of pixel flipping.

    The trapezoidal rule in float64, divided by the span of the fractions, so that a constant curve keeps its value
    (Petsiuk et al. 2018, RISE; Samek et al. 2017).

    Args:
        curve: ``(..., P)``, such as ``(B, T, P)`` from :func:`lightning_xai.reveal.reveal_curve`.
        fractions: Fractions of pixels that the points belong to, ``P`` of them; ``None``: equally spaced.

    Returns:
        ``(...)`` in the unit of the curve.

    Example:
        >>> trapezoid(torch.tensor([1.0, 0.5, 0.0])).item()
        0.5
    """
    points = torch.linspace(0, 1, curve.shape[-1], dtype=torch.float64, device=curve.device)
    if fractions is not None:
        points = torch.tensor(list(fractions), dtype=torch.float64, device=curve.device)
    return torch.trapezoid(curve.double(), points, dim=-1) / (points[-1] - points[0])


def area_between(upper: Tensor, lower: Tensor, fractions: Sequence[float] | None = None) -> Tensor:
    """Compute the area between two curves: insertion minus deletion AUC, or the LeRF minus MoRF gap of pixel flipping.

    Args:
        upper: ``(..., P)``, the curve of insertion, or of hiding the least relevant pixels first.
        lower: ``(..., P)``, the curve of deletion, or of hiding the most relevant pixels first.
        fractions: See :func:`trapezoid`.

    Returns:
        ``(...)``, negative where ``lower`` runs above ``upper``.

    Example:
        >>> area_between(torch.tensor([0.0, 1.0, 1.0]), torch.tensor([1.0, 0.0, 0.0])).item()
        0.5
    """
    return trapezoid(upper, fractions) - trapezoid(lower, fractions)


def mean_over_fractions(curve: Tensor) -> Tensor:
    """Compute the mean of a curve's points, each fraction of pixels counting alike: one order of ROAD.

    Args:
        curve: ``(..., P)``.

    Returns:
        ``(...)`` in the unit of the curve.

    Example:
        >>> mean_over_fractions(torch.tensor([1.0, 0.5, 0.0])).item()
        0.5
    """
    return curve.mean(dim=-1)


def baseline_probability(deletion: Tensor) -> Tensor:
    """Read the probability for the baseline image off a deletion curve: its last point, where every pixel is hidden.

    Args:
        deletion: ``(..., P)`` over fractions that end at 1.

    Returns:
        ``(...)``.

    Example:
        >>> baseline_probability(torch.tensor([1.0, 0.5, 0.25])).item()
        0.25
    """
    return deletion[..., -1]


def normalized_curve(curve: Tensor, full: Tensor, baseline: Tensor) -> Tensor:
    """Rescale a curve so that the baseline image has 0 and the whole image 1.

    ``(p - p_baseline) / (p_full - p_baseline)``, NaN where both are equal.

    Args:
        curve: ``(..., P)``.
        full: ``(...)``, the output for the whole image.
        baseline: ``(...)``, the output for the image with every pixel hidden.

    Returns:
        ``(..., P)``.

    Example:
        >>> normalized_curve(torch.tensor([0.25, 0.5]), torch.tensor(0.75), torch.tensor(0.25)).tolist()
        [0.0, 0.5]
    """
    span = (full - baseline).unsqueeze(-1)
    return torch.where(span == 0, torch.full_like(span, float("nan")), (curve - baseline.unsqueeze(-1)) / span)
