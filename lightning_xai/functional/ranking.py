"""Ranks of pixels."""

import torch
from torch import Tensor


def order_of(maps: Tensor) -> Tensor:
    """Pixel indices of maps ``(B, T, *S)``, highest value first, ``(B, T, N)``; equal pixels keep their scan order."""
    return maps.flatten(2).argsort(dim=2, descending=True, stable=True)


def ranks_of(order: Tensor) -> Tensor:
    """Rank of every pixel ``(B, T, N)`` int32 from the order of the pixels."""
    steps = torch.arange(order.shape[2], dtype=torch.int32, device=order.device).expand_as(order)
    return torch.empty_like(steps, memory_format=torch.contiguous_format).scatter_(2, order, steps)


def average_ranks(values: Tensor) -> Tensor:
    """Ranks along the last axis, equal values sharing their average rank, float64; all NaN where a value is NaN."""
    ordered, order = values.sort(dim=-1)
    last_index = values.shape[-1] - 1
    index = torch.arange(last_index + 1, device=values.device).expand_as(values)
    starts = torch.ones_like(values, dtype=torch.bool)
    starts[..., 1:] = ordered[..., 1:] != ordered[..., :-1]
    first = last = index
    if not starts.all():
        first = index.where(starts, 0).cummax(dim=-1).values
        last = index.where(starts.roll(-1, dims=-1), last_index).flip(-1).cummin(dim=-1).values.flip(-1)
    ranks = torch.empty_like(values, dtype=torch.float64).scatter_(-1, order, (first + last).double() / 2)
    return ranks.masked_fill(values.isnan().any(dim=-1, keepdim=True), torch.nan)
