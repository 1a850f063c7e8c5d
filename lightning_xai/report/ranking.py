"""One order out of many metrics."""

from collections.abc import Mapping
from itertools import permutations


def borda_count(means: Mapping[str, Mapping[str, float]], directions: Mapping[str, bool | None]) -> dict[str, float]:
    """Rank explainers over several metrics: a point for each explainer that one beats in a metric, half for each tie.

    The ranking of the CAPE paper over average drop, increase in confidence, average drop in deletion, ADCC and overlap
    of the top classes. Metrics without a direction, and those of which an explainer has no value, do not count.

    Args:
        means: ``{explainer: {metric: mean}}``, the same metrics for all.
        directions: Whether higher is better, per metric.

    Returns:
        ``{explainer: points}``, the most first.

    Example:
        >>> means = {"a": {"drop": 0.1, "gap": 0.5}, "b": {"drop": 0.3, "gap": 0.5}}
        >>> borda_count(means, {"drop": False, "gap": True})
        {'a': 1.5, 'b': 0.5}
    """
    points = dict.fromkeys(means, 0.0)
    for metric in next(iter(means.values()), {}):
        better = directions.get(metric)
        if better is None or any(table[metric] != table[metric] for table in means.values()):
            continue
        for first, second in permutations(means, 2):
            gap = means[first][metric] - means[second][metric]
            points[first] += 0.5 if gap == 0 else float((gap > 0) == better)
    return dict(sorted(points.items(), key=lambda item: -item[1]))
