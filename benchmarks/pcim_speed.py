"""PCIM's cost against the passes it needs: a bare loop of the same forward and backward-to-input passes, and memory.

Usage: ``python benchmarks/pcim_speed.py``. Medians of alternating repetitions in one run; memory in fresh processes.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from lightning_xai import ClassifierTarget
from lightning_xai.explainers import PCIM
from lightning_xai.networks.mask_net import SmallCNN

STEPS, REPEATS = 60, 7
#: Side of the images, how many of them, and the target's widths.
CASES = ((28, 16, (16, 32, 64)), (64, 8, (16, 32, 64, 128)), (128, 2, (16, 32, 64, 128)))


def bare_loop(target: ClassifierTarget, images: Tensor, targets: Tensor) -> None:
    """Per step what the objective cannot do without: kept and rest through the target, and back to the input."""
    for _ in range(STEPS):
        both = torch.cat([images, images]).requires_grad_(True)
        value = target.probability(both, targets.repeat(2, 1)).sum()
        torch.autograd.grad(value, both)


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def target_of(widths: tuple[int, ...]) -> ClassifierTarget:
    """An untrained target: its weights do not change what a pass costs."""
    torch.manual_seed(0)
    return ClassifierTarget(SmallCNN(3, 4, widths=widths), mean=[0.5] * 3, std=[0.25] * 3)


def compare_time() -> None:
    """Print PCIM's time over the bare loop's, for three sizes."""
    print(f"{STEPS} steps, medians of {REPEATS}")
    for side, count, widths in CASES:
        target = target_of(widths)
        images, targets = torch.rand(count, 3, side, side), torch.zeros(count, 1, dtype=torch.long)
        explainer = PCIM(target, steps=STEPS)
        pairs = [
            (
                seconds(lambda: explainer.explain(images, targets)),  # noqa: B023 - called at once
                seconds(lambda: bare_loop(target, images, targets)),  # noqa: B023
            )
            for _ in range(REPEATS)
        ]
        ours, bare = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratio = statistics.median(first / second for first, second in pairs)
        print(
            f"  {count:3d} images of {side:3d} px  PCIM {ours:6.2f} s  bare loop {bare:6.2f} s  ratio {ratio:.3f}",
            flush=True,
        )


def compare_memory() -> None:
    """Print the peak memory of one image, and what every added pixel costs: constant where memory is linear."""
    peaks = {}
    for side in (512, 768, 1024):
        command = [sys.executable, __file__, "--memory-of", str(side)]
        peaks[side] = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    for (small, low), (large, high) in pairwise(peaks.items()):
        added = 1024 * (high - low) / (large**2 - small**2)
        print(f"  {large:4d} px  peak {high / 1024:7.1f} MiB  {added:7.1f} bytes a pixel more than at {small} px")


def main() -> None:
    """Compare time, then memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--memory-of", type=int, help="print the peak KiB of explaining one image of this side")
    side = parser.parse_args().memory_of
    if side is None:
        compare_time()
        compare_memory()
        return
    PCIM(target_of((16, 32, 64)), steps=3).explain(torch.rand(1, 3, side, side), torch.zeros(1, dtype=torch.long))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


if __name__ == "__main__":
    main()
