"""What global maps cost: memory for any number of maps, and PEPPR against its forward passes alone.

Usage: ``python benchmarks/global_maps.py [--maps 100000] [--images 32] [--repeats 3]``. One thread.
"""

import argparse
import resource
import statistics
import time
from collections.abc import Callable

import torch
from monai.networks.nets import resnet18

from lightning_xai import ClassifierTarget
from lightning_xai.global_maps import GlobalMaps, peppr

SIDE, BATCH, LABELS = 224, 64, 2


def peak_megabytes() -> float:
    """The most memory that this process has used so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def seconds(work: Callable[[], object]) -> float:
    """Processor time of one call, in one thread: what else runs on the machine does not count."""
    start = time.process_time()
    work()
    return time.process_time() - start


def stream(reduction: str, count: int) -> None:
    """Aggregate so many maps with images, ids and labels, and print what it took."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(BATCH, 1, SIDE, SIDE, generator=generator)
    images, labels = torch.rand(BATCH, 3, SIDE, SIDE, generator=generator), torch.arange(BATCH) % LABELS
    metric = GlobalMaps(LABELS, reduction=reduction)

    def work() -> None:
        for start in range(0, count, BATCH):
            size = min(BATCH, count - start)
            fresh = maps.roll(start // BATCH, dims=3)  # other maps at little cost
            ids = [f"image_{number}" for number in range(start, start + size)]
            metric.update(maps=fresh[:size], images=images[:size], labels=labels[:size], ids=ids)
        metric.compute()

    took = seconds(work)
    print(
        f"  {reduction:12s} {count} maps of {SIDE} x {SIDE}: peak {peak_megabytes():.0f} MB with the libraries, "
        f"{1000 * took / count:.2f} ms a map",
        flush=True,
    )


def compare(count: int, repeats: int) -> None:
    """Print the time of PEPPR, of its forward passes alone, and their ratio."""
    torch.manual_seed(0)
    net = resnet18(pretrained=False, spatial_dims=2, n_input_channels=3, num_classes=10, conv1_t_stride=2)
    passes = 0

    class Counting(ClassifierTarget):
        """Counts the pictures that it is asked about."""

        def logits(self, images: torch.Tensor) -> torch.Tensor:
            nonlocal passes
            passes += len(images)
            return super().logits(images)

    target = Counting(net, mean=[0.5] * 3, std=[0.25] * 3)
    images, labels = torch.rand(count, 3, SIDE, SIDE), torch.arange(count) % 10
    batches = [{"image": part, "label": own} for part, own in zip(images.split(32), labels.split(32), strict=True)]
    fractions, ranking = (0, 0.25, 0.5, 0.75, 1), torch.rand(SIDE, SIDE)
    ratios = []
    for _ in range(repeats):
        passes = 0
        took = seconds(lambda: peppr(target, batches, ranking, fractions))
        with torch.no_grad():
            alone = seconds(lambda: [target.logits(batch["image"]) for _ in range(8) for batch in batches])
        alone *= (passes - 8 * count) / (8 * count)
        ratios.append(took / alone)
        print(f"  {passes - 8 * count} passes of {count} images alone {alone:.1f} s, PEPPR {took:.1f} s", flush=True)
    print(f"  ratio {statistics.median(ratios):.3f}", flush=True)


def main() -> None:
    """Measure memory, then time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--maps", type=int, default=100_000)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"before: {peak_megabytes():.0f} MB")
    for reduction in ("mean", "median"):
        stream(reduction, options.maps)
    print("PEPPR of ResNet-18")
    compare(options.images, options.repeats)


if __name__ == "__main__":
    main()
