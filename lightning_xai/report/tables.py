"""The table that ends a run, and its summary as plain values."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_xai.functional.files import atomic_write
from lightning_xai.report.statistics import Rows, bootstrap_rows, paired_bootstrap

#: More metrics than this have a row each instead of a column.
WIDEST = 8

Results = Mapping[str, Mapping[str, Rows]]


def summarize(results: Results) -> dict[str, Any]:
    """Compute the mean and interval of every explainer and metric, and the first explainer's differences to the rest.

    Args:
        results: ``{explainer: {metric: rows}}``, the explainer under test first.

    Returns:
        ``{"explainers": {explainer: {metric: interval}}, "differences": {control: {metric: interval}}}``, plain values.
    """
    means = {
        name: {metric: bootstrap_rows(rows).as_dict() for metric, rows in table.items()}
        for name, table in results.items()
    }
    first, *controls = results
    differences = {
        name: {
            metric: paired_bootstrap(rows, results[name][metric]).as_dict() for metric, rows in results[first].items()
        }
        for name in controls
    }
    return {"explainers": means, "differences": differences}


def format_table(summary: Mapping[str, Any], directions: Mapping[str, bool | None]) -> str:
    """Write the summary as text: a row per explainer (a column, where there are many metrics), then the differences.

    Args:
        summary: From :func:`summarize`.
        directions: Whether higher is better, per metric; ``None`` where neither is.

    Returns:
        Lines of text.
    """
    explainers: Mapping[str, Any] = summary["explainers"]
    metrics = list(next(iter(explainers.values())))
    arrows = {True: " (high)", False: " (low)", None: ""}
    head = ["explainer", *(metric + arrows[directions.get(metric)] for metric in metrics)]
    body = [
        [name, *(_number(table[metric]["mean"], table[metric]["undefined"]) for metric in metrics)]
        for name, table in explainers.items()
    ]
    first = next(iter(explainers))
    gaps = [
        [f"{first} - {name}", *(_interval(table[metric]) for metric in metrics)]
        for name, table in summary["differences"].items()
    ]
    tables = [[head, *body], [head, *gaps]]
    if len(metrics) > WIDEST:
        tables = [[list(row) for row in zip(*table, strict=True)] for table in tables]
    lines = columns(tables[0])
    if gaps:
        lines += ["", "Paired difference per image [95 % bootstrap interval]; * excludes 0", *columns(tables[1])]
    return "\n".join(lines)


def columns(rows: list[list[str]]) -> list[str]:
    """Align the cells of a table's rows, each with as many of them, to lines of text."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _number(mean: float, undefined: int) -> str:
    return f"{mean:.3f}" + (f" ({undefined} undefined)" if undefined else "")


def _interval(interval: Mapping[str, float]) -> str:
    star = "*" if interval["low"] > 0 or interval["high"] < 0 else ""
    return f"{interval['mean']:+.3f} [{interval['low']:+.3f}, {interval['high']:+.3f}]{star}"


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
