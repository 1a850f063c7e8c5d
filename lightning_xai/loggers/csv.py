"""The table of a run: metrics.csv."""

import csv
from argparse import Namespace
from collections.abc import Callable, Mapping, Set
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter

from lightning_xai.functional.files import atomic_write


class RunCSVLogger(CSVLogger):
    """Writes ``metrics.csv`` straight into the run folder, and keeps the rows that are there when a run resumes.

    Args:
        run_dir: The run folder.
    """

    def __init__(self, run_dir: str | Path) -> None:
        super().__init__(run_dir, name="", version="", flush_logs_every_n_steps=1)

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The writer of ``metrics.csv``."""
        if self._experiment is None:
            self._experiment = _KeepingWriter(self.log_dir)
        return self._experiment

    def log_hyperparams(self, params: dict[str, Any] | Namespace | None = None) -> None:
        """Do nothing: the run folder already holds the composed config."""


class _KeepingWriter(ExperimentWriter):
    """Lightning's writer deletes an existing file; this one goes on in it, and lists no epoch twice."""

    _earlier = False

    def _check_log_dir_exists(self) -> None:
        path = Path(self.metrics_file_path)
        if path.is_file():
            self.metrics_keys, rows = whole_rows(path)
            self._replace(self.metrics_keys, rows)
            self._earlier = bool(rows)

    def log_metrics(self, metrics_dict: dict[str, float], step: int | None = None) -> None:
        if self._earlier and step is not None:
            if is_result(metrics_dict):
                self._drop(lambda row: is_result(row) and int(row["step"]) == step)
            else:
                self._earlier = False
                self._rewind(metrics_dict.keys() - {"epoch", "step"}, step)
        super().log_metrics(metrics_dict, step)

    def _rewind(self, names: Set[str], step: int) -> None:
        """Forget the rows that a resumed run writes again, and the results of the earlier end.

        Args:
            names: What its first row holds; in the step of that row, others came before it and do not come again.
            step: Of its first row.
        """

        def comes_again(row: dict[str, str]) -> bool:
            at = int(row["step"])
            return is_result(row) or at > step or (at == step and any(row.get(name) for name in names))

        self._drop(comes_again)

    def _drop(self, which: Callable[[dict[str, str]], bool]) -> None:
        fieldnames, rows = whole_rows(Path(self.metrics_file_path))
        self._replace(fieldnames, [row for row in rows if not which(row)])

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        self._replace(fieldnames, whole_rows(Path(self.metrics_file_path))[1])

    def _replace(self, fieldnames: list[str], rows: list[dict[str, str]]) -> None:
        path = Path(self.metrics_file_path)
        if not fieldnames:
            path.unlink()
            return
        # A run that is killed here must lose no rows.
        with atomic_write(path) as file:
            writer = csv.DictWriter(file, fieldnames)
            writer.writeheader()
            writer.writerows(rows)


def is_result(row: Mapping[str, Any]) -> bool:
    """Whether a row holds a result of the test, not something of an epoch."""
    return any(key.startswith("test/") and value != "" for key, value in row.items())


def whole_rows(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Read column names and rows of ``metrics.csv``, without what a kill in the middle of an append left.

    Args:
        path: The file.

    Returns:
        Only rows that are whole; nothing at all if the header is not.
    """
    content = path.read_bytes()
    lines = content[: content.rfind(b"\n") + 1].decode("utf-8", errors="replace").split("\n")
    header, *rows = map(_cells, lines)
    if "step" not in header:
        return [], []
    whole = [dict(zip(header, row, strict=True)) for row in rows if len(row) == len(header)]
    return header, [row for row in whole if row["step"].isdecimal()]


def _cells(line: str) -> list[str]:
    try:
        return next(csv.reader([line.rstrip("\r")]), [])
    except csv.Error:
        return []
