"""Maps that do not depend on the image."""

from collections.abc import Sequence

import torch
from torch import Tensor


def center_bump(size: Sequence[int], device: torch.device) -> Tensor:
    """A Gaussian bump ``(*size)`` in the middle, one sigma a quarter of each side."""
    bump = torch.ones((), device=device)
    for side in size:
        position = torch.linspace(-1, 1, side, device=device) if side > 1 else torch.zeros(1, device=device)
        bump = bump.unsqueeze(-1) * torch.exp(-0.5 * (position / 0.5) ** 2)
    return bump
