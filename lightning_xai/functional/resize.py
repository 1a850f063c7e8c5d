"""Linear resizing of maps, and enlarging that keeps the mass of every region."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def resize(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Linear resize of ``(B, C, *s)`` to ``(B, C, *size)``; the same tensor where the sizes agree."""
    if list(maps.shape[2:]) == list(size):
        return maps
    return F.interpolate(maps, size=list(size), mode="bilinear" if maps.ndim == 4 else "trilinear", align_corners=False)


def spread(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Enlarge ``(B, C, *s)`` to ``(B, C, *size)`` so that every region keeps its mass: each sums to what it was.

    Linear interpolation whose weights are scaled so that those of every region sum to 1.
    """
    axes = "xyz"[: len(size)]
    weights = [spread_weights(before, after).to(maps) for before, after in zip(maps.shape[2:], size, strict=True)]
    terms = [f"{axis.upper()}{axis}" for axis in axes]
    return torch.einsum(f"bc{axes},{','.join(terms)}->bc{axes.upper()}", maps, *weights)


def spread_weights(before: int, after: int) -> Tensor:
    """``(after, before)``: how the mass of each region is spread over the pixels; columns sum to 1."""
    few, many = sorted((before, after))
    position = ((torch.arange(many, dtype=torch.float64) + 0.5) * few / many - 0.5).clamp(0, few - 1)
    linear = (1 - (position[:, None] - torch.arange(few)).abs()).clamp(min=0)
    # More regions than pixels: each region is distributed over the pixels nearest to it.
    return linear / linear.sum(dim=0) if after >= before else linear.T
