"""Pixel sets: which pixels a question to a segmenter is about. All are constants: no gradient flows through them."""

import torch
from torch import Tensor


def predicted_pixels(logits: Tensor, targets: Tensor, activation: str = "softmax") -> Tensor:
    """The pixels that the segmenter gives to each asked class.

    Args:
        logits: ``(B, K, *S)``.
        targets: ``(B, T)`` class indices.
        activation: ``"softmax"``: the largest logit wins; ``"sigmoid"``: every logit above 0.

    Returns:
        Boolean ``(B, T, *S)``.
    """
    if activation == "sigmoid":
        index = targets.view(*targets.shape, *(1,) * (logits.ndim - 2)).expand(-1, -1, *logits.shape[2:])
        return (logits.detach() > 0).gather(1, index)
    return reference_pixels(logits.detach().argmax(dim=1, keepdim=True), targets)


def reference_pixels(mask: Tensor, targets: Tensor) -> Tensor:
    """The pixels that a reference mask gives to each asked class.

    Args:
        mask: ``(B, 1, *S)`` class indices.
        targets: ``(B, T)`` class indices.

    Returns:
        Boolean ``(B, T, *S)``.

    Example:
        >>> reference_pixels(torch.tensor([[[0, 1, 1]]]), torch.tensor([[1, 2]])).tolist()
        [[[False, True, True], [False, False, False]]]
    """
    return mask.detach() == targets.view(*targets.shape, *(1,) * (mask.ndim - 2))


def image_pixels(images: Tensor) -> Tensor:
    """Every pixel: boolean ``(B, 1, *S)`` for images ``(B, C, *S)``."""
    return torch.ones_like(images[:, :1], dtype=torch.bool)
