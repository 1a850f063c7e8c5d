"""Gradients of functions that cannot be differentiated, estimated from their values."""

from collections.abc import Callable

import torch
from torch import Tensor


@torch.no_grad()
def spsa_gradient(
    objective: Callable[[Tensor], Tensor], values: Tensor, seed: int, pairs: int = 4, radius: float = 0.1
) -> tuple[Tensor, Tensor]:
    """Estimate a gradient without backward passes, from values in antithetic random directions.

    Simultaneous perturbation stochastic approximation, Spall 1992, eq. 2.2. The directions are the same for every row,
    so that several rows at once equal several single ones.

    Args:
        objective: ``values -> (R,)``, one number a row.
        values: ``(R, ...)``.
        seed: Of the directions.
        pairs: Directions, each evaluated both ways.
        radius: Length of the step along each axis.

    Returns:
        The gradient ``(R, ...)``, and the mean objective ``(R,)``.

    Example:
        >>> gradient, _ = spsa_gradient(lambda values: 3 * values[:, 0], torch.zeros(2, 1), seed=0)
        >>> gradient.tolist()
        [[3.0], [3.0]]
    """
    generator = torch.Generator().manual_seed(seed)
    gradient, means = torch.zeros_like(values), values.new_zeros(len(values))
    for _ in range(pairs):
        signs = torch.randint(0, 2, values.shape[1:], generator=generator).to(values) * 2 - 1
        up, down = objective(values + radius * signs), objective(values - radius * signs)
        gradient += ((up - down) / (2 * radius * pairs)).view(-1, *(1,) * (values.ndim - 1)) * signs
        means += (up + down) / (2 * pairs)
    return gradient, means
