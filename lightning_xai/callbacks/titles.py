"""Titles of the figures that callbacks draw."""

from typing import Any

from lightning import Trainer

from lightning_xai.functional.text import title_on


def figure_title(trainer: Trainer, explainer: Any) -> str:
    """The explainer, its settings, and the data module of the trainer, where it has one."""
    return title_on(explainer.title, getattr(trainer, "datamodule", None))
