"""Regions: which pixels a query to a segmenter is about. All are constants: no gradient flows through them."""

import torch
from torch import Tensor

#: How far the probabilities of exclusive classes may be from 1 in sum, by rounding to 16 bits.
SUMS_TO_ONE = 0.01
#: The value of a mask where it says nothing: no class is there, and no loss or metric counts the pixel.
IGNORED = -1


def gather_classes(values: Tensor, targets: Tensor) -> Tensor:
    """Select the classes ``targets (B, T)`` from values ``(B, K, *S)``: ``(B, T, *S)``."""
    index = targets.view(*targets.shape, *(1,) * (values.ndim - 2))
    return values.gather(1, index.expand(-1, -1, *values.shape[2:]))


def predicted_pixels(logits: Tensor, targets: Tensor, activation: str = "softmax") -> Tensor:
    """The pixels that a segmenter predicts as each target class.

    Args:
        logits: ``(B, K, *S)``.
        targets: ``(B, T)`` class indices.
        activation: ``"softmax"``: the largest logit wins; ``"sigmoid"``: every logit above 0; ``"none"``, for
            probabilities: the largest wins where those of a pixel sum to 1, else every one above 0.5.

    Returns:
        Boolean ``(B, T, *S)``.
    """
    if activation == "sigmoid":
        return gather_classes(logits.detach() > 0, targets)
    if activation == "none":
        exclusive = (logits.detach().float().sum(dim=1, keepdim=True) - 1).abs() < SUMS_TO_ONE
        largest = reference_pixels(class_labels(logits).unsqueeze(1), targets)
        return torch.where(exclusive, largest, gather_classes(logits.detach() > 0.5, targets))
    return reference_pixels(class_labels(logits).unsqueeze(1), targets)


def class_labels(logits: Tensor) -> Tensor:
    """The class of the largest logit, the first of equal ones: ``argmax``, in a tenth of its time on a CPU.

    Args:
        logits: ``(B, K, *S)``.

    Returns:
        ``(B, *S)`` int64 class indices.

    Example:
        >>> class_labels(torch.tensor([[[0.0, 2.0, 1.0], [1.0, 2.0, 0.0]]])).tolist()
        [[1, 0, 0]]
    """
    first, *rest = logits.detach().unbind(dim=1)
    best, labels = first.clone(), torch.zeros_like(first, dtype=torch.long)
    for label, values in enumerate(rest, start=1):
        labels.masked_fill_(values > best, label)
        torch.maximum(best, values, out=best)
    return labels


def reference_pixels(mask: Tensor, targets: Tensor) -> Tensor:
    """The pixels that a reference mask labels as each target class.

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


def over_region(values: Tensor, regions: Tensor | None, mean: bool) -> Tensor:
    """Sum or average values over each query's region; those of a classifier, which has none, are returned as they are.

    Args:
        values: ``(B, T, *S)``, or ``(B, T)`` of a classifier.
        regions: Boolean ``(B, T or 1, *S)``, or ``None``.
        mean: Divide by the size of the region; an empty one gives 0.

    Returns:
        ``(B, T)``.
    """
    if regions is None:
        return values
    # Sums of many pixels are beyond the range of 16 bits.
    total = (values * regions).flatten(2).sum(dim=2, dtype=torch.promote_types(values.dtype, torch.float32))
    return total / regions.flatten(2).sum(dim=2).clamp(min=1) if mean else total


def overlap_and_total(predicted: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """Twice the number of pixels in both regions, and the sum of their sizes; Dice is the first over the second.

    Args:
        predicted: Boolean ``(..., N)``.
        reference: Boolean ``(..., N)``.

    Returns:
        Two counts ``(...)``.

    Example:
        >>> [int(count) for count in overlap_and_total(torch.tensor([True, True]), torch.tensor([True, False]))]
        [2, 3]
    """
    return 2 * (predicted & reference).sum(dim=-1), predicted.sum(dim=-1) + reference.sum(dim=-1)


def image_pixels(images: Tensor) -> Tensor:
    """The region that holds every pixel: boolean ``(B, 1, *S)`` for images ``(B, C, *S)``."""
    return torch.ones_like(images[:, :1], dtype=torch.bool)
