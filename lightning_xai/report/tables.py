"""The table that ends a run, and its summary as plain values."""

import csv
import math
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_xai.functional.files import atomic_write
from lightning_xai.functional.groups import units_of
from lightning_xai.report.statistics import FEW, Groups, Interval, Rows, bootstrap_rows, paired_bootstrap

#: More metrics than this have a row each instead of a column.
WIDEST = 8

Results = Mapping[str, Mapping[str, Rows]]


def summarize(results: Results, groups: Groups | None = None, controls: Container[str] = ()) -> dict[str, Any]:
    """Compute the mean and interval of every explainer and metric, and the first explainer's differences to the rest.

    Args:
        results: ``{explainer: {metric: rows}}``, the explainer under test first.
        groups: The group of each image that has one; the unit that intervals are computed over.
        controls: Names of those that are no methods, but something to compare methods with.

    Returns:
        ``{"explainers": {explainer: {metric: interval}}, "controls": the same, "differences": the same of the first
        explainer minus each other, "resampling": {"unit": "groups" or "images", "units": ..., "images": ...}}``, plain
        values.
    """
    groups = groups or {}
    means = {
        name: {metric: bootstrap_rows(rows, groups).as_dict() for metric, rows in table.items()}
        for name, table in results.items()
    }
    first, *others = results
    differences = {
        name: {
            metric: paired_bootstrap(rows, results[name][metric], groups).as_dict()
            for metric, rows in results[first].items()
        }
        for name in others
    }
    images = list(dict.fromkeys(image_id for rows in results[first].values() for image_id, *_ in rows))
    units = units_of(images, [groups.get(name, "") for name in images])
    unit = "groups" if any(grouped for grouped, _ in units) else "images"
    return {
        "explainers": {name: table for name, table in means.items() if name not in controls},
        "controls": {name: table for name, table in means.items() if name in controls},
        "differences": differences,
        "resampling": {"unit": unit, "units": len(set(units)), "images": len(images)},
    }


def format_table(summary: Mapping[str, Any], directions: Mapping[str, bool | None]) -> str:
    """Write the summary as text: a row per explainer (a column, where there are many metrics), then the differences.

    Args:
        summary: From :func:`summarize`.
        directions: Whether higher is better, per metric; ``None`` where neither is.

    Returns:
        Lines of text; the last says what intervals are computed over.
    """
    explainers: Mapping[str, Any] = summary["explainers"] | summary["controls"]
    metrics = list(next(iter(explainers.values())))
    arrows = {True: " (high)", False: " (low)", None: ""}
    head = ["explainer", *(metric + arrows[directions.get(metric)] for metric in metrics)]
    body = [
        [name, *(_number(table[metric]["mean"], table[metric]["undefined"]) for metric in metrics)]
        for name, table in explainers.items()
    ]
    first = next(iter(explainers))
    gaps = [
        [f"{first} - {name}", *(_interval(Interval(**table[metric])) for metric in metrics)]
        for name, table in summary["differences"].items()
    ]
    tables = [[head, *body], [head, *gaps]]
    if len(metrics) > WIDEST:
        tables = [[list(row) for row in zip(*table, strict=True)] for table in tables]
    lines = columns(tables[0])
    if gaps:
        lines += ["", "Paired difference per image [95 % interval]; * excludes 0", *columns(tables[1])]
    return "\n".join([*lines, "", resampling_line(summary["resampling"])])


def resampling_line(resampling: Mapping[str, Any]) -> str:
    """Say what intervals are computed over, and how.

    Args:
        resampling: That of :func:`summarize`.

    Returns:
        A sentence.

    Example:
        >>> resampling_line({"unit": "groups", "units": 12, "images": 40})
        'Intervals: bootstrap over 12 groups (40 images).'
    """
    unit, units, images = resampling["unit"], resampling["units"], resampling["images"]
    of = number_of(units, unit) + (f" ({images} images)" if unit != "images" else "")
    if units < 2:
        return f"Intervals: none, as there is only {of}; one says nothing about others."
    if units < FEW:
        return f"Intervals: Student's t over {of}, which are too few for a bootstrap."
    return f"Intervals: bootstrap over {of}."


def number_of(count: int, what: str) -> str:
    """Write a number of things, given in the plural."""
    return f"{count} {what if count != 1 else what[:-1]}"


def columns(rows: list[list[str]]) -> list[str]:
    """Align the cells of a table's rows, each with as many of them, to lines of text."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _number(mean: float, undefined: int) -> str:
    return f"{mean:.3f}" + (f" ({undefined} undefined)" if undefined else "")


def _interval(interval: Interval) -> str:
    if math.isnan(interval.low):
        return f"{interval.mean:+.3f} [none]"
    star = "*" if interval.excludes_zero else ""
    return f"{interval.mean:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]{star}"


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a whole table or nothing.

    Args:
        path: The file.
        header: Names of the columns.
        rows: Their cells; an undefined value (NaN) is left empty.
    """
    with atomic_write(path) as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows([["" if cell != cell else cell for cell in row] for row in rows])
