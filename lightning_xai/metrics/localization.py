"""Localization: does the map lie on the evidence that an expert marked?

With its value every metric records what a random map would get (``random``) and what the center prior gets on the
same masks (``center``): a map that does not beat both locates nothing.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from lightning_xai.metrics.base import MapMetric
from lightning_xai.metrics.batch import MapBatch
from lightning_xai.metrics.functional import chance, localization
from lightning_xai.metrics.functional.segmentation import grow


class LocalizationMetric(MapMetric):
    """Compare maps with masks of the evidence; base of such metrics, all undefined for an empty mask."""

    family = "localization"
    needs_masks = True
    higher_is_better = True
    plot_lower_bound, plot_upper_bound = 0.0, 1.0
    references = ("random", "center")
    #: Whether the value depends on where pixels lie: those that a mask ignores then have no relevance.
    by_place = False

    @override
    def score(self, batch: MapBatch, outputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        if batch.labeled is None or self.by_place:
            return self._compared(batch)
        values, references = zip(*map(self._compared, batch.labeled_images), strict=True)
        return torch.cat(values), torch.cat(references)

    def _compared(self, batch: MapBatch) -> tuple[Tensor, Tensor]:
        """The values, and those of a random map and of the center prior."""
        references = torch.stack([self.expected(batch), self.value(batch.center)], dim=2)
        return self.value(batch), references

    @abstractmethod
    def value(self, batch: MapBatch) -> Tensor:
        """Compute the values ``(B, T)`` of a batch."""

    def expected(self, batch: MapBatch) -> Tensor:
        """Compute what a random map scores, ``(B, T)``: by default the area fraction of the evidence."""
        return batch.area_fraction


class PointingGame(LocalizationMetric):
    """Say whether the map's highest pixel is evidence, or near it; where several tie, the fraction of them.

    Undefined also for a constant map.

    Args:
        tolerance: Distance in pixels up to which a pixel next to the evidence is a hit; 15 in the paper.

    Raises:
        ValueError: If it is negative.

    Example:
        >>> metric = PointingGame()
        >>> metric.update(maps=torch.tensor([[[[0.1, 0.9]]]]), masks=torch.tensor([[[[0, 1]]]]))
        >>> metric.compute().item(), metric.per_image("random").item()
        (1.0, 0.5)
    """

    paper = "Zhang et al. 2018, Top-down neural attention by excitation backprop, arXiv 1608.00507"
    options = ("tolerance",)

    def __init__(self, tolerance: float = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not tolerance >= 0:
            raise ValueError(f"tolerance is {tolerance}; give a distance in pixels, 0 or more.")
        self.tolerance = tolerance

    @override
    def score(self, batch: MapBatch, outputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Score with the evidence and what is near it."""
        if not self.tolerance:
            return super().score(batch, outputs)
        near = MapBatch(batch.maps, batch.targets, batch.target, masks=batch.masks)
        near.evidence, near.order = grow(batch.evidence, self.tolerance), batch.order
        return super().score(near, outputs)

    @override
    def value(self, batch: MapBatch) -> Tensor:
        return localization.pointing_game(batch.sorted)


class RelevanceMass(LocalizationMetric):
    """Compute the fraction of the map's positive values that lies on the evidence; undefined also without any."""

    paper = "Arras et al. 2022, CLEVR-XAI, arXiv 2003.07258"

    @override
    def value(self, batch: MapBatch) -> Tensor:
        return localization.relevance_mass(batch.maps, batch.evidence)


class RelevanceRank(LocalizationMetric):
    """Compute the fraction of evidence among as many of the highest pixels as there is evidence.

    Undefined also for a constant map.
    """

    paper = RelevanceMass.paper

    @override
    def value(self, batch: MapBatch) -> Tensor:
        return localization.relevance_rank(batch.sorted)


class TopKIntersection(LocalizationMetric):
    """Compute the fraction of evidence among the ``k`` highest pixels; undefined also for a constant map.

    Args:
        k: Number of pixels.

    Raises:
        ValueError: If it is below 1.
    """

    paper = "Theiner et al. 2022, Interpretable semantic photo geolocation, arXiv 2104.14995"
    options = ("k",)

    def __init__(self, k: int = 100, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if k < 1:
            raise ValueError(f"k is {k}; count at least 1 pixel.")
        self.k = k

    @override
    def value(self, batch: MapBatch) -> Tensor:
        # In one axis are the pixels that a mask does not ignore, which may be fewer.
        k = min(self.k, batch.maps.shape[2]) if batch.maps.ndim == 3 else self.k
        return localization.top_k_intersection(batch.sorted, k)


class PixelAUC(LocalizationMetric):
    """Compute the area under the ROC curve of the map as a classifier of pixels.

    Undefined also for a full mask and for a constant map.
    """

    paper = "Fawcett 2006, An introduction to ROC analysis"

    @override
    def value(self, batch: MapBatch) -> Tensor:
        return localization.pixel_auc(batch.sorted)

    @override
    def expected(self, batch: MapBatch) -> Tensor:
        """One half."""
        return chance.random_auc(batch.evidence)


class PixelAveragePrecision(LocalizationMetric):
    """Compute the average precision of the map as a detector of the evidence's pixels.

    Undefined also for a constant map.
    """

    paper = "Everingham et al. 2010, PASCAL VOC; steps as in scikit-learn"

    @override
    def value(self, batch: MapBatch) -> Tensor:
        return localization.pixel_average_precision(batch.sorted)

    @override
    def expected(self, batch: MapBatch) -> Tensor:
        return chance.random_average_precision(batch.evidence)


class BestIoU(LocalizationMetric):
    """Compute the intersection over union of the evidence and the map cut at the best of all thresholds.

    Undefined also for a constant map.
    """

    paper = "Choe et al. 2020, Evaluating weakly supervised object localization methods right, arXiv 2001.07437"

    @override
    def value(self, batch: MapBatch) -> Tensor:
        return localization.best_iou(batch.sorted)


class FixedIoU(LocalizationMetric):
    """Compute the intersection over union of the evidence and the map cut at a fraction of its range.

    Undefined also for a constant map.

    Args:
        threshold: Fraction of the range, 0 to 1.

    Raises:
        ValueError: If it is not between 0 and 1.
    """

    paper = BestIoU.paper
    options = ("threshold",)

    def __init__(self, threshold: float = 0.5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold is {threshold}; give a fraction of the map's range between 0 and 1.")
        self.threshold = threshold

    @override
    def value(self, batch: MapBatch) -> Tensor:
        return localization.fixed_iou(batch.sorted, self.threshold)

    @override
    def expected(self, batch: MapBatch) -> Tensor:
        """That of uniformly random values."""
        return chance.random_fixed_iou(batch.evidence, self.threshold)


class BoxEnergy(LocalizationMetric):
    """Compute the fraction of the map's positive values inside the evidence's bounding box.

    Undefined also without positive values.
    """

    paper = "Wang et al. 2020, Score-CAM (energy-based pointing game), arXiv 1910.01279"
    by_place = True

    @override
    def value(self, batch: MapBatch) -> Tensor:
        return localization.box_energy(batch.labeled_maps, batch.evidence)

    @override
    def expected(self, batch: MapBatch) -> Tensor:
        """The area fraction of the box, of the pixels that the mask does not ignore: what a constant map has."""
        if batch.labeled is None:
            return chance.random_box_energy(batch.evidence)
        return localization.box_energy(batch.labeled.double().expand_as(batch.maps), batch.evidence)
