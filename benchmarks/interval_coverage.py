"""How often the 95 % interval of a mean holds the true mean, where images of a patient are alike.

Usage: ``python benchmarks/interval_coverage.py [--repeats 1000] [--samples 1000]``. ICC is the part of the variance
that is between groups. Values are normal or exponential (skewed, as probabilities near 0 or 1 are), groups of 6 images
each or of 2 to 10. Ends with status 1 if the interval over groups covers less than .90 anywhere; the last column takes
images for independent. Where groups differ more (1 to 40 images) and values are skewed, 5 groups cover about .88.
"""

import argparse
import sys
from itertools import product

import torch
from torch import Tensor

from lightning_xai.report.statistics import bootstrap

GROUPS = (5, 10, 20, 50)
ICCS = (0.0, 0.3, 0.5)
VALUES = ("normal", "skewed")
SIZES = ("6", "2-10")
WANTED = 0.9


def values_of(units: Tensor, icc: float, shape: str, generator: torch.Generator) -> Tensor:
    """Values of images with mean 0 and variance 1, whose groups ``(N,)`` differ.

    Args:
        units: The number of each image's group.
        icc: Part of the variance between groups.
        shape: ``"normal"`` or ``"skewed"``.
        generator: Of the random numbers.
    """
    parts = [torch.randn(count, generator=generator) for count in (int(units.max()) + 1, len(units))]
    if shape == "skewed":
        parts = [torch.empty_like(part).exponential_(generator=generator) - 1 for part in parts]
    of_groups, of_images = parts
    return icc**0.5 * of_groups[units] + (1 - icc) ** 0.5 * of_images


def coverage(groups: int, icc: float, shape: str, sizes: str, repeats: int, samples: int) -> tuple[float, float]:
    """Part of the intervals that hold 0: over groups, and over images taken for independent."""
    generator = torch.Generator().manual_seed(0)
    held = [0, 0]
    for _ in range(repeats):
        counts = torch.full((groups,), 6)
        if sizes != "6":
            counts = torch.randint(2, 11, (groups,), generator=generator)
        units = torch.arange(groups).repeat_interleave(counts)
        values = values_of(units, icc, shape, generator)
        for kind, names in enumerate((units.tolist(), None)):
            interval = bootstrap(values, names, samples)
            held[kind] += interval.low <= 0 <= interval.high
    return held[0] / repeats, held[1] / repeats


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=1000)
    parser.add_argument("--samples", type=int, default=1000)
    arguments = parser.parse_args()
    print(f"{'values':<8} {'images a group':<15} {'groups':>6} {'ICC':>4} {'over groups':>17} {'over images':>17}")
    worst = 1.0
    for shape, sizes, groups, icc in product(VALUES, SIZES, GROUPS, ICCS):
        by_group, by_image = coverage(groups, icc, shape, sizes, arguments.repeats, arguments.samples)
        worst = min(worst, by_group)
        print(f"{shape:<8} {sizes:<15} {groups:>6} {icc:>4} {by_group:>17.3f} {by_image:>17.3f}", flush=True)
    print(f"least: {worst:.3f} (wanted: {WANTED})")
    sys.exit(worst < WANTED)


if __name__ == "__main__":
    main()
