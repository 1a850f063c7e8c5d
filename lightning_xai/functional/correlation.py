"""Correlation of maps."""

import torch
from torch import Tensor


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson correlation over the last axis of ``(B, T, pixels)``."""
    first, second = (values - values.mean(dim=2, keepdim=True) for values in (a, b))
    value = (first * second).sum(dim=2) / (first.norm(dim=2) * second.norm(dim=2))
    constant = (a == a[..., :1]).all(dim=2) | (b == b[..., :1]).all(dim=2)
    defined: Tensor = value.clamp(-1, 1).masked_fill(constant, torch.nan)
    return defined
