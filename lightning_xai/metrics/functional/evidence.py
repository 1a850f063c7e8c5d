"""Evidence among the sorted pixels of a map: what the localization metrics of rankings share."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_xai.metrics.functional._rows import blocks, check_evidence

#: The integer type that holds the bits of a float of so many bytes.
BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class Sorted:
    """Pixels from the highest to the lowest, and the evidence among them.

    Attributes:
        values: ``(B, T, N)``, descending.
        hits: ``(B, T, N)`` int32, how many of the first 1, 2, ... N pixels are evidence, at the last position of a
            group of tied values; 0 at its other positions, whose order means nothing.
        last: ``(B, T, N)`` bool, whether the position is the last of its group of tied values.
        positives: ``(B, T)`` int64, pixels of evidence.
    """

    values: Tensor
    hits: Tensor
    last: Tensor
    positives: Tensor


def sort_evidence(maps: Tensor, masks: Tensor, order: Tensor | None = None) -> Sorted:
    """Sort the pixels of every map and count the pixels of evidence among the highest 1, 2, ... N.

    Args:
        maps: ``(B, T, *S)`` in any float type; they are compared exactly in it.
        masks: ``(B, T, *S)`` bool, the evidence.
        order: ``(B, T, N)``, the flat maps' descending argsort where the caller has it.

    Returns:
        What the functions of :mod:`lightning_xai.metrics.functional.localization` take.

    Raises:
        ValueError: If the maps are no floats or the evidence has another shape.

    Example:
        >>> sort_evidence(torch.tensor([[[0.1, 0.7, 0.7]]]), torch.tensor([[[True, False, True]]])).last
        tensor([[[False,  True,  True]]])
    """
    check_evidence(maps, masks)
    flat = maps.detach().flatten(2)  # gradients cannot follow into the memory that is filled below
    # Filled block by block: memory that is new to the process costs as much as the work done on it.
    types = (flat.dtype, torch.int32, torch.bool)
    values, hits, last = (torch.empty(flat.shape, dtype=dtype, device=flat.device) for dtype in types)
    orders = () if order is None else (order,)
    for block in blocks(flat, masks.flatten(2), values, hits, last, *orders):
        _fill(*block)
    return Sorted(values, hits, last, hits[..., -1].long())


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
