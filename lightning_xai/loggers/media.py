"""Send tables, figures and files to those loggers that can take them."""

import logging
import random
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning import Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from lightning_xai.loggers.wandb import ResilientWandbLogger

log = logging.getLogger(__name__)

Row = Sequence[Any]
#: Rows of a table that loggers show: whoever reads one in a browser waits for every cell, and W&B cuts it at 10,000.
SHOWN_ROWS = 2_000


@rank_zero_only
def log_table(
    trainer: Trainer, key: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], files: Sequence[Path] = ()
) -> None:
    """Send a table to every logger of a trainer that can take one.

    Of a long table loggers get :data:`SHOWN_ROWS` rows at most, those of whole images drawn at random, and the log says
    so.

    Args:
        trainer: Its loggers are used.
        key: Name under which it appears.
        columns: Column names.
        rows: Cells, row by row.
        files: The files that hold all rows; W&B gets a copy of them.
    """
    loggers = [logger for logger in trainer.loggers if isinstance(logger, (WandbLogger, TensorBoardLogger))]
    if not loggers:
        return
    every = list(rows)
    cells = [list(row) for row in sample_rows(columns, every, SHOWN_ROWS)]
    if len(cells) < len(every):
        names = " and ".join("W&B" if isinstance(logger, WandbLogger) else "TensorBoard" for logger in loggers)
        where = f"; all are in {' and '.join(path.name for path in files)}" if files else ""
        log.info("The table %s of %s shows %s of %s rows%s.", key, names, f"{len(cells):,}", f"{len(every):,}", where)
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.log_table(key, columns=list(columns), data=cells)
        else:
            lines = ("| " + " | ".join(map(str, row)) + " |" for row in (columns, ["---"] * len(columns), *cells))
            logger.experiment.add_text(key, "\n".join(lines), trainer.global_step)
    log_files(trainer, files)


@rank_zero_only
def log_files(trainer: Trainer, files: Iterable[Path]) -> None:
    """Keep copies of files among those of a trainer's W&B run.

    Args:
        trainer: Its loggers are used.
        files: Which.
    """
    for logger in trainer.loggers:
        if isinstance(logger, ResilientWandbLogger):
            for path in files:
                logger.save_file(path)


def sample_rows(columns: Sequence[str], rows: Sequence[Row], limit: int, seed: int = 0) -> list[Row]:
    """Draw at most ``limit`` rows at random, in their order: whole images as far as possible.

    Args:
        columns: Column names; the rows that share an ``"id"`` stay together.
        rows: Cells, row by row.
        limit: Rows that are wanted.
        seed: Of the draw.

    Returns:
        All rows where there are no more. Single rows, where the first image that is drawn has too many.

    Example:
        >>> rows = [(name, value) for name in "abc" for value in (1, 2)]
        >>> sample_rows(("id", "value"), rows, 5)
        [('b', 1), ('b', 2), ('c', 1), ('c', 2)]
    """
    if len(rows) <= limit:
        return list(rows)
    drawn = random.Random(seed)
    groups: dict[Hashable, list[int]] = {}
    for number, row in enumerate(rows):
        groups.setdefault(row[columns.index("id")] if "id" in columns else number, []).append(number)
    kept: list[int] = []
    for name in drawn.sample(list(groups), len(groups)):
        if len(kept) + len(groups[name]) > limit:
            break
        kept += groups[name]
    return [rows[number] for number in sorted(kept or drawn.sample(range(len(rows)), limit))]


@rank_zero_only
def log_images(trainer: Trainer, key: str, images: Sequence[Any], step: int | None = None) -> None:
    """Send figures to every logger of a trainer that can take them.

    Args:
        trainer: Its loggers are used.
        key: Name under which they appear.
        images: ``(H, W, 3)`` uint8 arrays or PIL images.
        step: The trainer's global step if ``None``.
    """
    step = trainer.global_step if step is None else step
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image(key, list(images), step)
        elif isinstance(logger, TensorBoardLogger):
            for number, image in enumerate(images):
                name = key if len(images) == 1 else f"{key}/{number}"
                logger.experiment.add_image(name, np.asarray(image), step, dataformats="HWC")


def finish_loggers(loggers: Iterable[Logger]) -> None:
    """End the runs of those loggers that have an end (W&B); call it once, after the last stage."""
    for logger in loggers:
        if isinstance(logger, ResilientWandbLogger):
            logger.finish()
