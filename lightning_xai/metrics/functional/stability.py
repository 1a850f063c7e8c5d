"""How well a map accounts for the changes of an answer."""

import torch
from torch import Tensor


def infidelity(predicted: Tensor, change: Tensor, scale: bool = False) -> Tensor:
    """Mean squared difference of the change that a map tells and the change that happens (Yeh et al. 2019, eq. 1).

    Args:
        predicted: ``(..., J)``: perturbation times map, summed over the pixels, for ``J`` perturbations.
        change: ``(..., J)``: the answer to the perturbed image minus that to the image.
        scale: Multiply ``predicted`` by the factor that fits best.

    Returns:
        ``(...)`` in squared units of the answer.

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
