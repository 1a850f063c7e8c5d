"""All visibility curves of a test on one axis."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning

from lightning_xai.callbacks.faithfulness import Faithfulness, write_csv
from lightning_xai.loggers import log_images
from lightning_xai.loggers.media import log_files
from lightning_xai.metrics import MetricSuite, VisibilityCurve
from lightning_xai.report.statistics import Interval, bootstrap_rows
from lightning_xai.visualization.curves import visibility_figure
from lightning_xai.visualization.grid import render, save_png

TITLES = {"split": "One threshold for all images", "image": "The same fraction of every image"}
HEAD = ("scope", "content", "explainer", "fraction", "dice", "low", "high", "images")

Curves = dict[str, dict[float, Interval]]


class VisibilityCurves(lightning.Callback):
    """Draws what ``Faithfulness`` measured with visibility curves: ``maps/visibility_<scope>.png``, with its numbers.

    Stands after ``Faithfulness`` in the trainer's callbacks. ``visibility.csv`` holds mean Dice and 95 % bootstrap
    interval over images for every explainer, content and fraction. Without such a metric nothing is done.
    """

    def on_test_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Draw and write the curves of the finished test."""
        scored = next((callback for callback in trainer.callbacks if isinstance(callback, Faithfulness)), None)  # type: ignore[attr-defined]
        if scored is None:
            return
        # Gathering is collective: every rank takes part, and rank zero writes.
        found = {scope: curves_of(scored.suites, scope) for scope in TITLES}
        found = {scope: contents for scope, contents in found.items() if contents.get("own")}
        if found and trainer.is_global_zero:
            self._write(trainer, found)

    def _write(self, trainer: lightning.Trainer, found: Mapping[str, Mapping[str, Curves]]) -> None:
        folder = Path(trainer.default_root_dir)
        for scope, contents in found.items():
            leaks = next((curves for content, curves in contents.items() if content != "own"), {})
            picture = render(visibility_figure(contents["own"], leaks, TITLES[scope]))
            save_png(folder / "maps" / f"visibility_{scope}.png", picture)
            log_images(trainer, f"test/visibility_{scope}", [picture])
        write_csv(folder / "visibility.csv", HEAD, rows_of(found))
        log_files(trainer, [folder / "visibility.csv"])


def curves_of(suites: Mapping[str, MetricSuite], scope: str) -> dict[str, Curves]:
    """``{content: {explainer: {fraction: interval}}}`` of the visibility curves of a scope; of equal ones the first."""
    contents: dict[str, Curves] = {}
    for explainer, suite in suites.items():
        for metric in suite.members().values():
            if isinstance(metric, VisibilityCurve) and metric.scope == scope:
                curves = contents.setdefault(metric.content, {})
                if explainer not in curves:
                    curves[explainer] = {
                        fraction: bootstrap_rows(rows) for fraction, rows in metric.rows_at_fractions().items()
                    }
    return contents


def rows_of(found: Mapping[str, Mapping[str, Curves]]) -> list[tuple[Any, ...]]:
    """The lines of ``visibility.csv``."""
    return [
        (scope, content, explainer, fraction, value.mean, value.low, value.high, value.count)
        for scope, contents in found.items()
        for content, curves in contents.items()
        for explainer, curve in curves.items()
        for fraction, value in curve.items()
    ]
