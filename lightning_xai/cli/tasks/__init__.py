"""The tasks of the command: one file each, with one function ``run(cfg, data, target)`` that returns its numbers."""

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, TypeAlias

from omegaconf import DictConfig

if TYPE_CHECKING:
    from lightning_xai.data import ImageDataModule
    from lightning_xai.targets import Target

Task: TypeAlias = "Callable[[DictConfig, ImageDataModule, Target], dict[str, float]]"

#: The module here that ``task=<name>`` runs; ``configs/task/<name>.yaml`` holds the keys that only it reads.
TASKS = {
    "explain": "explain",
    "test": "test",
    "predict": "predict",
    "target": "target",
    "sanity": "sanity",
    "global": "global_maps",
}


def check_task(name: str) -> None:
    """Refuse the name of a task that there is not.

    Args:
        name: A key of :data:`TASKS`.

    Raises:
        ValueError: If there is no such task; one sentence with the names there are.
    """
    if name not in TASKS:
        raise ValueError(f"task is {name!r}; use one of {', '.join(TASKS)}.")


def find_task(name: str) -> Task:
    """Import the function of a task, and with it what only this task needs.

    Args:
        name: A key of :data:`TASKS`; see :func:`check_task`.
    """
    check_task(name)
    task: Task = import_module(f"{__name__}.{TASKS[name]}").run
    return task
