"""Tiny data sets and tiny runs of train.py that the integration tests share."""

import contextlib
import csv
import io
import logging
import os
import runpy
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from hydra import compose, initialize_config_dir
from hydra.core.singleton import Singleton
from lightning import Callback, LightningModule, Trainer
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from lightning_xai.cli.earlier_run import start_from

CONFIGS = Path(__file__).parents[1] / "configs"
TINY = (
    "logger=none",
    "data.batch_size=8",
    "target.model.widths=[4,8]",
    "target_trainer.trainer.max_epochs=1",
    "+target_trainer.trainer.enable_progress_bar=false",
    "trainer.accelerator=cpu",
    "+trainer.enable_progress_bar=false",
    "trainer.max_epochs=1",
    "trainer.log_every_n_steps=1",
)


def tiny(folder: Path, *overrides: str) -> list[str]:
    """Overrides of a run of seconds in ``folder``, which shares its trained targets with the runs next to it."""
    places = [f"run_dir={folder}", f"target_dir={folder.parent / 'targets'}", "name=tiny"]
    own = any(word.startswith("target=") for word in overrides)  # a target of its own has no widths
    return [*places, *(word for word in TINY if not (own and "widths" in word)), *overrides]


def load_config(path: Path) -> DictConfig:
    """The YAML of a group's choice on top of those that it builds on, which all lie next to it."""
    node = OmegaConf.load(path)
    below = [load_config(path.with_name(f"{name}.yaml")) for name in node.pop("defaults", [])]
    return OmegaConf.merge(*below, node)


def configure(folder: Path, *overrides: str) -> DictConfig:
    """The composed configuration of :func:`tiny`, as train.main takes it."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("train", tiny(folder, *overrides))


def on_top(folder: Path, *overrides: str) -> DictConfig:
    """The configuration of a run in ``folder`` on top of the run that its ``ckpt_path`` comes from."""
    name, words = start_from([f"run_dir={folder}", *overrides], CONFIGS)
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose(name, words)


def cfg_of(folder: Path | str, **changes: Any) -> DictConfig:
    """The few keys that every run has, for the parts of the command line on their own."""
    return OmegaConf.create({"task": "explain", "run_dir": str(folder), "ckpt_path": None, "seed": 0} | changes)


def bars(count: int, classes: int, channels: int = 1, side: int = 16, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Dark noise ``(N, side, side, channels)`` with a bright bar where the class says; labels, and masks of the bar."""
    rng = np.random.default_rng(seed)
    images = 0.2 * rng.random((count, side, side, channels), dtype=np.float32)
    labels = np.arange(count) % classes
    masks = np.zeros((count, side, side), np.uint8)
    for mask, label in zip(masks, labels, strict=True):
        row = 1 + label * (side - 3) // classes
        mask[row : row + 2] = 1
    images[masks > 0] += 0.7
    return images, labels, masks


def bars_npz(path: Path, classes: int = 2, channels: int = 1, counts: tuple[int, int, int] = (16, 8, 9)) -> str:
    """A data set of bars in one file; returns the overrides that load it, joined by spaces."""
    arrays = {}
    for seed, (split, count) in enumerate(zip(("train", "val", "test"), counts, strict=True)):
        parts = bars(count, classes, channels, seed=seed)
        arrays |= {f"{split}_{name}": part for name, part in zip(("images", "labels", "masks"), parts, strict=True)}
    np.savez(path, **arrays)
    return f"data=npz data.path={path}"


def bars_folder(root: Path, count: int = 16, classes: int = 2) -> None:
    """The bars as PNG files: ``root/images/<class>/<number>.png`` and ``root/masks/<class>/<number>.png``."""
    images, labels, masks = bars(count, classes)
    for number, (image, label, mask) in enumerate(zip(images, labels, masks, strict=True)):
        for kind, values in (("images", 255 * image[..., 0]), ("masks", mask)):
            path = root / kind / f"bar_{label}" / f"{number:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values.astype(np.uint8)).save(path)


def rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def without_validation(result: dict[str, float]) -> dict[str, float]:
    """What a run returned, but for the numbers that only one that trains has."""
    assert "val/loss" in result
    return {name: value for name, value in result.items() if not name.startswith("val/")}


@dataclass
class Done:
    """What a command line left: its exit status and what it printed."""

    returncode: int
    stdout: str
    stderr: str


def command_line(*words: str, cwd: Path | str) -> Done:
    """``python train.py <words>`` in a folder as a shell sees it, but in this process, which has imported everything.

    What it sets for the whole process (logging, Hydra's state, the environment) is put back.
    """
    script, root = str(CONFIGS.parent / "train.py"), logging.getLogger()
    handlers, level, state = list(root.handlers), root.level, Singleton.get_state()
    out, err, status = io.StringIO(), io.StringIO(), 0
    with (
        contextlib.chdir(cwd),
        patch.object(sys, "argv", [script, *map(str, words)]),
        patch.dict(os.environ),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
            if isinstance(stop.code, str):
                print(stop.code, file=err)
        finally:
            root.handlers[:] = handlers
            root.setLevel(level)
            # The package registers its resolvers when it is imported: they stay.
            Singleton.set_state(state | {"omegaconf_resolvers": Singleton.get_state()["omegaconf_resolvers"]})
    return Done(status, out.getvalue(), err.getvalue())


class StopAfterFirstEpoch(Callback):
    """Ends the fit after its first epoch, as an interruption would, with the schedule of all epochs in force."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.should_stop = True
