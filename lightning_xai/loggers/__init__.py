"""Loggers that never stop a run, and helpers that send figures, tables and files to whichever can take them."""

from lightning_xai.loggers.csv import RunCSVLogger
from lightning_xai.loggers.media import finish_loggers, log_files, log_images, log_table
from lightning_xai.loggers.wandb import ResilientWandbLogger

__all__ = ["ResilientWandbLogger", "RunCSVLogger", "finish_loggers", "log_files", "log_images", "log_table"]
