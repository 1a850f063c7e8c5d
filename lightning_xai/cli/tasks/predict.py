"""What ``task=predict`` does: write the maps of images to disk."""

import logging
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig

from lightning_xai.callbacks.prediction_table import NAME, PredictionTable, finished_rows, join_tables
from lightning_xai.callbacks.save_maps import SaveMaps
from lightning_xai.cli.components import build_explainer
from lightning_xai.cli.stages import build_trainer
from lightning_xai.cli.start_checkpoint import start_checkpoint
from lightning_xai.data import ImageDataModule
from lightning_xai.loggers import finish_loggers
from lightning_xai.targets import Target

log = logging.getLogger(__name__)


def run(cfg: DictConfig, data: ImageDataModule, target: Target) -> dict[str, float]:
    """Explain the test images, or all images of a folder that has no splits, and write the maps to disk.

    Images whose maps are in the run folder already, because the same command was killed there, are left out.

    Args:
        cfg: The composed configuration.
        data: The data module, set up.
        target: The frozen target.

    Returns:
        Nothing: no map is scored.
    """
    explainer, trainer = build_explainer(cfg, target), build_trainer(cfg)
    checkpoint, callbacks = start_checkpoint(cfg), trainer.callbacks  # type: ignore[attr-defined]
    saver = next((each for each in callbacks if isinstance(each, SaveMaps)), None)
    done: set[str] = set()
    if saver is not None:
        done = {row["id"] for row in finished_rows(saver.folder(trainer))}
        callbacks.append(PredictionTable(saver))  # after the one that writes the maps
    if done:
        log.info("Maps of %d images are there already.", len(done))
    images = data.rest_dataloader(done) if done else data.predict_dataloader()
    if images is not None:
        trainer.predict(explainer, images, ckpt_path=checkpoint, return_predictions=False, weights_only=True)
    if saver is not None:
        say_where(saver.folder(trainer))
    finish_loggers(trainer.loggers)
    return {}


@rank_zero_only
def say_where(folder: Path) -> None:
    """Print where maps and table are."""
    join_tables(folder)
    print(f"Maps         {folder}")
    if (folder / NAME).is_file():
        print(f"Table        {folder / NAME}")
