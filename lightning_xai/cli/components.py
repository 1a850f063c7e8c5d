"""Build what a config describes: the data module, and the explainer around a target."""

import json
import logging

from hydra.utils import instantiate
from omegaconf import DictConfig, open_dict

from lightning_xai.cli.devices import check_accelerator
from lightning_xai.cli.earlier_run import brings_images, check_data, fit_to_target, run_behind
from lightning_xai.cli.run_folder import is_first
from lightning_xai.cli.saved_config import write_config
from lightning_xai.data import ImageDataModule
from lightning_xai.explainers.base import Explainer
from lightning_xai.explainers.query_policy import QueryPolicy
from lightning_xai.targets import Target

log = logging.getLogger(__name__)


def open_data(cfg: DictConfig) -> ImageDataModule:
    """Set up the data module, and write the config with what it found (``cfg.data_info``) into the run folder.

    Where the run starts from another one, that run's ``data_info`` stays: its target was made with it. Images that
    ``predict`` brings are explained all, without labels.

    Args:
        cfg: The composed configuration.

    Raises:
        ValueError: If the data do not fit the run that it starts from, or there is no such device.
    """
    check_accelerator(cfg)
    run = run_behind(cfg)
    brought = run is not None and brings_images(cfg, run)
    if run is not None and brought:
        fit_to_target(cfg, run)
    data: ImageDataModule = instantiate(cfg.data)
    data.setup("predict" if brought else "fit")
    if run is not None:
        check_data(cfg, data, labeled=not brought)
    else:
        with open_dict(cfg):
            cfg.pop("target_weights", None)
        note_data_info(cfg, data)
    log_data(cfg, data)
    if is_first():
        write_config(cfg)
    return data


def note_data_info(cfg: DictConfig, data: ImageDataModule) -> None:
    """Record what the data module found in ``cfg.data_info``, where target and explainer read their sizes.

    Raises:
        ValueError: If the name of a class cannot stand in a configuration.
    """
    info = data.data_info()
    for name in info["class_names"]:
        if "${" in name or name == "???":
            raise ValueError(f"The class {name!r} has a name that configurations read as a reference; rename it.")
    with open_dict(cfg):
        cfg.data_info = info


def log_data(cfg: DictConfig, data: ImageDataModule) -> None:
    """Log how many images there are, and which ones were skipped."""
    log.info("Data: %s, seed %d.", json.dumps(data.split_counts), cfg.seed)
    for sentence in data.skipped:
        log.warning("Skipped: %s", sentence)


def build_explainer(cfg: DictConfig, target: Target, classes: str | None = None) -> Explainer:
    """Build the configured explainer around a target.

    Args:
        cfg: ``explainer``, ``ask`` and ``region`` are read.
        target: The target.
        classes: The classes of its queries instead of ``cfg.ask``.

    Raises:
        ValueError: If it learns, and the run that is to be applied has no checkpoint of it.
    """
    policy = QueryPolicy(classes or cfg.ask, instantiate(cfg.region))
    explainer: Explainer = instantiate(cfg.explainer)(target, query_policy=policy)
    if cfg.get("run") and cfg.ckpt_path is None and explainer.learned and cfg.task in ("test", "predict", "global"):
        raise ValueError(f"run={cfg.run} holds no checkpoint; let it finish an epoch, or give a ckpt_path.")
    # The loggers get them with the composed config, which names no secret.
    explainer._log_hyperparams = False
    return explainer
