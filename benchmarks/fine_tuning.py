"""Fine-tuning against training from scratch: AmortizedPCIM's gap on a data set, with a checkpoint of another or none.

Usage: ``LIGHTNING_XAI_DATA=... python benchmarks/fine_tuning.py [--steps 256]``. Fine-tuning gets a quarter of them.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import lightning
from _real_data import BASELINES, gaps, quiet_trainer, stop_without_data, target_of, test_images
from torch import Tensor

from lightning_xai import ClassifierTarget
from lightning_xai.data import ImageDataModule
from lightning_xai.explainers import AmortizedPCIM

#: Checkpoint from, fine-tuned on.
PAIRS = (("pcim_brightfield", "pcim_fluorescence"), ("pcim_fluorescence", "pcim_brightfield"))
POINTS = 16


class GapCurve(lightning.Callback):
    """Measures the gap on fixed images every few steps."""

    def __init__(self, images: Tensor, every: int) -> None:
        self.images, self.every = images, every
        self.points: list[tuple[int, dict[str, float]]] = []

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: Any, *_: Any) -> None:
        if trainer.global_step % self.every == 0:
            pl_module.eval()
            self.points.append(
                (trainer.global_step, gaps(pl_module.target, self.images, pl_module.explain(self.images)))
            )
            pl_module.train()


def fit(
    target: ClassifierTarget, data: ImageDataModule, images: Tensor, steps: int, every: int, start: Path | None
) -> tuple[AmortizedPCIM, GapCurve, lightning.Trainer]:
    """Train for some steps, from scratch or from a checkpoint."""
    lightning.seed_everything(0, verbose=False)
    learned, curve = AmortizedPCIM(target, init_from=start), GapCurve(images, every)
    trainer = quiet_trainer(max_steps=steps, callbacks=[curve])
    trainer.fit(learned, datamodule=data)
    return learned, curve, trainer


def main() -> None:
    """Print both curves of every pair."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=256)
    parser.add_argument("--images", type=int, default=64)
    args = parser.parse_args()
    stop_without_data()
    every = args.steps // POINTS
    setups, scratch = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for name in dict.fromkeys(name for pair in PAIRS for name in pair):
            target, data = target_of(name, seed=0)
            setups[name] = (target, data, test_images(data, args.images)["image"])
            _, scratch[name], trainer = fit(*setups[name], args.steps, every, None)
            trainer.save_checkpoint(Path(folder) / f"{name}.ckpt")
        for source, name in PAIRS:
            _, tuned, _ = fit(*setups[name], args.steps // 4, every, Path(folder) / f"{source}.ckpt")
            show(name, source, scratch[name], tuned)


def show(name: str, source: str, scratch: GapCurve, tuned: GapCurve) -> None:
    """Print two curves side by side, and what a quarter of the steps reached."""
    print(f"\n{name}: gap (" + ", ".join(BASELINES) + f") from scratch, and fine-tuned from {source}")
    quick = dict(tuned.points)
    for step, values in scratch.points:
        row = [" ".join(f"{point[fill]:+.3f}" for fill in BASELINES) for point in (values, quick.get(step)) if point]
        print(f"  step {step:5d}   " + "   ".join(row))
    last, reached = scratch.points[-1][1], tuned.points[-1][1]
    fractions = ", ".join(f"{reached[fill] / last[fill]:.2f} ({fill})" for fill in BASELINES)
    print(f"  a quarter of the steps reaches this fraction of the from-scratch gap: {fractions}", flush=True)


if __name__ == "__main__":
    main()
