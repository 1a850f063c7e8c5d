"""CAPE's factorized head against the released 4-D formula: same contributions, time and memory.

Usage: ``python benchmarks/cape_speed.py [--repeats 5] [--device cpu]``. On a CPU: one thread, medians; memory is the
largest sum of tensors alive at once, as PyTorch's own profiler counts them.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from lightning_xai.explainers.cape.contributions import log_contributions

#: Classes, regions along each side, images.
SETTINGS = ((200, 7, 1), (200, 14, 1), (1000, 7, 1), (1000, 14, 1))
T1, T2 = 1.3, 0.7


def ours(maps: Tensor) -> Tensor:
    """Contributions ``(B, K, *N)``."""
    return log_contributions(maps, T1, T2).exp()


def four_d(maps: Tensor) -> Tensor:
    """The released form: each region's class maps beside every region's mean, ``(B, K, N, N)``, softmax over it."""
    flat = maps.flatten(2)
    pairs = (flat / T1).unsqueeze(3) + (flat.mean(dim=1, keepdim=True) / T2).unsqueeze(2)
    batch, classes, regions, _ = pairs.shape
    joint = pairs.permute(0, 2, 1, 3).reshape(batch, regions, classes * regions).softmax(dim=2)
    own = joint.view(batch, regions, classes, regions).diagonal(dim1=1, dim2=3)
    return own.view_as(maps)


def seconds(work: Callable[[Tensor], Tensor], maps: Tensor) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work(maps)
    if maps.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_bytes(work: Callable[[Tensor], Tensor], maps: Tensor) -> int:
    """Largest amount of memory that a call holds beside its input."""
    if maps.is_cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work(maps)
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        work(maps)
    held = peak = 0
    for event in recorded.profiler.kineto_results.events():  # type: ignore[union-attr]
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'classes':>7} {'regions':>8} {'ours ms':>9} {'4-D ms':>9} {'faster':>8} {'memory':>8} {'difference':>11}")
    for classes, side, count in SETTINGS:
        torch.manual_seed(0)
        maps = 3 * torch.randn(count, classes, side, side, device=arguments.device)
        difference = float((ours(maps) - four_d(maps)).abs().max())
        times = [(seconds(ours, maps), seconds(four_d, maps)) for _ in range(arguments.repeats)]
        own, other = (statistics.median(row[index] for row in times) for index in (0, 1))
        fraction = peak_bytes(ours, maps) / peak_bytes(four_d, maps)
        print(
            f"{classes:>7} {side:>3} x {side:<3} {1e3 * own:>8.2f} {1e3 * other:>9.1f} {other / own:>7.0f}x"
            f" {fraction:>7.2%} {difference:>11.1e}"
        )


if __name__ == "__main__":
    main()
