"""Segmentations of partly visible images, compared at one fraction of visible pixels or at one threshold of the maps.

Points are ``(R, 3, P)`` float64: for each of ``R`` maps and ``P`` rising fractions from 0 to 1 (``fractions=``; equally
spaced by default) twice the overlap of segmentation and reference, the sum of their sizes, and the value of the map's
last visible pixel. Between the fractions, values are interpolated.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def visibility_dice(
    points: Tensor, fraction: float, groups: Tensor | None = None, fractions: Sequence[float] | None = None
) -> Tensor:
    """Compute the Dice of every image when its most important pixels alone are visible (Koker et al. 2021, U-Noise).

    Args:
        points: ``(R, 3, P)``, see the module.
        fraction: Fraction of visible pixels, 0 to 1.
        groups: See :func:`counts_at_fraction`.
        fractions: Those of the points.

    Returns:
        ``(R,)`` in [0, 1]; NaN for points with NaN.

    Example:
        >>> points = torch.tensor([[[0.0, 3.0, 4.0], [2.0, 4.0, 4.0], [0.9, 0.5, 0.1]]], dtype=torch.float64)
        >>> visibility_dice(points, 0.5).item()
        0.75
    """
    return dice_of_counts(counts_at_fraction(points, fraction, groups, fractions))


def dice_of_counts(counts: Tensor) -> Tensor:
    """Divide twice the overlap by the sum of both sizes.

    Args:
        counts: ``(..., 2)`` from :func:`counts_at_fraction`.

    Returns:
        ``(...)`` in [0, 1].

    Example:
        >>> dice_of_counts(torch.tensor([3.0, 4.0])).item()
        0.75
    """
    overlap, total = counts.unbind(dim=-1)
    return overlap / total


def counts_at_fraction(
    points: Tensor, fraction: float, groups: Tensor | None = None, fractions: Sequence[float] | None = None
) -> Tensor:
    """Read overlap and total off every image's curve where a fraction of the pixels is visible.

    Args:
        points: ``(R, 3, P)``, see the module.
        fraction: Fraction of visible pixels, 0 to 1.
        groups: ``(R,)``, such as classes: maps of one group share a threshold that shows the fraction of all their
            pixels. ``None``: every image shows that fraction of its pixels.
        fractions: Those of the points.

    Returns:
        ``(R, 2)``; NaN for points with NaN.

    Example:
        >>> points = torch.tensor([[[0.0, 3.0, 4.0], [2.0, 4.0, 4.0], [0.9, 0.5, 0.1]]], dtype=torch.float64)
        >>> counts_at_fraction(points, 0.75, groups=torch.tensor([1])).tolist()
        [[3.5, 4.0]]
    """
    grid = _grid(points, fractions)
    if groups is None:
        return _between(points[:, :2], points.new_full((len(points),), fraction), grid)
    counts = points.new_empty(len(points), 2)
    for group in torch.unique(groups):
        rows = groups == group
        counts[rows] = _counts_at_threshold(points[rows], fraction, grid)
    return counts


def _counts_at_threshold(points: Tensor, fraction: float, grid: Tensor) -> Tensor:
    """Overlap and total ``(R, 2)`` when one threshold for all maps shows a fraction of all pixels.

    Where many pixels have the very value of the threshold, the fraction of them that is wanted counts.
    """
    defined = points[~points.flatten(1).isnan().any(dim=1)]
    if not len(defined):
        return points.new_full((len(points), 2), float("nan"))
    # Between two neighbors of all measured thresholds every fraction is a straight line of the threshold.
    thresholds = torch.unique(defined[:, 2])
    first, beyond = 0, len(thresholds)
    while beyond - first > 1:
        middle = (first + beyond) // 2
        if _fractions_above(defined, thresholds[middle], grid).mean() >= fraction:
            first = middle
        else:
            beyond = middle
    more = _fractions_above(points, thresholds[first], grid)
    less = torch.zeros_like(more)
    if beyond < len(thresholds):
        less = _fractions_above(points, thresholds[beyond], grid)
    span = more.nanmean() - less.nanmean()
    weight = ((fraction - less.nanmean()) / span).clamp(0, 1) if span > 0 else torch.ones_like(span)
    return torch.lerp(_between(points[:, :2], less, grid), _between(points[:, :2], more, grid), weight)


def fractions_above(points: Tensor, threshold: Tensor, fractions: Sequence[float] | None = None) -> Tensor:
    """Compute the fraction of each map's pixels that are at least a threshold.

    Args:
        points: ``(R, 3, P)``, see the module.
        threshold: One value, ``()``.
        fractions: Those of the points.

    Returns:
        ``(R,)`` in [0, 1]; NaN for points with NaN.

    Example:
        >>> points = torch.tensor([[[0.0, 3.0, 4.0], [2.0, 4.0, 4.0], [0.9, 0.5, 0.1]]], dtype=torch.float64)
        >>> fractions_above(points, torch.tensor(0.5, dtype=torch.float64)).item()
        0.5
    """
    return _fractions_above(points, threshold, _grid(points, fractions))


def _fractions_above(points: Tensor, threshold: Tensor, grid: Tensor) -> Tensor:
    steps = points.shape[2] - 1
    rising = points[:, 2].flip(1).contiguous()
    index = torch.searchsorted(rising, threshold.expand(len(points), 1).contiguous())[:, 0]
    # The first of the rising values that is at least the threshold has the largest fraction; before it, interpolate.
    after, before = index.clamp(max=steps), (index - 1).clamp(min=0)
    upper, lower = (rising.gather(1, neighbor.unsqueeze(1))[:, 0] for neighbor in (after, before))
    # A span without end is passed through at its finite end.
    reached = torch.where(upper > lower, ((upper - threshold) / (upper - lower)).nan_to_num(1.0), 0.0)
    falling = grid.flip(0)
    fraction = torch.lerp(falling[after], falling[before], reached)
    fraction = torch.where(index == 0, 1.0, torch.where(index > steps, 0.0, fraction))
    return fraction.masked_fill(points[:, 2].isnan().any(dim=1), float("nan"))


def _between(values: Tensor, fraction: Tensor, grid: Tensor) -> Tensor:
    """Values ``(R, 2, P)`` at one fraction each ``(R,)``."""
    wanted = fraction.nan_to_num(0.0).clamp(0, 1)
    before = (torch.searchsorted(grid, wanted.contiguous(), right=True) - 1).clamp(0, max(0, len(grid) - 2))
    after = (before + 1).clamp(max=len(grid) - 1)
    weight = ((wanted - grid[before]) / (grid[after] - grid[before])).nan_to_num(0.0).clamp(0, 1)
    first, second = (values.gather(2, step.view(-1, 1, 1).expand(-1, 2, 1))[..., 0] for step in (before, after))
    return torch.lerp(first, second, weight.unsqueeze(1))


def _grid(points: Tensor, fractions: Sequence[float] | None) -> Tensor:
    """The fractions of the points, ``(P,)`` float64."""
    if fractions is None:
        return torch.linspace(0, 1, points.shape[2], dtype=torch.float64, device=points.device)
    return torch.tensor(list(fractions), dtype=torch.float64, device=points.device)
