"""What ``task=global`` does: global maps of one split, PEPPR on another, and a page about both."""

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import lightning
import torch
from hydra.utils import instantiate
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from typing_extensions import override

from lightning_xai.callbacks import SaveGlobalMaps
from lightning_xai.cli.components import build_explainer
from lightning_xai.cli.stages import build_trainer, fit
from lightning_xai.cli.start_checkpoint import start_checkpoint
from lightning_xai.cli.target_cache import make_target, target_module
from lightning_xai.data import ImageDataModule, MirrorSided
from lightning_xai.data.splits import SPLITS
from lightning_xai.explainers.base import Explainer
from lightning_xai.global_maps import PEPPRResult, peppr
from lightning_xai.global_maps.bias_finder import foreground, read_region
from lightning_xai.global_maps.findings import Findings
from lightning_xai.global_maps.progressive import Hide
from lightning_xai.global_maps.report import write_report
from lightning_xai.loggers import finish_loggers
from lightning_xai.perturbation.baselines import mean_image
from lightning_xai.targets import Target
from lightning_xai.targets.training.classifier import fit_target

log = logging.getLogger(__name__)


def run(cfg: DictConfig, data: ImageDataModule, target: Target) -> dict[str, float]:
    """Make maps that hold for a whole data set, test them, and write ``global.html``, ``global.json`` and figures.

    An explainer that learns is trained first, unless the run starts from a checkpoint.

    Args:
        cfg: The composed configuration.
        data: The data module, set up; aligned images.
        target: The frozen target.

    Returns:
        See :func:`explain_globally`.
    """
    classes = "all" if cfg["global"].maps.subset == "all" else "label"
    # The query to a segmenter is every foreground class anyway.
    explainer = build_explainer(cfg, target, None if target.dense else classes)
    trainer = build_trainer(cfg)
    checkpoint = start_checkpoint(cfg)
    if explainer.learned and cfg.ckpt_path in (None, "last"):  # that of a run that goes on may not be its last
        checkpoint = fit(cfg, trainer, explainer, data)
    results = explain_globally(cfg, data, explainer, trainer.loggers, checkpoint)
    finish_loggers(trainer.loggers)
    return results


def explain_globally(
    cfg: DictConfig, data: ImageDataModule, explainer: Explainer, loggers: Sequence[Logger], checkpoint: str | None
) -> dict[str, float]:
    """Make the maps of one split, and score them on another.

    The maps come from all processes of the trainer; PEPPR and the page from rank zero alone. The outputs of PEPPR's
    steps are kept in ``paths.peppr``, so that a killed run goes on where it stopped.

    Args:
        cfg: ``global``, ``trainer``, ``paths``, ``seed`` and ``run_dir`` are read.
        data: The data module, set up; aligned images.
        explainer: The explainer, fitted where it learns.
        loggers: Get the figures.
        checkpoint: The explainer's weights; ``None``: as it is.

    Returns:
        ``{"global/<number>": value}`` of :meth:`PEPPRResult.summary`; nothing on other ranks.

    Raises:
        ValueError: If a split is unknown, both are one, or no image gave a map.
    """
    settings = cfg["global"]
    check_splits(settings.maps_split, settings.peppr_split)
    check_aligned(data)
    region = region_of(data, settings.maps_split, settings.region)
    saver = SaveGlobalMaps(region, **OmegaConf.to_container(settings.maps))  # type: ignore[arg-type]
    trainer = instantiate(cfg.trainer, logger=False, callbacks=[saver])
    trainer.loggers = list(loggers)  # which Hydra cannot pass on: those of debug=fast_dev_run have every attribute
    images = data.plain_dataloader(settings.maps_split)
    lightning.seed_everything(cfg.seed, workers=True, verbose=False)
    trainer.test(explainer, dataloaders=images, ckpt_path=checkpoint, verbose=False, weights_only=True)
    if rank_zero_only.rank != 0:  # type: ignore[attr-defined]
        return {}
    if saver.result is None or saver.result.overall is None:
        raise ValueError(
            f"No image of the {settings.maps_split} split gave a map ({saver.result and saver.result.skipped} all-zero "
            "ones a label); choose another explainer, split or subset (global.maps.subset)."
        )
    device = trainer.strategy.root_device
    curves = erased_and_restored(cfg, data, explainer.target.to(device), saver.result.overall.to(device), saver)
    findings = Findings(
        saver.result, curves, curves.bootstrap(settings.samples), region, saver.biases, settings.retrain
    )
    assert saver.figure is not None
    write_report(cfg, data, explainer, findings, trainer, saver.figure)
    return {f"global/{name}": value for name, value in curves.summary().items()}


def check_splits(maps_split: str, peppr_split: str) -> None:
    """Refuse unknown splits, and maps that are scored on the images that they were computed from."""
    for split in (maps_split, peppr_split):
        if split not in SPLITS:
            raise ValueError(f"global names the split {split!r}; use one of {', '.join(SPLITS)}.")
    if maps_split == peppr_split:
        raise ValueError(
            f"global.maps_split and global.peppr_split are both {maps_split!r}: a map must be judged on other images "
            "than it was computed from."
        )


def check_aligned(data: ImageDataModule) -> None:
    """Refuse images whose pixels cannot mean the same position, and mention sides of the body that are not mirrored."""
    sizes = " and ".join(" x ".join(map(str, size)) for size in sorted(data.geometry.sizes)[:2])
    mixed = f"images have sizes such as {sizes}" if data.geometry.mixed else data.geometry.mixed_spacing()
    if mixed is not None:
        raise ValueError(
            f"task=global adds up maps pixel by pixel, but {mixed}; align them first: data.size for images, "
            "data.spacing for volumes."
        )
    sides = {item.laterality for items in data.split_items.values() for item in items if item.laterality}
    if len(sides) > 1 and not any(isinstance(step, MirrorSided) for step in data.prepare):
        log.warning(
            "The images show both sides of the body (%s), and none is mirrored: a position means different places. "
            "lightning_xai.data.MirrorSided in data.prepare turns one side.", ", ".join(sorted(sides)),
        )  # fmt: skip


def region_of(data: ImageDataModule, split: str, path: str | None) -> Tensor:
    """Find the pixels where evidence can be, bool ``(*S)``: a mask file, or the bright part of the mean image."""
    if path is not None:
        return read_region(path, data.image_shape[1:])
    return foreground(mean_image(data.plain_dataloader(split))[0])


def erased_and_restored(
    cfg: DictConfig, data: ImageDataModule, target: Target, overall: Tensor, saver: SaveGlobalMaps
) -> PEPPRResult:
    """Compute PEPPR of the overall map, and of every label's."""
    settings, result = cfg["global"], saver.result
    assert result is not None
    return peppr(
        target,
        data.plain_dataloader(settings.peppr_split),
        overall,
        fractions=settings.fractions,
        fill=settings.fill,
        random_orders=settings.random_orders,
        block_size=settings.block_size,
        seed=cfg.seed,
        others=result.found(),
        retrain=partial(retrained, cfg, data, overall.device) if settings.retrain else None,
        cache_dir=Path(cfg.paths.peppr),
    )


def retrained(cfg: DictConfig, data: ImageDataModule, device: torch.device, hide: Hide) -> Target:
    """Train a target, with the recipe of the original, on images with hidden pixels."""
    lightning.seed_everything(cfg.seed, workers=True, verbose=False)
    trainer = instantiate(cfg.target_trainer.trainer)
    trainer.callbacks.append(HidePixels(hide, device))
    fit_target(target_module(cfg), trainer, data)
    return make_target(cfg, trainer.checkpoint_callback.best_model_path).to(device)


class HidePixels(lightning.Callback):
    """Hides pixels of every batch in training, validation and test.

    Args:
        hide: Images ``(B, C, *S)`` on ``device`` -> the same with pixels hidden.
        device: Where ``hide`` works.
    """

    def __init__(self, hide: Hide, device: torch.device) -> None:
        self.hide, self.device = hide, device

    @override
    def on_train_batch_start(self, trainer: object, pl_module: object, batch: dict[str, Tensor], *_: object) -> None:
        batch["image"] = self.hide(torch.as_tensor(batch["image"]).to(self.device)).to(batch["image"].device)

    @override
    def on_validation_batch_start(
        self, trainer: object, pl_module: object, batch: dict[str, Tensor], *_: object
    ) -> None:
        self.on_train_batch_start(trainer, pl_module, batch)

    @override
    def on_test_batch_start(self, trainer: object, pl_module: object, batch: dict[str, Tensor], *_: object) -> None:
        self.on_train_batch_start(trainer, pl_module, batch)
