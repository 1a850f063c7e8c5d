"""Evidence among the sorted pixels of a map, and its bounding box: what all localization metrics share."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

#: Values of a block: one float64 copy stays in a core's cache, and torch radix-sorts a single row from this length on.
BLOCK = 2**15
#: The integer type that holds the bits of a float of so many bytes.
BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


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
    check_evidence(flat, inside)
    flat = flat.detach()  # gradients cannot follow into the memory that is filled below
    # Filled block by block: memory that is new to the process costs as much as the work done on it.
    types = (flat.dtype, torch.int32, torch.bool)
    values, hits, last = (torch.empty(flat.shape, dtype=dtype, device=flat.device) for dtype in types)
    given = () if order is None else (order,)
    for block in blocks(flat, inside, values, hits, last, *given):
        _fill(*block)
    return Sorted(values, hits, last, hits[..., -1].long())


def check_evidence(maps: Tensor, inside: Tensor) -> None:
    """Refuse maps that are no floats, and evidence of another shape."""
    if not maps.is_floating_point() or inside.dtype != torch.bool or maps.shape != inside.shape:
        raise ValueError(
            f"Maps {tuple(maps.shape)} of {maps.dtype} and evidence {tuple(inside.shape)} of {inside.dtype} "
            "must be floats and booleans of one shape."
        )


def by_block(function: Callable[..., tuple[Tensor, ...]], *tensors: Tensor) -> list[Tensor]:
    """Apply to blocks of the tensors, and put each result ``(R,)`` together as ``(B, T)``."""
    parts = zip(*(function(*block) for block in blocks(*tensors)), strict=True)
    return [torch.cat(part).view(tensors[0].shape[:2]) for part in parts]


def blocks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
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


def positives_of(inside: Tensor) -> Tensor:
    """Pixels of evidence, ``(B, T)``."""
    return inside.sum(dim=2)


def box_spans(masks: Tensor) -> list[Tensor]:
    """Where the mask's bounding box lies on every axis, ``(B, T, S_axis)`` float64, 1 inside and 0 outside."""
    axes = range(2, masks.ndim)
    spans = []
    for axis in axes:
        others = [other for other in axes if other != axis]
        occupied = occupied_along(masks, others).double()
        spans.append(occupied.cummax(dim=2).values * occupied.flip(2).cummax(dim=2).values.flip(2))
    return spans


def occupied_along(masks: Tensor, axes: list[int]) -> Tensor:
    """Whether anything is marked along the axes: ``any()``, which takes several times as long."""
    return masks.view(torch.uint8).amax(dim=axes) > 0
