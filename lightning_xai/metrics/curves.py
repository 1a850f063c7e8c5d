"""Deletion, insertion, pixel flipping, ROAD: does the answer follow the important pixels as they go and come?"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from lightning_xai.metrics.base import MapMetric
from lightning_xai.metrics.batch import MapBatch
from lightning_xai.metrics.functional.curves import normalized, trapezoid
from lightning_xai.metrics.readouts import Readout
from lightning_xai.perturbation.baselines import BASELINES, NeighborBaseline
from lightning_xai.perturbation.context import AnyBaseline
from lightning_xai.perturbation.sets import Curve, other_content

OUTPUTS = ("probability", "score", "dice")
RISE = "Petsiuk et al. 2018, RISE, arXiv 1806.07421"
#: Stands for a fill that only a target can name, where passes are counted without one.
INPUT_ZERO = torch.zeros(())
ORDERS = ("most_first", "least_first", "gap")


class CurveMetric(MapMetric):
    """Base of the metrics that read curves of :mod:`lightning_xai.reveal`.

    With its value it records the output for the ``full`` and for the ``blank`` image.

    Args:
        steps: Equal steps from no pixel to all.
        fill: What stands where pixels are hidden; see
            :func:`~lightning_xai.perturbation.baselines.hide_pixels`. ``"input_zero"``: what
            the model receives as zero, the mean that the target subtracts.
        normalize: Report ``(p - p_blank) / (p_full - p_blank)`` instead of ``p``; undefined where the two are equal.
        output: What is followed: ``"probability"`` of the class (a segmenter's mean over the pixel set), its logit or
            logit mass (``"score"``), or, for segmenters, the ``"dice"`` of the class against the mask, or against the
            whole image's own prediction where there is none.
        chunk_size: Pictures per forward pass.

    Raises:
        ValueError: If the output or the fill is unknown, or there are no steps.
    """

    family = "faithfulness"
    paper = RISE
    options: ClassVar[tuple[str, ...]] = ("steps", "fill", "normalize", "output")
    references = ("full", "blank")
    #: The direction and order of each curve, by name.
    ways: Mapping[str, tuple[str, str]]

    def __init__(
        self,
        steps: int = 20,
        fill: AnyBaseline = "zero",
        normalize: bool = False,
        output: str = "probability",
        chunk_size: int = 64,
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
        """The curves, and their ends."""
        fill = input_baseline(self.fill, target)
        curves = {name: Curve(self.fractions, way, fill, order) for name, (way, order) in self.ways.items()}
        ends = {"full": Curve((1.0,), "reveal", fill), "blank": Curve((1.0,), "erase", fill)}
        return {name: Readout(curve, self.output) for name, curve in (curves | ends).items()}

    @abstractmethod
    def area(self, curves: Mapping[str, Tensor]) -> Tensor:
        """From curves ``(B, T, len(fractions))`` to values ``(B, T)``."""

    @property
    def needs_segmenter(self) -> bool:  # type: ignore[override]
        """A Dice is for segmenters only."""
        return self.output == "dice"

    @override
    def score(self, batch: MapBatch, outputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """A constant map, or one with NaN, ranks nothing and is undefined."""
        full, blank = (outputs[end][..., 0] for end in ("full", "blank"))
        curves = {name: outputs[name] for name in self.ways}
        if self.normalize:
            curves = {name: normalized(curve, full, blank) for name, curve in curves.items()}
        return batch.where_defined(self.area(curves)), torch.stack([full, blank], dim=2)


class DeletionAUC(CurveMetric):
    """Area under the answer while the most important pixels are erased first; low is good.

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
    """Area under the answer while the most important pixels are revealed first; high is good.

    Petsiuk et al. 2018 (RISE). For a segmenter with ``output="dice"`` or ``"score"``: segmentation insertion.
    """

    higher_is_better = True
    ways = {"reveal": ("reveal", "most_first")}

    @override
    def area(self, curves: Mapping[str, Tensor]) -> Tensor:
        return trapezoid(curves["reveal"])


class InsertionLeak(InsertionAUC):
    """The insertion AUC that the mask itself draws: the same revealed pixels, but of another content; low is good.

    A learned mask may tell the class by its shape; what survives another content under it was said by the mask, or by
    its position alone where images are aligned.

    Args:
        content: What revealed pixels show: ``"shifted"``, the image moved by half its size; ``"swapped"``, the image
            before it in the batch, on which the value then depends (one image alone is undefined); or ``"noise"`` with
            the mean and deviation of the image's channels.
        settings: See :class:`CurveMetric`.

    Raises:
        ValueError: If the content is neither.
    """

    higher_is_better = False
    paper = "lightning_xai"
    options = (*CurveMetric.options, "content")

    def __init__(self, content: str = "shifted", **settings: Any) -> None:
        super().__init__(**settings)
        self.content = other_content(content)

    @override
    def readouts(self, target: Any = None) -> dict[str, Readout]:
        curve = Curve(self.fractions, "reveal", input_baseline(self.fill, target), content=self.content)
        return super().readouts(target) | {"reveal": Readout(curve, self.output)}

    @override
    def score(self, batch: MapBatch, outputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """One image alone has nothing to be swapped with."""
        value, ends = super().score(batch, outputs)
        return (torch.full_like(value, float("nan")) if self.content == "swapped" and len(value) == 1 else value), ends


class InsertionDeletionGap(CurveMetric):
    """Insertion minus deletion AUC: the headline number, because the class of the blank image cancels in it."""

    higher_is_better = True
    ways = {"erase": ("erase", "most_first"), "reveal": ("reveal", "most_first")}

    @override
    def area(self, curves: Mapping[str, Tensor]) -> Tensor:
        return trapezoid(curves["reveal"]) - trapezoid(curves["erase"])


class BlankProbability(MapMetric):
    """Probability of the asked class for the blank image: near 1, deletion and insertion say little.

    Args:
        fill: See :class:`CurveMetric`.
        chunk_size: Pictures per forward pass.
    """

    family = "faithfulness"
    paper = "lightning_xai"
    higher_is_better = None
    options = ("fill",)

    def __init__(self, fill: AnyBaseline = "zero", chunk_size: int = 64, **kwargs: Any) -> None:
        super().__init__(chunk_size, **kwargs)
        self.fill = checked_baseline(fill)

    @override
    def readouts(self, target: Any = None) -> dict[str, Readout]:
        return {"blank": Readout(Curve((1.0,), "erase", input_baseline(self.fill, target)))}

    @override
    def score(self, batch: MapBatch, outputs: Mapping[str, Tensor]) -> Tensor:
        return outputs["blank"][..., 0]


class PixelFlipping(CurveMetric):
    """Area under the answer while pixels are erased: most relevant first, least relevant first, or the gap of the two.

    Bach et al. 2015, Samek et al. 2017. With the same fill and steps it costs no pass on top of deletion and insertion.

    Args:
        order: ``"most_first"`` (MoRF, low is good), ``"least_first"`` (LeRF, high is good), or ``"gap"``: LeRF - MoRF.
        settings: See :class:`CurveMetric`.

    Raises:
        ValueError: If the order is unknown.
    """

    paper = "Bach et al. 2015, PLOS ONE 10(7); Samek et al. 2017, arXiv 1509.06321"
    options = ("order", *CurveMetric.options)

    def __init__(self, order: str = "gap", **settings: Any) -> None:
        super().__init__(**settings)
        if order not in ORDERS:
            raise ValueError(f"order is {order!r}; use one of {', '.join(ORDERS)}.")
        self.order = order
        ways = {"most_first": ("erase", "most_first"), "least_first": ("erase", "least_first")}
        self.ways = ways if order == "gap" else {order: ways[order]}

    @property
    def higher_is_better(self) -> bool:  # type: ignore[override]
        """Low is good only where the most relevant pixels go first."""
        return self.order != "most_first"

    @override
    def area(self, curves: Mapping[str, Tensor]) -> Tensor:
        areas = {name: self.mean_answer(curve) for name, curve in curves.items()}
        return areas["least_first"] - areas["most_first"] if self.order == "gap" else areas[self.order]

    def mean_answer(self, curve: Tensor) -> Tensor:
        """``(B, T, P)`` -> ``(B, T)``."""
        return trapezoid(curve)


class ROAD(PixelFlipping):
    """Remove and debias: the mean answer while pixels become what their neighbors suggest, plus a little noise.

    Rong et al. 2022, arXiv 2202.00449. A linear interpolation hides where something was hidden, so the model cannot
    read the mask. ``"gap"`` is twice the "combined" score of pytorch-grad-cam.

    Args:
        order: See :class:`PixelFlipping`.
        fractions: Fractions of pixels to remove.
        noise: Standard deviation of the noise, as a fraction of the image's own.
        settings: ``normalize``, ``output`` and ``chunk_size`` of :class:`CurveMetric`.
    """

    paper = "Rong et al. 2022, ROAD, arXiv 2202.00449"
    options = ("order", "fractions", "noise", "normalize", "output")

    def __init__(
        self,
        order: str = "gap",
        fractions: Sequence[float] = (0.2, 0.4, 0.6, 0.8),
        noise: float = 0.01,
        **settings: Any,
    ) -> None:
        if "steps" in settings:
            raise ValueError("ROAD has fractions of removed pixels instead of steps; give fractions=(0.2, 0.4, ...).")
        super().__init__(order, fill=NeighborBaseline(noise), **settings)
        self.fractions = Curve(tuple(fractions)).fractions
        self.noise = noise

    def mean_answer(self, curve: Tensor) -> Tensor:
        """``(B, T, P)`` -> ``(B, T)``: the fractions count alike."""
        return curve.mean(dim=2)


def checked_baseline(fill: AnyBaseline) -> AnyBaseline:
    """The fill itself, if there is one of its name.

    Raises:
        ValueError: If there is none.
    """
    if isinstance(fill, str) and fill not in (*BASELINES, "input_zero"):
        known = ", ".join((*BASELINES, "input_zero"))
        raise ValueError(f"Unknown fill {fill!r}; use one of {known}, a tensor, or a function of the images.")
    return fill


def input_baseline(fill: AnyBaseline, target: Any) -> AnyBaseline:
    """The fill, where ``"input_zero"`` is what the target's model receives as zero: black, if it subtracts no mean."""
    if not isinstance(fill, str) or fill != "input_zero":
        return fill
    if target is None:
        return INPUT_ZERO
    return "zero" if target.mean is None else target.input_zero
