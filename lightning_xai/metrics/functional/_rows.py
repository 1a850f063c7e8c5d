"""Checks, blocks of rows and bounding boxes that the functions of localization share; nothing for users."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

#: Values of a block: one float64 copy stays in a core's cache, and torch radix-sorts a single row from this length on.
BLOCK = 2**15


def check_evidence(maps: Tensor, inside: Tensor) -> None:
    """Refuse maps that are no floats, and evidence of another shape."""
    if not maps.is_floating_point() or inside.dtype != torch.bool or maps.shape != inside.shape:
        raise ValueError(
            f"Maps {tuple(maps.shape)} of {maps.dtype} and evidence {tuple(inside.shape)} of {inside.dtype} "
            "must be floats and booleans of one shape."
        )


def check_threshold(threshold: float) -> None:
    """Refuse a threshold that is no fraction."""
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold is {threshold}, but must be from 0 to 1, a fraction of the map's range.")


def by_block(function: Callable[..., tuple[Tensor, ...]], *tensors: Tensor) -> list[Tensor]:
    """Apply to blocks of the tensors, and put each result ``(R,)`` together as ``(B, T)``."""
    parts = zip(*(function(*block) for block in blocks(*tensors)), strict=True)
    return [torch.cat(part).view(tensors[0].shape[:2]) for part in parts]


def blocks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Blocks of rows ``(R, N)`` of ``(B, T, N)`` tensors, few enough for a CPU's cache; elsewhere all in one."""
    rows = max(1, BLOCK // tensors[0].shape[2]) if tensors[0].is_cpu else tensors[0].shape[:2].numel()
    return zip(*(torch.split(tensor.flatten(0, 1), rows) for tensor in tensors), strict=True)


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
