"""The end of a sweep: one table over all its jobs, means and intervals over the seeds, and the jobs that failed."""

import functools
import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, read_write

from lightning_xai.cli.errors import optimized_value, sentence_of
from lightning_xai.cli.run_folder import is_first
from lightning_xai.functional.files import atomic_write
from lightning_xai.functional.text import first_line

#: What a job of a sweep leaves in its folder, and the table in the folder of the sweep.
RECORD, TABLE = "job.json", "sweep.csv"
PACKAGE_ROOT = str(Path(__file__).parents[2])
NO_RECORD = "it ended without a result; see its train.log"
#: Numbers in a row of the printed table; the file has all.
SHOWN = 6
_folders: list[Path] = []


@dataclass(frozen=True)
class Job:
    """A job of a sweep: its number, its overrides by key, its numbers by name, and why it failed."""

    number: str
    overrides: dict[str, str]
    results: dict[str, float]
    error: str | None


class SweepTable(Callback):
    """Hydra's callback that notes where a sweep writes, so that the program can end it with its table."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Fix the folder, and let jobs in processes of their own find it and this package.

        Records of an earlier sweep in the same folder are removed.

        Args:
            config: ``hydra.sweep.dir`` is read and replaced by the folder that it refers to.
        """
        folder = str(config.hydra.sweep.dir)
        with read_write(config):
            config.hydra.sweep.dir = folder
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [PACKAGE_ROOT, os.environ.get("PYTHONPATH")]))
        for record in Path(folder).glob(f"*/{RECORD}"):
            record.unlink()
        _folders.append(Path(folder))


def recorded(job: Callable[[Any], dict[str, float]]) -> Callable[[Any], dict[str, float]]:
    """Wrap a job so that one of a sweep leaves its numbers, or why it failed, whatever process it runs in.

    Args:
        job: Runs one job.
    """

    @functools.wraps(job)
    def run(cfg: Any) -> dict[str, float]:
        if HydraConfig.get().mode != RunMode.MULTIRUN:
            return job(cfg)
        record: dict[str, Any] = {"error": NO_RECORD}  # of an end that is no error, such as a signal's
        try:
            results = job(cfg)
            optimized_value(results, cfg.optimized_metric)
            failed = results.get("sanity/passed") == 0
            record = {"results": results, "error": "it fails the sanity checks" if failed else None}
        except Exception as error:
            record = {"error": (sentence_of(error) or first_line(error)).removeprefix("train.py: ")}
            raise
        finally:
            if is_first():
                with atomic_write(Path(HydraConfig.get().runtime.output_dir) / RECORD) as file:
                    json.dump(record, file, indent=2)
        return results

    return run


@contextmanager
def sweep_reported() -> Iterator[None]:
    """End a ``with`` block that ran a sweep with its table, whatever ended the sweep.

    Raises:
        SystemExit: With a sentence that counts the failed jobs, if there are any.
    """
    _folders.clear()
    try:
        yield
    finally:
        for folder in _folders:
            if jobs := read_jobs(folder):
                report(folder, jobs)
            if failed := [job for job in jobs if job.error is not None]:
                sys.exit(f"train.py: {len(failed)} of {len(jobs)} jobs failed.")


def read_jobs(folder: Path) -> list[Job]:
    """Read what the jobs of a sweep left, in the order of their numbers."""
    jobs = []
    for words in folder.glob("*/.hydra/overrides.yaml"):
        place = words.parents[1]
        path = place / RECORD
        record: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else {"error": NO_RECORD}
        overrides = dict(str(word).lstrip("+~").partition("=")[::2] for word in OmegaConf.load(words))
        jobs.append(Job(place.name, overrides, record.get("results", {}), record["error"]))
    return sorted(jobs, key=lambda job: (len(job.number), job.number))


def varied(jobs: list[Job]) -> list[str]:
    """Name the keys in which jobs differ, without the seed."""
    names = list(dict.fromkeys(key for job in jobs for key in job.overrides if key != "seed"))
    return [name for name in names if len({job.overrides.get(name) for job in jobs}) > 1]


def interval(values: list[float], level: float = 0.95) -> tuple[float, float, float]:
    """Compute the mean of independent runs and its interval by Student's t; NaN where too few values are defined.

    Args:
        values: One a run; NaN counts as missing.
        level: Of the interval.

    Returns:
        Mean, low end, high end.
    """
    defined = [value for value in values if math.isfinite(value)]
    if len(defined) < 2:
        return (defined[0] if defined else math.nan), math.nan, math.nan
    from lightning_xai.report.statistics import t_quantile  # after the jobs, which imported PyTorch anyway

    mean = fmean(defined)
    half = t_quantile(len(defined), level) * stdev(defined) / math.sqrt(len(defined))
    return mean, mean - half, mean + half


def report(folder: Path, jobs: list[Job]) -> None:
    """Write the table of a sweep, and print the part of it that fits, the failed jobs, and where the table is.

    Args:
        folder: Of the sweep.
        jobs: Its jobs.
    """
    from lightning_xai.report.tables import columns, number_of, write_csv

    keys = varied(jobs)
    names = list(dict.fromkeys(name for job in jobs for name in job.results))
    shown = ([name for name in names if name.startswith("test/")] or names)[:SHOWN]
    groups: dict[tuple[str, ...], list[Job]] = {}
    for job in jobs:
        groups.setdefault(tuple(job.overrides.get(key, "") for key in keys), []).append(job)
    rows, lines = [], [[*keys, "runs", *shown]]
    for setting, members in groups.items():
        good = [job for job in members if job.error is None]
        numbers = {name: interval([job.results.get(name, math.nan) for job in good]) for name in names}
        failed = " ".join(job.number for job in members if job.error is not None)
        rows.append([*setting, len(good), failed, *(value for name in names for value in numbers[name])])
        lines.append([*setting, str(len(good)), *(_cell(*numbers[name]) for name in shown)])
    parts = [f"{name}{part}" for name in names for part in ("", " low", " high")]
    write_csv(folder / TABLE, [*keys, "runs", "failed jobs", *parts], rows)
    print(f"\nMeans over {number_of(len(jobs), 'jobs')}, with 95 % intervals (Student's t) over the seeds:\n")
    print("\n".join(columns(lines)))
    for job in jobs:
        if job.error is not None:
            print(f"Job {job.number} failed ({_words(job, [*keys, 'seed'])}): {job.error}")
    print(f"\nTable        {folder / TABLE}")


def _cell(mean: float, low: float, high: float) -> str:
    if math.isnan(mean):
        return "-"
    return f"{mean:.3f}" if math.isnan(low) else f"{mean:.3f} [{low:.3f}, {high:.3f}]"


def _words(job: Job, keys: list[str]) -> str:
    return " ".join(f"{key}={job.overrides[key]}" for key in keys if key in job.overrides)
