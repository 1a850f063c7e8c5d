"""What ``task=test`` does: test the explainer, with the weights of a checkpoint if there is one."""

from omegaconf import DictConfig

from lightning_xai.cli.components import build_explainer
from lightning_xai.cli.stages import build_trainer, score
from lightning_xai.cli.start_checkpoint import start_checkpoint
from lightning_xai.data import ImageDataModule
from lightning_xai.targets import Target


def run(cfg: DictConfig, data: ImageDataModule, target: Target) -> dict[str, float]:
    """Test the explainer without training it.

    Args:
        cfg: The composed configuration.
        data: The data module, set up.
        target: The frozen target.

    Returns:
        ``{"test/<metric>": mean}``.
    """
    explainer, trainer = build_explainer(cfg, target), build_trainer(cfg)
    return score(cfg, trainer, explainer, data, start_checkpoint(cfg))
