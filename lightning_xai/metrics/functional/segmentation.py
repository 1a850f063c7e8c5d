"""Explanations of segmenters: what hiding pixels does to the Dice of each class, and where the relevance lies."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_xai.metrics.functional.localization import relevance_mass


def dice_drop(whole: Tensor, hidden: Tensor) -> Tensor:
    """Compute the Dice that a class loses when pixels are hidden.

    Args:
        whole: ``(B, T)``, the Dice for the whole image.
        hidden: ``(B, T)``, the Dice with the pixels hidden.

    Returns:
        ``(B, T)`` in [-1, 1].

    Example:
        >>> dice_drop(torch.tensor([[0.75]]), torch.tensor([[0.5]])).item()
        0.25
    """
    return whole - hidden


def off_target_leakage(drop: Tensor, other_drop: Tensor) -> Tensor:
    """Compute the fraction of the lost Dice that other classes lose when one class's important pixels are hidden.

    A class that gains counts as one that loses nothing.

    Args:
        drop: ``(B, T)``, what the class loses; see :func:`dice_drop`.
        other_drop: ``(B, T)``, what the other classes lose on average.

    Returns:
        ``(B, T)`` in [0, 1]; NaN where nothing is lost.

    Example:
        >>> off_target_leakage(torch.tensor([[0.75]]), torch.tensor([[0.25]])).item()
        0.25
    """
    lost, others = drop.clamp(min=0), other_drop.clamp(min=0)
    together = lost + others
    return torch.where(together == 0, float("nan"), others / together)


def context_reliance(maps: Tensor, objects: Tensor) -> Tensor:
    """Compute the fraction of the positive relevance that lies outside the object.

    Args:
        maps: ``(B, T, *S)``.
        objects: Boolean ``(B, T, *S)``.

    Returns:
        ``(B, T)`` in [0, 1]; NaN without an object or without positive relevance.

    Example:
        >>> context_reliance(torch.tensor([[[[3.0, 1.0]]]]), torch.tensor([[[[True, False]]]])).item()
        0.25
    """
    return 1 - relevance_mass(maps, objects)


def boundary(objects: Tensor, width: int = 2) -> Tensor:
    """Mark the pixels of objects that lie near their outside; the image's border is no outside.

    Args:
        objects: Boolean ``(B, T, *S)``.
        width: How near, in pixels of the maximum norm.

    Returns:
        Boolean ``(B, T, *S)``.

    Example:
        >>> boundary(torch.ones(1, 1, 3, 3, dtype=torch.bool)).any().item()
        False
    """
    pool = F.max_pool2d if objects.ndim == 4 else F.max_pool3d
    outside: Tensor = pool((~objects).float(), 2 * width + 1, stride=1, padding=width) > 0
    return objects & outside


def grow(objects: Tensor, radius: float) -> Tensor:
    """Mark the pixels that lie within a distance of objects.

    Args:
        objects: Boolean ``(B, T, *S)``.
        radius: Euclidean distance in pixels; 0 marks the objects themselves.

    Returns:
        Boolean ``(B, T, *S)``.

    Example:
        >>> grow(torch.tensor([[[[True, False, False, False]]]]), 2)
        tensor([[[[ True,  True,  True, False]]]])
    """
    return _grown(objects, radius * radius + 1e-9, 2)


def _grown(objects: Tensor, square: float, axis: int) -> Tensor:
    """Grow along an axis and those after it, so far that the squared distance stays below ``square``."""
    reach = int(square**0.5)
    if axis == objects.ndim - 1:
        rows = objects.flatten(0, -2).unsqueeze(1).float()
        return (F.max_pool1d(rows, 2 * reach + 1, stride=1, padding=reach) > 0).view_as(objects)
    grown = torch.zeros_like(objects)
    for step in range(min(reach, objects.shape[axis] - 1) + 1):
        near, length = _grown(objects, square - step * step, axis + 1), objects.shape[axis] - step
        grown.narrow(axis, step, length).logical_or_(near.narrow(axis, 0, length))
        grown.narrow(axis, 0, length).logical_or_(near.narrow(axis, step, length))
    return grown


def boundary_reliance(maps: Tensor, objects: Tensor, width: int = 2) -> Tensor:
    """Compare the mean positive relevance on the object's boundary with that in its interior.

    The former over the sum of both.

    Args:
        maps: ``(B, T, *S)``.
        objects: Boolean ``(B, T, *S)``.
        width: Of the boundary, in pixels.

    Returns:
        ``(B, T)`` in [0, 1], .5 = no preference, 1 = the boundary alone; NaN where the object has no interior or no
        boundary, or no positive relevance.

    Example:
        >>> objects = torch.tensor([[[[True, True, False]]]])  # its second pixel lies on the boundary
        >>> boundary_reliance(torch.tensor([[[[1.0, 3.0, 9.0]]]]), objects, width=1).item()
        0.75
    """
    mass, edge = maps.flatten(2).double().clamp(min=0), boundary(objects, width).flatten(2)
    inner = objects.flatten(2) & ~edge
    on_edge, inside = ((mass * part).sum(dim=2) / part.sum(dim=2) for part in (edge, inner))
    both = on_edge + inside
    # An empty part divides zero by zero.
    return torch.where(both > 0, on_edge / both, float("nan"))
