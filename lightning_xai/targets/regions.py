"""Regions, the pixels that a query to a segmenter is about: small functions that build on one another.

Every region is a function ``(RegionContext) -> bool (B, T, *S)``; options are bound with ``functools.partial``, in YAML
with ``_partial_: true``. The result is what ``explain(images, targets, pixels=...)`` takes. Rheude et al. 2024,
Seg-HiRes-Grad CAM, arXiv 2409.20287; Vinogradova et al. 2020, arXiv 2002.11434.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_xai.functional.components import connected_component
from lightning_xai.functional.segmentation import gather_classes, image_pixels, predicted_pixels, reference_pixels
from lightning_xai.targets import Target


@dataclass(frozen=True)
class RegionContext:
    """What a region is computed from.

    Attributes:
        target: The segmenter.
        images: ``(B, C, *S)``.
        targets: The classes ``(B, T)``.
        masks: Reference masks ``(B, 1, *S)`` of class indices, or ``None``.
        logits: ``(B, K, *S)`` of the images; ``None`` if they were not computed yet.
    """

    target: Target
    images: Tensor
    targets: Tensor
    masks: Tensor | None = None
    logits: Tensor | None = None

    def image_logits(self) -> Tensor:
        """The logits of the images, computed if need be."""
        return self.target.finite_logits(self.images) if self.logits is None else self.logits


Region = Callable[[RegionContext], Tensor]


def predicted(context: RegionContext) -> Tensor:
    """The pixels that the segmenter predicts as each class.

    Example:
        >>> from lightning_xai import SegmenterTarget
        >>> target = SegmenterTarget(torch.nn.Conv2d(1, 2, 1))
        >>> predicted(RegionContext(target, torch.rand(3, 1, 4, 4), torch.ones(3, 1).long())).shape
        torch.Size([3, 1, 4, 4])
    """
    return predicted_pixels(context.image_logits(), context.targets, context.target.activation)


def probable(context: RegionContext, above: float = 0.5) -> Tensor:
    """The pixels where the class's probability is above a bound in [0, 1]."""
    return gather_classes(context.target.activate(context.image_logits()), context.targets) > above


def reference(context: RegionContext) -> Tensor:
    """The pixels that the reference mask labels as each class.

    Raises:
        ValueError: If there is no mask.
    """
    if context.masks is None:
        raise ValueError("region=reference needs masks, and the data set has none; use region=predicted.")
    return reference_pixels(context.masks, context.targets)


def whole(context: RegionContext) -> Tensor:
    """Every pixel of the image."""
    return image_pixels(context.images).expand(-1, context.targets.shape[1], *context.images.shape[2:])


def empty(context: RegionContext) -> Tensor:
    """No pixel at all: a sanity check, for the map must be zero."""
    return torch.zeros_like(whole(context))


def point(context: RegionContext, at: Sequence[float] = (0.5, 0.5)) -> Tensor:
    """A single pixel at a relative position.

    Args:
        context: The images and the classes.
        at: Where, as fractions of each side in [0, 1].

    Raises:
        ValueError: If ``at`` has another number of axes, or lies outside.
    """
    return box(context, low=at, high=at)


def box(
    context: RegionContext,
    low: Sequence[float] = (0.25, 0.25),
    high: Sequence[float] = (0.75, 0.75),
    of: Region = whole,
) -> Tensor:
    """The pixels of another region inside a box.

    Args:
        context: The images and the classes.
        low: First corner, as fractions of each side in [0, 1].
        high: Last corner; it belongs to the box.
        of: The other region.

    Raises:
        ValueError: If a corner has another number of axes, or lies outside.
    """
    size = context.images.shape[2:]
    fit = len(low) == len(high) == len(size)
    if not fit or not all(0 <= first <= last <= 1 for first, last in zip(low, high, strict=True)):
        raise ValueError(
            f"A box from {list(low)} to {list(high)} does not fit images of {tuple(size)}; "
            "give fractions between 0 and 1 for each axis, the lower ones first."
        )
    inside = torch.zeros(tuple(size), dtype=torch.bool, device=context.images.device)
    inside[tuple(_span(a, b, side) for a, b, side in zip(low, high, size, strict=True))] = True
    return of(context) & inside


def component(context: RegionContext, of: Region = predicted, which: str = "largest") -> Tensor:
    """The largest or smallest connected component of another region; pixels touch along an axis.

    Args:
        context: The images and the classes.
        of: The other region.
        which: ``"largest"`` or ``"smallest"``; of equal ones the first in scan order.

    Raises:
        ValueError: If ``which`` is neither.
    """
    if which not in ("largest", "smallest"):
        raise ValueError(f"which is {which!r}; use largest or smallest.")
    regions = of(context)
    picked = [torch.from_numpy(connected_component(one.cpu().numpy(), which)) for one in regions.flatten(0, 1)]
    return torch.stack(picked).view(regions.shape).to(regions.device)


def _span(low: float, high: float, side: int) -> slice:
    """Pixels from one fraction of a side to another."""
    return slice(round(low * (side - 1)), round(high * (side - 1)) + 1)
