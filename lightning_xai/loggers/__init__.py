"""Loggers that never stop a run, and helpers that send figures and tables to whichever can take them."""

from lightning_xai.loggers.wandb import (
    ResilientWandbLogger,
    RunCSVLogger,
    finish_loggers,
    has_wandb_key,
    log_images,
    log_table,
)

__all__ = ["ResilientWandbLogger", "RunCSVLogger", "finish_loggers", "has_wandb_key", "log_images", "log_table"]
