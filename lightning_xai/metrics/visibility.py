"""The visibility curve: how good is the segmentation when only a fraction of the image is visible?"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from torch import Tensor
from typing_extensions import override

from lightning_xai.metrics.base import MapMetric, PlotOutput
from lightning_xai.metrics.baselines import checked_baseline, input_baseline
from lightning_xai.metrics.batch import MapBatch
from lightning_xai.metrics.functional.visibility import counts_at_fraction, dice_of_counts, visibility_dice
from lightning_xai.metrics.readouts import Readout
from lightning_xai.metrics.state import State, decode_ids
from lightning_xai.perturbation.batch_size import ChunkSize
from lightning_xai.perturbation.context import AnyBaseline
from lightning_xai.perturbation.sets import Curve, other_content, pixel_count


class VisibilityCurve(MapMetric):
    """Compute the Dice of the class when only the most important fraction of the pixels is visible; high is good.

    Koker et al. 2021 (U-Noise): one threshold for the whole split, so that images with more to see show more. Here the
    threshold is one for all images of a class. Each image is shown at equal steps of the fraction of its pixels, and at
    the fraction that is asked for; its Dice at a common threshold is interpolated between them, so the data are read
    once, in any order and on any number of ranks.

    Args:
        at: The fraction of visible pixels at which the Dice is the metric's value.
        scope: ``"split"``: one threshold for all images; ``"image"``: the same fraction of every image.
        steps: Number of equal steps of the fraction; ``at`` is one more where it lies between two.
        fill: What hidden pixels show; see :class:`~lightning_xai.metrics.curves.CurveMetric`.
        chunk_size: Perturbed inputs per forward pass.

    Raises:
        ValueError: If a setting is out of range.
    """

    family = "segmentation"
    higher_is_better = True
    plot_lower_bound, plot_upper_bound = 0.0, 1.0
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
        chunk_size: ChunkSize = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(chunk_size, **kwargs)
        if not 0 <= at <= 1 or scope not in ("split", "image") or steps < 1:
            raise ValueError(
                f"at is {at}, scope {scope!r}, steps {steps}; use a fraction from 0 to 1, split | image, at least 1."
            )
        self.at, self.scope, self.steps = at, scope, steps
        self.fill = checked_baseline(fill)
        grid = [step / steps for step in range(steps + 1)]
        self.fractions = tuple(grid if any(abs(step - at) < 1e-9 for step in grid) else sorted([*grid, at]))
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
        pixel_index = batch.context.order[..., ranks.to(batch.maps.device)]
        thresholds = batch.maps.flatten(2).gather(2, pixel_index)
        points = torch.stack([outputs["overlap"], outputs["total"], thresholds.double()], dim=2)
        missing = ~batch.reference.flatten(2).any(dim=2)
        points = batch.where_defined(points.masked_fill(missing.view(*missing.shape, 1, 1), float("nan")))
        value = visibility_dice(points.flatten(0, 1), self.at, fractions=self.fractions).view(missing.shape)
        return value, points.flatten(2)

    @override
    def unique(self) -> State:
        """With one threshold for all, the values follow from all images together."""
        state = super().unique()
        if self.scope == "split":
            state = state._replace(values=dice_of_counts(self._counts(state, self.at)))
        return state

    def reference_means(self) -> dict[str, float]:
        """Return the mean Dice at every fraction; see :meth:`curve`."""
        dice = self.curve()["dice"].tolist()
        return {f"dice at {fraction:g}": value for fraction, value in zip(self.fractions, dice, strict=True)}

    def curve(self) -> dict[str, Tensor]:
        """Compute the mean curve over all images and classes.

        Returns:
            ``fractions`` of visible pixels, ``dice`` (mean over images) and ``batch_dice`` (one Dice over the pixels of
            all images), each ``(len(fractions),)``; NaN without any defined image.
        """
        with self.gathered():
            state = super().unique()
        counts = torch.stack([self._counts(state, fraction) for fraction in self.fractions])
        defined = counts[:, ~counts.isnan().flatten(2).any(dim=2).any(dim=0)]
        return {
            "fractions": torch.tensor(self.fractions, dtype=torch.float64),
            "dice": dice_of_counts(defined).mean(dim=1),
            "batch_dice": dice_of_counts(defined.sum(dim=1)),
        }

    @override
    def plot(self, val: Tensor | Sequence[Tensor] | None = None, ax: Axes | None = None) -> PlotOutput:
        """Draw the mean Dice over the fraction of visible pixels, or given values of the metric.

        Args:
            val: A value of :meth:`compute`, or several; ``None``: the curve of everything scored so far.
            ax: Axes to draw into; ``None``: those of a new figure.

        Returns:
            The new figure (``None`` if ``ax`` is given) and the axes.
        """
        if val is not None:
            return super().plot(val, ax)
        curve = self.curve()
        figure, axes = plt.subplots() if ax is None else (None, ax)
        axes.plot(curve["fractions"].cpu(), curve["dice"].cpu())
        axes.set(
            xlabel="fraction of visible pixels", ylabel="Dice", xlim=(0, 1), ylim=(0, 1), title=type(self).__name__
        )
        return figure, axes

    def rows_at_fractions(self) -> dict[float, list[tuple[str, int, float]]]:
        """List ``(id, class, Dice)`` of every image and query, for each fraction."""
        with self.gathered():
            state = super().unique()
        ids, targets = decode_ids(state.ids), state.targets.tolist()
        dice = {fraction: dice_of_counts(self._counts(state, fraction)).tolist() for fraction in self.fractions}
        return {fraction: list(zip(ids, targets, values, strict=True)) for fraction, values in dice.items()}

    def _counts(self, state: State, fraction: float) -> Tensor:
        """Overlap and total ``(R, 2)`` of all rows; a threshold is common to the maps of one class."""
        groups = state.targets if self.scope == "split" else None
        return counts_at_fraction(self._points(state), fraction, groups, self.fractions)

    def _points(self, state: State) -> Tensor:
        """Overlap, total and threshold ``(R, 3, steps + 1)`` of all rows."""
        return state.reference_values.view(-1, 3, len(self.fractions))


class VisibilityLeak(VisibilityCurve):
    """Compute the visibility Dice with another content in the visible pixels; low is good.

    Whatever Dice is left comes from the shape of the mask, or from its position alone where images are aligned.

    Args:
        content: What visible pixels show: ``"shifted"``, the image moved by half its size; ``"swapped"``, the image
            before it in the batch, on which the value then depends (one image alone is undefined); or ``"noise"`` with
            the mean and deviation of the image's channels.
        options: Those of :class:`VisibilityCurve`.

    Raises:
        ValueError: If the content is none of them.
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
