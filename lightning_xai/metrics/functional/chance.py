"""What a random map gets in the metrics of localization: a map that does not beat it locates nothing."""

import torch
from torch import Tensor

from lightning_xai.metrics.functional.evidence import box_spans, positives_of

NAN = float("nan")


def random_fraction(inside: Tensor) -> Tensor:
    """Area fraction of the evidence: what a random map gets on average wherever pixels or their mass are counted.

    That is the expected pointing game, relevance mass, relevance rank and top-k intersection. It is also the value of
    :func:`best_iou` that no map falls below, because the lowest threshold shows everything, and the one that a random
    map tends to as ``N`` grows: showing the fraction ``s`` of the pixels gives :func:`random_fixed_iou`, which rises
    with ``s``.

    Args:
        inside: ``(B, T, N)`` bool, the evidence.

    Example:
        >>> random_fraction(torch.tensor([[[True, False, False, False]]])).item()
        0.25
    """
    fraction = positives_of(inside).double() / inside.shape[2]
    return fraction.where(fraction > 0, NAN)


def random_auc(inside: Tensor) -> Tensor:
    """Expected :func:`pixel_auc` of a random map: one half, undefined where that is.

    Args:
        inside: ``(B, T, N)`` bool, the evidence.

    Example:
        >>> random_auc(torch.tensor([[[True, False], [True, True]]]))
        tensor([[0.5000,    nan]], dtype=torch.float64)
    """
    fraction = random_fraction(inside)
    return torch.full_like(fraction, 0.5).where(fraction < 1, NAN)


def random_average_precision(inside: Tensor) -> Tensor:
    """Expected :func:`pixel_average_precision` of a map in random order, exactly.

    A pixel of evidence at place ``i`` has on average ``1 + (i - 1) (P - 1) / (N - 1)`` hits up to it, itself included.
    Divided by ``i`` and averaged over all places: ``r + (1 - r) (P - 1) / (N - 1)`` with ``r = H_N / N``, where ``H_N``
    is the harmonic number.

    Args:
        inside: ``(B, T, N)`` bool, the evidence.

    Example:
        >>> random_average_precision(torch.tensor([[[True, False]]])).item()  # 1 or 1/2
        0.75
    """
    positives, pixels = positives_of(inside), inside.shape[2]
    rate = (1 / torch.arange(1, pixels + 1, dtype=torch.float64, device=inside.device)).mean()
    value = rate + (1 - rate) * (positives - 1) / max(1, pixels - 1)
    return value.where(positives > 0, NAN)


def random_fixed_iou(inside: Tensor, threshold: float) -> Tensor:
    """What :func:`fixed_iou` of a map of uniformly random values tends to as ``N`` grows.

    Such a map shows the fraction ``s = 1 - threshold`` of the evidence (area fraction ``a``) and of the rest alike:
    ``a s / (a + s - a s)``.

    Args:
        inside: ``(B, T, N)`` bool, the evidence.
        threshold: Fraction of the map's range, 0 to 1.

    Raises:
        ValueError: If the threshold is outside [0, 1].

    Example:
        >>> random_fixed_iou(torch.tensor([[[True, False]]]), threshold=0.5).item()
        0.33...
    """
    check_threshold(threshold)
    area, shown = random_fraction(inside), 1 - threshold
    return area * shown / (area + shown - area * shown)


def random_box_energy(masks: Tensor) -> Tensor:
    """Expected :func:`box_energy` of a random map: the area fraction of the evidence's bounding box.

    Args:
        masks: ``(B, T, *S)`` bool.

    Example:
        >>> random_box_energy(torch.eye(4, dtype=torch.bool)[None, None, 1:3]).item()
        0.5
    """
    fraction = torch.stack([span.mean(dim=2) for span in box_spans(masks)]).prod(dim=0)
    return fraction.where(fraction > 0, NAN)


def check_threshold(threshold: float) -> None:
    """Refuse a threshold that is no fraction."""
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold is {threshold}, but must be from 0 to 1, a fraction of the map's range.")
