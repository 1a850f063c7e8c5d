"""The base of all metrics of maps: one value for each image and query, exact under DDP."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lightning_xai.metrics.batch import MapBatch, checked_targets
from lightning_xai.metrics.evaluation import SharedOutputs, evaluate, passes
from lightning_xai.metrics.readouts import Readout
from lightning_xai.metrics.state import State, decode_ids, empty_state, encode_ids, first_appearance
from lightning_xai.perturbation.batch_size import ChunkSize

#: A figure, where it is new, and its axes.
PlotOutput = tuple[Figure | None, Axes]


class MapMetric(Metric, ABC):
    """Score maps with one value for each image and query, and report the mean over all of them.

    Undefined values are NaN: they are left out of the mean and counted. State syncs by gathering, and an image that a
    sampler repeated to even out the ranks counts once (equal ids).

    Args:
        chunk_size: Inputs per pass where no collection runs the model for the metric; see :data:`ChunkSize`.
    """

    is_differentiable = False
    full_state_update = False
    #: "faithfulness", "masking", "localization", "segmentation" or "stability".
    family: ClassVar[str]
    #: Where the metric comes from.
    paper: ClassVar[str]
    #: Whether :meth:`score` needs evidence masks, the explainer, or a segmenter.
    needs_masks: ClassVar[bool] = False
    needs_explainer: ClassVar[bool] = False
    needs_segmenter: ClassVar[bool] = False
    #: Explanations a query that :meth:`score` makes, in addition to those of :meth:`readouts`.
    extra_explanations: ClassVar[int] = 0
    #: Constructor arguments that change the value, recorded with every result.
    options: ClassVar[tuple[str, ...]] = ()
    #: Names of what is recorded with each value, such as what a random map would get.
    references: tuple[str, ...] = ()

    values: list[Tensor]
    reference_values: list[Tensor]
    targets: list[Tensor]
    query_index: list[Tensor]
    ids: list[Tensor]
    groups: list[Tensor]

    def __init__(self, chunk_size: ChunkSize = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.chunk_size = chunk_size
        for name in State._fields:
            # Persistent: a checkpoint in the middle of an epoch holds what was scored so far.
            self.add_state(name, default=[], dist_reduce_fx="cat", persistent=True)

    def readouts(self, target: Any = None) -> dict[str, Readout]:
        """Name the perturbed inputs and what is read about them; the values go to :meth:`score`."""
        return {}

    @abstractmethod
    def score(self, batch: MapBatch, outputs: Mapping[str, Tensor]) -> Tensor | tuple[Tensor, Tensor]:
        """Compute the values of a batch.

        Args:
            batch: The maps, and what they explain.
            outputs: ``(B, T, steps)`` for each of :meth:`readouts`.

        Returns:
            ``(B, T)``, NaN where undefined, and the :attr:`references` ``(B, T, D)`` if there are.
        """

    def lacks(self, batch: MapBatch) -> str | None:
        """Say in a sentence why the metric cannot score such a batch; ``None`` if it can."""
        name = type(self).__name__
        if self.needs_masks and batch.masks is None:
            return f"{name} needs masks of the evidence; give a data set with masks or leave it out."
        if self.needs_explainer and batch.explainer is None:
            return f"{name} explains perturbed inputs; give explainer= to update() or leave it out."
        if self.needs_segmenter and not batch.dense:
            return f"{name} compares segmentations; give a SegmenterTarget or leave it out."
        return None

    def update(
        self,
        *,
        maps: Tensor,
        target: Any = None,
        images: Tensor | None = None,
        targets: Tensor | None = None,
        masks: Tensor | None = None,
        ids: Sequence[str] | None = None,
        pixels: Tensor | None = None,
        explainer: Any = None,
        shared: SharedOutputs | None = None,
        groups: Sequence[str] | None = None,
    ) -> None:
        """Score the maps of a batch.

        Args:
            maps: ``(B, T, *S)``.
            target: The :class:`~lightning_xai.targets.Target` that the maps explain.
            images: ``(B, C, *S)``, natural units.
            targets: ``(B,)`` or ``(B, T)`` class indices; ``None``: the target's default query.
            masks: ``(B, 1 or T, *S)``, above 0 = evidence; see :meth:`lightning_xai.targets.Target.evidence`.
            ids: One unique id an image; numbered when left out.
            pixels: ``(B, 1 or T, *S)`` regions of the queries to a segmenter.
            explainer: The explainer that made the maps, for metrics that explain perturbed inputs.
            shared: Outputs kept for all explainers that are scored on the same images and queries.
            groups: The patient, well or site of each image, ``""``: none; the unit of intervals.

        Raises:
            ValueError: If masks are needed and missing, or shapes disagree.
        """
        batch = make_batch(maps, target, images, targets, masks, pixels, explainer, shared)
        if reason := self.lacks(batch):
            raise ValueError(reason)
        readouts = self.readouts(batch.target)
        self.record(batch, evaluate(batch, readouts, self.chunk_size, shared=shared), ids, groups)

    def record(
        self,
        batch: MapBatch,
        outputs: Mapping[str, Tensor],
        ids: Sequence[str] | None,
        groups: Sequence[str] | None = None,
    ) -> None:
        """Score a batch whose readouts are evaluated; :meth:`update` and collections end here.

        Args:
            batch: The maps, and what they explain.
            outputs: See :meth:`score`.
            ids: One unique id an image; numbered when left out.
            groups: See :meth:`update`.

        Raises:
            ValueError: If there are more or fewer ids or groups than images.
        """
        count, queries = batch.maps.shape[:2]
        for name, given in (("ids", ids), ("groups", groups)):
            if given is not None and len(given) != count:
                raise ValueError(f"{len(given)} {name} for {count} images; give one {name[:-1]} an image.")
        scored = self.score(batch, outputs)
        values, references = scored if isinstance(scored, tuple) else (scored, scored.new_zeros(*scored.shape, 0))
        if ids is None:
            recorded = sum(len(block) for block in self.values)
            ids = [f"{self._rank()}-{recorded + index:08d}" for index in range(count)]
        self.values.append(values.double().flatten())
        self.reference_values.append(references.double().flatten(0, 1))
        self.targets.append(batch.targets.flatten())
        self.query_index.append(torch.arange(queries, device=batch.maps.device).repeat(count))
        for column, names in ((self.ids, ids), (self.groups, groups or [""] * count)):
            column.append(encode_ids(names).to(batch.maps.device).repeat_interleave(queries, dim=0))
        # torchmetrics notes an update only where its own wrapper was called.
        self._computed, self._update_count = None, max(1, self._update_count)

    def compute(self) -> Tensor:
        """Compute the mean over the defined values, float64; NaN if there is none."""
        return self.unique().values.nanmean()

    def gathered(self) -> AbstractContextManager[None]:
        """Hold the state of all ranks while everything is read from it; gathered once, also where this is nested."""
        alone = not self._is_synced
        return self.sync_context(should_sync=alone, should_unsync=alone)

    def _synced(self) -> State:
        """The rows of all ranks, each image and query once."""
        with self.gathered():
            return self.unique()

    def per_image(self, reference: str | None = None) -> Tensor:
        """Return the value of each query about each image, images in the order of their first appearance.

        Args:
            reference: One of :attr:`references`, instead of the value itself.

        Returns:
            ``(N, T)`` float64, NaN where undefined or without a query.
        """
        state = self._synced()
        values = state.values if reference is None else state.reference_values[:, self.references.index(reference)]
        if not len(values):
            return values.view(0, 0)
        _, image = first_appearance(state.ids)
        table = values.new_full((int(image.max()) + 1, int(state.query_index.max()) + 1), float("nan"))
        table[image, state.query_index] = values
        return table

    def per_class(self) -> dict[int, float]:
        """Compute the mean over the defined values of each class that is the target of a query."""
        state = self._synced()
        return {int(k): state.values[state.targets == k].nanmean().item() for k in torch.unique(state.targets)}

    def rows(self, reference: str | None = None) -> list[tuple[str, int, float]]:
        """List ``(id, class, value)`` of every image and query; see :meth:`per_image`."""
        state = self._synced()
        values = state.values if reference is None else state.reference_values[:, self.references.index(reference)]
        return list(zip(decode_ids(state.ids), state.targets.tolist(), values.tolist(), strict=True))

    def image_groups(self) -> dict[str, str]:
        """Map the id of each image that was given a group to its group."""
        state = self._synced()
        pairs = zip(decode_ids(state.ids), decode_ids(state.groups), strict=True)
        return {image_id: group for image_id, group in pairs if group}

    def reference_means(self) -> dict[str, float]:
        """Compute the mean over the defined values of each of :attr:`references`."""
        means = self._synced().reference_values.nanmean(dim=0).tolist() if self.references else []
        return dict(zip(self.references, means, strict=True))

    def counts(self) -> tuple[int, int]:
        """Count the values, and those of them that are undefined."""
        values = self._synced().values
        return len(values), int(values.isnan().sum())

    def metadata(self) -> dict[str, Any]:
        """Describe the metric: family, direction, paper, needs, options, and passes an image."""
        readouts = self.readouts()
        settings = {name: getattr(self, name) for name in self.options}
        return {
            "family": self.family,
            "higher_is_better": self.higher_is_better,
            "needs_masks": self.needs_masks,
            "needs_segmenter": self.needs_segmenter,
            "passes": sum(passes(readouts, source) for source in ("target", "head")),
            "explanations": passes(readouts, "maps") + self.extra_explanations,
            "paper": self.paper,
            "options": {
                name: value if isinstance(value, str | int | float | tuple | None) else type(value).__name__
                for name, value in settings.items()
            },
        }

    def plot(self, val: Tensor | Sequence[Tensor] | None = None, ax: Axes | None = None) -> PlotOutput:
        """Draw the mean, or values of several steps, with the metric's range and the better end of it.

        Args:
            val: A value of :meth:`compute`, or several; ``None``: that of everything scored so far.
            ax: Axes to draw into; ``None``: those of a new figure.

        Returns:
            The new figure (``None`` if ``ax`` is given) and the axes.
        """
        return self._plot(val, ax)  # type: ignore[return-value]  # one axes, not an array of them

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather the state of all ranks; a rank without images takes part with empty state."""
        self._fill_empty()
        super().sync(*args, **kwargs)

    def _fill_empty(self) -> None:
        """Give an empty state its types and shapes."""
        if isinstance(self.values, list) and not self.values:
            for name, column in empty_state(len(self.references), self.device)._asdict().items():
                getattr(self, name).append(column)

    def _rank(self) -> int:
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        return torch.distributed.get_rank() if distributed else 0

    def unique(self) -> State:
        """Return the state as tensors, each image and query once."""
        self._fill_empty()
        return State(*(dim_zero_cat(getattr(self, name)) for name in State._fields)).unique()


def make_batch(
    maps: Tensor,
    target: Any,
    images: Tensor | None,
    targets: Tensor | None,
    masks: Tensor | None,
    pixels: Tensor | None,
    explainer: Any,
    shared: SharedOutputs | None,
) -> MapBatch:
    """A batch whose targets are complete; see :meth:`MapMetric.update`."""
    logits = None if shared is None else shared.logits
    if targets is None and target is not None and images is not None:
        query = target.query(images, None, pixels, logits)
        targets, pixels = query.targets, query.regions
    return MapBatch(maps, checked_targets(maps, images, targets), target, images, masks, pixels, explainer, logits)
