"""A warning where an explainer gives nearly the same map for every image."""

import logging
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torch.nn import functional

from lightning_xai.explainers.reference import CenterPrior

log = logging.getLogger(__name__)

#: Sides that maps are averaged down to: enough to tell positions apart, whatever the number of classes.
LARGEST_SIDE = 64


class Likeness:
    """How much the maps of one class are alike in different images: 1 if all are the same, 0 if they share nothing.

    The correlation of a map with the mean map of its class, as it would be for many images; from the sum of the
    standardized maps alone, so that memory does not grow with the images. Constant and undefined maps are left out, and
    maps of different sizes are not compared.

    Example:
        >>> import torch
        >>> likeness = Likeness()
        >>> maps = torch.arange(8.0).view(1, 1, 2, 4).repeat(5, 1, 1, 1)
        >>> likeness.update(maps, torch.zeros(5, 1, dtype=torch.long))
        >>> round(likeness.compute(), 3), likeness.count
        (1.0, 5)
    """

    def __init__(self) -> None:
        self._sums: dict[tuple[int, ...], Tensor] = {}
        self._counts: dict[tuple[int, ...], int] = {}

    def update(self, maps: Tensor, targets: Tensor) -> None:
        """Add a batch.

        Args:
            maps: ``(B, T, *S)``.
            targets: ``(B, T)`` class indices.
        """
        size = [min(side, LARGEST_SIDE) for side in maps.shape[2:]]
        small = functional.interpolate(maps.detach().float(), size, mode="area")
        flat = small.flatten(2).flatten(0, 1).double().cpu()
        centered = flat - flat.mean(dim=1, keepdim=True)
        norms = centered.norm(dim=1, keepdim=True)
        usable = flat.isfinite().all(dim=1) & (norms[:, 0] > 1e-6 * flat.norm(dim=1))
        for shape, target in zip((centered / norms)[usable], targets.flatten().cpu()[usable].tolist(), strict=True):
            key = (target, *size)
            self._sums[key] = self._sums.get(key, 0) + shape
            self._counts[key] = self._counts.get(key, 0) + 1

    @property
    def count(self) -> int:
        """Maps that have another of their class to be compared with."""
        return sum(count for count in self._counts.values() if count > 1)

    def compute(self) -> float:
        """The likeness, of classes in proportion to their maps; NaN if no class has two."""
        total = 0.0
        for key, count in self._counts.items():
            if count > 1:
                # The squared length of the sum counts every pair, and each map with itself.
                pairs = (float(self._sums[key].square().sum()) - count) / (count - 1)
                total += pairs
        return max(total / self.count, 0.0) ** 0.5 if self.count else float("nan")


class MapVariety(Callback):
    """Warns after a test if the maps hardly differ between images: a mask network may have learned one map for all.

    Such a map can lead a table where the evidence always has the same position. Each rank judges its own images, and
    rank zero speaks. :class:`~lightning_xai.explainers.CenterPrior` is the same for all by construction.

    Args:
        threshold: Likeness above which it warns; see :class:`Likeness`.
        min_images: Maps that it takes to judge.
    """

    def __init__(self, threshold: float = 0.95, min_images: int = 5) -> None:
        self.threshold = threshold
        self.min_images = min_images
        self.likeness = Likeness()

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start with no map."""
        self.likeness = Likeness()

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:
        """Add the batch's maps."""
        if not isinstance(pl_module, CenterPrior):
            self.likeness.update(outputs.maps, outputs.query.targets)

    @rank_zero_only
    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warn if the maps hardly differ."""
        value = self.likeness.compute()
        if self.likeness.count >= self.min_images and value > self.threshold:
            log.warning(
                "The maps of %s hardly differ between images (correlation with their mean %.2f, %d maps): either the "
                "evidence has the same position in all, or one map was learned for every image; look at maps/test.png "
                "before you trust its scores.",
                type(pl_module).__name__,
                value,
                self.likeness.count,
            )
