"""What the benchmarks on real data share: an experiment's target, its test images, and the gap of their maps."""

import os
import sys
from pathlib import Path
from typing import Any

import lightning
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor

from lightning_xai.cli.components import note_data_info
from lightning_xai.cli.target_cache import build_target
from lightning_xai.data import ImageDataModule
from lightning_xai.functional.groups import batch_groups
from lightning_xai.metrics import InsertionDeletionGap
from lightning_xai.targets import Target

CONFIGS = Path(__file__).parents[1] / "configs"
#: PCIM trains on the first two; no method trained on the last.
BASELINES = ("zero", "median", "blur")


def quiet_trainer(**options: Any) -> lightning.Trainer:
    """A trainer that only trains: nothing is written, shown or validated."""
    return lightning.Trainer(
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        **options,
    )


def stop_without_data() -> None:
    """End the script, in peace, where the real data are not at hand."""
    if "LIGHTNING_XAI_DATA" not in os.environ:
        print("LIGHTNING_XAI_DATA is not set: nothing to compare.")
        sys.exit()


def config_of(experiment: str, seed: int, *overrides: str) -> DictConfig:
    """The composed configuration of an experiment."""
    with initialize_config_dir(str(CONFIGS.resolve()), version_base="1.3"):
        return compose(
            "train",
            [
                f"experiment={experiment}",
                f"seed={seed}",
                f"run_dir=runs/bench/{experiment}_{seed}",
                "+target_trainer.trainer.enable_progress_bar=false",
                *overrides,
            ],
        )


def target_and_data(cfg: DictConfig) -> tuple[Target, ImageDataModule]:
    """The target of a configuration, trained if it must be, and its data."""
    data = instantiate(cfg.data)
    data.setup("fit")
    note_data_info(cfg, data)
    torch.manual_seed(cfg.seed)
    target, quality = build_target(cfg, data)
    if quality:
        told = ", ".join(f"{name.removeprefix('target/')} {value:.3f}" for name, value in quality.items())
        print(f"{cfg.name}, seed {cfg.seed}: target on the test images: {told}", flush=True)
    return target, data


def target_of(experiment: str, seed: int) -> tuple[Target, ImageDataModule]:
    """The trained target of an experiment and a seed, and its data; prints how good the target is."""
    return target_and_data(config_of(experiment, seed))


def test_images(data: ImageDataModule, count: int) -> dict[str, Any]:
    """A sample of the test images, evenly spaced so that every patient, well or site takes part.

    Args:
        data: Set up.
        count: How many at most.

    Returns:
        Like a batch: ``image (N, C, *S)``, ``mask`` if there are any, ``id``, and ``group``, empty where there is none.
    """
    batches = list(data.test_dataloader())
    images = {key: torch.cat([batch[key] for batch in batches]) for key in ("image", "mask") if key in batches[0]}
    ids = [name for batch in batches for name in batch["id"]]
    groups = [name for batch in batches for name in batch_groups(batch) or [""] * len(batch["id"])]
    count = min(count, len(ids))
    chosen = [number * len(ids) // count for number in range(count)]
    return {key: values[chosen] for key, values in images.items()} | {
        "id": [ids[index] for index in chosen],
        "group": [groups[index] for index in chosen],
    }


def gaps(target: Target, images: Tensor, maps: Tensor) -> dict[str, float]:
    """Mean insertion - deletion gap of each fill, for the predicted class."""
    targets = target.query(images).targets
    results = {}
    for fill in BASELINES:
        metric = InsertionDeletionGap(fill=fill)
        metric.update(target=target, images=images, maps=maps, targets=targets)
        results[fill] = float(metric.compute())
    return results
