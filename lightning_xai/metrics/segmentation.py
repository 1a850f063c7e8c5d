"""Explanations of segmenters: what happens to this class and to others, and where the relevance lies.

All compare with the mask of the class, or with the whole image's own prediction where there is none.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from typing_extensions import override

from lightning_xai.metrics.base import MapMetric
from lightning_xai.metrics.baselines import checked_baseline, input_baseline
from lightning_xai.metrics.batch import MapBatch
from lightning_xai.metrics.functional.segmentation import (
    boundary_reliance,
    context_reliance,
    dice_drop,
    off_target_leakage,
)
from lightning_xai.metrics.readouts import Readout
from lightning_xai.perturbation.batch_size import ChunkSize
from lightning_xai.perturbation.context import AnyBaseline
from lightning_xai.perturbation.sets import Curve


class DiceDrop(MapMetric):
    """Compute the Dice that the class loses when its most important pixels are hidden; high is good.

    Args:
        fraction: Fraction of pixels to hide.
        fill: See :class:`~lightning_xai.metrics.curves.CurveMetric`.
        chunk_size: Perturbed inputs per forward pass.

    Raises:
        ValueError: If the fraction is not between 0 and 1.
    """

    family = "segmentation"
    higher_is_better: bool | None = True
    plot_lower_bound: float | None = -1.0
    plot_upper_bound: float | None = 1.0
    needs_segmenter = True
    paper = "lightning_xai"
    options = ("fraction", "fill")

    def __init__(
        self, fraction: float = 0.2, fill: AnyBaseline = "input_zero", chunk_size: ChunkSize = None, **kwargs: Any
    ) -> None:
        super().__init__(chunk_size, **kwargs)
        if not 0 < fraction < 1:
            raise ValueError(f"fraction is {fraction}; give a fraction of pixels between 0 and 1.")
        self.fraction = fraction
        self.fill = checked_baseline(fill)

    @override
    def readouts(self, target: Any = None) -> dict[str, Readout]:
        whole, hidden = Curve((1.0,), "reveal"), Curve((self.fraction,), "erase", input_baseline(self.fill, target))
        return {"whole": Readout(whole, "dice"), "hidden": Readout(hidden, "dice")}

    @override
    def score(self, batch: MapBatch, outputs: Mapping[str, Tensor]) -> Tensor | tuple[Tensor, Tensor]:
        return batch.where_defined(dice_drop(outputs["whole"], outputs["hidden"])[..., 0])


class OffTargetLeakage(DiceDrop):
    """Compute which fraction of the lost Dice other classes lose when one class's important pixels are hidden.

    Mean Dice that the classes of the image's other queries lose, over that plus what this class loses; low is good.
    Undefined where nothing is lost, or there is no other class. With it: ``outside``, the fraction of the relevance
    outside of the class's pixels.
    """

    higher_is_better = False
    plot_lower_bound = 0.0
    references = ("outside",)

    @override
    def readouts(self, target: Any = None) -> dict[str, Readout]:
        readouts = super().readouts(target)
        others = {f"{name} others": Readout(one.perturbations, "other_dice") for name, one in readouts.items()}
        return readouts | others

    @override
    def score(self, batch: MapBatch, outputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        drop = dice_drop(outputs["whole"], outputs["hidden"])[..., 0]
        other_drop = dice_drop(outputs["whole others"], outputs["hidden others"])[..., 0]
        outside = context_reliance(batch.labeled_maps, batch.reference).unsqueeze(2)
        return batch.where_defined(off_target_leakage(drop, other_drop)), outside


class ContextReliance(MapMetric):
    """Compute the fraction of the positive relevance that lies outside the object."""

    family = "segmentation"
    higher_is_better = None
    plot_lower_bound, plot_upper_bound = 0.0, 1.0
    needs_segmenter = True
    paper = "lightning_xai"

    @override
    def score(self, batch: MapBatch, outputs: Mapping[str, Tensor]) -> Tensor:
        return context_reliance(batch.labeled_maps, batch.reference)


class BoundaryReliance(MapMetric):
    """Say whether the relevance within the object lies on its boundary (1), in its interior (0), or on both (.5).

    Args:
        width: Of the boundary, in pixels.

    Raises:
        ValueError: If the width is below 1.
    """

    family = "segmentation"
    higher_is_better = None
    plot_lower_bound, plot_upper_bound = 0.0, 1.0
    needs_segmenter = True
    paper = "lightning_xai"
    options = ("width",)

    def __init__(self, width: int = 2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if width < 1:
            raise ValueError(f"width is {width}; a boundary is at least 1 pixel wide.")
        self.width = width

    @override
    def score(self, batch: MapBatch, outputs: Mapping[str, Tensor]) -> Tensor:
        return boundary_reliance(batch.labeled_maps, batch.reference, self.width)
