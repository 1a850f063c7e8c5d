"""Stages that several tasks share: build the trainer, fit, test."""

import lightning
from hydra.utils import instantiate
from lightning import Trainer
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig

from lightning_xai.cli.saved_config import without_secrets, write_config
from lightning_xai.cli.start_checkpoint import start_checkpoint
from lightning_xai.cli.summary import finish
from lightning_xai.data import ImageDataModule
from lightning_xai.explainers.base import Explainer
from lightning_xai.loggers import RunCSVLogger, finish_loggers


def build_trainer(cfg: DictConfig) -> Trainer:
    """Build the configured trainer with its callbacks and loggers, and send the config to the loggers.

    Args:
        cfg: ``trainer``, ``callbacks``, ``logger`` and ``run_dir`` are read.
    """
    loggers = [RunCSVLogger(cfg.run_dir), *instantiate(cfg.logger).values()]
    trainer: Trainer = instantiate(cfg.trainer, logger=loggers, callbacks=list(instantiate(cfg.callbacks).values()))
    log_config(cfg, trainer)
    return trainer


@rank_zero_only
def log_config(cfg: DictConfig, trainer: Trainer) -> None:
    """Write the composed configuration into the run folder, and send it to every logger."""
    write_config(cfg)
    for logger in trainer.loggers:
        logger.log_hyperparams(without_secrets(cfg))


def fit(cfg: DictConfig, trainer: Trainer, explainer: Explainer, data: ImageDataModule) -> str | None:
    """Train an explainer, from the checkpoint that the run starts from if there is one.

    Args:
        cfg: See :func:`start_checkpoint`.
        trainer: Its ``callback_metrics`` hold the numbers of the last epoch afterwards.
        explainer: One that learns.
        data: The data module, set up.

    Returns:
        Path of the best checkpoint; ``None`` if none was kept.
    """
    trainer.fit(explainer, datamodule=explainer.fit_data(data), ckpt_path=start_checkpoint(cfg), weights_only=True)
    return getattr(trainer.checkpoint_callback, "best_model_path", None) or None


def score(
    cfg: DictConfig, trainer: Trainer, explainer: Explainer, data: ImageDataModule, checkpoint: str | None
) -> dict[str, float]:
    """Test an explainer, and end the run with its summary and its loggers.

    Args:
        cfg: See :func:`finish`.
        trainer: The run's.
        explainer: Learned or not.
        data: The data module, set up.
        checkpoint: The explainer's weights; ``None``: as it is.

    Returns:
        ``{"test/<metric>": mean}``.
    """
    # What a test draws must not depend on how, or in how many pieces, the explainer was trained.
    lightning.seed_everything(cfg.seed, workers=True, verbose=False)
    trainer.test(explainer, datamodule=data, ckpt_path=checkpoint, verbose=False, weights_only=True)
    results = finish(cfg, trainer, checkpoint)
    finish_loggers(trainer.loggers)
    return results
