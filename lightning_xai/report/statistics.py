"""Intervals for means and for paired differences, by the bootstrap over images."""

from dataclasses import asdict, dataclass

import numpy as np
import torch
from scipy import stats
from torch import Tensor

#: Resamples drawn at once: what bounds the memory of many values.
BATCH = 200
#: ``(id, query, value)`` per image and query.
Rows = list[tuple[str, int, float]]


@dataclass(frozen=True)
class Interval:
    """A mean over images and its bootstrap interval.

    Attributes:
        mean: Mean over the defined values.
        low: Lower end.
        high: Upper end.
        count: Images with a defined value.
        undefined: Images without one.
    """

    mean: float
    low: float
    high: float
    count: int
    undefined: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of 0."""
        return self.low > 0 or self.high < 0

    def as_dict(self) -> dict[str, float | int]:
        """Return plain values for JSON."""
        return asdict(self)


def bootstrap(values: Tensor, samples: int = 2000, level: float = 0.95, seed: int = 0) -> Interval:
    """Compute a mean and its percentile bootstrap interval, by SciPy.

    Args:
        values: ``(N,)``, NaN = undefined.
        samples: Resamples.
        level: Coverage of the interval.
        seed: Resamples are the same for the same seed and N.

    Returns:
        The interval; its ends are NaN where fewer than two values are defined.

    Example:
        >>> bootstrap(torch.full((10,), 0.5)).low
        0.5
    """
    defined = values.double()[~values.isnan()].cpu().numpy()
    mean = float(defined.mean()) if len(defined) else float("nan")
    low = high = float("nan")
    if len(defined) > 1:
        result = stats.bootstrap(
            (defined,), np.mean, n_resamples=samples, batch=BATCH, confidence_level=level, method="percentile", rng=seed
        )
        low, high = (float(end) for end in result.confidence_interval)
    return Interval(mean, low, high, len(defined), len(values) - len(defined))


def bootstrap_rows(rows: Rows, samples: int = 2000, level: float = 0.95, seed: int = 0) -> Interval:
    """Compute the mean over images, each the mean over its queries, and its interval; see :func:`bootstrap`."""
    return bootstrap(torch.tensor(list(per_image_means(rows).values()), dtype=torch.float64), samples, level, seed)


def paired_bootstrap(first: Rows, second: Rows, samples: int = 2000, level: float = 0.95, seed: int = 0) -> Interval:
    """Compute the mean difference of two explainers over the images that both have, query by query, and its interval.

    Args:
        first: Rows of one explainer.
        second: Rows of another, on the same images.
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
    return bootstrap_rows(gaps, samples, level, seed)


def per_image_means(rows: Rows) -> dict[str, float]:
    """Compute the mean over the defined queries of each image: images, not queries, are independent."""
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
