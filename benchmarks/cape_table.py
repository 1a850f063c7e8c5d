"""The table of CAPE's paper on three data sets: CAM, CAPE and mu-CAPE, with the confidence of either head.

Usage: ``LIGHTNING_XAI_DATA=... python benchmarks/cape_table.py [--experiments cape_cifar] [--images 192] [key=value]``.
Overrides, such as ``explainer.anchor=0``, hold for all experiments.
"""

import argparse
import logging
import time
from typing import Any

import torch
from _real_data import config_of, stop_without_data, target_and_data
from hydra.utils import instantiate

from lightning_xai.cli.components import build_explainer
from lightning_xai.data import ImageDataModule
from lightning_xai.explainers import CAPE
from lightning_xai.explainers.cape.contributions import compared
from lightning_xai.metrics import (
    ADCC,
    AverageDrop,
    AverageDropInDeletion,
    IncreaseInConfidence,
    MetricSuite,
    TopClassesIoU,
)

EXPERIMENTS = ("cape_cifar", "cape_birds", "cape_cytology")
#: Map, and whose confidence is asked.
ROWS = (("cam", "target"), ("cape", "target"), ("cape", "explainer"), ("mu", "target"), ("mu", "explainer"))


def fit(cfg: Any, cape: CAPE, data: ImageDataModule) -> None:
    """Fit the head as the experiment says, and print how long it took and how it follows its model."""
    quiet = {"logger": False, "callbacks": [], "enable_checkpointing": False, "limit_val_batches": 0}
    trainer = instantiate(cfg.trainer, **quiet, enable_progress_bar=False)
    start = time.perf_counter()
    features = cape.fit_data(data)
    features.train_dataloader()
    cached = time.perf_counter()
    trainer.fit(cape, datamodule=features)
    cape.eval()
    print(f"features {cached - start:.1f} s, head training {time.perf_counter() - cached:.1f} s")
    own, target, labels = [], [], []
    for batch in data.test_dataloader():
        own.append(cape.probabilities(batch["image"]))
        target.append(cape.target.predict(batch["image"]).detach())
        labels.append(batch["label"])
    values = compared(torch.cat(own), torch.cat(target), torch.cat(labels))
    print(
        f"{len(torch.cat(own))} test images: "
        + ", ".join(f"{name} {float(value):.3f}" for name, value in values.items())
    )


def table(cape: CAPE, data: ImageDataModule, count: int) -> None:
    """Print a row for each map and head."""
    for row, (map, head) in enumerate(ROWS):
        metrics = {kind.__name__: kind(head=head) for kind in (AverageDrop, IncreaseInConfidence)}
        metrics |= {"DropInDeletion": AverageDropInDeletion(head=head), "ADCC": ADCC(head=head)}
        metrics |= {"top2IoU": TopClassesIoU(), "top2IoU scaled": TopClassesIoU(scaled="min_max")}
        view, suite, seen = cape.view(map), MetricSuite(metrics), 0
        for batch in data.test_dataloader():
            images, ids = batch["image"][: count - seen], batch["id"][: count - seen]
            targets = cape.target.predict(images).argmax(dim=1, keepdim=True)
            maps = view.explain(images, targets)
            suite.update(target=cape.target, images=images, maps=maps, targets=targets, explainer=view, ids=ids)
            seen += len(images)
            if seen >= count:
                break
        if row == 0:
            print(f"{'map':<5} {'confidence':<11} " + " ".join(f"{name:>20}" for name in suite.members()))
        values = " ".join(f"{float(metric.compute()):>20.3f}" for metric in suite.members().values())
        print(f"{map:<5} {head:<11} {values}", flush=True)


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experiments", nargs="+", default=EXPERIMENTS)
    parser.add_argument("--images", type=int, default=192)
    parser.add_argument("--seed", type=int, default=0)
    arguments, overrides = parser.parse_known_args()
    stop_without_data()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    for experiment in arguments.experiments:
        cfg = config_of(experiment, arguments.seed, *overrides)
        target, data = target_and_data(cfg)
        cape = build_explainer(cfg, target)
        assert isinstance(cape, CAPE)
        print(f"\n{experiment}")
        fit(cfg, cape, data)
        table(cape, data, arguments.images)


if __name__ == "__main__":
    main()
