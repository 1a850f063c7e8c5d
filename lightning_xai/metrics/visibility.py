"""The visibility curve: how good is the segmentation when only so much of the image can be seen?"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from lightning_xai.metrics.base import MapMetric
from lightning_xai.metrics.batch import MapBatch
from lightning_xai.metrics.curves import checked_baseline, input_baseline
from lightning_xai.metrics.functional.visibility import at_common_fraction, at_own_fraction
from lightning_xai.metrics.readouts import Readout
from lightning_xai.metrics.state import State, decode_ids
from lightning_xai.perturbation.context import AnyBaseline
from lightning_xai.perturbation.sets import Curve, other_content, pixel_count


class VisibilityCurve(MapMetric):
    """Dice of the class when the most important fraction of the pixels is visible; the value is that at one fraction.

    Koker et al. 2021 (U-Noise): one threshold for the whole split, so that images with more to see show more. Here the
    threshold is one for all images of a class. Each image is shown at equal steps of its own fraction, and its Dice at
    a common threshold is interpolated between them, so the data are read once, in any order and on any number of ranks.

    Args:
        at: The fraction of visible pixels that the value is taken at.
        scope: ``"split"``: one threshold for all images; ``"image"``: the same fraction of every image.
        steps: Equal steps of the fraction.
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
    #: What visible pixels show; see :meth:`lightning_xai.perturbation.context.PerturbationContext.content`.
    content = "own"

    def __init__(
        self,
        at: float = 0.5,
        scope: str = "split",
        steps: int = 20,
        fill: AnyBaseline = "input_zero",
        chunk_size: int = 64,
        **kwargs: Any,
    ) -> None:
        super().__init__(chunk_size, **kwargs)
        if not 0 <= at <= 1 or scope not in ("split", "image") or steps < 1:
            raise ValueError(
                f"at is {at}, scope {scope!r}, steps {steps}; use a fraction from 0 to 1, split | image, at least 1."
            )
        self.at, self.scope, self.steps = at, scope, steps
        self.fill = checked_baseline(fill)
        self.fractions = tuple(step / steps for step in range(steps + 1))
        self.references = tuple(
            f"{what} {fraction:g}" for what in ("overlap", "total", "threshold") for fraction in self.fractions
        )

    @override
    def readouts(self, target: Any = None) -> dict[str, Readout]:
        curve = Curve(self.fractions, "reveal", input_baseline(self.fill, target), content=self.content)
        return {"overlap": Readout(curve, "overlap"), "total": Readout(curve, "total")}

    @override
    def score(self, batch: MapBatch, outputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Undefined for a constant map and for an empty reference."""
        pixels = batch.maps.flatten(2).shape[2]
        ranks = torch.tensor([max(0, pixel_count(fraction, pixels) - 1) for fraction in self.fractions])
        places = batch.context.order[..., ranks.to(batch.maps.device)]
        thresholds = batch.maps.flatten(2).gather(2, places)
        points = torch.stack([outputs["overlap"], outputs["total"], thresholds.double()], dim=2)
        missing = ~batch.reference.flatten(2).any(dim=2)
        points = batch.where_defined(points.masked_fill(missing.view(*missing.shape, 1, 1), float("nan")))
        value = _dice(at_own_fraction(points.flatten(0, 1), self.at)).view(missing.shape)
        return value, points.flatten(2)

    @override
    def unique(self) -> State:
        """With one threshold for all, the values follow from all images together."""
        state = super().unique()
        if self.scope == "split":
            state = state._replace(values=_dice(self._at_fraction(state, self.at)))
        return state

    def reference_means(self) -> dict[str, float]:
        """The Dice at every fraction; see :meth:`curve`."""
        dice = self.curve()["dice"].tolist()
        return {f"dice at {fraction:g}": value for fraction, value in zip(self.fractions, dice, strict=True)}

    def curve(self) -> dict[str, Tensor]:
        """The curve over all images and classes.

        Returns:
            ``fractions`` of visible pixels, ``dice`` (mean over images) and ``batch_dice`` (one Dice over the pixels of
            all images), each ``(steps + 1,)``; NaN without any defined image.
        """
        with self.sync_context():
            state = super().unique()
        parts = torch.stack([self._at_fraction(state, fraction) for fraction in self.fractions])
        defined = parts[:, ~parts.isnan().flatten(2).any(dim=2).any(dim=0)]
        return {
            "fractions": torch.tensor(self.fractions, dtype=torch.float64),
            "dice": _dice(defined).mean(dim=1),
            "batch_dice": _dice(defined.sum(dim=1)),
        }

    def rows_at_fractions(self) -> dict[float, list[tuple[str, int, float]]]:
        """``(id, class, Dice)`` of every image and query, for each fraction."""
        with self.sync_context():
            state = super().unique()
        names, classes = decode_ids(state.ids), state.targets.tolist()
        dice = {fraction: _dice(self._at_fraction(state, fraction)).tolist() for fraction in self.fractions}
        return {fraction: list(zip(names, classes, values, strict=True)) for fraction, values in dice.items()}

    def _at_fraction(self, state: State, fraction: float) -> Tensor:
        """Overlap and total ``(R, 2)`` of all rows; a threshold is common to the maps of one class."""
        points = state.reference_values.view(-1, 3, len(self.fractions))
        if self.scope == "image":
            return at_own_fraction(points, fraction)
        parts = points.new_empty(len(points), 2)
        for asked in torch.unique(state.targets):
            rows = state.targets == asked
            parts[rows] = at_common_fraction(points[rows], fraction)
        return parts


class VisibilityLeak(VisibilityCurve):
    """How much of the Dice the mask itself draws: the same visible pixels, but of another content; low is good.

    What survives the swap was said by the shape of the mask, or by its position alone where images are aligned.

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

    @override
    def score(self, batch: MapBatch, outputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """One image alone has nothing to be swapped with."""
        value, points = super().score(batch, outputs)
        if self.content == "swapped" and len(value) == 1:
            return torch.full_like(value, float("nan")), torch.full_like(points, float("nan"))
        return value, points


def _dice(parts: Tensor) -> Tensor:
    """Dice ``(...)`` of overlap and total ``(..., 2)``."""
    overlap, total = parts.unbind(dim=-1)
    return overlap / total
