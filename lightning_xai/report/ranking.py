"""One order out of many metrics."""

from collections.abc import Mapping
from itertools import permutations

from lightning_xai.metrics import (
    ADCC,
    AverageDrop,
    AverageDropInDeletion,
    Coherency,
    Complexity,
    DeletionAUC,
    IncreaseInConfidence,
    InsertionAUC,
    InsertionDeletionGap,
    MapMetric,
    TopClassesIoU,
)

#: Relative difference below which the means of all explainers are one.
ROUNDING = 1e-9
#: The columns of the CAPE paper's table, whose Borda count it reports.
PAPER = (AverageDrop, IncreaseInConfidence, AverageDropInDeletion, ADCC, TopClassesIoU)
#: What a metric is computed from, and what would count twice with it.
PARTS: dict[type[MapMetric], tuple[type[MapMetric], ...]] = {
    ADCC: (AverageDrop, Coherency, Complexity),
    InsertionDeletionGap: (InsertionAUC, DeletionAUC),
}


def ranked_metrics(metrics: Mapping[str, MapMetric]) -> list[str]:
    """Choose the metrics that a Borda count goes over, so that nothing counts twice.

    Args:
        metrics: Those that were measured, by name.

    Returns:
        Names: where they are all there, those of the CAPE paper's table (Chowdhury et al. 2024: average drop, increase
        in confidence, average drop in deletion, ADCC, and the overlap of the two top classes, of maps brought to [0, 1]
        where there is a choice), once each; else all but those that another one of them is computed from.
    """
    named = [[name for name, metric in metrics.items() if type(metric) is kind] for kind in PAPER]
    if all(named):
        return [max(names, key=lambda name: getattr(metrics[name], "scaled", None) == "min_max") for names in named]
    return [name for name, metric in metrics.items() if not any(is_part(metric, each) for each in metrics.values())]


def is_part(metric: MapMetric, whole: MapMetric) -> bool:
    """Tell whether a metric is what another one, of the same fill, is computed from."""
    fills = {str(one.fill) for one in (metric, whole) if hasattr(one, "fill")}
    return type(metric) in PARTS.get(type(whole), ()) and len(fills) < 2


def borda_count(means: Mapping[str, Mapping[str, float]], directions: Mapping[str, bool | None]) -> dict[str, float]:
    """Rank explainers over several metrics: a point for each explainer that one beats in a metric, half for each tie.

    The ranking of the CAPE paper. Metrics without a direction, those of which an explainer has no value, and those in
    which all are equal do not count.

    Args:
        means: ``{explainer: {metric: mean}}``, the same metrics for all.
        directions: Whether higher is better, for the metrics that count; see :func:`ranked_metrics`.

    Returns:
        ``{explainer: points}``, the most first.

    Example:
        >>> means = {"a": {"drop": 0.1, "gap": 0.5}, "b": {"drop": 0.3, "gap": 0.5}}
        >>> borda_count(means, {"drop": False, "gap": True})
        {'a': 1.0, 'b': 0.0}
    """
    points = dict.fromkeys(means, 0.0)
    for metric in next(iter(means.values()), {}):
        better, values = directions.get(metric), [table[metric] for table in means.values()]
        if better is None or any(value != value for value in values):
            continue
        if max(values) - min(values) <= ROUNDING * max(map(abs, values)):
            continue
        for first, second in permutations(means, 2):
            gap = means[first][metric] - means[second][metric]
            points[first] += 0.5 if gap == 0 else float((gap > 0) == better)
    return dict(sorted(points.items(), key=lambda item: -item[1]))
