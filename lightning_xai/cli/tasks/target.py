"""What ``task=target`` does: train the target if it has no weights, and stop."""

from omegaconf import DictConfig

from lightning_xai.data import ImageDataModule
from lightning_xai.targets import Target


def run(cfg: DictConfig, data: ImageDataModule, target: Target) -> dict[str, float]:
    """Do nothing: the target is trained, tested and kept by now.

    Args:
        cfg: The composed configuration.
        data: The data module, set up.
        target: The frozen target.

    Returns:
        Nothing: the target's numbers are returned with every task's.
    """
    return {}
