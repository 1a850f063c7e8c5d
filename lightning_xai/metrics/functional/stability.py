"""Stability: how much maps change with the image, and whether they account for the change of the output."""

import torch
from torch import Tensor

from lightning_xai.metrics.functional.similarity import spearman


def max_sensitivity(maps: Tensor, noisy: Tensor) -> Tensor:
    """Compute the largest relative change of a map among the maps of noisy copies of its image.

    ``max_j ||E(x + n_j) - E(x)|| / ||E(x)||`` (Yeh et al. 2019, eq. 6, by sampling).

    Args:
        maps: ``(B, T, *S)``, maps of the images.
        noisy: ``(J, B, T, *S)``, maps of ``J`` noisy copies of each image.

    Returns:
        ``(B, T)``, at least 0; NaN for a zero map.

    Example:
        >>> max_sensitivity(torch.ones(1, 1, 2, 2), torch.tensor([1.0, 1.5]).view(2, 1, 1, 1, 1).expand(2, 1, 1, 2, 2))
        tensor([[0.5000]])
    """
    return largest_distance(torch.stack([relative_distance(other, maps) for other in noisy], dim=2))


def relative_distance(other: Tensor, maps: Tensor) -> Tensor:
    """Compute the Euclidean distance of one map from another, as a fraction of the latter's norm.

    Args:
        other: ``(B, T, *S)``.
        maps: ``(B, T, *S)``.

    Returns:
        ``(B, T)``; infinite or NaN where ``maps`` is zero.

    Example:
        >>> relative_distance(torch.full((1, 1, 2, 2), 3.0), torch.full((1, 1, 2, 2), 2.0)).item()
        0.5
    """
    distance, size = (torch.linalg.vector_norm(part.flatten(2), dim=2) for part in (other - maps, maps))
    ratio: Tensor = distance / size
    return ratio


def largest_distance(distances: Tensor) -> Tensor:
    """Take the largest of several relative distances.

    Args:
        distances: ``(B, T, J)`` from :func:`relative_distance`.

    Returns:
        ``(B, T)``; NaN where one is infinite or NaN.

    Example:
        >>> largest_distance(torch.tensor([[[0.25, 0.5]]])).item()
        0.5
    """
    largest = distances.amax(dim=2)
    return largest.masked_fill(largest.isinf(), float("nan"))


def noise_stability(maps: Tensor, noisy: Tensor) -> Tensor:
    """Compute the mean rank correlation of a map with the maps of noisy copies of its image.

    Args:
        maps: ``(B, T, *S)``, maps of the images.
        noisy: ``(J, B, T, *S)``, maps of ``J`` noisy copies of each image.

    Returns:
        ``(B, T)`` in [-1, 1]; a constant map among ``noisy`` is left out, NaN where none is left or ``maps`` is
        constant.

    Example:
        >>> maps = torch.tensor([[[[1.0, 2.0, 3.0]]]])
        >>> round(noise_stability(maps, torch.stack([maps, 2 * maps, -maps])).item(), 4)
        0.3333
    """
    return mean_correlation(torch.stack([spearman(other, maps) for other in noisy], dim=2))


def mean_correlation(correlations: Tensor) -> Tensor:
    """Average several correlations, the undefined ones left out.

    Args:
        correlations: ``(B, T, J)``, such as those from :func:`spearman`.

    Returns:
        ``(B, T)``; NaN where none is defined.

    Example:
        >>> mean_correlation(torch.tensor([[[1.0, 0.5, float("nan")]]])).item()
        0.75
    """
    return correlations.nanmean(dim=2)


def predicted_change(maps: Tensor, noise: Tensor) -> Tensor:
    """Compute the change of the output that a map predicts for some noise: their product, summed over the pixels.

    Args:
        maps: ``(B, T, *S)``, the change of the output for each unit of a pixel.
        noise: ``(J, *S)``, added to every image in turn.

    Returns:
        ``(B, T, J)`` float64.

    Example:
        >>> predicted_change(torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([[[0.5, 1.0]]])).item()
        2.5
    """
    return torch.einsum("btn,jn->btj", maps.flatten(2).double(), noise.flatten(1).double())


def infidelity(predicted: Tensor, change: Tensor, scale: bool = False) -> Tensor:
    """Compute the mean squared difference of the change that a map predicts and the change of the output.

    Yeh et al. 2019, eq. 1.

    Args:
        predicted: ``(..., J)`` from :func:`predicted_change`, for ``J`` noisy copies of the image.
        change: ``(..., J)``, the output for each copy minus that for the image.
        scale: Multiply ``predicted`` by the factor that fits best.

    Returns:
        ``(...)`` in squared units of the output.

    Example:
        >>> infidelity(torch.tensor([1.0, -1.0]), torch.tensor([2.0, -2.0])).item()
        1.0
        >>> infidelity(torch.tensor([1.0, -1.0]), torch.tensor([2.0, -2.0]), scale=True).item()
        0.0
    """
    if scale:
        square = predicted.square().sum(dim=-1, keepdim=True)
        factor = (predicted * change).sum(dim=-1, keepdim=True) / square
        predicted = predicted * torch.where(square > 0, factor, 0.0)
    return (predicted - change).square().mean(dim=-1)
