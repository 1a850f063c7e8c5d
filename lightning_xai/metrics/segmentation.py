"""Explanations of segmenters: what happens to this class and to others, and where the relevance lies.

All compare with the mask of the class, or with the whole image's own prediction where there is none.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_xai.metrics.ask import Ask
from lightning_xai.metrics.base import MapMetric
from lightning_xai.metrics.batch import Batch
from lightning_xai.metrics.curves import checked_fill, input_fill
from lightning_xai.metrics.functional.localisation import relevance_mass
from lightning_xai.metrics.functional.segmentation import boundary_reliance
from lightning_xai.pictures import AnyFill, Curve


class DiceDrop(MapMetric):
    """Dice that the class loses when its most important pixels are hidden; high is good.

    Args:
        share: Share of pixels to hide.
        fill: See :class:`~lightning_xai.metrics.curves.CurveMetric`.
        chunk_size: Pictures per forward pass.

    Raises:
        ValueError: If the share is not between 0 and 1.
    """

    family = "segmentation"
    higher_is_better: bool | None = True
    needs_segmenter = True
    paper = "lightning_xai"
    options = ("share", "fill")

    def __init__(self, share: float = 0.2, fill: AnyFill = "input_zero", chunk_size: int = 64, **kwargs: Any) -> None:
        super().__init__(chunk_size, **kwargs)
        if not 0 < share < 1:
            raise ValueError(f"share is {share}; give a share of pixels between 0 and 1.")
        self.share = share
        self.fill = checked_fill(fill)

    def asks(self, target: Any = None) -> dict[str, Ask]:
        """See :meth:`MapMetric.asks`."""
        whole, hidden = Curve((1.0,), "reveal"), Curve((self.share,), "erase", input_fill(self.fill, target))
        return {"whole": Ask(whole, "dice"), "hidden": Ask(hidden, "dice")}

    def score(self, batch: Batch, answers: Mapping[str, Tensor]) -> Tensor | tuple[Tensor, Tensor]:
        """See :meth:`MapMetric.score`."""
        return batch.where_defined((answers["whole"] - answers["hidden"])[..., 0])


class OffTargetLeakage(DiceDrop):
    """Share of the damage that hiding a class's most important pixels does to other classes; low is good.

    Mean Dice that the other asked classes lose, over that plus what this class loses. Undefined where nothing is lost,
    or no other class is there. Beside it: ``outside``, the share of the relevance outside of the class's own pixels.
    """

    higher_is_better = False
    details = ("outside",)

    def asks(self, target: Any = None) -> dict[str, Ask]:
        """See :meth:`MapMetric.asks`."""
        own = super().asks(target)
        return own | {f"{name} others": Ask(ask.pictures, "other_dice") for name, ask in own.items()}

    def score(self, batch: Batch, answers: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """See :meth:`MapMetric.score`."""
        own, others = (
            (answers["whole" + kind] - answers["hidden" + kind])[..., 0].clamp(min=0) for kind in ("", " others")
        )
        lost = own + others
        value = torch.where(lost == 0, float("nan"), others / lost)
        return batch.where_defined(value), outside(batch).unsqueeze(2)


class ContextReliance(MapMetric):
    """Share of the positive relevance outside of the object: how much the class is told from its surroundings."""

    family = "segmentation"
    higher_is_better = None
    needs_segmenter = True
    paper = "lightning_xai"

    def score(self, batch: Batch, answers: Mapping[str, Tensor]) -> Tensor:
        """See :meth:`MapMetric.score`."""
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

    def score(self, batch: Batch, answers: Mapping[str, Tensor]) -> Tensor:
        """See :meth:`MapMetric.score`."""
        return boundary_reliance(batch.maps, batch.reference, self.width)


def outside(batch: Batch) -> Tensor:
    """Share of the positive relevance outside of each question's object, ``(B, T)``."""
    return 1 - relevance_mass(batch.maps.flatten(2), batch.reference.flatten(2))
