"""Explanations of segmenters: what happens to this class and to others, and where the relevance lies.

All compare with the mask of the class, or with the whole image's own prediction where there is none.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from lightning_xai.metrics.base import MapMetric
from lightning_xai.metrics.batch import MapBatch
from lightning_xai.metrics.curves import checked_baseline, input_baseline
from lightning_xai.metrics.functional.localization import relevance_mass
from lightning_xai.metrics.functional.segmentation import boundary_reliance
from lightning_xai.metrics.readouts import Readout
from lightning_xai.perturbation.context import AnyBaseline
from lightning_xai.perturbation.sets import Curve


class DiceDrop(MapMetric):
    """Dice that the class loses when its most important pixels are hidden; high is good.

    Args:
        fraction: Fraction of pixels to hide.
        fill: See :class:`~lightning_xai.metrics.curves.CurveMetric`.
        chunk_size: Pictures per forward pass.

    Raises:
        ValueError: If the fraction is not between 0 and 1.
    """

    family = "segmentation"
    higher_is_better: bool | None = True
    needs_segmenter = True
    paper = "lightning_xai"
    options = ("fraction", "fill")

    def __init__(
        self, fraction: float = 0.2, fill: AnyBaseline = "input_zero", chunk_size: int = 64, **kwargs: Any
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
        return batch.where_defined((outputs["whole"] - outputs["hidden"])[..., 0])


class OffTargetLeakage(DiceDrop):
    """Fraction of the damage that hiding a class's most important pixels does to other classes; low is good.

    Mean Dice that the other asked classes lose, over that plus what this class loses. Undefined where nothing is lost,
    or no other class is there. With it: ``outside``, the fraction of the relevance outside of the class's own pixels.
    """

    higher_is_better = False
    references = ("outside",)

    @override
    def readouts(self, target: Any = None) -> dict[str, Readout]:
        own = super().readouts(target)
        return own | {f"{name} others": Readout(readout.perturbations, "other_dice") for name, readout in own.items()}

    @override
    def score(self, batch: MapBatch, outputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        own, others = (
            (outputs["whole" + kind] - outputs["hidden" + kind])[..., 0].clamp(min=0) for kind in ("", " others")
        )
        lost = own + others
        value = torch.where(lost == 0, float("nan"), others / lost)
        return batch.where_defined(value), outside(batch).unsqueeze(2)


class ContextReliance(MapMetric):
    """Fraction of the positive relevance outside the object: how much the class is recognized by its surroundings."""

    family = "segmentation"
    higher_is_better = None
    needs_segmenter = True
    paper = "lightning_xai"

    @override
    def score(self, batch: MapBatch, outputs: Mapping[str, Tensor]) -> Tensor:
        return outside(batch)


class BoundaryReliance(MapMetric):
    """Whether the relevance within the object lies on its boundary (1), in its interior (0), or evenly on both (.5).

    Args:
        width: Of the boundary, in pixels.

    Raises:
        ValueError: If the width is below 1.
    """

    family = "segmentation"
    higher_is_better = None
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
        return boundary_reliance(batch.maps, batch.reference, self.width)


def outside(batch: MapBatch) -> Tensor:
    """Fraction of the positive relevance outside of each query's object, ``(B, T)``."""
    return 1 - relevance_mass(batch.maps.flatten(2), batch.reference.flatten(2))
