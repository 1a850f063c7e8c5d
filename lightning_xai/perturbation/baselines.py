"""Baselines: what replaces hidden pixels."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from lightning_xai.perturbation.imputation import neighbor_imputation

#: Images ``(B, C, *S)`` -> baseline images of the same shape.
BaselineFunction = Callable[[Tensor], Tensor]


class MaskedBaseline(ABC):
    """A baseline that depends on which pixels are visible."""

    @abstractmethod
    def hide(self, images: Tensor, visible: Tensor) -> Tensor:
        """Images ``(n, C, *S)`` with the pixels outside of ``visible (n, 1, *S)`` replaced."""


def zero_baseline(images: Tensor) -> Tensor:
    """An image of zeros, black. Suits fluorescence, not bright field."""
    return images.new_zeros(()).expand_as(images)


def median_baseline(images: Tensor) -> Tensor:
    """The median of each image and channel: its background."""
    median = images.flatten(2).median(dim=2).values
    return median.view(*median.shape, *(1,) * (images.ndim - 2)).expand_as(images)


def channel_mean_baseline(images: Tensor) -> Tensor:
    """The mean of each image and channel."""
    return images.mean(dim=tuple(range(2, images.ndim)), keepdim=True).expand_as(images)


def blur_baseline(images: Tensor) -> Tensor:
    """The image smoothed by three box blurs of a quarter of its side each, close to a Gaussian."""
    smooth = images.double()
    for axis in range(2, images.ndim):
        margin = max(1, images.shape[axis] // 8)
        for _ in range(3):
            smooth = _box_mean(smooth, axis, margin)
    return smooth.to(images.dtype)


def _box_mean(values: Tensor, axis: int, margin: int) -> Tensor:
    """Mean over a window of ``2 * margin + 1`` along an axis, whose ends are repeated; cost does not grow with it."""
    size = values.shape[axis]
    first, last = values.narrow(axis, 0, 1), values.narrow(axis, size - 1, 1)
    repeats = [margin if other == axis else 1 for other in range(values.ndim)]
    padded = torch.cat([torch.zeros_like(first), first.repeat(repeats), values, last.repeat(repeats)], dim=axis)
    sums = padded.cumsum(dim=axis)
    window = 2 * margin + 1
    return (sums.narrow(axis, window, size) - sums.narrow(axis, 0, size)) / window


def noise_baseline(images: Tensor) -> Tensor:
    """Gaussian noise of each image's and channel's mean and deviation: one field for all images, always the same."""
    axes = tuple(range(2, images.ndim))
    mean, deviation = images.mean(dim=axes, keepdim=True), images.std(dim=axes, keepdim=True, correction=0)
    return mean + deviation * noise_field(images.shape[1:], seed=0).to(images)


@dataclass(frozen=True)
class NeighborBaseline(MaskedBaseline):
    """Noisy linear imputation: hidden pixels are the weighted mean of their neighbors (ROAD, Rong et al. 2022).

    Attributes:
        noise: Standard deviation of the noise on top, as a fraction of the image's. Without it, how smooth a region is
            would tell the model where something was hidden.
        seed: The noise is one field for all images, the same every time.
    """

    noise: float = 0.01
    seed: int = 0

    @override
    def hide(self, images: Tensor, visible: Tensor) -> Tensor:
        filled = neighbor_imputation(images, visible)
        if not self.noise:
            return filled
        level = self.noise * images.flatten(1).std(dim=1).view(-1, *(1,) * (images.ndim - 1))
        noisy = filled + level * noise_field(images.shape[1:], self.seed).to(images)
        return torch.where(visible, images, noisy)


BASELINES: dict[str, BaselineFunction | MaskedBaseline] = {
    "zero": zero_baseline,
    "median": median_baseline,
    "channel_mean": channel_mean_baseline,
    "blur": blur_baseline,
    "noise": noise_baseline,
    "neighbors": NeighborBaseline(),
}


def named_baseline(
    fill: str | Tensor | BaselineFunction | MaskedBaseline,
) -> Tensor | BaselineFunction | MaskedBaseline:
    """Look up a baseline by its name; anything else is returned as it is.

    Raises:
        ValueError: If the name is unknown.
    """
    if not isinstance(fill, str):
        return fill
    if fill not in BASELINES:
        raise ValueError(
            f"Unknown fill {fill!r}; use one of {', '.join(BASELINES)}, a tensor, or a function of the images."
        )
    return BASELINES[fill]


def baseline_images(images: Tensor, fill: str | Tensor | BaselineFunction) -> Tensor:
    """The baseline images: what replaces the pixels of some images, whichever of them are hidden.

    Args:
        images: ``(B, C, *S)``.
        fill: A name from :data:`BASELINES`, a function of the images, or a tensor that broadcasts to them.

    Returns:
        ``(B, C, *S)``.

    Raises:
        ValueError: If the name is unknown, or the baseline depends on the pixels that are hidden.

    Example:
        >>> baseline_images(torch.ones(1, 1, 2, 2), "zero").sum().item()
        0.0
    """
    baseline = named_baseline(fill)
    if isinstance(baseline, MaskedBaseline):
        raise ValueError(f"fill={fill!r} depends on the hidden pixels, so it gives no baseline image; use another.")
    return baseline.to(images).expand_as(images) if isinstance(baseline, Tensor) else baseline(images)


def hide_pixels(images: Tensor, visible: Tensor, fill: str | Tensor | BaselineFunction | MaskedBaseline) -> Tensor:
    """Replace some pixels of images by a baseline.

    Args:
        images: ``(n, C, *S)``.
        visible: Boolean ``(n, 1, *S)``.
        fill: See :func:`baseline_images`, or a :class:`MaskedBaseline`.

    Example:
        >>> hide_pixels(torch.ones(1, 1, 1, 2), torch.tensor([[[[True, False]]]]), "zero").tolist()
        [[[[1.0, 0.0]]]]
    """
    baseline = named_baseline(fill)
    if isinstance(baseline, MaskedBaseline):
        return baseline.hide(images, visible)
    return torch.where(visible, images, baseline_images(images, baseline))


def mean_image(batches: Iterable[dict[str, Any]]) -> Tensor:
    """The mean image ``(1, C, *S)`` of batches of one size, a natural baseline for aligned images.

    Raises:
        ValueError: If there is no batch.
    """
    total, count = None, 0
    for batch in batches:
        images = batch["image"].double()
        total = images.sum(dim=0, keepdim=True) if total is None else total + images.sum(dim=0, keepdim=True)
        count += len(images)
    if total is None:
        raise ValueError("There is no batch to take the mean image of; check the data set.")
    mean: Tensor = (total / count).float()
    return mean


def noise_field(shape: torch.Size | tuple[int, ...], seed: int) -> Tensor:
    """Standard normal noise of a shape, drawn on the CPU so that a seed means the same everywhere."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
