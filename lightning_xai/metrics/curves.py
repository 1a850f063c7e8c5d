"""Deletion and insertion: does the probability fall when the important pixels go, and rise when they come?"""

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_xai.metrics.base import MapMetric
from lightning_xai.reveal import Curve, Fill, reveal_curves


class CurveMetric(MapMetric):
    """Base of the metrics that read curves of :mod:`lightning_xai.reveal`.

    Args:
        steps: Equal steps from no pixel to all.
        fill: What stands where pixels are hidden; see :func:`~lightning_xai.reveal.fill_images`.
        normalise: Report ``(p - p_blank) / (p_full - p_blank)`` instead of ``p``; undefined where the two are equal.
        chunk_size: Images per forward pass.
    """

    family = "faithfulness"
    directions: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        steps: int = 20,
        fill: str | Tensor | Fill = "zero",
        normalise: bool = False,
        chunk_size: int = 64,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.fractions = tuple(step / steps for step in range(steps + 1))
        self.fill = fill
        self.normalise = normalise
        self.chunk_size = chunk_size

    def curves(self) -> dict[str, Curve]:
        """The curves that the metric reads, by direction."""
        return {direction: Curve(self.fractions, direction, self.fill) for direction in self.directions}

    @abstractmethod
    def area(self, curves: dict[str, Tensor]) -> Tensor:
        """From curves ``(B, T, len(fractions))`` to values ``(B, T)``."""

    def score(
        self,
        *,
        target: Any,
        images: Tensor,
        maps: Tensor,
        targets: Tensor,
        pixels: Tensor | None,
        curves: dict[str, Tensor] | None = None,
        **_: Any,
    ) -> Tensor:
        """See :meth:`MapMetric.score`; a constant map, or one with NaN, ranks nothing and is undefined."""
        if curves is None:
            curves = reveal_curves(target.scorer(images, targets, pixels), images, maps, self.curves(), self.chunk_size)
        if self.normalise:
            curves = {direction: normalised(curve, direction) for direction, curve in curves.items()}
        flat = maps.flatten(2)
        unranked = (flat.amax(dim=2) == flat.amin(dim=2)) | flat.isnan().any(dim=2)
        return self.area(curves).masked_fill(unranked, float("nan"))


class DeletionAUC(CurveMetric):
    """Area under the probability while the most important pixels are erased first; low is good.

    Petsiuk et al. 2018 (RISE).
    """

    higher_is_better = False
    directions = ("erase",)

    def area(self, curves: dict[str, Tensor]) -> Tensor:
        """See :meth:`CurveMetric.area`."""
        return trapezoid(curves["erase"])


class InsertionAUC(CurveMetric):
    """Area under the probability while the most important pixels are revealed first; high is good.

    Petsiuk et al. 2018 (RISE).
    """

    higher_is_better = True
    directions = ("reveal",)

    def area(self, curves: dict[str, Tensor]) -> Tensor:
        """See :meth:`CurveMetric.area`."""
        return trapezoid(curves["reveal"])


class InsertionDeletionGap(CurveMetric):
    """Insertion minus deletion AUC: the headline number, because the class of the blank image cancels in it."""

    higher_is_better = True
    directions = ("erase", "reveal")

    def area(self, curves: dict[str, Tensor]) -> Tensor:
        """See :meth:`CurveMetric.area`."""
        return trapezoid(curves["reveal"]) - trapezoid(curves["erase"])


class BlankProbability(CurveMetric):
    """Probability of the asked class for the blank image: near 1, deletion and insertion say little."""

    higher_is_better = None
    directions = ("erase",)

    def __init__(self, fill: str | Tensor | Fill = "zero", **kwargs: Any) -> None:
        super().__init__(steps=1, fill=fill, **kwargs)

    def area(self, curves: dict[str, Tensor]) -> Tensor:
        """See :meth:`CurveMetric.area`."""
        return curves["erase"][..., -1]


def trapezoid(curve: Tensor) -> Tensor:
    """Area under equally spaced points of ``(..., P)`` over [0, 1], in float64.

    Example:
        >>> trapezoid(torch.tensor([1.0, 0.5, 0.0])).item()
        0.5
    """
    return torch.trapezoid(curve.double(), dx=1 / (curve.shape[-1] - 1), dim=-1)


def normalised(curve: Tensor, direction: str) -> Tensor:
    """``(p - p_blank) / (p_full - p_blank)``, NaN where both are equal."""
    full, blank = (curve[..., :1], curve[..., -1:]) if direction == "erase" else (curve[..., -1:], curve[..., :1])
    span = full - blank
    return torch.where(span == 0, torch.full_like(span, float("nan")), (curve - blank) / span)
