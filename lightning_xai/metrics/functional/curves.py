"""Areas under curves of pixels hidden or shown."""

from collections.abc import Sequence

import torch
from torch import Tensor


def trapezoid(curve: Tensor, fractions: Sequence[float] | None = None) -> Tensor:
    """Area under the points of a curve over the fractions, divided by their span, float64.

    Args:
        curve: ``(..., P)``.
        fractions: Where the points are, ``P`` of them; ``None``: equally spaced.

    Returns:
        ``(...)``.

    Example:
        >>> trapezoid(torch.tensor([1.0, 0.5, 0.0])).item()
        0.5
    """
    places = torch.linspace(0, 1, curve.shape[-1], dtype=torch.float64, device=curve.device)
    if fractions is not None:
        places = torch.tensor(list(fractions), dtype=torch.float64, device=curve.device)
    return torch.trapezoid(curve.double(), places, dim=-1) / (places[-1] - places[0])


def normalized(curve: Tensor, full: Tensor, blank: Tensor) -> Tensor:
    """``(p - p_blank) / (p_full - p_blank)``, NaN where both are equal.

    Args:
        curve: ``(..., P)``.
        full: ``(...)``, the answer for the whole image.
        blank: ``(...)``, the answer for the image with every pixel hidden.

    Example:
        >>> normalized(torch.tensor([0.25, 0.5]), torch.tensor(0.75), torch.tensor(0.25)).tolist()
        [0.0, 0.5]
    """
    span = (full - blank).unsqueeze(-1)
    return torch.where(span == 0, torch.full_like(span, float("nan")), (curve - blank.unsqueeze(-1)) / span)
