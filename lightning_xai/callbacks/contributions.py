"""Figures of contributions: the two most probable classes side by side on one scale, and one minus the other."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from numpy.typing import NDArray

from lightning_xai.callbacks.attribution_maps import class_name
from lightning_xai.callbacks.titles import figure_title
from lightning_xai.explainers.cape.cape import CAPE
from lightning_xai.functional.tensors import as_plain_tensor
from lightning_xai.loggers import log_images
from lightning_xai.structures import Explanation
from lightning_xai.visualization.contributions import contribution_figure
from lightning_xai.visualization.grid import save_png


class Contributions(Callback):
    """Draws the first test images of a CAPE run with percentages in the cells, into ``<run>/maps`` and every logger.

    Other explainers have no contributions: nothing is drawn for them.

    Args:
        num_images: Images that are drawn.
    """

    def __init__(self, num_images: int = 4) -> None:
        if num_images < 1:
            raise ValueError(f"num_images is {num_images}; draw at least 1.")
        self.num_images = num_images
        self._figures: list[NDArray[np.uint8]] = []

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget earlier figures."""
        self._figures = []

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Draw the batch's images if they are among the first."""
        room = self.num_images - len(self._figures)
        if isinstance(pl_module, CAPE) and trainer.is_global_zero and room > 0:
            heading = figure_title(trainer, pl_module)
            self._figures += figures(pl_module, outputs, batch, room, heading)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Write the figures."""
        for number, figure in enumerate(self._figures):
            path = Path(trainer.default_root_dir) / "maps" / f"contributions_{number}.png"
            save_png(path, figure, figure_title(trainer, pl_module))
        if self._figures:
            log_images(trainer, "maps/contributions", self._figures)


def figures(
    cape: CAPE, found: Explanation, batch: Mapping[str, Any], count: int, heading: str = ""
) -> list[NDArray[np.uint8]]:
    """A figure for each of the first images of a batch, from the contributions of its explanation."""
    images, names = as_plain_tensor(torch.as_tensor(batch["image"]))[:count], cape.target.class_names
    contributions = found.extras["contributions"][:count].cpu()
    probabilities = contributions.flatten(2).sum(dim=2)
    drawn = []
    for image, fractions, p in zip(images.cpu(), contributions, probabilities, strict=True):
        top = p.topk(2).indices
        titles = [f"{class_name(k, names)}: {100 * p[k]:.1f} %" for k in top]
        versus = f"{class_name(top[0], names)} - {class_name(top[1], names)}: {100 * (p[top[0]] - p[top[1]]):+.1f} %"
        drawn.append(contribution_figure(image, fractions[top], titles, versus, heading=heading))
    return drawn
