"""Several metrics over the same maps at the cost of their distinct forward passes."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torchmetrics import MetricCollection

from lightning_xai.metrics.base import MapMetric, checked_questions
from lightning_xai.metrics.curves import CurveMetric
from lightning_xai.reveal import reveal_curves


class MetricSuite(MetricCollection):
    """A collection whose curve metrics share one job queue: what two of them ask is asked once.

    Args:
        metrics: Metrics by name.
        chunk_size: Images per forward pass.
    """

    def __init__(self, metrics: Mapping[str, MapMetric], chunk_size: int = 64) -> None:
        # With compute groups, two metrics whose first states are equal are merged for good.
        super().__init__(dict(metrics), compute_groups=False)
        self.chunk_size = chunk_size

    def members(self) -> dict[str, MapMetric]:
        """The metrics by name."""
        return {name: metric for name, metric in self.items() if isinstance(metric, MapMetric)}

    def update(  # type: ignore[override]
        self, *, target: Any, images: Tensor, maps: Tensor, targets: Tensor, masks: Tensor | None = None, **kwargs: Any
    ) -> None:
        """Score a batch with every metric; those that need masks sit out where there are none.

        See :meth:`MapMetric.update`.
        """
        questions = checked_questions(maps, images, targets)
        batch = {"target": target, "images": images, "maps": maps, "targets": questions, "masks": masks, **kwargs}
        curved = {name: metric for name, metric in self.members().items() if isinstance(metric, CurveMetric)}
        wanted = {f"{name}/{way}": curve for name, metric in curved.items() for way, curve in metric.curves().items()}
        answers: dict[str, Tensor] = {}
        if wanted:
            scorer = target.scorer(images, questions, kwargs.get("pixels"))
            answers = reveal_curves(scorer, images, maps, wanted, self.chunk_size)
        for name, metric in self.members().items():
            if name in curved:
                metric.update(**batch, curves={way: answers[f"{name}/{way}"] for way in curved[name].directions})
            elif masks is not None or not metric.needs_masks:
                metric.update(**batch)
