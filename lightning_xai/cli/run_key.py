"""``run=<folder>``: start from a run by its folder alone; its checkpoint and its relative paths are found."""

import os
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict

from lightning_xai.cli.saved_config import NAME
from lightning_xai.functional.files import safe_name

# Keys of a run's config that name places, by group.
PLACES = {"data": ("root", "mask_root", "csv", "path", "boxes"), "target": ("weights", "folder")}


def chosen_run(overrides: list[Override]) -> Path | None:
    """Find the folder that ``run=<folder>`` names.

    Raises:
        ValueError: If it names several, or one without the config of a run.
    """
    chosen = next((each for each in overrides if each.key_or_group == "run" and each.value() is not None), None)
    if chosen is None:
        return None
    if chosen.is_sweep_override():
        raise ValueError("run names one run; start a command for each.")
    folder = Path(str(chosen.value()))
    if not (folder / NAME).is_file():
        there = "is no folder" if not folder.is_dir() else f"holds no {NAME}"
        raise ValueError(f"run={folder} {there}; give the folder of a run, such as runs/<name>/latest.")
    return Path(os.path.relpath(folder.resolve())) if folder.is_symlink() else folder


def words_of_run(folder: Path, overrides: list[Override], multirun: bool) -> list[str]:
    """List the words that ``run=<folder>`` stands for.

    Args:
        folder: Of the run.
        overrides: The command line's.
        multirun: Whether it is a sweep, whose jobs have folders of their own.

    Returns:
        Its checkpoint: the best, else the last; to train on, the last. The maps of ``predict`` have a folder in that of
        the run, named after the images, so that the same command goes on there.
    """
    given = {each.key_or_group: each.value() for each in overrides}
    task, words = given.get("task", "explain"), []
    names = ("last", "best") if task == "explain" else ("best", "last")
    found = [path for name in names if (path := folder / "checkpoints" / f"{name}.ckpt").is_file()]
    if found and "ckpt_path" not in given:
        words.append(f"ckpt_path={quoted(found[0])}")
    if task == "predict" and not multirun and not {"run_dir", "hydra.run.dir"} & given.keys():
        places = [str(value) for key, value in given.items() if key in {f"data.{name}" for name in PLACES["data"]}]
        words.append(f"run_dir={quoted(folder / 'predict' / safe_name(Path(places[0]).name if places else 'test'))}")
    return words


def quoted(path: Path) -> str:
    """Write a path as a value of Hydra's grammar."""
    text = str(path).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{text}'"


def anchored(saved: DictConfig, folder: Path) -> DictConfig:
    """Let a run's relative paths mean the same from another working directory.

    Args:
        saved: The run's config, changed in place.
        folder: Of the run; Hydra's notes there say where it was started.
    """
    notes = folder / ".hydra" / "hydra.yaml"
    start: Any = OmegaConf.select(OmegaConf.load(notes), "hydra.runtime.cwd") if notes.is_file() else None
    for group, names in PLACES.items() if start else ():
        node: Any = saved[group]
        for name in names:
            value = OmegaConf.to_container(node).get(name)  # type: ignore[union-attr]  # a reference stays one
            if isinstance(value, str) and not Path(value).exists() and (Path(start) / value).exists():
                with open_dict(node):
                    node[name] = str(Path(start) / value)
    return saved
