"""Pixel flipping and ROAD: does the output change sooner if the most relevant pixels are hidden before the least?"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from typing_extensions import override

from lightning_xai.metrics.curves import CurveMetric
from lightning_xai.metrics.functional.curves import area_between, mean_over_fractions, trapezoid
from lightning_xai.perturbation.baselines import NeighborBaseline
from lightning_xai.perturbation.sets import Curve

ORDERS = ("most_first", "least_first", "gap")


class PixelFlipping(CurveMetric):
    """Compute the area under the output while pixels are hidden, most or least relevant first, or the gap of the two.

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
        if self.order == "gap":
            return area_between(curves["least_first"], curves["most_first"])
        return trapezoid(curves[self.order])


class ROAD(PixelFlipping):
    """Compute the mean output while pixels are replaced by what their neighbors suggest, plus a little noise.

    Remove and debias, Rong et al. 2022, arXiv 2202.00449. A linear interpolation conceals where something was hidden,
    so the model cannot read the mask. ``"gap"`` is twice the "combined" score of pytorch-grad-cam.

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

    @override
    def area(self, curves: Mapping[str, Tensor]) -> Tensor:
        """The fractions count alike."""
        means = {order: mean_over_fractions(curve) for order, curve in curves.items()}
        return means["least_first"] - means["most_first"] if self.order == "gap" else means[self.order]
