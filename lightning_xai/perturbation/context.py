"""What perturbed inputs are computed from: images, maps, and what follows from both."""

from collections.abc import Callable, Hashable
from functools import cached_property
from typing import Self, TypeVar

import torch
from torch import Tensor

from lightning_xai.functional.ranking import order_of, ranks_of
from lightning_xai.functional.tensors import min_max
from lightning_xai.perturbation.baselines import (
    BaselineFunction,
    MaskedBaseline,
    baseline_images,
    named_baseline,
    noise_baseline,
)

AnyBaseline = str | Tensor | BaselineFunction | MaskedBaseline
T = TypeVar("T")


class PerturbationContext:
    """Images, one map a query, and what perturbations compute from both, each thing once.

    Args:
        images: ``(B, C, *S)``.
        maps: ``(B, T, *S)``, high = important. Row ``b * T + t`` is query ``t`` of image ``b``.
    """

    def __init__(self, images: Tensor, maps: Tensor) -> None:
        self.images = images
        self.maps = maps
        self.queries = maps.shape[1]
        self._memo: dict[Hashable, object] = {}

    @classmethod
    def of_queries(cls, images: Tensor, queries: int) -> Self:
        """Make a context of images ``(B, C, *S)`` with so many queries each, for perturbations that need no map."""
        return cls(images, images.new_zeros(()).expand(len(images), queries, *images.shape[2:]))

    def once(self, key: Hashable, compute: Callable[[], T]) -> T:
        """What ``compute`` returns, computed at the first call with this key."""
        if key not in self._memo:
            self._memo[key] = compute()
        return self._memo[key]  # type: ignore[return-value]

    @cached_property
    def order(self) -> Tensor:
        """Pixels from the most to the least important, ``(B, T, N)``; see :func:`order_of` for equal pixels."""
        return order_of(self.maps)

    @cached_property
    def ranks(self) -> Tensor:
        """Rank of every pixel, 0 = most important, ``(B * T, 1, *S)`` int32."""
        return ranks_of(self.order).view(-1, 1, *self.maps.shape[2:])

    @cached_property
    def scaled(self) -> Tensor:
        """The maps between 0 and 1, ``(B * T, 1, *S)`` float32; a constant map is 0."""
        return min_max(self.maps).flatten(0, 1).unsqueeze(1)

    def baseline_image(self, fill: AnyBaseline) -> Tensor:
        """The images with every pixel hidden, ``(B, C, *S)``."""
        return self.once(("baseline", key_of(fill)), lambda: self._baseline_image(named_baseline(fill)))

    def _baseline_image(self, baseline: Tensor | BaselineFunction | MaskedBaseline) -> Tensor:
        if isinstance(baseline, MaskedBaseline):
            return baseline.hide(self.images, torch.zeros_like(self.images[:, :1], dtype=torch.bool))
        return baseline_images(self.images, baseline)

    def content(self, kind: str) -> Tensor:
        """The images whose pixels are shown, ``(B, C, *S)``: these images, or others in place of them.

        Args:
            kind: ``"own"``: the image; ``"shifted"``: the image moved by half its size along every axis, what leaves
                comes in on the other side; ``"swapped"``: the image before it in the batch; ``"noise"``: noise with the
                mean and deviation of each channel, the same pattern for every image.
        """
        if kind == "own":
            return self.images
        if kind == "swapped":
            return self.swapped
        return self.shifted if kind == "shifted" else self.static

    @cached_property
    def swapped(self) -> Tensor:
        """For each image the one before it in the batch, ``(B, C, *S)``."""
        return self.images.roll(1, dims=0)

    @cached_property
    def shifted(self) -> Tensor:
        """The images moved by half their size along every axis, ``(B, C, *S)``."""
        sides = self.images.shape[2:]
        return self.images.roll([side // 2 for side in sides], dims=list(range(2, self.images.ndim)))

    @cached_property
    def static(self) -> Tensor:
        """Noise with the mean and deviation of each image's channels, ``(B, C, *S)``."""
        return noise_baseline(self.images)


def thin(baseline: Tensor) -> Tensor:
    """Shorten the axes of a baseline image ``(B, C, *S)`` along which it was expanded to 1, which saves copies."""
    for axis in range(2, baseline.ndim):
        if baseline.stride(axis) == 0:
            baseline = baseline.narrow(axis, 0, 1)
    return baseline


def key_of(fill: AnyBaseline) -> Hashable:
    """A key that is equal for equal baselines; tensors are compared by identity."""
    return ("tensor", id(fill)) if isinstance(fill, Tensor) else fill
