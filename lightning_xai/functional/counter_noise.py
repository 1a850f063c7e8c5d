"""Uniform noise that follows from numbers by integer arithmetic alone: the same on every device, in any batch.

SplitMix64 (Steele et al. 2014, "Fast splittable pseudorandom number generators"): the noise of a pixel is a mix of the
bits of a key and of the pixel's number. Nothing is drawn one after the other, so a device makes all of it at once.
"""

import torch
from torch import Tensor

GOLDEN = 0x9E3779B97F4A7C15
FIRST, SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
#: Bits of a float32 between 0 and 1.
BITS = 24


def signed(number: int) -> int:
    """The lowest 64 bits of a number, as an int64 holds them."""
    return (number + 2**63) % 2**64 - 2**63


def mixed(values: Tensor) -> Tensor:
    """Mix the bits of int64 values: each bit of the result depends on every bit of the value."""
    for shift, factor in ((30, FIRST), (27, SECOND)):
        values = (values ^ _shifted(values, shift)).mul_(signed(factor))
    return values ^ _shifted(values, 31)


def _shifted(values: Tensor, bits: int) -> Tensor:
    # The sign must not be shifted in.
    return (values >> bits).bitwise_and_(2 ** (64 - bits) - 1)


def content_keys(images: Tensor) -> Tensor:
    """A number for the content of each image ``(B, ...)``: ``(B,)`` int64, equal for equal images, on their device."""
    bits = images.float().contiguous().flatten(1).view(torch.int32).long()
    # A sum of products wraps around without rounding: its order, and so the device, does not matter.
    factors = mixed(torch.arange(1, bits.shape[1] + 1, device=bits.device)) | 1
    return mixed((bits * factors).sum(dim=1))


def uniform_noise(keys: Tensor, count: int) -> Tensor:
    """Numbers in [0, 1) for each key.

    Args:
        keys: ``(...)`` int64.
        count: How many for each.

    Returns:
        ``(..., count)`` float32.

    Example:
        >>> uniform_noise(torch.tensor([7, 7, 8]), 2).unique(dim=0).shape
        torch.Size([2, 2])
    """
    counter = torch.arange(1, count + 1, device=keys.device) * signed(GOLDEN)
    noise: Tensor = _shifted(mixed(keys.unsqueeze(-1) + counter), 64 - BITS).float() / 2**BITS
    return noise
