"""Segmentations of partly visible images, compared at one fraction of visible pixels or at one threshold of the maps.

Points are ``(R, 3, P)`` float64: for each of ``R`` maps and ``P`` equally spaced fractions from 0 to 1 twice the
overlap of segmentation and reference, the sum of their sizes, and the value of the map's last visible pixel. Between
the fractions, values are interpolated.
"""

import torch
from torch import Tensor


def at_own_fraction(points: Tensor, fraction: float) -> Tensor:
    """Overlap and total ``(R, 2)`` when every image shows the same fraction of its pixels."""
    return _between(points[:, :2], points.new_full((len(points),), fraction))


def at_common_fraction(points: Tensor, fraction: float) -> Tensor:
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
        if fractions_above(defined, thresholds[middle]).mean() >= fraction:
            first = middle
        else:
            beyond = middle
    more = fractions_above(points, thresholds[first])
    less = fractions_above(points, thresholds[beyond]) if beyond < len(thresholds) else torch.zeros_like(more)
    span = more.nanmean() - less.nanmean()
    weight = ((fraction - less.nanmean()) / span).clamp(0, 1) if span > 0 else torch.ones_like(span)
    return torch.lerp(_between(points[:, :2], less), _between(points[:, :2], more), weight)


def fractions_above(points: Tensor, threshold: Tensor) -> Tensor:
    """Fraction of each map's pixels ``(R,)`` that are at least the threshold."""
    steps = points.shape[2] - 1
    rising = points[:, 2].flip(1).contiguous()
    index = torch.searchsorted(rising, threshold.expand(len(points), 1).contiguous())[:, 0]
    # The first of the rising values that is at least the threshold has the largest fraction; before it, interpolate.
    after, before = index.clamp(max=steps), (index - 1).clamp(min=0)
    upper, lower = (rising.gather(1, place.unsqueeze(1))[:, 0] for place in (after, before))
    # A span without end is passed through at its finite end.
    reached = torch.where(upper > lower, ((upper - threshold) / (upper - lower)).nan_to_num(1.0), 0.0)
    fraction = (steps - after + reached) / steps
    fraction = torch.where(index == 0, 1.0, torch.where(index > steps, 0.0, fraction))
    return fraction.masked_fill(points[:, 2].isnan().any(dim=1), float("nan"))


def _between(values: Tensor, fraction: Tensor) -> Tensor:
    """Values ``(R, 2, P)`` at one fraction each ``(R,)``."""
    steps = values.shape[2] - 1
    place = (fraction.nan_to_num(0.0) * steps).clamp(0, steps)
    before = place.floor().long().clamp(max=max(0, steps - 1))
    first, second = (values.gather(2, (before + step).view(-1, 1, 1).expand(-1, 2, 1))[..., 0] for step in (0, 1))
    return torch.lerp(first, second, (place - before).unsqueeze(1))
