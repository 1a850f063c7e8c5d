"""Checks of queries, class names and sizes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_xai.functional.text import first_few


def checked_targets(images: Tensor, targets: Tensor) -> Tensor:
    """Bring class indices into the form ``(B, T)`` int64, on the device of the images.

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


def check_range(targets: Tensor, classes: int | None) -> None:
    """Raise an error for a query about a class that the model does not have.

    Args:
        targets: Class indices of any shape.
        classes: How many classes the model tells apart; ``None`` where that is unknown.

    Raises:
        ValueError: If it has no such class.
    """
    if not targets.numel() or classes is None:
        return
    low, high = torch.stack(torch.aminmax(targets)).tolist()  # one wait for the device
    if low < 0 or high >= classes:
        raise ValueError(
            f"A query is about class {high if high >= classes else low}, but the model has classes 0 to {classes - 1}."
        )


def check_names(names: Sequence[str] | None, logits: int) -> None:
    """Raise an error for class names that are not as many as the classes of the model.

    Args:
        names: Of the classes, if they have any.
        logits: How many the model gives; one tells two classes apart.

    Raises:
        ValueError: If they are not as many.
    """
    if names and len(names) not in {logits, max(logits, 2)}:
        raise ValueError(
            f"The model gives {logits} logits, but there are names of {listed(names)}; give the model's "
            "own names (target.class_names), or data with the model's classes."
        )


def check_count(classes: int | None, logits: int) -> None:
    """Raise an error for a stated number of classes that is not the model's.

    Args:
        classes: As stated, if it is.
        logits: How many the model gives; one tells two classes apart.

    Raises:
        ValueError: If they disagree.
    """
    if classes is not None and classes not in {logits, max(logits, 2)}:
        raise ValueError(
            f"The model gives {logits} logits, but num_classes is {classes}; give the model's own, or leave it out."
        )


def required_size(target: Any, name: str) -> int:
    """The ``in_channels`` or ``num_classes`` of a target, for a caller that needs it.

    Raises:
        ValueError: If the target does not know it.
    """
    size: int | None = getattr(target, name)
    if size is None:
        raise ValueError(
            f"The model's layers do not say its {name}; give the {type(target).__name__} {name}=, or example=images."
        )
    return size


def check_same_number(weights: str | Path, stored: Sequence[str] | None, class_names: Sequence[str] | None) -> None:
    """Raise an error for class names that are not as many as those that a weights file was trained for.

    Args:
        weights: The file.
        stored: The names in it, if it has any.
        class_names: The target's names, if it has any.

    Raises:
        ValueError: If they are not as many.
    """
    if stored and class_names and len(stored) != len(class_names):
        raise ValueError(
            f"{weights} was trained for {listed(stored)}, but the target is given "
            f"{listed(class_names)}; use data of the same classes, or leave class_names out."
        )


def listed(names: Sequence[str]) -> str:
    """Describe classes in words: their number and the first names."""
    return f"{len(names)} classes ({first_few([str(name) for name in names])})"
