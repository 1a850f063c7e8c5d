"""What ``task=predict`` does: write the maps of images to disk."""

from omegaconf import DictConfig

from lightning_xai.cli.components import build_explainer
from lightning_xai.cli.run_folder import start_checkpoint
from lightning_xai.cli.stages import build_trainer
from lightning_xai.data import ImageDataModule
from lightning_xai.loggers import finish_loggers
from lightning_xai.targets import Target


def run(cfg: DictConfig, data: ImageDataModule, target: Target) -> dict[str, float]:
    """Explain the test images, or all images of a folder that has no splits, and write the maps to disk.

    Args:
        cfg: The composed configuration.
        data: The data module, set up.
        target: The frozen target.

    Returns:
        Nothing: no map is scored.
    """
    explainer, trainer = build_explainer(cfg, target), build_trainer(cfg)
    checkpoint = start_checkpoint(cfg)
    trainer.predict(explainer, datamodule=data, ckpt_path=checkpoint, return_predictions=False, weights_only=True)
    finish_loggers(trainer.loggers)
    return {}
