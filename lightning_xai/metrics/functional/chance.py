"""What a random map scores in the localization metrics: a map that does not beat it locates nothing."""

import torch
from torch import Tensor

from lightning_xai.metrics.functional._rows import box_spans, check_threshold

NAN = float("nan")


def random_fraction(masks: Tensor) -> Tensor:
    """Compute the fraction of the pixels that are evidence, which a random map scores wherever pixels are counted.

    That is the expected pointing game, relevance mass, relevance rank and top-k intersection. It is also the value of
    :func:`best_iou` that no map falls below, because the lowest threshold shows everything, and the one that a random
    map tends to as ``N`` grows: showing the fraction ``s`` of the pixels gives :func:`random_fixed_iou`, which rises
    with ``s``.

    Args:
        masks: ``(B, T, *S)`` bool, the evidence.

    Returns:
        ``(B, T)`` float64; NaN for an empty mask.

    Example:
        >>> random_fraction(torch.tensor([[[True, False, False, False]]])).item()
        0.25
    """
    inside = masks.flatten(2)
    fraction = inside.sum(dim=2).double() / inside.shape[2]
    return fraction.where(fraction > 0, NAN)


def random_auc(masks: Tensor) -> Tensor:
    """Compute the expected :func:`pixel_auc` of a random map: one half.

    Args:
        masks: ``(B, T, *S)`` bool, the evidence.

    Returns:
        ``(B, T)`` float64; NaN for an empty and for a full mask.

    Example:
        >>> random_auc(torch.tensor([[[True, False], [True, True]]]))
        tensor([[0.5000,    nan]], dtype=torch.float64)
    """
    fraction = random_fraction(masks)
    return torch.full_like(fraction, 0.5).where(fraction < 1, NAN)


def random_average_precision(masks: Tensor) -> Tensor:
    """Compute the expected :func:`pixel_average_precision` of a map in random order, exactly.

    Of ``P`` pixels of evidence among ``N``, one at position ``i`` has on average ``1 + (i - 1) (P - 1) / (N - 1)`` hits
    up to it, itself included. Divided by ``i`` and averaged over all positions: ``r + (1 - r) (P - 1) / (N - 1)`` with
    ``r = H_N / N``, where ``H_N`` is the harmonic number.

    Args:
        masks: ``(B, T, *S)`` bool, the evidence.

    Returns:
        ``(B, T)`` float64; NaN for an empty mask.

    Example:
        >>> random_average_precision(torch.tensor([[[True, False]]])).item()  # 1 or 1/2
        0.75
    """
    inside = masks.flatten(2)
    positives, pixels = inside.sum(dim=2), inside.shape[2]
    rate = (1 / torch.arange(1, pixels + 1, dtype=torch.float64, device=masks.device)).mean()
    value = rate + (1 - rate) * (positives - 1) / max(1, pixels - 1)
    return value.where(positives > 0, NAN)


def random_fixed_iou(masks: Tensor, threshold: float) -> Tensor:
    """Compute what :func:`fixed_iou` of a map of uniformly random values tends to as the number of pixels ``N`` grows.

    Such a map shows the fraction ``s = 1 - threshold`` of the evidence (area fraction ``a``) and of the rest alike:
    ``a s / (a + s - a s)``.

    Args:
        masks: ``(B, T, *S)`` bool, the evidence.
        threshold: Fraction of the map's range, 0 to 1.

    Returns:
        ``(B, T)`` float64; NaN for an empty mask.

    Raises:
        ValueError: If the threshold is outside [0, 1].

    Example:
        >>> random_fixed_iou(torch.tensor([[[True, False]]]), threshold=0.5).item()
        0.33...
    """
    check_threshold(threshold)
    area, shown = random_fraction(masks), 1 - threshold
    return area * shown / (area + shown - area * shown)


def random_box_energy(masks: Tensor) -> Tensor:
    """Compute the fraction of the pixels inside the evidence's bounding box: the expected :func:`box_energy`.

    Args:
        masks: ``(B, T, *S)`` bool, the evidence.

    Returns:
        ``(B, T)`` float64; NaN for an empty mask.

    Example:
        >>> random_box_energy(torch.eye(4, dtype=torch.bool)[None, None, 1:3]).item()
        0.5
    """
    fraction = torch.stack([span.mean(dim=2) for span in box_spans(masks)]).prod(dim=0)
    return fraction.where(fraction > 0, NAN)
