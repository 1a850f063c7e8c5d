"""The visibility curve: how good is the segmentation when only so much of the image can be seen?"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_xai.metrics.ask import Ask
from lightning_xai.metrics.base import MapMetric, State, decode_ids
from lightning_xai.metrics.batch import Batch
from lightning_xai.metrics.curves import checked_fill, input_fill
from lightning_xai.metrics.functional.visibility import at_common_share, at_own_share
from lightning_xai.pictures import AnyFill, Curve, other_content, pixel_count


class VisibilityCurve(MapMetric):
    """Dice of the class when the most important share of the pixels is visible; the value is the Dice at one share.

    Koker et al. 2021 (U-Noise): one threshold for the whole split, so that images with more to see show more. Here the
    threshold is one for all images of a class. Each image is asked at equal steps of its own share, and its Dice at a
    common threshold is interpolated between them, so the data are read once, in any order and on any number of ranks.

    Args:
        at: The share of visible pixels that the value is taken at.
        scope: ``"split"``: one threshold for all images; ``"image"``: the same share of every image.
        steps: Equal steps of the share.
        fill: What hidden pixels show; see :class:`~lightning_xai.metrics.curves.CurveMetric`.
        chunk_size: Pictures per forward pass.

    Raises:
        ValueError: If a setting is out of range.
    """

    family = "segmentation"
    higher_is_better = True
    needs_segmenter = True
    paper = "Koker et al. 2021, U-Noise, arXiv 2101.05791"
    options: ClassVar[tuple[str, ...]] = ("at", "scope", "steps", "fill")
    #: What visible pixels show; see :meth:`lightning_xai.pictures.Scene.content`.
    content = "own"

    def __init__(
        self,
        at: float = 0.5,
        scope: str = "split",
        steps: int = 20,
        fill: AnyFill = "input_zero",
        chunk_size: int = 64,
        **kwargs: Any,
    ) -> None:
        super().__init__(chunk_size, **kwargs)
        if not 0 <= at <= 1 or scope not in ("split", "image") or steps < 1:
            raise ValueError(
                f"at is {at}, scope {scope!r}, steps {steps}; use a share between 0 and 1, split | image, at least 1."
            )
        self.at, self.scope, self.steps = at, scope, steps
        self.fill = checked_fill(fill)
        self.shares = tuple(step / steps for step in range(steps + 1))
        self.details = tuple(f"{what} {share:g}" for what in ("overlap", "total", "threshold") for share in self.shares)

    def asks(self, target: Any = None) -> dict[str, Ask]:
        """See :meth:`MapMetric.asks`."""
        curve = Curve(self.shares, "reveal", input_fill(self.fill, target), content=self.content)
        return {"overlap": Ask(curve, "overlap"), "total": Ask(curve, "total")}

    def score(self, batch: Batch, answers: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """See :meth:`MapMetric.score`; undefined for a constant map and for an empty reference."""
        pixels = batch.maps.flatten(2).shape[2]
        ranks = torch.tensor([max(0, pixel_count(share, pixels) - 1) for share in self.shares])
        places = batch.scene.order[..., ranks.to(batch.maps.device)]
        thresholds = batch.maps.flatten(2).gather(2, places)
        points = torch.stack([answers["overlap"], answers["total"], thresholds.double()], dim=2)
        missing = ~batch.reference.flatten(2).any(dim=2)
        points = batch.where_defined(points.masked_fill(missing.view(*missing.shape, 1, 1), float("nan")))
        value = _dice(at_own_share(points.flatten(0, 1), self.at)).view(missing.shape)
        return value, points.flatten(2)

    def unique(self) -> State:
        """See :meth:`MapMetric.unique`; with one threshold for all, the values follow from all images together."""
        state = super().unique()
        if self.scope == "split":
            state = state._replace(values=_dice(self._at_share(state, self.at)))
        return state

    def beside_means(self) -> dict[str, float]:
        """The Dice at every share; see :meth:`curve`."""
        dice = self.curve()["dice"].tolist()
        return {f"dice at {share:g}": value for share, value in zip(self.shares, dice, strict=True)}

    def curve(self) -> dict[str, Tensor]:
        """The curve over all images and classes.

        Returns:
            ``shares`` of visible pixels, ``dice`` (mean over images) and ``batch_dice`` (one Dice over the pixels of
            all images), each ``(steps + 1,)``; NaN without any defined image.
        """
        with self.sync_context():
            state = super().unique()
        parts = torch.stack([self._at_share(state, share) for share in self.shares])
        defined = parts[:, ~parts.isnan().flatten(2).any(dim=2).any(dim=0)]
        return {
            "shares": torch.tensor(self.shares, dtype=torch.float64),
            "dice": _dice(defined).mean(dim=1),
            "batch_dice": _dice(defined.sum(dim=1)),
        }

    def rows_at_shares(self) -> dict[float, list[tuple[str, int, float]]]:
        """``(id, class, Dice)`` of every image and question, for each share."""
        with self.sync_context():
            state = super().unique()
        names, classes = decode_ids(state.names), state.classes.tolist()
        dice = {share: _dice(self._at_share(state, share)).tolist() for share in self.shares}
        return {share: list(zip(names, classes, values, strict=True)) for share, values in dice.items()}

    def _at_share(self, state: State, share: float) -> Tensor:
        """Overlap and total ``(R, 2)`` of all rows; a threshold is common to the maps of one class."""
        points = state.beside.view(-1, 3, len(self.shares))
        if self.scope == "image":
            return at_own_share(points, share)
        parts = points.new_empty(len(points), 2)
        for asked in torch.unique(state.classes):
            rows = state.classes == asked
            parts[rows] = at_common_share(points[rows], share)
        return parts


class VisibilityLeak(VisibilityCurve):
    """How much of the Dice the mask itself draws: the same visible pixels, but of another content; low is good.

    What survives the swap was told by the shape of the mask, or by its position alone where images are aligned.

    Args:
        content: What visible pixels show: ``"shifted"``, the image moved by half its size; ``"swapped"``, the image
            before it in the batch, on which the value then depends (one image alone is undefined); or ``"noise"`` with
            the mean and deviation of the image's channels.
        options: Those of :class:`VisibilityCurve`.

    Raises:
        ValueError: If the content is neither.
    """

    higher_is_better = False
    options = (*VisibilityCurve.options, "content")

    def __init__(self, content: str = "shifted", **options: Any) -> None:
        super().__init__(**options)
        self.content = other_content(content)

    def score(self, batch: Batch, answers: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """See :meth:`VisibilityCurve.score`; one image alone has nothing to be swapped with."""
        value, points = super().score(batch, answers)
        if self.content == "swapped" and len(value) == 1:
            return torch.full_like(value, float("nan")), torch.full_like(points, float("nan"))
        return value, points


def _dice(parts: Tensor) -> Tensor:
    """Dice ``(...)`` of overlap and total ``(..., 2)``."""
    overlap, total = parts.unbind(dim=-1)
    return overlap / total
