"""Titles of the figures that callbacks draw."""

from typing import Any

from lightning import Trainer


def figure_title(trainer: Trainer, explainer: Any) -> str:
    """The explainer, its settings, and the data module of the trainer, where it has one."""
    title: str = explainer.title_on(getattr(trainer, "datamodule", None))
    return title
