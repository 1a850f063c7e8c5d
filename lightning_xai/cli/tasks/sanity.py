"""What ``task=sanity`` does: the sanity checks of the configured explainer, as a table, a file and numbers."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor

from lightning_xai.cli.components import build_explainer
from lightning_xai.cli.run_folder import is_first
from lightning_xai.cli.stages import log_config
from lightning_xai.data import ImageDataModule
from lightning_xai.explainers.base import Explainer
from lightning_xai.functional.files import atomic_write
from lightning_xai.functional.tensors import as_plain_tensor
from lightning_xai.sanity.checks import Check, format_checks, passes, sanity_checks
from lightning_xai.targets import Target

#: Training images that the model with random labels learns: few enough to be learned by heart.
LABELED = 64


def run(cfg: DictConfig, data: ImageDataModule, target: Target) -> dict[str, float]:
    """Check the explainer on test images, print the table and write ``sanity.json``.

    One process on one device does it, whatever the trainer says; of several processes, rank zero alone. An explainer
    that learns is trained with the trainer's other settings, without loggers and callbacks.

    Args:
        cfg: ``sanity``, ``explainer``, ``trainer``, ``seed`` and ``run_dir`` are read.
        data: The data module, set up.
        target: The target.

    Returns:
        ``{"sanity/<check>/<statistic>": value}``, and 1 or 0 as ``"sanity/passed"``; nothing on other ranks.

    Raises:
        ValueError: If a checkpoint is given that does not stand for the run it comes from, or there are no labels
            (masks for a segmenter) that could be permuted.
    """
    if cfg.ckpt_path is not None and cfg.get("from_run") is None:
        raise ValueError("task=sanity trains the explainer anew around every target; leave ckpt_path out.")
    if not is_first():
        return {}
    quiet: dict[str, Any] = {"logger": False, "callbacks": [], "enable_checkpointing": False}
    alone = {"devices": 1, "num_nodes": 1, "strategy": "auto"}

    def fit(explainer: Explainer) -> None:
        instantiate(cfg.trainer, **quiet, **alone).fit(explainer, datamodule=explainer.fit_data(data))

    trainer = instantiate(cfg.trainer, **quiet, **alone)
    log_config(cfg, trainer)
    device = trainer.strategy.root_device
    images, labels = first_of(data.train_dataloader(), ("image", target.reference_key), LABELED)
    (tested,) = first_of(data.test_dataloader(), ("image",), cfg.sanity.images)
    checks = sanity_checks(
        lambda target: build_explainer(cfg, target),
        target.to(device),
        tested.to(device),
        (images.to(device), labels.to(device)),
        cfg.sanity.thresholds,
        cfg.sanity.stages,
        cfg.sanity.label_steps,
        cfg.data.batch_size,
        cfg.seed,
        fit,
    )
    report(cfg, checks)
    values = {f"sanity/{check.name}/{name}": value for check in checks for name, value in check.values.items()}
    return values | {"sanity/passed": float(passes(checks))}


def first_of(loader: Iterable[dict[str, Any]], names: tuple[str, ...], count: int) -> tuple[Tensor, ...]:
    """Collect the first ``count`` samples of a loader, or all if there are fewer, as a plain tensor for each name.

    Where images differ in size, those of the size that is first to have so many, or else has most.

    Raises:
        ValueError: If the batches lack a name.
    """
    parts: dict[torch.Size, list[tuple[Tensor, ...]]] = defaultdict(list)
    numbers: Counter[torch.Size] = Counter()
    for batch in loader:
        missing = [name for name in names if name not in batch]
        if missing:
            raise ValueError(
                f"task=sanity trains a model on permuted {missing[0]}s, but the data set has none; "
                "give it labels (a segmenter: masks)."
            )
        part = tuple(as_plain_tensor(batch[name]) for name in names)
        size = part[0].shape[2:]
        parts[size].append(part)
        numbers[size] += len(part[0])
        if numbers[size] >= count:
            break
    most = max(numbers, key=lambda size: numbers[size])
    return tuple(torch.cat(values)[:count] for values in zip(*parts[most], strict=True))


def report(cfg: DictConfig, checks: list[Check]) -> None:
    """Write ``sanity.json`` and print the table, the verdict and where the file is."""
    passed, path = passes(checks), Path(cfg.run_dir) / "sanity.json"
    content = {"passed": passed, "seed": cfg.seed, "checks": [asdict(check) for check in checks]}
    with atomic_write(path) as file:
        json.dump(content, file, indent=2)
    print(f"\n{format_checks(checks)}\n")
    explainer = cfg.explainer._target_.rpartition(".")[2]
    print(f"{explainer} {'passes' if passed else 'FAILS'} the sanity checks.\nSanity {path}")
