"""What ``task=explain`` does: train the explainer if it learns, then test it."""

from omegaconf import DictConfig

from lightning_xai.cli.components import build_explainer
from lightning_xai.cli.stages import build_trainer, fit, score
from lightning_xai.cli.start_checkpoint import start_checkpoint
from lightning_xai.data import ImageDataModule
from lightning_xai.targets import Target


def run(cfg: DictConfig, data: ImageDataModule, target: Target) -> dict[str, float]:
    """Train the explainer if it learns, then test it.

    Args:
        cfg: The composed configuration.
        data: The data module, set up.
        target: The frozen target.

    Returns:
        ``{"test/<metric>": mean}``, and ``{"val/<metric>": mean}`` of the last epoch of an explainer that learns.
    """
    explainer, trainer = build_explainer(cfg, target), build_trainer(cfg)
    checkpoint = fit(cfg, trainer, explainer, data) if explainer.learned else start_checkpoint(cfg)
    validation = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
    return validation | score(cfg, trainer, explainer, data, checkpoint)
