"""Deletion and insertion: does the output change with the pixels that a map calls important?"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from lightning_xai.metrics.base import MapMetric
from lightning_xai.metrics.baselines import checked_baseline, input_baseline
from lightning_xai.metrics.batch import MapBatch
from lightning_xai.metrics.functional.curves import (
    area_between,
    baseline_probability,
    normalized_curve,
    trapezoid,
)
from lightning_xai.metrics.readouts import Readout
from lightning_xai.perturbation.batch_size import ChunkSize
from lightning_xai.perturbation.context import AnyBaseline
from lightning_xai.perturbation.sets import Curve, other_content

OUTPUTS = ("probability", "score", "dice")
RISE = "Petsiuk et al. 2018, RISE, arXiv 1806.07421"


class CurveMetric(MapMetric):
    """Score how the output changes while the pixels are hidden or shown in the map's order; base of such metrics.

    With each value it records the output for the whole image (``full``) and for the baseline image (``blank``).

    Args:
        steps: Number of equal steps from no pixel to all.
        fill: What stands where pixels are hidden; see
            :func:`~lightning_xai.perturbation.baselines.hide_pixels`. ``"input_zero"``: what the model receives as
            zero, the mean that the target subtracts.
        normalize: Report ``(p - p_baseline) / (p_full - p_baseline)`` instead of ``p``; undefined where the two are
            equal.
        output: What is followed: ``"probability"`` of the class (a segmenter's mean over the region), its logit or
            logit mass (``"score"``), or, for segmenters, the ``"dice"`` of the class against the mask, or against the
            whole image's own prediction where there is none.
        chunk_size: Perturbed inputs per forward pass.

    Raises:
        ValueError: If the output or the fill is unknown, or there are no steps.
    """

    family = "faithfulness"
    paper = RISE
    options: ClassVar[tuple[str, ...]] = ("steps", "fill", "normalize", "output")
    references = ("full", "blank")
    #: The direction and order of each curve, by name.
    ways: Mapping[str, tuple[str, str]]
    #: What shown pixels show; see :meth:`lightning_xai.perturbation.context.PerturbationContext.content`.
    content = "own"

    def __init__(
        self,
        steps: int = 20,
        fill: AnyBaseline = "zero",
        normalize: bool = False,
        output: str = "probability",
        chunk_size: ChunkSize = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(chunk_size, **kwargs)
        if steps < 1:
            raise ValueError(f"steps is {steps}; a curve needs at least 1.")
        if output not in OUTPUTS:
            raise ValueError(f"output is {output!r}; use one of {', '.join(OUTPUTS)}.")
        self.steps = steps
        self.fractions = tuple(step / steps for step in range(steps + 1))
        self.fill = checked_baseline(fill)
        self.normalize = normalize
        self.output = output

    @override
    def readouts(self, target: Any = None) -> dict[str, Readout]:
        """Name the curves, and their ends."""
        fill = input_baseline(self.fill, target)
        ways = self.ways.items()
        curves = {name: Curve(self.fractions, way, fill, order, self.content) for name, (way, order) in ways}
        ends = {"full": Curve((1.0,), "reveal", fill), "baseline": Curve((1.0,), "erase", fill)}
        return {name: Readout(curve, self.output) for name, curve in (curves | ends).items()}

    @abstractmethod
    def area(self, curves: Mapping[str, Tensor]) -> Tensor:
        """Compute values ``(B, T)`` from curves ``(B, T, len(fractions))``."""

    @property
    def needs_segmenter(self) -> bool:  # type: ignore[override]
        """A Dice is for segmenters only."""
        return self.output == "dice"

    @property
    def value_range(self) -> tuple[float | None, float | None]:
        """The lowest and the highest value, ``None`` without a bound; the gap of two curves may be negative."""
        if self.normalize or self.output == "score":
            return None, None
        return (-1.0 if len(self.ways) > 1 else 0.0), 1.0

    @property
    def plot_lower_bound(self) -> float | None:  # type: ignore[override]
        """The lowest value."""
        return self.value_range[0]

    @property
    def plot_upper_bound(self) -> float | None:  # type: ignore[override]
        """The highest value."""
        return self.value_range[1]

    @override
    def score(self, batch: MapBatch, outputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """A constant map, or one with NaN, ranks nothing and is undefined."""
        full, baseline = (outputs[end][..., 0] for end in ("full", "baseline"))
        curves = {name: outputs[name] for name in self.ways}
        if self.normalize:
            curves = {name: normalized_curve(curve, full, baseline) for name, curve in curves.items()}
        return batch.where_defined(self.area(curves)), torch.stack([full, baseline], dim=2)


class DeletionAUC(CurveMetric):
    """Compute the area under the output while pixels are hidden, the most important first; low is good.

    Petsiuk et al. 2018 (RISE). For a segmenter with ``output="dice"`` or ``"score"``: segmentation deletion.

    Example:
        >>> from lightning_xai import ClassifierTarget
        >>> target = ClassifierTarget(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2)))
        >>> metric = DeletionAUC(steps=4)
        >>> metric.update(target=target, images=torch.rand(3, 1, 4, 4), maps=torch.rand(3, 1, 4, 4))
        >>> metric.per_image().shape
        torch.Size([3, 1])
    """

    higher_is_better = False
    ways = {"erase": ("erase", "most_first")}

    @override
    def area(self, curves: Mapping[str, Tensor]) -> Tensor:
        return trapezoid(curves["erase"])


class InsertionAUC(CurveMetric):
    """Compute the area under the output while pixels are shown, the most important first; high is good.

    Petsiuk et al. 2018 (RISE). For a segmenter with ``output="dice"`` or ``"score"``: segmentation insertion.
    """

    higher_is_better = True
    ways = {"reveal": ("reveal", "most_first")}

    @override
    def area(self, curves: Mapping[str, Tensor]) -> Tensor:
        return trapezoid(curves["reveal"])


class InsertionLeak(InsertionAUC):
    """Compute the insertion AUC with another content in the shown pixels; low is good.

    The shape of a learned mask may give the class away: whatever AUC is left with another content comes from the mask,
    or from its position alone where images are aligned.

    Args:
        content: What shown pixels show: ``"shifted"``, the image moved by half its size; ``"swapped"``, the image
            before it in the batch, on which the value then depends (one image alone is undefined); or ``"noise"`` with
            the mean and deviation of the image's channels.
        settings: See :class:`CurveMetric`.

    Raises:
        ValueError: If the content is none of them.
    """

    higher_is_better = False
    paper = "lightning_xai"
    options = (*CurveMetric.options, "content")

    def __init__(self, content: str = "shifted", **settings: Any) -> None:
        super().__init__(**settings)
        self.content = other_content(content)

    @override
    def score(self, batch: MapBatch, outputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """One image alone has nothing to be swapped with."""
        value, ends = super().score(batch, outputs)
        return (torch.full_like(value, float("nan")) if self.content == "swapped" and len(value) == 1 else value), ends


class InsertionDeletionGap(CurveMetric):
    """Compute the insertion AUC minus the deletion AUC; high is good.

    The probability for the baseline image, which raises or lowers both, cancels in it.
    """

    higher_is_better = True
    ways = {"erase": ("erase", "most_first"), "reveal": ("reveal", "most_first")}

    @override
    def area(self, curves: Mapping[str, Tensor]) -> Tensor:
        return area_between(curves["reveal"], curves["erase"])


class BaselineProbability(MapMetric):
    """Report the probability of the class for the baseline image; near 1, deletion and insertion mean little.

    Args:
        fill: See :class:`CurveMetric`.
        chunk_size: Perturbed inputs per forward pass.
    """

    family = "faithfulness"
    paper = "lightning_xai"
    higher_is_better = None
    plot_lower_bound, plot_upper_bound = 0.0, 1.0
    options = ("fill",)

    def __init__(self, fill: AnyBaseline = "zero", chunk_size: ChunkSize = None, **kwargs: Any) -> None:
        super().__init__(chunk_size, **kwargs)
        self.fill = checked_baseline(fill)

    @override
    def readouts(self, target: Any = None) -> dict[str, Readout]:
        return {"baseline": Readout(Curve((1.0,), "erase", input_baseline(self.fill, target)))}

    @override
    def score(self, batch: MapBatch, outputs: Mapping[str, Tensor]) -> Tensor:
        return baseline_probability(outputs["baseline"])
