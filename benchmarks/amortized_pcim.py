"""AmortizedPCIM against PCIM on real data: share of its gap with two fills, and how much faster it explains an image.

Usage: ``LIGHTNING_XAI_DATA=... python benchmarks/amortized_pcim.py [experiment ...] [--epochs 8] [--images 100]``.
"""

import argparse
import statistics
import time

import lightning
from _real_data import FILLS, gaps, stop_without_data, target_of, test_images
from torch import Tensor

from lightning_xai.explainers import PCIM, AmortizedPCIM, Explainer

#: Epochs that give both data sets a few hundred steps.
EXPERIMENTS = {"pcim_fluorescence": 8, "pcim_brightfield": 60}


def seconds_an_image(explainer: Explainer, images: Tensor, repeats: int) -> float:
    """Median wall time of explaining an image of a batch."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        explainer.explain(images)
        times.append((time.perf_counter() - start) / len(images))
    return statistics.median(times)


def main() -> None:
    """Train, explain the same test images with both, print shares and times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("experiments", nargs="*", default=list(EXPERIMENTS))
    parser.add_argument("--epochs", type=int, help="default: what a few hundred steps take")
    parser.add_argument("--images", type=int, default=100)
    args = parser.parse_args()
    stop_without_data()
    for experiment in args.experiments:
        target, data = target_of(experiment, seed=0)
        images = test_images(data, args.images)["image"]
        lightning.seed_everything(0, verbose=False)
        learned = AmortizedPCIM(target)
        trainer = lightning.Trainer(
            max_epochs=args.epochs or EXPERIMENTS[experiment],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            limit_val_batches=0,
        )
        start = time.perf_counter()
        trainer.fit(learned, datamodule=data)
        print(f"  {trainer.global_step} steps in {time.perf_counter() - start:.0f} s", flush=True)
        learned.eval()
        per_image = PCIM(target)
        values = {
            name: gaps(target, images, explainer.explain(images))
            for name, explainer in (("PCIM", per_image), ("AmortizedPCIM", learned))
        }
        times = seconds_an_image(per_image, images[:32], 1), seconds_an_image(learned, images[:32], 9)
        for fill in FILLS:
            own, other = values["AmortizedPCIM"][fill], values["PCIM"][fill]
            print(f"  {fill:6s} gap: PCIM {other:.3f}  AmortizedPCIM {own:.3f}  share {own / other:.2f}")
        print(f"  PCIM {1000 * times[0]:.1f} ms an image, AmortizedPCIM {1000 * times[1]:.2f} ms")
        print(f"  AmortizedPCIM is {times[0] / times[1]:.0f} times as fast\n", flush=True)


if __name__ == "__main__":
    main()
