"""The table of CAPE's paper on three data sets: CAM, CAPE and mu-CAPE, with the confidence of either head.

Below the means stand CAM's paired differences to the other rows. The images are evenly spaced over the test set.

Usage: ``LIGHTNING_XAI_DATA=... python benchmarks/cape_table.py [--experiments cape_cifar] [--images 192] [key=value]``.
Overrides, such as ``explainer.anchor=0``, hold for all experiments.
"""

import argparse
import logging
import time
from typing import Any

import torch
from _real_data import config_of, stop_without_data, target_and_data, test_images
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
from lightning_xai.report.tables import format_table, summarize

EXPERIMENTS = ("cape_cifar", "cape_birds", "cape_cytology")
BATCH = 32
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


def scored(cape: CAPE, images: dict[str, Any], map: str, head: str) -> MetricSuite:
    """The metrics of a map, asking a head for the confidence."""
    metrics = {kind.__name__: kind(head=head) for kind in (AverageDrop, IncreaseInConfidence)}
    metrics |= {"DropInDeletion": AverageDropInDeletion(head=head), "ADCC": ADCC(head=head)}
    metrics |= {"top2IoU": TopClassesIoU(), "top2IoU scaled": TopClassesIoU(scaled="min_max")}
    view, suite = cape.view(map), MetricSuite(metrics)
    for start in range(0, len(images["id"]), BATCH):
        batch = {key: values[start : start + BATCH] for key, values in images.items()}
        targets = cape.target.predict(batch["image"]).argmax(dim=1, keepdim=True)
        suite.update(
            target=cape.target,
            images=batch["image"],
            maps=view.explain(batch["image"], targets),
            targets=targets,
            explainer=view,
            ids=batch["id"],
            groups=batch["group"],
        )
    return suite


def table(cape: CAPE, images: dict[str, Any]) -> str:
    """A row for each map and head, and the paired differences of the first to every other."""
    suites = {f"{map} ({head})": scored(cape, images, map, head) for map, head in ROWS}
    rows = {name: {key: metric.rows() for key, metric in suite.members().items()} for name, suite in suites.items()}
    one = next(iter(suites.values())).members()
    directions = {name: metric.higher_is_better for name, metric in one.items()}
    return format_table(summarize(rows, next(iter(one.values())).image_groups()), directions)


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
        print(table(cape, test_images(data, arguments.images)), flush=True)


if __name__ == "__main__":
    main()
