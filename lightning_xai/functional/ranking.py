"""Ranks of pixels."""

from functools import lru_cache

import torch
from torch import Tensor


def order_of(maps: Tensor) -> Tensor:
    """Pixel indices of maps ``(B, T, *S)``, highest value first, ``(B, T, N)``.

    Equal pixels have no order of their own: they follow :func:`tie_order`, so that no corner of the image goes first.
    """
    by_key = tie_order(maps.shape[2:]).to(maps.device)
    return by_key[maps.detach().flatten(2)[..., by_key].argsort(dim=2, descending=True, stable=True)]


@lru_cache(maxsize=16)
@torch.inference_mode(False)
def tie_order(size: torch.Size) -> Tensor:
    """The order of equal pixels ``(N,)``: random, always the same for a size, and the same in a mirror.

    Pixels that mirroring or a quarter turn carries into each other follow each other: the same map of the mirrored
    image shows, step by step, the mirrored pixels, but for those of one such set.

    Args:
        size: ``*S``.

    Example:
        >>> sorted(tie_order(torch.Size([2, 3]))[:2].tolist()) in ([1, 4], [0, 2])
        True
    """
    generator = torch.Generator().manual_seed(0)
    # A number for each distance to the center: their sum tells such a set of pixels, whatever the order of its axes.
    # As floats, which are sorted in a quarter of the time; sums of such integers are exact.
    code = torch.randint(2**50, (max(size, default=0),), generator=generator).double()
    codes = code.new_zeros(())
    for side in size:
        codes = codes.unsqueeze(-1) + code[(2 * torch.arange(side) - (side - 1)).abs()]
    kinds, pixel_set = torch.unique(codes.flatten(), return_inverse=True)
    key = torch.randperm(len(kinds), generator=generator).double()
    pixels = torch.randperm(len(pixel_set), generator=generator)
    return pixels[key[pixel_set[pixels]].argsort(stable=True)]


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
    # Also where no values are equal: to look whether there are would cost as much, and a wait for the device.
    first = index.where(starts, 0).cummax(dim=-1).values
    last = index.where(starts.roll(-1, dims=-1), last_index).flip(-1).cummin(dim=-1).values.flip(-1)
    ranks = torch.empty_like(values, dtype=torch.float64).scatter_(-1, order, (first + last).double() / 2)
    return ranks.masked_fill(values.isnan().any(dim=-1, keepdim=True), torch.nan)
