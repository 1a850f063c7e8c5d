"""What a run does before the training itself: its folder, its data, its explainer."""

import json
import logging
from pathlib import Path

import lightning
from hydra.utils import instantiate
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, open_dict

from lightning_xai.cli.earlier_run import brings_images, check_data, fit_to_target, run_behind
from lightning_xai.cli.run_folder import is_first, keep_earlier, make_folder
from lightning_xai.cli.saved_config import is_of_folder, without_secrets, write_config
from lightning_xai.data import ImageDataModule
from lightning_xai.explainers.base import Explainer
from lightning_xai.explainers.query_policy import QueryPolicy
from lightning_xai.targets import Target

log = logging.getLogger(__name__)

TASKS = ("explain", "test", "predict", "target", "sanity", "global")


def prepare(cfg: DictConfig) -> str | None:
    """Make the run folder ready, and say which checkpoint the run starts from.

    A new run in a folder that holds results moves them into ``earlier/<time>``; a resumed one goes on with them.

    Args:
        cfg: ``task``, ``run_dir`` and ``ckpt_path`` are read.

    Returns:
        Path of the explainer checkpoint, or ``None``.

    Raises:
        ValueError: If the task is unknown, or the folder cannot be made.
        FileNotFoundError: If ``ckpt_path`` names a missing file.
    """
    if cfg.task not in TASKS:
        raise ValueError(f"task is {cfg.task!r}; use one of {', '.join(TASKS)}.")
    folder = make_folder(cfg.run_dir, "run_dir")
    log.info("Run folder: %s", folder)
    if cfg.ckpt_path == "last":
        return last_checkpoint(folder, cfg.task)
    if cfg.ckpt_path is not None and not Path(cfg.ckpt_path).is_file():
        raise FileNotFoundError(
            f"ckpt_path={cfg.ckpt_path} does not exist; give an explainer checkpoint, or 'last' to go on in run_dir."
        )
    if not is_of_folder(cfg.ckpt_path, folder):
        keep_earlier(folder)
    return None if cfg.ckpt_path is None else str(cfg.ckpt_path)


def last_checkpoint(folder: Path, task: str) -> str | None:
    """The checkpoint of the last finished epoch; a run that trains starts from scratch if there is none."""
    last = folder / "checkpoints" / "last.ckpt"
    if last.is_file():
        log.info("Resuming from %s.", last)
        return str(last)
    if task in ("test", "predict"):
        raise FileNotFoundError(f"ckpt_path=last finds no {last}; give another run_dir, or a checkpoint.")
    log.info("No %s yet: starting from scratch.", last)
    return None


def open_data(cfg: DictConfig) -> ImageDataModule:
    """The data module, set up, with what it found in ``cfg.data_info``, and the config in the run folder.

    Where the run starts from another one, that run's ``data_info`` stays: its target was made with it. Images that
    ``predict`` brings are explained all, without labels.

    Args:
        cfg: The composed configuration.

    Raises:
        ValueError: If the data do not fit the run that it starts from.
    """
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
    tell(cfg, data)
    if is_first():
        write_config(cfg)
    return data


def note_data_info(cfg: DictConfig, data: ImageDataModule) -> None:
    """Put what the data module found into ``cfg.data_info``, where target and explainer read their sizes."""
    with open_dict(cfg):
        cfg.data_info = data.data_info()


def tell(cfg: DictConfig, data: ImageDataModule) -> None:
    """Log how many images there are, and which ones were skipped."""
    log.info("Data: %s, seed %d.", json.dumps(data.split_counts), cfg.seed)
    for sentence in data.skipped:
        log.warning("Skipped: %s", sentence)


def build_explainer(cfg: DictConfig, target: Target) -> Explainer:
    """The configured explainer around a target, with the queries that its steps ask."""
    policy = QueryPolicy(cfg.ask, instantiate(cfg.region))
    explainer: Explainer = instantiate(cfg.explainer)(target, query_policy=policy)
    # The loggers get them with the composed config, which names no secret.
    explainer._log_hyperparams = False
    return explainer


@rank_zero_only
def log_config(cfg: DictConfig, trainer: lightning.Trainer) -> None:
    """Write the composed configuration into the run folder, and send it to every logger."""
    write_config(cfg)
    for logger in trainer.loggers:
        logger.log_hyperparams(without_secrets(cfg))
