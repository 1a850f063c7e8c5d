"""How alike two maps are: Pearson and Spearman correlation, and structural similarity.

Every function of two maps takes them as ``(B, T, *S)`` of two or three spatial axes and gives ``(B, T)`` float64, NaN
where either map is constant or holds a NaN.
"""

from monai.metrics.regression import compute_ssim_and_cs
from torch import Tensor

from lightning_xai.functional.correlation import correlation
from lightning_xai.functional.ranking import average_ranks

#: Side of the Gaussian window of Wang et al. 2004, and its sigma.
WINDOW = 11
SIGMA = 1.5


def pearson(a: Tensor, b: Tensor) -> Tensor:
    """Compute the linear correlation of two maps.

    Args:
        a: ``(B, T, *S)``.
        b: ``(B, T, *S)``.

    Returns:
        ``(B, T)`` in [-1, 1].

    Example:
        >>> import torch
        >>> round(pearson(torch.tensor([[[[0.0, 1.0, 2.0]]]]), torch.tensor([[[[5.0, 3.0, 1.0]]]])).item(), 4)
        -1.0
    """
    return correlation(*(values.double().flatten(2) for values in (a, b)))


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """Compute the rank correlation of two maps; pixels of one value share their average rank.

    Args:
        a: ``(B, T, *S)``.
        b: ``(B, T, *S)``.

    Returns:
        ``(B, T)`` in [-1, 1].

    Example:
        >>> import torch
        >>> round(spearman(torch.tensor([[[[0.0, 1.0, 2.0]]]]), torch.tensor([[[[1.0, 10.0, 100.0]]]])).item(), 4)
        1.0
    """
    return pearson(tied_ranks(a), tied_ranks(b))


def tied_ranks(maps: Tensor) -> Tensor:
    """Rank the pixels of maps from the lowest to the highest; pixels of one value share their average rank.

    Args:
        maps: ``(B, T, *S)``.

    Returns:
        ``(B, T, N)`` float64, from 0; all NaN for a map that holds one.

    Example:
        >>> import torch
        >>> tied_ranks(torch.tensor([[[[0.5, 0.1], [0.5, 0.9]]]])).tolist()
        [[[1.5, 0.0, 1.5, 3.0]]]
    """
    return average_ranks(maps.flatten(2))


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Compute the structural similarity of two maps (Wang et al. 2004), each scaled to [0, 1] first.

    MONAI's (float32), averaged over the window's positions that lie wholly inside the map, as scikit-image does. The
    window of 11 pixels shrinks along an axis that is shorter, to the largest odd size that fits.

    Args:
        a: ``(B, T, *S)``, two or three spatial axes.
        b: ``(B, T, *S)``.

    Returns:
        ``(B, T)``, at most 1.

    Example:
        >>> import torch
        >>> maps = torch.rand(1, 1, 12, 12)
        >>> round(ssim(2 * maps, maps).item(), 4)
        1.0
    """
    sizes = a.shape[2:]
    window = [min(WINDOW, size - 1 + size % 2) for size in sizes]
    first, second = (_unit(values).view(-1, 1, *sizes) for values in (a, b))
    local, _ = compute_ssim_and_cs(first, second, len(sizes), window, [SIGMA] * len(sizes))
    # In double precision only the mean is: one map's rounding errors must not depend on its batch.
    means: Tensor = local.double().flatten(1).mean(dim=1)
    return means.view(a.shape[:2])


def _unit(maps: Tensor) -> Tensor:
    """Each map scaled to [0, 1], float64; a constant one becomes NaN."""
    flat = maps.double().flatten(2)
    low, high = flat.amin(dim=2, keepdim=True), flat.amax(dim=2, keepdim=True)
    return ((flat - low) / (high - low)).view_as(maps)
