"""Rearrange activations into grids of positions, and enlarge maps of a layer to image resolution."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_xai.functional.resize import resize
from lightning_xai.targets import Target
from lightning_xai.targets.padding import cropped


def to_grid(values: Tensor, size: Sequence[int], axis: int | None = None) -> Tensor | None:
    """Rearrange activations into ``(B, D, *s)``: channels last and tokens; channels first stay as they are.

    Args:
        values: ``(B, D, *s)``, ``(B, *s, D)`` or tokens ``(B, N, D)``, leading class tokens included.
        size: ``*S`` of the image, whose proportions a grid of tokens has.
        axis: Where the channels lie, as :func:`lightning_xai.targets.layers.layout.channel_axes` finds. ``None``: no
            operation says it, and the proportions decide; where they do not, channels come first.

    Returns:
        The grid; ``None`` if the values have no positions.
    """
    dims = len(size)
    if values.ndim == dims + 2:
        if axis is None:
            last = not _alike(values.shape[2:], size) and _alike(values.shape[1:-1], size)
            axis = values.ndim - 1 if last else 1
        return values.movedim(axis, 1) if values[0].numel() > values.shape[axis] else None
    if values.ndim != 3:
        return None
    tokens = values.mT if axis == 1 else values
    for extra in range(6):
        grid = _factors(tokens.shape[1] - extra, size)
        if grid is not None:
            return tokens[:, extra:].movedim(-1, 1).unflatten(2, grid)  # type: ignore[no-untyped-call,no-any-return]
    return None


def _alike(shape: Sequence[int], size: Sequence[int]) -> bool:
    """Whether a grid has the proportions of the image, up to a position of rounding."""
    stride = max(full / side for full, side in zip(size, shape, strict=True))
    return all(abs(full / stride - side) <= 1 for full, side in zip(size, shape, strict=True))


def _factors(tokens: int, size: Sequence[int]) -> tuple[int, ...] | None:
    """The grid of exactly so many square patches."""
    for stride in range(1, min(size) + 1):
        grid = tuple(side // stride for side in size)
        if not any(side % stride for side in size) and torch.Size(grid).numel() == tokens > 1:
            return grid
    return None


def to_image(target: Target, maps: Tensor, images: Tensor) -> Tensor:
    """Enlarge maps of a layer to image resolution.

    Args:
        target: The target, whose model ran on the images, padded where it needs that.
        maps: ``(B, T, *s)`` over the padded images.
        images: ``(B, C, *S)``.

    Returns:
        ``(B, T, *S)``, linearly enlarged, without what was padded.
    """
    return cropped(resize(maps, target.input_size(images)), images.shape[2:])
