"""Localisation as functions: how well do maps agree with the evidence that an expert marked?

One sort and cumulative sums serve the whole family: :func:`sort_evidence` once, then any of the functions that take a
:class:`Sorted`. Shapes: ``B`` images, ``T`` questions, ``N`` pixels. Every function returns ``(B, T)`` float64 in
[0, 1], NaN where the quantity is undefined: an empty mask and a map with NaN always, a constant map wherever pixels are
ranked, and what the function names. Tied pixels have no order: they enter together, or count with their expected value.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

#: Values of a block: one float64 copy stays in a core's cache, and torch radix-sorts a single row from this length on.
BLOCK = 2**15
#: The integer type that holds the bits of a float of so many bytes.
BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
NAN = float("nan")


@dataclass(frozen=True)
class Sorted:
    """Pixels from the highest to the lowest, and the evidence among them.

    Attributes:
        values: ``(B, T, N)``, descending.
        hits: ``(B, T, N)`` int32, how many of the first 1, 2, ... N pixels are evidence, at the last place of a group
            of tied values; 0 at its other places, whose order means nothing.
        last: ``(B, T, N)`` bool, whether the place is the last of its group of tied values.
        positives: ``(B, T)`` int64, pixels of evidence.
    """

    values: Tensor
    hits: Tensor
    last: Tensor
    positives: Tensor


def sort_evidence(flat: Tensor, inside: Tensor, order: Tensor | None = None) -> Sorted:
    """Sort the pixels of every map and count the evidence from the top.

    Args:
        flat: ``(B, T, N)`` maps in any float type; they are compared exactly in it.
        inside: ``(B, T, N)`` bool, the evidence.
        order: ``(B, T, N)``, the maps' descending argsort where the caller has it.

    Raises:
        ValueError: If the maps are no floats or the evidence has another shape.

    Example:
        >>> sort_evidence(torch.tensor([[[0.1, 0.7, 0.7]]]), torch.tensor([[[True, False, True]]])).last
        tensor([[[False,  True,  True]]])
    """
    _check(flat, inside)
    flat = flat.detach()  # gradients cannot follow into the memory that is filled below
    # Filled block by block: memory that is new to the process costs as much as the work done on it.
    types = (flat.dtype, torch.int32, torch.bool)
    values, hits, last = (torch.empty(flat.shape, dtype=dtype, device=flat.device) for dtype in types)
    given = () if order is None else (order,)
    for block in _blocks(flat, inside, values, hits, last, *given):
        _fill(*block)
    return Sorted(values, hits, last, hits[..., -1].long())


def pointing_game(ranked: Sorted) -> Tensor:
    """Whether the map's maximum lies on the evidence (Zhang et al. 2018); the share of maxima where several tie.

    Args:
        ranked: From :func:`sort_evidence`.

    Example:
        >>> maps, inside = torch.tensor([[[0.9, 0.9, 0.1]]]), torch.tensor([[[True, False, False]]])
        >>> pointing_game(sort_evidence(maps, inside)).item()
        0.5
    """
    return top_k_intersection(ranked, 1)


def relevance_rank(ranked: Sorted) -> Tensor:
    """Share of evidence among the ``K`` highest pixels, where ``K`` pixels are evidence (Arras et al. 2022).

    Args:
        ranked: From :func:`sort_evidence`.

    Example:
        >>> maps, inside = torch.tensor([[[0.9, 0.5, 0.1]]]), torch.tensor([[[True, False, True]]])
        >>> relevance_rank(sort_evidence(maps, inside)).item()
        0.5
    """
    return _share_of_top(ranked, ranked.positives)


def top_k_intersection(ranked: Sorted, k: int) -> Tensor:
    """Share of evidence among the ``k`` highest pixels (Theiner et al. 2022).

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
    return _share_of_top(ranked, torch.full_like(ranked.positives, k))


def pixel_auc(ranked: Sorted) -> Tensor:
    """Area under the ROC curve of the map as a classifier of the evidence's pixels; ties count one half.

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
    (area,) = _by_block(_twice_the_area, ranked.hits, ranked.last)
    # The ROC curve advances with the negatives only; what the positives add to the area is P^2 / 2.
    value = (area - positives**2).double() / (2 * positives * negatives)
    return _where_defined(value, ranked, negatives > 0)


def pixel_average_precision(ranked: Sorted) -> Tensor:
    """Mean precision over the steps of recall, as in ``sklearn.metrics.average_precision_score``.

    Args:
        ranked: From :func:`sort_evidence`.

    Example:
        >>> maps, inside = torch.tensor([[[0.9, 0.5, 0.1, 0.0]]]), torch.tensor([[[True, False, False, True]]])
        >>> pixel_average_precision(sort_evidence(maps, inside)).item()
        0.75
    """
    (gain,) = _by_block(partial(_gained_precision, _places(ranked)), ranked.hits)
    return _where_defined(gain / ranked.positives, ranked)


def best_iou(ranked: Sorted) -> Tensor:
    """Highest intersection over union of the evidence and the pixels above a threshold, over all thresholds.

    Args:
        ranked: From :func:`sort_evidence`.

    Example:
        >>> maps, inside = torch.tensor([[[0.9, 0.5, 0.1]]]), torch.tensor([[[True, True, False]]])
        >>> best_iou(sort_evidence(maps, inside)).item()
        1.0
    """
    (value,) = _by_block(partial(_highest_iou, _places(ranked)), ranked.hits)
    return _where_defined(value, ranked)


def fixed_iou(ranked: Sorted, threshold: float) -> Tensor:
    """Intersection over union of the evidence and the pixels of at least ``min + threshold * (max - min)``.

    Undefined also for a map with infinite values.

    Args:
        ranked: From :func:`sort_evidence`.
        threshold: Share of the map's range, 0 to 1.

    Raises:
        ValueError: If the threshold is outside [0, 1].

    Example:
        >>> maps, inside = torch.tensor([[[0.9, 0.6, 0.1]]]), torch.tensor([[[True, False, False]]])
        >>> fixed_iou(sort_evidence(maps, inside), threshold=0.5).item()
        0.5
    """
    _check_threshold(threshold)
    high, low = ranked.values[..., 0].double(), ranked.values[..., -1].double()
    border = (low + threshold * (high - low)).minimum(high)
    # In the maps' own type, to copy no map; where that rounds the border down, what equals it lies below the border.
    rounded = border.to(ranked.values.dtype)
    shown = torch.where(rounded < border, _count(ranked, rounded, tied=False), _count(ranked, rounded, tied=True))
    both = _hits_among(ranked, shown)
    return _where_defined(both.double() / (shown + ranked.positives - both), ranked, border.isfinite())


def relevance_mass(flat: Tensor, inside: Tensor) -> Tensor:
    """Share of the map's positive mass that lies on the evidence (Arras et al. 2022).

    Undefined also for a map whose positive mass is zero or infinite; a constant positive map has the area share.

    Args:
        flat: ``(B, T, N)`` maps.
        inside: ``(B, T, N)`` bool, the evidence.

    Raises:
        ValueError: If the maps are no floats or the evidence has another shape.

    Example:
        >>> relevance_mass(torch.tensor([[[3.0, 1.0, -5.0]]]), torch.tensor([[[True, False, True]]])).item()
        0.75
    """
    _check(flat, inside)
    total, found = _by_block(_mass_inside, flat.detach(), inside)
    return _share_of_mass(total, found, _occupied(inside, [2]))


def box_energy(maps: Tensor, masks: Tensor) -> Tensor:
    """Share of the positive mass inside the evidence's bounding box (Wang et al. 2020, energy-based pointing game).

    Undefined also for a map whose positive mass is zero or infinite.

    Args:
        maps: ``(B, T, *S)``, 2-D or 3-D.
        masks: ``(B, T, *S)`` bool.

    Raises:
        ValueError: If the maps are no floats or the masks have another shape.

    Example:
        >>> masks = torch.tensor([[[[True, False, False], [False, True, False]]]])
        >>> box_energy(torch.ones(1, 1, 2, 3), masks).item()  # the box is 2 x 2 of 2 x 3 pixels
        0.66...
    """
    _check(maps, masks)
    spans = _spans(masks)
    total, found = _by_block(_mass_in_box, maps.detach().flatten(2), *spans)
    return _share_of_mass(total, found, _occupied(spans[0] > 0, [2]))


def random_share(inside: Tensor) -> Tensor:
    """Area share of the evidence: what a random map gets on average wherever pixels or their mass are counted.

    That is the expected pointing game, relevance mass, relevance rank and top-k intersection. It is also the value of
    :func:`best_iou` that no map falls below, because the lowest threshold shows everything, and the one that a random
    map tends to as ``N`` grows: showing the share ``s`` of the pixels gives :func:`random_fixed_iou`, which rises with
    ``s``.

    Args:
        inside: ``(B, T, N)`` bool, the evidence.

    Example:
        >>> random_share(torch.tensor([[[True, False, False, False]]])).item()
        0.25
    """
    share = _positives(inside).double() / inside.shape[2]
    return share.where(share > 0, NAN)


def random_auc(inside: Tensor) -> Tensor:
    """Expected :func:`pixel_auc` of a random map: one half, undefined where that is.

    Args:
        inside: ``(B, T, N)`` bool, the evidence.

    Example:
        >>> random_auc(torch.tensor([[[True, False], [True, True]]]))
        tensor([[0.5000,    nan]], dtype=torch.float64)
    """
    share = random_share(inside)
    return torch.full_like(share, 0.5).where(share < 1, NAN)


def random_average_precision(inside: Tensor) -> Tensor:
    """Expected :func:`pixel_average_precision` of a map in random order, exactly.

    A pixel of evidence at place ``i`` has on average ``1 + (i - 1) (P - 1) / (N - 1)`` hits up to it, itself included.
    Divided by ``i`` and averaged over all places: ``r + (1 - r) (P - 1) / (N - 1)`` with ``r = H_N / N``, where ``H_N``
    is the harmonic number.

    Args:
        inside: ``(B, T, N)`` bool, the evidence.

    Example:
        >>> random_average_precision(torch.tensor([[[True, False]]])).item()  # 1 or 1/2
        0.75
    """
    positives, pixels = _positives(inside), inside.shape[2]
    rate = (1 / torch.arange(1, pixels + 1, dtype=torch.float64, device=inside.device)).mean()
    value = rate + (1 - rate) * (positives - 1) / max(1, pixels - 1)
    return value.where(positives > 0, NAN)


def random_fixed_iou(inside: Tensor, threshold: float) -> Tensor:
    """What :func:`fixed_iou` of a map of uniformly random values tends to as ``N`` grows.

    Such a map shows the share ``s = 1 - threshold`` of the evidence (area share ``a``) and of the rest alike:
    ``a s / (a + s - a s)``.

    Args:
        inside: ``(B, T, N)`` bool, the evidence.
        threshold: Share of the map's range, 0 to 1.

    Raises:
        ValueError: If the threshold is outside [0, 1].

    Example:
        >>> random_fixed_iou(torch.tensor([[[True, False]]]), threshold=0.5).item()
        0.33...
    """
    _check_threshold(threshold)
    area, shown = random_share(inside), 1 - threshold
    return area * shown / (area + shown - area * shown)


def random_box_energy(masks: Tensor) -> Tensor:
    """Expected :func:`box_energy` of a random map: the area share of the evidence's bounding box.

    Args:
        masks: ``(B, T, *S)`` bool.

    Example:
        >>> random_box_energy(torch.eye(4, dtype=torch.bool)[None, None, 1:3]).item()
        0.5
    """
    share = torch.stack([span.mean(dim=2) for span in _spans(masks)]).prod(dim=0)
    return share.where(share > 0, NAN)


def _check(maps: Tensor, inside: Tensor) -> None:
    if not maps.is_floating_point() or inside.dtype != torch.bool or maps.shape != inside.shape:
        raise ValueError(
            f"Maps {tuple(maps.shape)} of {maps.dtype} and evidence {tuple(inside.shape)} of {inside.dtype} "
            "must be floats and booleans of one shape."
        )


def _check_threshold(threshold: float) -> None:
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold is {threshold}, but must be from 0 to 1, a share of the map's range.")


def _by_block(function: Callable[..., tuple[Tensor, ...]], *tensors: Tensor) -> list[Tensor]:
    """Apply to blocks of the tensors, and put each result ``(R,)`` together as ``(B, T)``."""
    parts = zip(*(function(*block) for block in _blocks(*tensors)), strict=True)
    return [torch.cat(part).view(tensors[0].shape[:2]) for part in parts]


def _blocks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Blocks of rows ``(R, N)`` of ``(B, T, N)`` tensors, few enough for a CPU's cache; elsewhere all in one."""
    rows = max(1, BLOCK // tensors[0].shape[2]) if tensors[0].is_cpu else tensors[0].shape[:2].numel()
    return zip(*(torch.split(tensor.flatten(0, 1), rows) for tensor in tensors), strict=True)


def _fill(
    maps: Tensor, inside: Tensor, values: Tensor, hits: Tensor, last: Tensor, order: Tensor | None = None
) -> None:
    """Fill values, hits and last of :class:`Sorted` for rows ``(R, N)``."""
    if order is None:
        # Integers, ascending and in one dimension: only such rows are radix-sorted, in a fifth of the time.
        kind = BITS[maps.itemsize]
        bits = maps.view(kind)
        keys, order = (part.view_as(bits) for part in (bits ^ _flips(~bits)).squeeze(0).sort())
        torch.bitwise_xor(keys, _flips(keys), out=values.view(kind))
    else:
        torch.gather(maps, 1, order, out=values)
    torch.cumsum(inside.gather(1, order).int(), dim=1, dtype=torch.int32, out=hits)
    torch.ne(values[:, 1:], values[:, :-1], out=last[:, :-1])
    last[:, -1] = True
    hits.mul_(last)


def _flips(keys: Tensor) -> Tensor:
    """Bits in which a float differs from the integer key that falls as it rises, by the sign of the key.

    All bits of a positive float. Of a negative one, which stores sign and magnitude, the sign.
    """
    return (keys >> (8 * keys.itemsize - 1)) | torch.iinfo(keys.dtype).min


def _twice_the_area(hits: Tensor, last: Tensor) -> tuple[Tensor]:
    """Under the curve of hits over pixels: every pixel adds the hits before and after its group; all integers."""
    before = hits.cummax(dim=1).values[:, :-1].sum(dim=1)
    left = ((hits[:, -1:] - hits) * last).flip(1).cummax(dim=1).values.sum(dim=1)
    return (before + hits.shape[1] * hits[:, -1].long() - left,)


def _gained_precision(places: Tensor, hits: Tensor) -> tuple[Tensor]:
    """Sum of new hits times precision over the groups of tied values."""
    gained = hits.double()
    gained[:, 1:] -= hits.cummax(dim=1).values[:, :-1]
    return (gained.mul_(hits).div_(places).sum(dim=1),)


def _highest_iou(places: Tensor, hits: Tensor) -> tuple[Tensor]:
    # hits / (shown + positives - hits) rises with hits / (shown + positives), which is at most one half. Places inside
    # a group have no hits, so they are never the highest.
    ratio = (hits / (places + hits[:, -1:])).amax(dim=1)
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


def _share_of_mass(total: Tensor, found: Tensor, marked: Tensor) -> Tensor:
    """NaN for an empty mask, and for a map with NaN or without a positive, finite mass."""
    return (found / total).where(total.isfinite() & marked, NAN)


def _share_of_top(ranked: Sorted, k: Tensor) -> Tensor:
    """Expected share of evidence among the ``k`` ``(B, T)`` highest pixels, the ties at the border in random order."""
    border = ranked.values.gather(2, (k - 1).clamp(min=0).unsqueeze(2)).squeeze(2)
    above, upto = _count(ranked, border, tied=False), _count(ranked, border, tied=True)
    sure, tied = _hits_among(ranked, above), _hits_among(ranked, upto)
    share = (sure + (k - above) * (tied - sure) / (upto - above).double()) / k
    return _where_defined(share, ranked)


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


def _places(ranked: Sorted) -> Tensor:
    """1 to N, ``(N,)`` float64."""
    return torch.arange(1, ranked.values.shape[2] + 1, dtype=torch.float64, device=ranked.values.device)


def _positives(inside: Tensor) -> Tensor:
    return inside.sum(dim=2)


def _spans(masks: Tensor) -> list[Tensor]:
    """Where the mask's bounding box lies on every axis, ``(B, T, S_axis)`` float64, 1 inside and 0 outside."""
    axes = range(2, masks.ndim)
    spans = []
    for axis in axes:
        others = [other for other in axes if other != axis]
        occupied = _occupied(masks, others).double()
        spans.append(occupied.cummax(dim=2).values * occupied.flip(2).cummax(dim=2).values.flip(2))
    return spans


def _occupied(masks: Tensor, axes: list[int]) -> Tensor:
    """Whether anything is marked along the axes: ``any()``, which takes several times as long."""
    return masks.view(torch.uint8).amax(dim=axes) > 0
