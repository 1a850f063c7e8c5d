"""How alike two maps are: Pearson and Spearman correlation, and structural similarity.

Every function takes maps ``(B, T, *S)`` of two or three spatial axes and gives ``(B, T)`` float64, NaN where either map
is constant or holds a NaN.
"""

import torch
from monai.metrics.regression import compute_ssim_and_cs
from torch import Tensor

#: Side of the Gaussian window of Wang et al. 2004, and its sigma.
WINDOW = 11
SIGMA = 1.5


def pearson(a: Tensor, b: Tensor) -> Tensor:
    """Linear correlation of two maps.

    Args:
        a: ``(B, T, *S)``.
        b: ``(B, T, *S)``.

    Returns:
        ``(B, T)`` in [-1, 1].
    """
    return correlation(*(values.double().flatten(2) for values in (a, b)))


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """Rank correlation of two maps; pixels of one value share their average rank.

    Args:
        a: ``(B, T, *S)``.
        b: ``(B, T, *S)``.

    Returns:
        ``(B, T)`` in [-1, 1].
    """
    return correlation(*(average_ranks(values.flatten(2)) for values in (a, b)))


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004) of two maps, each scaled to [0, 1] first.

    MONAI's (float32), averaged over the window's positions that lie wholly inside the map, as scikit-image does. The
    window of 11 pixels shrinks along an axis that is shorter, to the largest odd size that fits.

    Args:
        a: ``(B, T, *S)``, two or three spatial axes.
        b: ``(B, T, *S)``.

    Returns:
        ``(B, T)``, at most 1.
    """
    sizes = a.shape[2:]
    window = [min(WINDOW, size - 1 + size % 2) for size in sizes]
    first, second = (_unit(values).view(-1, 1, *sizes) for values in (a, b))
    local, _ = compute_ssim_and_cs(first, second, len(sizes), window, [SIGMA] * len(sizes))
    # In double precision only the mean is: one map's rounding errors must not depend on its batch.
    means: Tensor = local.double().flatten(1).mean(dim=1)
    return means.view(a.shape[:2])


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson correlation over the last axis of ``(B, T, pixels)``."""
    first, second = (values - values.mean(dim=2, keepdim=True) for values in (a, b))
    value = (first * second).sum(dim=2) / (first.norm(dim=2) * second.norm(dim=2))
    constant = (a == a[..., :1]).all(dim=2) | (b == b[..., :1]).all(dim=2)
    defined: Tensor = value.clamp(-1, 1).masked_fill(constant, torch.nan)
    return defined


def average_ranks(values: Tensor) -> Tensor:
    """Average ranks along the last axis, float64; all NaN where there is one."""
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


def _unit(maps: Tensor) -> Tensor:
    """Each map scaled to [0, 1], float64; a constant one becomes NaN."""
    flat = maps.double().flatten(2)
    low, high = flat.amin(dim=2, keepdim=True), flat.amax(dim=2, keepdim=True)
    return ((flat - low) / (high - low)).view_as(maps)
