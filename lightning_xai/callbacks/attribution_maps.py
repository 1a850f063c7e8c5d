"""Figures of the same images' maps, epoch after epoch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn import functional

from lightning_xai.callbacks.titles import figure_title
from lightning_xai.loggers import log_images
from lightning_xai.structures import Explanation
from lightning_xai.targets.outputs import Probability
from lightning_xai.visualization.grid import map_grid, save_png

# More queries than these (a segmenter with many classes) would make the grid too wide to read.
MAX_QUERIES = 4
MAX_ID = 24


class AttributionMaps(Callback):
    """Draws the first validation and test images with their maps into ``<run>/maps`` and to every logger.

    The maps are those that the step returned. Rank zero draws its own images; the sanity check draws nothing.

    Args:
        num_images: Images in the grid.
        every_n_epochs: Validation epochs between grids.
    """

    def __init__(self, num_images: int = 8, every_n_epochs: int = 1) -> None:
        if num_images < 1 or every_n_epochs < 1:
            raise ValueError(f"num_images ({num_images}) and every_n_epochs ({every_n_epochs}) must be at least 1.")
        self.num_images = num_images
        self.every_n_epochs = every_n_epochs
        self._parts: list[dict[str, Any]] = []

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the last epoch's images."""
        self._parts = []

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the validation's images."""
        self._parts = []

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Keep the batch's maps if its images are among the first."""
        if not trainer.sanity_checking and trainer.current_epoch % self.every_n_epochs == 0:
            self._collect(trainer, pl_module, outputs, batch)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Keep the batch's maps if its images are among the first."""
        self._collect(trainer, pl_module, outputs, batch)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the grid of this epoch."""
        self._draw(trainer, pl_module, "val", f"val_epoch{trainer.current_epoch:03d}.png")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the grid of the test."""
        self._draw(trainer, pl_module, "test", "test.png")

    def _collect(self, trainer: Trainer, explainer: Any, found: Explanation, batch: Mapping[str, Any]) -> None:
        room = self.num_images - sum(len(part["images"]) for part in self._parts)
        if not trainer.is_global_zero or room <= 0:
            return
        count = min(room, len(batch["id"]))
        images = torch.as_tensor(batch["image"])[:count]
        target, logits = explainer.target, found.logits[:count]
        query = found.query[:count, :MAX_QUERIES]
        probabilities, predicted = Probability()(target, logits, query), target.activate(logits)
        # NaN where there is no baseline image.
        baseline = found.extras.get("p_baseline", torch.full_like(probabilities, float("nan")))
        names = target.class_names
        self._parts.append(
            {
                "images": images.detach().cpu(),
                "maps": found.maps[:count, :MAX_QUERIES].cpu(),
                "masks": torch.as_tensor(batch["mask"])[:count].cpu() if "mask" in batch else None,
                "labels": [image_title(batch, i, predicted[i], names) for i in range(count)],
                "titles": [
                    [
                        query_title(query.targets[i, t], probabilities[i, t], baseline[i, t], names)
                        for t in range(query.shape[1])
                    ]
                    for i in range(count)
                ],
            }
        )

    def _draw(self, trainer: Trainer, explainer: Any, stage: str, name: str) -> None:
        if not self._parts:
            return
        masks, heading = [part["masks"] for part in self._parts], figure_title(trainer, explainer)
        grid = map_grid(
            on_one_canvas([part["images"] for part in self._parts]),
            on_one_canvas([part["maps"] for part in self._parts]),
            None if any(mask is None for mask in masks) else on_one_canvas(masks),
            titles=[title for part in self._parts for title in part["titles"]],
            labels=[label for part in self._parts for label in part["labels"]],
            heading=heading,
        )
        self._parts = []
        save_png(Path(trainer.default_root_dir) / "maps" / name, grid, heading)
        log_images(trainer, f"maps/{stage}", [grid])


def on_one_canvas(parts: Sequence[Tensor]) -> Tensor:
    """Put batches ``(B, C, *S)`` of images of different sizes together, with margins of 0 around the smaller ones."""
    size = [max(sides) for sides in zip(*(part.shape[2:] for part in parts), strict=True)]
    padded = []
    for part in parts:
        room = [whole - side for whole, side in zip(size, part.shape[2:], strict=True)]
        margins = [margin for free in reversed(room) for margin in (free // 2, free - free // 2)]
        padded.append(functional.pad(part, margins))
    return torch.cat(padded)


def image_title(batch: Mapping[str, Any], index: int, predicted: Tensor, names: Sequence[str] | None) -> str:
    """The id of an image; for a classifier also its label and predicted class (all above 0.5 if several may hold).

    Args:
        batch: The batch.
        index: The image.
        predicted: Its class probabilities, ``(K,)``; a segmenter's ``(K, *S)`` are left out.
        names: Class names, or ``None``.

    Returns:
        One or two lines.
    """
    image_id, label = str(batch["id"][index]), batch.get("label")
    title = image_id if len(image_id) <= MAX_ID else "..." + image_id[-MAX_ID:]
    if predicted.ndim > 1:
        return title
    several = label is not None and label.ndim > 1
    classes = predicted.gt(0.5).nonzero().flatten() if several else predicted.argmax().view(1)
    parts = [f"predicted {', '.join(class_name(k, names) for k in classes) or 'none'}"]
    if label is not None and not several:
        parts.insert(0, f"is {class_name(label[index], names)}")
    return f"{title}\n{', '.join(parts)}"


def query_title(target: Tensor, p: Tensor, p_baseline: Tensor, names: Sequence[str] | None) -> str:
    """The class of a query, its probability, and its probability for the baseline image unless that is NaN."""
    baseline = "" if p_baseline.isnan() else f", baseline {float(p_baseline):.2f}"
    return f"query {class_name(target, names)}\np {float(p):.2f}{baseline}"


def class_name(index: Tensor, names: Sequence[str] | None) -> str:
    """The name of a class, or its number."""
    return str(int(index)) if names is None else str(names[int(index)])
