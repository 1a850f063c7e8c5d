"""Localization: how well do maps agree with the evidence that an expert marked?

One sort and cumulative sums serve the whole family: :func:`sort_evidence` once, then any of the functions that take a
:class:`Sorted`. Shapes: ``B`` images, ``T`` queries, ``N`` pixels. Every function returns ``(B, T)`` float64 in
[0, 1], NaN where the quantity is undefined: an empty mask and a map with NaN always, a constant map wherever pixels are
ranked, and what the function names. Tied pixels have no order: they enter together, or count with their expected value.
"""

from functools import partial

import torch
from torch import Tensor

from lightning_xai.metrics.functional._rows import (
    box_spans,
    by_block,
    check_evidence,
    check_threshold,
    occupied_along,
)
from lightning_xai.metrics.functional.evidence import Sorted, sort_evidence  # noqa: F401 - the examples use the latter

NAN = float("nan")


def pointing_game(ranked: Sorted) -> Tensor:
    """Say whether the map's highest pixel is evidence (Zhang et al. 2018); where several tie, the fraction of them.

    Args:
        ranked: From :func:`sort_evidence`.

    Example:
        >>> maps, inside = torch.tensor([[[0.9, 0.9, 0.1]]]), torch.tensor([[[True, False, False]]])
        >>> pointing_game(sort_evidence(maps, inside)).item()
        0.5
    """
    return top_k_intersection(ranked, 1)


def relevance_rank(ranked: Sorted) -> Tensor:
    """Compute the fraction of evidence among as many of the highest pixels as there is evidence (Arras et al. 2022).

    Args:
        ranked: From :func:`sort_evidence`.

    Example:
        >>> maps, inside = torch.tensor([[[0.9, 0.5, 0.1]]]), torch.tensor([[[True, False, True]]])
        >>> relevance_rank(sort_evidence(maps, inside)).item()
        0.5
    """
    return _fraction_of_top(ranked, ranked.positives)


def top_k_intersection(ranked: Sorted, k: int) -> Tensor:
    """Compute the fraction of evidence among the ``k`` highest pixels (Theiner et al. 2022).

    Args:
        ranked: From :func:`sort_evidence`.
        k: Number of pixels, 1 to ``N``.

    Raises:
        ValueError: If the maps do not have ``k`` pixels.

    Example:
        >>> maps, inside = torch.tensor([[[0.9, 0.5, 0.1]]]), torch.tensor([[[True, False, True]]])
        >>> top_k_intersection(sort_evidence(maps, inside), k=1).item()
        1.0
    """
    if not 1 <= k <= ranked.values.shape[2]:
        raise ValueError(f"k is {k}, but must be from 1 to the {ranked.values.shape[2]} pixels of a map.")
    return _fraction_of_top(ranked, torch.full_like(ranked.positives, k))


def pixel_auc(ranked: Sorted) -> Tensor:
    """Compute the area under the ROC curve of the map as a classifier of pixels; ties count one half.

    Undefined also for a full mask.

    Args:
        ranked: From :func:`sort_evidence`.

    Example:
        >>> maps, inside = torch.tensor([[[0.9, 0.5, 0.1]]]), torch.tensor([[[True, False, True]]])
        >>> pixel_auc(sort_evidence(maps, inside)).item()
        0.5
    """
    positives = ranked.positives
    negatives = ranked.values.shape[2] - positives
    (area,) = by_block(_twice_the_area, ranked.hits, ranked.last)
    # The ROC curve advances with the negatives only; what the positives add to the area is P^2 / 2.
    value = (area - positives**2).double() / (2 * positives * negatives)
    return _where_defined(value, ranked, negatives > 0)


def pixel_average_precision(ranked: Sorted) -> Tensor:
    """Compute the average precision of the map as a detector of the evidence's pixels.

    As ``sklearn.metrics.average_precision_score``.

    Args:
        ranked: From :func:`sort_evidence`.

    Example:
        >>> maps, inside = torch.tensor([[[0.9, 0.5, 0.1, 0.0]]]), torch.tensor([[[True, False, False, True]]])
        >>> pixel_average_precision(sort_evidence(maps, inside)).item()
        0.75
    """
    (gain,) = by_block(partial(_gained_precision, _positions(ranked)), ranked.hits)
    return _where_defined(gain / ranked.positives, ranked)


def best_iou(ranked: Sorted) -> Tensor:
    """Compute the intersection over union of the evidence and the pixels above the best of all thresholds.

    Args:
        ranked: From :func:`sort_evidence`.

    Example:
        >>> maps, inside = torch.tensor([[[0.9, 0.5, 0.1]]]), torch.tensor([[[True, True, False]]])
        >>> best_iou(sort_evidence(maps, inside)).item()
        1.0
    """
    (value,) = by_block(partial(_highest_iou, _positions(ranked)), ranked.hits)
    return _where_defined(value, ranked)


def fixed_iou(ranked: Sorted, threshold: float) -> Tensor:
    """Compute the intersection over union of the evidence and the pixels above a fraction of the map's range.

    That is, the pixels of at least ``min + threshold * (max - min)``.

    Undefined also for a map with infinite values.

    Args:
        ranked: From :func:`sort_evidence`.
        threshold: Fraction of the map's range, 0 to 1.

    Raises:
        ValueError: If the threshold is outside [0, 1].

    Example:
        >>> maps, inside = torch.tensor([[[0.9, 0.6, 0.1]]]), torch.tensor([[[True, False, False]]])
        >>> fixed_iou(sort_evidence(maps, inside), threshold=0.5).item()
        0.5
    """
    check_threshold(threshold)
    high, low = ranked.values[..., 0].double(), ranked.values[..., -1].double()
    border = (low + threshold * (high - low)).minimum(high)
    # In the maps' own type, to copy no map; where that rounds the border down, what equals it lies below the border.
    rounded = border.to(ranked.values.dtype)
    shown = torch.where(rounded < border, _count(ranked, rounded, tied=False), _count(ranked, rounded, tied=True))
    both = _hits_among(ranked, shown)
    return _where_defined(both.double() / (shown + ranked.positives - both), ranked, border.isfinite())


def relevance_mass(maps: Tensor, masks: Tensor) -> Tensor:
    """Compute the fraction of the map's positive values that lies on the evidence (Arras et al. 2022).

    Undefined also for a map whose positive mass is zero or infinite; a constant positive map has the area fraction.

    Args:
        maps: ``(B, T, *S)``.
        masks: ``(B, T, *S)`` bool, the evidence.

    Raises:
        ValueError: If the maps are no floats or the evidence has another shape.

    Example:
        >>> relevance_mass(torch.tensor([[[3.0, 1.0, -5.0]]]), torch.tensor([[[True, False, True]]])).item()
        0.75
    """
    check_evidence(maps, masks)
    inside = masks.flatten(2)
    total, evident = by_block(_mass_inside, maps.detach().flatten(2), inside)
    return _fraction_of_mass(total, evident, occupied_along(inside, [2]))


def box_energy(maps: Tensor, masks: Tensor) -> Tensor:
    """Compute the fraction of the map's positive values inside the evidence's bounding box.

    Wang et al. 2020, the energy-based pointing game.

    Undefined also for a map whose positive mass is zero or infinite.

    Args:
        maps: ``(B, T, *S)``, 2-D or 3-D.
        masks: ``(B, T, *S)`` bool, the evidence.

    Raises:
        ValueError: If the maps are no floats or the masks have another shape.

    Example:
        >>> masks = torch.tensor([[[[True, False, False], [False, True, False]]]])
        >>> box_energy(torch.ones(1, 1, 2, 3), masks).item()  # the box is 2 x 2 of 2 x 3 pixels
        0.66...
    """
    check_evidence(maps, masks)
    spans = box_spans(masks)
    total, boxed = by_block(_mass_in_box, maps.detach().flatten(2), *spans)
    return _fraction_of_mass(total, boxed, occupied_along(spans[0] > 0, [2]))


def _twice_the_area(hits: Tensor, last: Tensor) -> tuple[Tensor]:
    """Under the curve of hits over pixels: every pixel adds the hits before and after its group; all integers."""
    before = hits.cummax(dim=1).values[:, :-1].sum(dim=1)
    left = ((hits[:, -1:] - hits) * last).flip(1).cummax(dim=1).values.sum(dim=1)
    return (before + hits.shape[1] * hits[:, -1].long() - left,)


def _gained_precision(positions: Tensor, hits: Tensor) -> tuple[Tensor]:
    """Sum of new hits times precision over the groups of tied values."""
    gained = hits.double()
    gained[:, 1:] -= hits.cummax(dim=1).values[:, :-1]
    return (gained.mul_(hits).div_(positions).sum(dim=1),)


def _highest_iou(positions: Tensor, hits: Tensor) -> tuple[Tensor]:
    # hits / (shown + positives - hits) rises with hits / (shown + positives), which is at most one half. Positions
    # inside a group have no hits, so they are never the highest.
    ratio = (hits / (positions + hits[:, -1:])).amax(dim=1)
    return (ratio / (1 - ratio),)


def _mass_inside(maps: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """Positive mass of the whole maps ``(R, N)`` and of the evidence."""
    mass = maps.clamp(min=0).double()
    marked = inside.view(torch.uint8).double()  # bytes are cast faster than booleans
    return mass.sum(dim=1), marked.mul_(mass).sum(dim=1)


def _mass_in_box(maps: Tensor, *spans: Tensor) -> tuple[Tensor, Tensor]:
    """Positive mass of the whole maps ``(R, N)`` and of the box with these spans, from the last axis to the first."""
    mass = maps.clamp(min=0).double()
    total = mass.sum(dim=1)
    for span in reversed(spans):
        mass = (torch.unflatten(mass, 1, (-1, span.shape[1])) @ span.unsqueeze(2)).squeeze(2)
    return total, mass.squeeze(1).minimum(total)  # summed in another order, it may be rounded above the total


def _fraction_of_mass(total: Tensor, part: Tensor, marked: Tensor) -> Tensor:
    """NaN for an empty mask, and for a map with NaN or without a positive, finite mass."""
    return (part / total).where(total.isfinite() & marked, NAN)


def _fraction_of_top(ranked: Sorted, k: Tensor) -> Tensor:
    """Expected fraction of evidence among the ``k`` ``(B, T)`` highest pixels, ties at the border in random order."""
    border = ranked.values.gather(2, (k - 1).clamp(min=0).unsqueeze(2)).squeeze(2)
    above, upto = _count(ranked, border, tied=False), _count(ranked, border, tied=True)
    sure, tied = _hits_among(ranked, above), _hits_among(ranked, upto)
    fraction = (sure + (k - above) * (tied - sure) / (upto - above).double()) / k
    return _where_defined(fraction, ranked)


def _count(ranked: Sorted, border: Tensor, *, tied: bool) -> Tensor:
    """How many pixels lie above the border ``(B, T)``, with or without those that equal it."""
    pixels = ranked.values.shape[2]
    count = torch.zeros_like(ranked.positives)
    for power in reversed(range(pixels.bit_length())):
        further = count + 2**power
        value = ranked.values.gather(2, further.clamp(max=pixels).unsqueeze(2) - 1).squeeze(2)
        above = value >= border if tied else value > border
        count = further.where(above & (further <= pixels), count)
    return count


def _hits_among(ranked: Sorted, count: Tensor) -> Tensor:
    """Hits among the first ``count`` ``(B, T)`` pixels."""
    hits = ranked.hits.gather(2, (count - 1).clamp(min=0).unsqueeze(2)).squeeze(2)
    return hits.long() * (count > 0)


def _where_defined(value: Tensor, ranked: Sorted, also: Tensor | bool = True) -> Tensor:
    """NaN for an empty mask, a constant map and a map with NaN, whose highest or lowest value NaN is."""
    return value.where((ranked.positives > 0) & (ranked.values[..., 0] > ranked.values[..., -1]) & also, NAN)


def _positions(ranked: Sorted) -> Tensor:
    """1 to N, ``(N,)`` float64."""
    return torch.arange(1, ranked.values.shape[2] + 1, dtype=torch.float64, device=ranked.values.device)
