"""Scores the maps of every finished batch, and those of the controls."""

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import lightning
import torch

from lightning_xai.callbacks.titles import figure_title
from lightning_xai.explainers.base import Explainer
from lightning_xai.explainers.reference import BLIND, BlurredReference, RandomMap, Reversed
from lightning_xai.functional.finite import naming_images
from lightning_xai.functional.groups import batch_groups
from lightning_xai.functional.tensors import as_plain_tensor
from lightning_xai.loggers import log_images
from lightning_xai.loggers.media import log_files, log_table
from lightning_xai.metrics import MapMetric, MetricSuite, VisibilityCurve
from lightning_xai.metrics.evaluation import SharedOutputs
from lightning_xai.perturbation.batch_size import ChunkSize
from lightning_xai.report.statistics import Groups, Rows
from lightning_xai.report.tables import write_csv
from lightning_xai.report.visibility import Curves, visibility_curves, write_visibility
from lightning_xai.structures import Explanation
from lightning_xai.targets import Target

PER_IMAGE = ("id", "group", "target", "class", "metric", "value")
#: What a visibility curve is read between.
BOUNDS = (Reversed, BlurredReference)


class Faithfulness(lightning.Callback):
    """Runs a metric collection on validation and test maps, per image.

    On test it also scores controls on the same images and queries, and writes ``per_image.csv`` (the explainer) and
    ``controls.csv`` (the controls) into the run folder. A visibility curve brings its own: random, the explainer
    reversed, and an oracle. It is drawn into ``maps/visibility_<scope>.png``, its numbers are in ``visibility.csv``.

    Args:
        metrics: Metrics by name.
        controls: Explainers that know nothing, by name, each made from the target; scored on test only.
        val_batches: Validation batches to score per epoch; ``None`` for all.
        test_batches: Test batches to score; ``None`` for all.
        chunk_size: Inputs per forward pass; see :class:`~lightning_xai.metrics.MetricSuite`.
        rank_controls: Whether the Borda count ranks the controls among the methods.
    """

    def __init__(
        self,
        metrics: Mapping[str, MapMetric],
        controls: Mapping[str, Callable[[Target], Explainer]] | None = None,
        val_batches: int | None = 2,
        test_batches: int | None = None,
        chunk_size: ChunkSize = None,
        rank_controls: bool = False,
    ) -> None:
        self.suite = MetricSuite(metrics, chunk_size)
        self.control_factories = dict(controls or {})
        self.controls: dict[str, Explainer] = {}
        self.suites: dict[str, MetricSuite] = {}
        self.rank_controls = rank_controls
        self.limits = {"val": val_batches, "test": test_batches}
        #: After a test: ``{explainer: {metric: [(id, class, value)]}}``, the explainer first; the same on every rank.
        self.results: dict[str, dict[str, Rows]] = {}
        #: Likewise ``{id: group}`` of the images that have one.
        self.groups: dict[str, str] = {}
        #: Likewise ``{explainer: {metric: {reference: mean}}}``: what the metrics record with their value.
        self.references: dict[str, dict[str, dict[str, float]]] = {}

    @property
    def without_method(self) -> list[str]:
        """Names of the controls that are no method: those that know nothing, and the bounds of visibility curves."""
        return [name for name, control in self.controls.items() if isinstance(control, (*BLIND, *BOUNDS))]

    def on_validation_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start with empty state."""
        self._start(pl_module, {})

    def on_test_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start with empty state, controls included."""
        assert isinstance(pl_module, Explainer)
        controls = {name: make(pl_module.target) for name, make in self.control_factories.items()}
        if isinstance(pl_module, BLIND):  # a control under test is not its own control
            controls = {name: control for name, control in controls.items() if type(control) is not type(pl_module)}
        self._start(pl_module, pl_module.alternatives() | self._bounds(pl_module) | controls)

    def _bounds(self, explainer: Explainer) -> dict[str, Explainer]:
        """The rows between which a visibility curve is read: no knowledge, all of it, and the map turned round."""
        curves = any(isinstance(metric, VisibilityCurve) for metric in self.suite.members().values())
        if not curves or not explainer.target.dense:
            return {}
        oracle = BlurredReference(explainer.target)
        return {"random": RandomMap(explainer.target), "reversed": Reversed(explainer), "oracle": oracle}

    def on_validation_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        """Score the batch's maps."""
        if not trainer.sanity_checking:
            self._score(pl_module, outputs, batch, batch_idx, "val")

    def on_test_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        """Score the batch's maps and the controls'."""
        self._score(pl_module, outputs, batch, batch_idx, "test")

    def on_validation_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Log the means."""
        if not trainer.sanity_checking:
            log_means(pl_module, "val", collect(self.suites[type(pl_module).__name__]))

    def on_test_epoch_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Log the means, gather the per-image values and write them."""
        with ExitStack() as stack:
            for suite in self.suites.values():
                stack.enter_context(suite.gathered())
            curves = self._gather(type(pl_module).__name__)
        log_means(pl_module, "test", self.results[type(pl_module).__name__])
        if trainer.is_global_zero:
            self._write(trainer, pl_module)
            if curves:
                folder = Path(trainer.default_root_dir)
                for scope, figure in write_visibility(folder, curves, figure_title(trainer, pl_module)).items():
                    log_images(trainer, f"test/visibility_{scope}", [figure])
                log_files(trainer, [folder / "visibility.csv"])

    def _gather(self, name: str) -> dict[str, dict[str, Curves]]:
        """Keep what all ranks have scored, and return the visibility curves; ``name`` is the explainer's own."""
        self.results = {explainer: collect(suite) for explainer, suite in self.suites.items()}
        own, members = self.results[name], self.suites[name].members()
        self.references = {
            explainer: {metric: suite.members()[metric].reference_means() for metric in self.results[explainer]}
            for explainer, suite in self.suites.items()
        }
        # Of a metric that scored every image: those that need masks sit out where there are none.
        widest = max(own, key=lambda metric: len(own[metric]), default=None)
        self.groups = {} if widest is None else members[widest].image_groups()
        return visibility_curves(self.suites, self.groups)

    def _start(self, explainer: lightning.LightningModule, controls: dict[str, Explainer]) -> None:
        self.controls = controls
        names = [type(explainer).__name__, *controls]
        self.suites = {name: copy.deepcopy(self.suite).to(explainer.device) for name in names}

    def _score(
        self, explainer: Explainer, found: Explanation, batch: dict[str, Any], batch_idx: int, stage: str
    ) -> None:
        limit = self.limits[stage]
        if limit is not None and batch_idx >= limit:
            return
        query = {"targets": found.query.targets, "pixels": found.query.regions}
        images, masks = as_plain_tensor(batch["image"]), as_plain_tensor(batch["mask"]) if "mask" in batch else None
        own = type(explainer).__name__
        context = {"target": explainer.target, "images": images, "masks": masks, "ids": batch["id"], **query}
        context["groups"] = batch_groups(batch)
        # A step in mixed precision gives rougher logits than the metrics' own passes: like is compared with like.
        shared = SharedOutputs(found.logits if found.logits.dtype == images.dtype else None)
        maps = {own: found.maps, **found.alternatives}
        for name, suite in self.suites.items():
            scored = explainer if name == own else self.controls[name]
            with naming_images(batch):
                values = maps[name] if name in maps else scored.reference_maps(found, batch)
                suite.update(maps=values, explainer=scored, shared=shared, **context)

    def _write(self, trainer: lightning.Trainer, explainer: Any) -> None:
        folder, names = Path(trainer.default_root_dir), explainer.target.class_names
        own, *controls = self.results
        rows = [(name, *row) for name, table in self.results.items() for row in long_rows(table, names, self.groups)]
        files = [folder / "per_image.csv"]
        write_csv(files[0], PER_IMAGE, [row[1:] for row in rows if row[0] == own])
        if controls:
            files.append(folder / "controls.csv")
            write_csv(files[1], ("explainer", *PER_IMAGE), [row for row in rows if row[0] != own])
        log_table(trainer, "test/per_image", ["explainer", *PER_IMAGE], rows, files)


def log_means(explainer: lightning.LightningModule, stage: str, table: Mapping[str, Rows]) -> None:
    """Log the mean over the defined values of each metric that has any; the rows are those of all ranks."""
    means = {
        name: torch.tensor([value for *_, value in rows], dtype=torch.float64).nanmean() for name, rows in table.items()
    }
    explainer.log_dict({f"{stage}/{name}": mean.float() for name, mean in means.items() if not mean.isnan()})


def collect(suite: MetricSuite) -> dict[str, Rows]:
    """Per-image rows of every metric that has any, gathered from all ranks."""
    gathered = {name: metric.rows() for name, metric in suite.members().items()}
    return {name: rows for name, rows in gathered.items() if rows}


def long_rows(
    table: Mapping[str, Rows], names: Sequence[str] | None, groups: Groups
) -> list[tuple[str, str, int, str, str, float]]:
    """The rows of :data:`PER_IMAGE` for all metrics: id, group or nothing, class index, class name, metric, value."""
    return [
        (image, groups.get(image, ""), target, str(target) if names is None else names[target], metric, value)
        for metric, rows in table.items()
        for image, target, value in rows
    ]
