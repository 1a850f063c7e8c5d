"""Several metrics over the same maps at the cost of their distinct passes."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torchmetrics import MetricCollection

from lightning_xai.chunks import fitting_chunk
from lightning_xai.metrics.ask import answer, passes
from lightning_xai.metrics.base import MapMetric, make_batch


class MetricSuite(MetricCollection):
    """A collection whose metrics share one job queue, one ranking and one sort: what two of them ask is asked once.

    Args:
        metrics: Metrics by name.
        chunk_size: Pictures per pass, or ``"auto"``: as many as fit into memory, found at the first batch.

    Raises:
        ValueError: If the chunk size is neither.
    """

    def __init__(self, metrics: Mapping[str, MapMetric], chunk_size: int | str = 64) -> None:
        # With compute groups, two metrics whose first states are equal are merged for good.
        super().__init__(dict(metrics), compute_groups=False)
        if chunk_size != "auto" and (not isinstance(chunk_size, int) or chunk_size < 1):
            raise ValueError(f"chunk_size is {chunk_size!r}; give a number of pictures, at least 1, or 'auto'.")
        self.chunk_size = chunk_size
        #: Pictures per forward pass and per explanation, ``None`` until they are found.
        self.sizes = None if chunk_size == "auto" else (int(chunk_size), int(chunk_size))

    def members(self) -> dict[str, MapMetric]:
        """The metrics by name."""
        return {name: metric for name, metric in self.items() if isinstance(metric, MapMetric)}

    def passes(self, questions: int = 1, target: Any = None) -> dict[str, int]:
        """What an image costs if no metric sits out: forward passes, and explanations.

        Args:
            questions: About each image.
            target: Where the fill ``"input_zero"`` is black, as for a target without a mean, it is shared with it.

        Returns:
            ``{"passes": ..., "explanations": ...}``.
        """
        asks = {
            f"{name}/{key}": ask for name, metric in self.members().items() for key, ask in metric.asks(target).items()
        }
        forward = sum(passes(asks, respondent, questions) for respondent in ("target", "head"))
        own = questions * sum(metric.own_explanations for metric in self.members().values())
        return {"passes": forward, "explanations": own + passes(asks, "maps", questions)}

    def update(  # type: ignore[override]
        self,
        *,
        maps: Tensor,
        target: Any,
        images: Tensor,
        targets: Tensor | None = None,
        masks: Tensor | None = None,
        pixels: Tensor | None = None,
        explainer: Any = None,
        ids: Any = None,
    ) -> None:
        """Score a batch with every metric; those that need what is not there (masks, a segmenter) sit out.

        See :meth:`MapMetric.update`.
        """
        batch = make_batch(maps, target, images, targets, masks, pixels, explainer)
        active = {name: metric for name, metric in self.members().items() if metric.lacks(batch) is None}
        asked = {name: metric.asks(target) for name, metric in active.items()}
        asks = {f"{name}/{key}": ask for name, own in asked.items() for key, ask in own.items()}
        if asks and self.sizes is None:
            self.sizes = fitting_chunk(target.logits, images), fitting_chunk(target.logits, images, gradients=True)
        answers = answer(batch, asks, *self.sizes) if asks and self.sizes else {}
        for name, metric in active.items():
            own_answers = {key: answers[f"{name}/{key}"] for key in asked[name]}
            metric.update(maps=maps, ids=ids, batch=batch, answers=own_answers)
