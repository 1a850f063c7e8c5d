"""All visibility curves of a test on one axis."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_xai.metrics import MetricSuite, VisibilityCurve
from lightning_xai.report.statistics import Groups, Interval, bootstrap_rows
from lightning_xai.report.tables import write_csv
from lightning_xai.visualization.curves import visibility_figure
from lightning_xai.visualization.grid import render, save_png

TITLES = {"split": "One threshold for all images", "image": "The same fraction of every image"}
HEAD = ("scope", "content", "explainer", "fraction", "dice", "low", "high", "images", "units")

Curves = dict[str, dict[float, Interval]]


def visibility_curves(suites: Mapping[str, MetricSuite], groups: Groups) -> dict[str, dict[str, Curves]]:
    """The visibility curves that suites measured; of every rank, so every rank must call it.

    Args:
        suites: By explainer.
        groups: The group of each image that has one.

    Returns:
        ``{scope: {content: {explainer: {fraction: mean Dice and its interval}}}}``; empty without such a
        metric.
    """
    scopes = {scope: curves_of(suites, scope, groups) for scope in TITLES}
    return {scope: contents for scope, contents in scopes.items() if contents.get("own")}


def write_visibility(
    folder: Path, scopes: Mapping[str, Mapping[str, Curves]], about: str = ""
) -> dict[str, NDArray[np.uint8]]:
    """Write ``maps/visibility_<scope>.png`` and their numbers, ``visibility.csv``.

    Args:
        folder: The run folder.
        scopes: See :func:`visibility_curves`.
        about: The explainer under test and its data: above the figures, and in their files.

    Returns:
        The figures as pixels ``(H, W, 3)``, by scope.
    """
    figures = {}
    for scope, contents in scopes.items():
        leaks = next((curves for content, curves in contents.items() if content != "own"), {})
        title = f"{about}\n{TITLES[scope]}" if about else TITLES[scope]
        figures[scope] = render(visibility_figure(contents["own"], leaks, title))
        save_png(folder / "maps" / f"visibility_{scope}.png", figures[scope], about)
    write_csv(folder / "visibility.csv", HEAD, rows_of(scopes))
    return figures


def curves_of(suites: Mapping[str, MetricSuite], scope: str, groups: Groups) -> dict[str, Curves]:
    """``{content: {explainer: {fraction: interval}}}`` of the visibility curves of a scope; of equal ones the first."""
    contents: dict[str, Curves] = {}
    for explainer, suite in suites.items():
        for metric in suite.members().values():
            if isinstance(metric, VisibilityCurve) and metric.scope == scope:
                curves = contents.setdefault(metric.content, {})
                if explainer not in curves:
                    curves[explainer] = {
                        fraction: bootstrap_rows(rows, groups) for fraction, rows in metric.rows_at_fractions().items()
                    }
    return contents


def rows_of(scopes: Mapping[str, Mapping[str, Curves]]) -> list[tuple[Any, ...]]:
    """The lines of ``visibility.csv``."""
    return [
        (scope, content, explainer, fraction, value.mean, value.low, value.high, value.count, value.units)
        for scope, contents in scopes.items()
        for content, curves in contents.items()
        for explainer, curve in curves.items()
        for fraction, value in curve.items()
    ]
