"""The tasks of the command: one file each, with one function ``run(cfg, data, target)`` that returns its numbers."""

from collections.abc import Callable
from importlib import import_module

from omegaconf import DictConfig

from lightning_xai.data import ImageDataModule
from lightning_xai.targets import Target

Task = Callable[[DictConfig, ImageDataModule, Target], dict[str, float]]

#: The module here that ``task=<name>`` runs; ``configs/task/<name>.yaml`` holds the keys that only it reads.
TASKS = {
    "explain": "explain",
    "test": "test",
    "predict": "predict",
    "target": "target",
    "sanity": "sanity",
    "global": "global_maps",
}


def find_task(name: str) -> Task:
    """Look up the function of a task.

    Args:
        name: A key of :data:`TASKS`.

    Raises:
        ValueError: If there is no such task; one sentence with the names there are.
    """
    if name not in TASKS:
        raise ValueError(f"task is {name!r}; use one of {', '.join(TASKS)}.")
    task: Task = import_module(f"{__name__}.{TASKS[name]}").run
    return task
