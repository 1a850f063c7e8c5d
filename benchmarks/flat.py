"""Memory and open files over many predicted images, and over many epochs of a small job: both should stay flat.

``python benchmarks/flat.py --images 20000 --epochs 50`` prints a row at each tenth: resident memory in MB, open files,
threads and live tensors. One process.
"""

import argparse
import gc
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from lightning import Callback, Trainer
from typing_extensions import override

from lightning_xai import ClassifierTarget
from lightning_xai.callbacks import LastCheckpoint, SaveMaps
from lightning_xai.data import ImageDataModule, Item
from lightning_xai.explainers import AmortizedPCIM, GradCAM
from lightning_xai.functional.checkpoint_io import WholeCheckpoints
from lightning_xai.loggers import RunCSVLogger
from lightning_xai.networks.mask_net import SmallCNN

SIDE = 32


class Noise(ImageDataModule):
    """Images of noise, of two classes."""

    where = "noise"

    def __init__(self, folder: Path, count: int, **options: Any) -> None:
        super().__init__(cache=False, batch_size=64, **options)
        self.folder, self.count, self.class_names = folder, count, ["a", "b"]

    @override
    def items(self) -> list[Item]:
        path = self.folder / "noise.npy"
        if not path.is_file():
            np.save(path, np.random.default_rng(0).integers(0, 256, (SIDE, SIDE), np.uint8))
        return [Item(f"{number:06d}", path, number % 2) for number in range(self.count)]


class Gauge(Callback):
    """Prints a row at each tenth of a stage."""

    def __init__(self, total: int) -> None:
        self.total, self.done = total, 0

    def _count(self, more: int) -> None:
        before, self.done = self.done, self.done + more
        if before * 10 // self.total != self.done * 10 // self.total:
            gc.collect()
            process = psutil.Process()
            tensors = sum(isinstance(each, torch.Tensor) for each in gc.get_objects())
            handles = f"{len(os.listdir('/proc/self/fd'))} files, {process.num_threads()} threads, {tensors} tensors"
            print(f"{self.done:8d} {process.memory_info().rss / 1e6:8.1f} MB, {handles}", flush=True)

    @override
    def on_predict_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        self._count(len(batch["id"]))

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        self._count(1)


def main() -> None:
    """Predict, then train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--epochs", type=int, default=50)
    options = parser.parse_args()
    quiet = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}
    target = ClassifierTarget(SmallCNN(1, 2, widths=(4, 8)))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = Noise(folder, options.images)
        data.setup("predict")
        print("predict: images, memory, handles")
        saver = SaveMaps(format="npy")
        predictor = Trainer(default_root_dir=folder, logger=False, callbacks=[saver, Gauge(options.images)], **quiet)
        predictor.predict(GradCAM(target), data, return_predictions=False)
        print("fit: epochs, memory, handles")
        callbacks = [LastCheckpoint(folder), Gauge(options.epochs)]
        fitter = Trainer(
            default_root_dir=folder,
            max_epochs=options.epochs,
            logger=RunCSVLogger(folder),
            callbacks=callbacks,
            plugins=[WholeCheckpoints()],
            **quiet,
        )
        fitter.fit(AmortizedPCIM(target), Noise(folder, 200))


if __name__ == "__main__":
    main()
