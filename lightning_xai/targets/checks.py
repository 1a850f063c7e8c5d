"""Checks of what a target is asked."""

from collections.abc import Sequence

import torch
from torch import Tensor


def checked_targets(images: Tensor, targets: Tensor) -> Tensor:
    """Class indices as ``(B, T)`` int64 on the device of the images.

    Args:
        images: ``(B, C, *S)``.
        targets: ``(B,)`` or ``(B, T)``.

    Raises:
        ValueError: If they are no integers, or of another number of images.
    """
    targets = torch.as_tensor(targets, device=images.device)
    if targets.is_floating_point():
        raise ValueError(f"targets are {targets.dtype}, but a query is a class index; is this a multi-hot label?")
    targets = targets.long()
    targets = targets if targets.ndim == 2 else targets.view(-1, 1)
    if targets.shape[0] != images.shape[0]:
        raise ValueError(f"{targets.shape[0]} queries for {images.shape[0]} images; targets must be (B,) or (B, T).")
    return targets


def check_range(targets: Tensor, classes: int) -> None:
    """Refuse a query about a class that the model does not have.

    Args:
        targets: Class indices of any shape.
        classes: How many classes the model tells apart.

    Raises:
        ValueError: If it has no such class.
    """
    if targets.numel() and (int(targets.min()) < 0 or int(targets.max()) >= classes):
        wrong = targets.max() if targets.max() >= classes else targets.min()
        raise ValueError(f"Asked for class {int(wrong)}, but the model has classes 0 to {classes - 1}.")


def listed(names: Sequence[str]) -> str:
    """The number of classes and the first names, in words."""
    return f"{len(names)} classes ({', '.join(map(str, names[:5]))}{', ...' if len(names) > 5 else ''})"
