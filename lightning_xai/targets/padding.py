"""Images whose sides a network cannot halve: padded for it, and its logits cropped."""

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

#: Multiples that are tried in turn.
MULTIPLES = (2, 4, 8, 16, 32, 64)


def padded(values: Tensor, size: Sequence[int]) -> Tensor:
    """Pad images at the end of each axis by repeating their last pixels.

    Black or mirrored pixels would put an edge, or an object twice, next to those of the image.

    Args:
        values: ``(B, C, *S)``.
        size: Sides to reach, none smaller than those of the images.

    Example:
        >>> padded(torch.tensor([[[[1.0, 2.0]]]]), (1, 4)).tolist()
        [[[[1.0, 2.0, 2.0, 2.0]]]]
    """
    missing = [after - before for after, before in zip(size, values.shape[2:], strict=True)]
    if not any(missing):
        return values
    return F.pad(values, [amount for side in reversed(missing) for amount in (0, side)], mode="replicate")


def cropped(values: Tensor, size: Sequence[int]) -> Tensor:
    """Crop values ``(B, K, *P)`` of padded images to the images themselves: the first ``*S`` of each axis."""
    if values.shape[2:] == torch.Size(size):  # views of the whole cost a copy each in the backward pass
        return values
    for axis, side in enumerate(size, start=2):
        values = values.narrow(axis, 0, side)
    return values


def larger_sizes(model: Any, size: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Sizes that a network may take instead of ``size``, smallest multiples first.

    Args:
        model: Where it has ``strides``, as MONAI's U-Nets do, their product comes first.
        size: ``*S``.

    Example:
        >>> list(larger_sizes(None, (33, 20)))[:3]
        [(34, 20), (36, 20), (40, 24)]
    """
    tried = {tuple(size)}
    for multiples in [*_strides(model, len(size)), *([multiple] * len(size) for multiple in MULTIPLES)]:
        larger = tuple(side + -side % multiple for side, multiple in zip(size, multiples, strict=True))
        if larger not in tried:
            tried.add(larger)
            yield larger


def _strides(model: Any, axes: int) -> list[list[int]]:
    """The product of a network's strides on each axis, where it states them."""
    try:
        levels = [
            [level] * axes if isinstance(level, int) else [int(each) for each in level] for level in model.strides
        ]
        return [[prod(each) for each in zip(*levels, strict=True)]] if len(levels[0]) == axes else []
    except (AttributeError, TypeError, ValueError, IndexError):
        return []  # it has none, or calls something else so
