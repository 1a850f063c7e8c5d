"""The table of what ``predict`` explained: predictions.csv, which also says where a killed run goes on."""

import csv
import io
import logging
import math
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

from lightning_xai.callbacks.save_maps import SaveMaps
from lightning_xai.functional.files import atomic_write
from lightning_xai.functional.tensors import as_plain_tensor
from lightning_xai.structures import Explanation
from lightning_xai.targets.outputs import Probability

log = logging.getLogger(__name__)

NAME = "predictions.csv"
#: ``queries``: how many of them the image has, each with a row of its own.
COLUMNS = ("id", "query", "queries", "class", "probability", "p_blank", "map")

Row = dict[str, str]


class PredictionTable(Callback):
    """Writes ``predictions.csv`` next to the maps of :class:`SaveMaps`, a row a query, after each batch.

    ``p_blank`` is the probability of the class for an image of zeros: near it, the class says little about the image.
    Each rank writes a file of its own, which the first one joins in the end.

    Args:
        saver: Writes the maps, and comes first among the callbacks.
    """

    def __init__(self, saver: SaveMaps) -> None:
        self.saver = saver
        self._blank: tuple[tuple[int, ...], Tensor] | None = None

    @override
    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on with the table of an earlier run."""
        self._blank = None
        self._join(trainer)

    @override
    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add the rows of the batch, whose maps are on disk by now."""
        images = as_plain_tensor(batch["image"])
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        for row in self._rows(pl_module.target, images, outputs, batch["id"]):
            writer.writerow(row)
        path = table_of(self.saver.folder(trainer), trainer.global_rank)
        new = not path.is_file()
        with path.open("a", encoding="utf-8", newline="") as file:
            file.write((",".join(COLUMNS) + "\n" if new else "") + text.getvalue())

    @override
    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Join the tables of all ranks."""
        self._join(trainer)

    def _join(self, trainer: Trainer) -> None:
        trainer.strategy.barrier()
        if trainer.is_global_zero:
            join_tables(self.saver.folder(trainer))
        trainer.strategy.barrier()

    def _rows(self, target: Any, images: Tensor, explanation: Explanation, ids: list[str]) -> list[dict[str, Any]]:
        query, read = explanation.query, Probability()
        logits = explanation.logits if explanation.logits.numel() else target.logits(images)
        blank = self._blank_logits(target, images).expand(len(images), *logits.shape[1:])
        values = [read(target, each, query).float().cpu() for each in (logits, blank)]
        defined, names = query.defined(), target.class_names
        rows = []
        for i, image_id in enumerate(ids):
            for number, index in enumerate(query.targets[i].tolist()):
                p, p_blank = (float(value[i, number]) if defined[i, number] else math.nan for value in values)
                place = self.saver.map_file(image_id, number, query.shape[1], images.ndim == 5)
                rows.append({
                    "id": image_id, "query": number, "queries": query.shape[1],
                    "class": names[index] if names else index, "probability": _number(p), "p_blank": _number(p_blank),
                    "map": place,
                })  # fmt: skip
        return rows

    def _blank_logits(self, target: Any, images: Tensor) -> Tensor:
        """Logits ``(1, K, *S)`` of an image of zeros, computed once a shape."""
        shape = tuple(images.shape[1:])
        if self._blank is None or self._blank[0] != shape:
            with torch.no_grad():
                self._blank = shape, target.logits(torch.zeros_like(images[:1]))
        return self._blank[1]


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6f}"


def table_of(folder: Path, rank: int) -> Path:
    """The file that a rank writes."""
    return folder / (NAME if rank == 0 else f"predictions.rank{rank}.csv")


def join_tables(folder: Path) -> None:
    """Join the tables of all ranks of a finished or killed run into the first one, rows that are whole alone."""
    parts = sorted(folder.glob("predictions.rank*.csv"))
    table = folder / NAME
    if not parts and not (table.is_file() and is_torn(table)):
        return
    rows = finished_rows(folder)
    with atomic_write(table) as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    for part in parts:
        part.unlink()


def is_torn(path: Path) -> bool:
    """Whether a table was cut by a kill in the middle of a row, or holds an image with rows that are missing."""
    return not path.read_bytes().endswith(b"\n") or len(whole_rows(path)) != len(finished_rows(path.parent))


def whole_rows(path: Path) -> list[list[str]]:
    """Read the rows of a table that are whole."""
    content = path.read_bytes()
    text = content[: content.rfind(b"\n") + 1].decode("utf-8", errors="replace")
    return [row for row in list(csv.reader(io.StringIO(text, newline="")))[1:] if len(row) == len(COLUMNS)]


def finished_rows(folder: Path) -> list[Row]:
    """Read the rows of the images that are finished: all their rows are whole, and their maps are on disk.

    Args:
        folder: Of the maps.

    Returns:
        Of all ranks, each row once.
    """
    rows: dict[tuple[str, str], Row] = {}
    for path in sorted(folder.glob("predictions*.csv")):
        for row in whole_rows(path):
            if (folder / row[-1]).is_file():
                rows.setdefault((row[0], row[1]), dict(zip(COLUMNS, row, strict=True)))
    count = Counter(image_id for image_id, _ in rows)
    return [row for row in rows.values() if str(count[row["id"]]) == row["queries"]]
