"""Several metrics over the same maps at the cost of their distinct passes."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor
from torchmetrics import MetricCollection

from lightning_xai.metrics.base import MapMetric, make_batch
from lightning_xai.metrics.evaluation import SharedOutputs, evaluate, passes
from lightning_xai.perturbation.batch_size import ChunkSize, checked_chunk_size


class MetricSuite(MetricCollection):
    """Score maps with several metrics, running the model once for each input that any of them needs.

    The metrics share one queue of inputs, one ranking and one sort.

    Args:
        metrics: Metrics by name.
        chunk_size: Inputs per pass; ``"auto"``: as many as fit into memory, measured once for images of one shape;
            ``None``: 64 on a CPU, ``"auto"`` elsewhere.

    Raises:
        ValueError: If the chunk size is none of these.
    """

    def __init__(self, metrics: Mapping[str, MapMetric], chunk_size: ChunkSize = None) -> None:
        # With compute groups, two metrics whose first states are equal are merged for good.
        super().__init__(dict(metrics), compute_groups=False)
        self.chunk_size = checked_chunk_size(chunk_size)

    def members(self) -> dict[str, MapMetric]:
        """Return the metrics by name."""
        return {name: metric for name, metric in self.items() if isinstance(metric, MapMetric)}

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Gather every metric from all ranks, once for everything that is read inside."""
        with ExitStack() as stack:
            for metric in self.members().values():
                stack.enter_context(metric.gathered())
            yield

    def passes(self, queries: int = 1, target: Any = None) -> dict[str, int]:
        """Count the passes and explanations that an image costs if no metric is left out.

        Args:
            queries: About each image.
            target: Where the baseline ``"input_zero"`` is black, as for a target without a mean, it is shared with it.

        Returns:
            ``{"passes": ..., "explanations": ...}``.
        """
        readouts = {
            f"{name}/{key}": readout
            for name, metric in self.members().items()
            for key, readout in metric.readouts(target).items()
        }
        forward = sum(passes(readouts, source, queries) for source in ("target", "head"))
        # Metrics of one kind share them.
        kinds = {type(metric): metric.extra_explanations for metric in self.members().values()}
        extra = queries * sum(kinds.values())
        return {"passes": forward, "explanations": extra + passes(readouts, "maps", queries)}

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
        shared: SharedOutputs | None = None,
        groups: Any = None,
    ) -> None:
        """Score a batch with every metric, but those that need what is missing: masks, a segmenter, an explainer.

        See :meth:`MapMetric.update`.
        """
        batch = make_batch(maps, target, images, targets, masks, pixels, explainer, shared)
        active = {name: metric for name, metric in self.members().items() if metric.lacks(batch) is None}
        wanted = {name: metric.readouts(target) for name, metric in active.items()}
        readouts = {f"{name}/{key}": readout for name, each in wanted.items() for key, readout in each.items()}
        outputs = evaluate(batch, readouts, self.chunk_size, shared) if readouts else {}
        for name, metric in active.items():
            metric.record(batch, {key: outputs[f"{name}/{key}"] for key in wanted[name]}, ids, groups)
