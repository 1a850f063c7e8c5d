"""Intervals for means and for paired differences, over the units that are independent: groups, or else images."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from lightning_xai.functional.groups import numbers_of, units_of

#: Resamples drawn at once: what bounds the memory of many values.
BATCH = 200
#: Fewer units than this are too few for a bootstrap, which then covers too little: Student's t is used.
FEW = 10
#: From so many units on a bootstrap's percentiles are taken as they are.
MANY = 50
#: Relative difference below which means of units are equal.
ROUNDING = 1e-12
#: ``(id, query, value)`` per image and query.
Rows = list[tuple[str, int, float]]
#: ``{id: group}`` of the images that have a group, such as a patient; any other image is a unit by itself.
Groups = Mapping[str, str]


@dataclass(frozen=True)
class Interval:
    """A mean over images, and its interval over the units that the images come from.

    Attributes:
        mean: Mean over the images with a defined value.
        low: Lower end; NaN where there is no interval.
        high: Upper end.
        count: Images with a defined value.
        undefined: Images without one.
        units: Groups that those with a value belong to; an image without a group counts as one.
        method: ``"bootstrap"``, ``"t"`` (below 10 units), or ``"none"`` (below 2, and below 10 that are all equal).
    """

    mean: float
    low: float
    high: float
    count: int
    undefined: int
    units: int
    method: str

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of 0."""
        return self.low > 0 or self.high < 0

    def as_dict(self) -> dict[str, float | int | str]:
        """Return plain values for JSON."""
        return asdict(self)


def bootstrap(
    values: Tensor,
    groups: Sequence[Hashable] | None = None,
    samples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Compute a mean over images, and its interval from resampled groups of images.

    Images of one patient, well or site are alike, so that groups are drawn, each with all of its images. From 10 groups
    on the ends are percentiles of SciPy's bootstrap, below 50 at the :func:`widened_level`. Below 10 they are Student's
    t with the standard error of the jackknife that leaves out one group (Miller 1974, The jackknife, a review), which
    for groups of equal size is the t interval of their means. ``benchmarks/interval_coverage.py`` shows the coverage.
    Where the means of all groups are equal (a score that is saturated), the interval is that value; of fewer than 10
    such groups, whose spread says nothing, there is none. Nor is there one of infinite values.

    Args:
        values: ``(N,)``, NaN = undefined.
        groups: The group of each image; ``None``: every image is its own.
        samples: Resamples.
        level: Coverage of the interval.
        seed: Resamples are the same for the same seed and number of groups.

    Returns:
        The interval; its ends are NaN where there is none.

    Raises:
        ValueError: If there are more or fewer groups than values.

    Example:
        >>> bootstrap(torch.full((10,), 0.5)).low
        0.5
        >>> bootstrap(torch.tensor([0.1, 0.2, 0.9]), ["ann", "ann", "bob"]).units
        2
    """
    if groups is not None and len(groups) != len(values):
        raise ValueError(f"{len(groups)} groups for {len(values)} values; give the group of each.")
    kept = (~values.isnan()).cpu().numpy()
    defined = values.double().cpu().numpy()[kept]
    names: Sequence[Hashable] = range(len(values)) if groups is None else groups
    index = numbers_of(name for name, keep in zip(names, kept, strict=True) if keep)
    units = len(set(index))
    totals, sizes = np.bincount(index, defined, units), np.bincount(index, minlength=units)
    mean = float(defined.mean()) if units else float("nan")
    method, (low, high) = "none", (float("nan"), float("nan"))
    means = totals / sizes
    finite = units > 1 and bool(np.isfinite(means).all())
    alike = finite and bool(np.ptp(means) <= ROUNDING * np.abs(means).max())
    if alike and units >= FEW:
        method, (low, high) = "bootstrap", (mean, mean)
    elif finite and units >= FEW:
        result = stats.bootstrap(
            (totals, sizes),
            ratio_of_totals,
            paired=True,
            n_resamples=samples,
            batch=BATCH,
            confidence_level=widened_level(units, level),
            method="percentile",
            rng=seed,
        )
        method, (low, high) = "bootstrap", result.confidence_interval
    elif finite and not alike:
        without = (totals.sum() - totals) / (len(defined) - sizes)
        error = np.sqrt((units - 1) / units * np.square(without - mean).sum())
        half = t_quantile(units, level) * error
        method, (low, high) = "t", (mean - half, mean + half)
    return Interval(mean, float(low), float(high), len(defined), len(values) - len(defined), units, method)


def ratio_of_totals(totals: NDArray[Any], sizes: NDArray[Any], axis: int = -1) -> NDArray[Any]:
    """Mean over images of resampled groups, from the groups' totals and numbers of images."""
    ratio: NDArray[Any] = totals.sum(axis=axis) / sizes.sum(axis=axis)
    return ratio


def t_quantile(units: int, level: float) -> float:
    """Quantile of Student's t, of one degree of freedom less than units, that a two-sided interval reaches to."""
    return float(stats.t.ppf((1 + level) / 2, units - 1))


def widened_level(units: int, level: float) -> float:
    """Level at which percentiles of a bootstrap of few units are as wide as Student's t; ``level`` from 50 units on.

    A bootstrap of few units is too narrow by ``sqrt((n - 1) / n)``, and does not know that the spread is estimated.
    Hesterberg 2015, What teachers should know about the bootstrap, The American Statistician 69: expanded percentiles.

    Args:
        units: How many are resampled, at least 2.
        level: Wanted coverage.

    Returns:
        The level to take percentiles at.

    Example:
        >>> round(widened_level(10, 0.95), 4), widened_level(50, 0.95)
        (0.9829, 0.95)
    """
    if units >= MANY:
        return level
    reach = t_quantile(units, level) * np.sqrt(units / (units - 1))
    return float(1 - 2 * stats.norm.sf(reach))


def resampled_ends(resampled: Tensor, estimate: Tensor, units: int, level: float = 0.95) -> Tensor:
    """Compute the ends of the interval of any statistic from its values in resamples, as :func:`bootstrap` does.

    Below 10 units Student's t takes the spread of the resamples, which is too small by ``sqrt((n - 1) / n)``.

    Args:
        resampled: ``(samples, ...)`` float64.
        estimate: The statistic of all units, ``(...)``.
        units: How many were resampled.
        level: Coverage.

    Returns:
        The lower and the upper end ``(2, ...)``; NaN below two units, and where a resample has no value.
    """
    if units < 2:
        return torch.full((2, *estimate.shape), float("nan"), dtype=torch.float64)
    if units < FEW:
        half = t_quantile(units, level) * (units / (units - 1)) ** 0.5 * resampled.std(dim=0)
        return torch.stack([estimate - half, estimate + half])
    tail = (1 - widened_level(units, level)) / 2
    return resampled.quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64), dim=0)


def bootstrap_rows(
    rows: Rows, groups: Groups | None = None, samples: int = 2000, level: float = 0.95, seed: int = 0
) -> Interval:
    """Compute the mean over images, each the mean over its queries, and its interval; see :func:`bootstrap`."""
    means = per_image_means(rows)
    values = torch.tensor(list(means.values()), dtype=torch.float64)
    units = units_of(list(means), [(groups or {}).get(name, "") for name in means])
    return bootstrap(values, units, samples, level, seed)


def paired_bootstrap(
    first: Rows, second: Rows, groups: Groups | None = None, samples: int = 2000, level: float = 0.95, seed: int = 0
) -> Interval:
    """Compute the mean difference of two explainers over the images that both have, query by query, and its interval.

    Args:
        first: Rows of one explainer.
        second: Rows of another, on the same images.
        groups: Those of the images.
        samples: Resamples.
        level: Coverage.
        seed: See :func:`bootstrap`.

    Returns:
        The interval of ``first - second``.
    """
    other = numbered(second)
    gaps = [
        (image_id, query, value - other[image_id, query, number])
        for (image_id, query, number), value in numbered(first).items()
        if (image_id, query, number) in other
    ]
    return bootstrap_rows(gaps, groups, samples, level, seed)


def per_image_means(rows: Rows) -> dict[str, float]:
    """Compute the mean over the defined queries of each image: queries about one image are not independent."""
    values: dict[str, list[float]] = {}
    for image_id, _, value in rows:
        values.setdefault(image_id, []).append(value)
    return {image_id: torch.tensor(row, dtype=torch.float64).nanmean().item() for image_id, row in values.items()}


def numbered(rows: Rows) -> dict[tuple[str, int, int], float]:
    """Number the queries about one class of one image, such as two regions of a segmenter: ``{(id, query, n): value}``.

    Example:
        >>> numbered([("a", 1, 0.5), ("a", 1, 0.25)])
        {('a', 1, 0): 0.5, ('a', 1, 1): 0.25}
    """
    counts: dict[tuple[str, int], int] = {}
    values: dict[tuple[str, int, int], float] = {}
    for image_id, query, value in rows:
        number = counts.get((image_id, query), 0)
        counts[image_id, query] = number + 1
        values[image_id, query, number] = value
    return values
