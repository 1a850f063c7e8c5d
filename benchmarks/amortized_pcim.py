"""AmortizedPCIM against PCIM on real data: fraction of its gap with three fills, and how much faster it is.

Usage: ``LIGHTNING_XAI_DATA=... python benchmarks/amortized_pcim.py [experiment ...] [--epochs 8] [--images 100]
[--refine 0 100] [--seed 0]``: a row for each number of refining steps; the seed decides the explainer's training.
"""

import argparse
import statistics
import time

import lightning
from _real_data import BASELINES, gaps, quiet_trainer, stop_without_data, target_of, test_images
from torch import Tensor

from lightning_xai.explainers import PCIM, AmortizedPCIM, Explainer
from lightning_xai.targets import Target

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


def trained(target: Target, data: lightning.LightningDataModule, epochs: int, seed: int) -> AmortizedPCIM:
    """An explainer fitted to the training images."""
    lightning.seed_everything(seed, verbose=False)
    learned = AmortizedPCIM(target)
    trainer = quiet_trainer(max_epochs=epochs)
    start = time.perf_counter()
    trainer.fit(learned, datamodule=data)
    print(f"  {trainer.global_step} steps in {time.perf_counter() - start:.0f} s", flush=True)
    return learned.eval()


def main() -> None:
    """Train, explain the same test images with both, print fractions and times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("experiments", nargs="*", default=list(EXPERIMENTS))
    parser.add_argument("--epochs", type=int, help="default: what a few hundred steps take")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--refine", type=int, nargs="+", default=[0, 100], help="PCIM steps after the prediction")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    stop_without_data()
    for experiment in args.experiments:
        target, data = target_of(experiment, seed=0)
        images = test_images(data, args.images)["image"]
        learned = trained(target, data, args.epochs or EXPERIMENTS[experiment], args.seed)
        per_image = PCIM(target)
        whole, slow = gaps(target, images, per_image.explain(images)), seconds_an_image(per_image, images[:32], 1)
        print(
            f"  PCIM: {', '.join(f'{fill} gap {whole[fill]:.3f}' for fill in BASELINES)}, {1000 * slow:.1f} ms an image"
        )
        for steps in args.refine:
            refined = AmortizedPCIM(target, refine_steps=steps).eval()
            refined.load_state_dict(learned.state_dict())
            own, fast = gaps(target, images, refined.explain(images)), seconds_an_image(refined, images[:32], 3)
            fractions = ", ".join(
                f"{fill} gap {own[fill]:.3f} (fraction {own[fill] / whole[fill]:.2f})" for fill in BASELINES
            )
            print(f"  AmortizedPCIM, {steps} refining steps: {fractions}, {slow / fast:.0f} times as fast", flush=True)


if __name__ == "__main__":
    main()
