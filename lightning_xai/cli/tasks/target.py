"""What ``task=target`` does: nothing after the target, which is trained if it has no weights."""

from omegaconf import DictConfig

from lightning_xai.data import ImageDataModule
from lightning_xai.targets import Target


def run(cfg: DictConfig, data: ImageDataModule, target: Target) -> dict[str, float]:
    """Stop where every other task begins: the target is trained, tested and kept.

    Args:
        cfg: The composed configuration.
        data: The data module, set up.
        target: The frozen target.

    Returns:
        Nothing besides the target's own numbers.
    """
    return {}
