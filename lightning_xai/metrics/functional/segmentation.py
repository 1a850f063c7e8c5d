"""How a map spreads over the object that was segmented."""

import torch
import torch.nn.functional as F
from torch import Tensor


def boundary(objects: Tensor, width: int = 2) -> Tensor:
    """The pixels of objects that lie within so many pixels of their outside; the image's border is no outside.

    Args:
        objects: Boolean ``(B, T, *S)``.
        width: Pixels, in the maximum norm.

    Returns:
        Boolean ``(B, T, *S)``.

    Example:
        >>> boundary(torch.ones(1, 1, 3, 3, dtype=torch.bool)).any().item()
        False
    """
    pool = F.max_pool2d if objects.ndim == 4 else F.max_pool3d
    outside: Tensor = pool((~objects).float(), 2 * width + 1, stride=1, padding=width) > 0
    return objects & outside


def boundary_reliance(maps: Tensor, objects: Tensor, width: int = 2) -> Tensor:
    """Mean positive relevance on the object's boundary over that on boundary and interior together.

    Args:
        maps: ``(B, T, *S)``.
        objects: Boolean ``(B, T, *S)``.
        width: Of the boundary, in pixels.

    Returns:
        ``(B, T)`` in [0, 1], .5 = no preference, 1 = the boundary alone; NaN where the object has no interior or no
        boundary, or no positive relevance.
    """
    mass, edge = maps.flatten(2).double().clamp(min=0), boundary(objects, width).flatten(2)
    inner = objects.flatten(2) & ~edge
    on_edge, inside = ((mass * part).sum(dim=2) / part.sum(dim=2) for part in (edge, inner))
    both = on_edge + inside
    # An empty part divides zero by zero.
    return torch.where(both > 0, on_edge / both, float("nan"))
