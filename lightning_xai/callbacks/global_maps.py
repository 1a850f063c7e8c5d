"""Global maps of the test images: one a label, and one of all."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from numpy.typing import NDArray
from torch import Tensor

from lightning_xai.callbacks.save_maps import affine_of
from lightning_xai.callbacks.titles import figure_title
from lightning_xai.functional.groups import batch_groups
from lightning_xai.functional.segmentation import class_labels
from lightning_xai.functional.tensors import as_plain_tensor
from lightning_xai.global_maps import GlobalMaps, GlobalMapsResult
from lightning_xai.global_maps.aggregation import agreed, entering, present_labels
from lightning_xai.global_maps.bias_finder import Bias, find_bias
from lightning_xai.global_maps.files import write_maps
from lightning_xai.loggers import log_images
from lightning_xai.metrics.localization import RelevanceMass


class SaveGlobalMaps(Callback):
    """Aggregates the maps of a test into ``<run>/global``: npz, PNG, and NIfTI of volumes; and to every logger.

    It makes sense for aligned images, where a pixel's place means the same in all of them, and with ``ask=label``
    (``ask=all`` for ``subset="all"``); the default query, the predicted class, leaves the true positives. A
    segmenter's labels are the classes that the masks show (without masks, those it predicts), a classifier's are the
    predicted ones where the data have none.

    Args:
        region: Bool ``(*S)``, where evidence can be: how much of each label's map, and of each image's, lies outside
            is then in :attr:`biases`.
        **options: Those of :class:`~lightning_xai.global_maps.GlobalMaps`.
    """

    def __init__(self, region: Tensor | None = None, **options: Any) -> None:
        GlobalMaps(1, **options)  # a wrong option must not wait for the test
        self.region = region
        self.options = options
        #: After a test, the same on every rank.
        self.result: GlobalMapsResult | None = None
        self.biases: list[Bias] = []
        #: On rank zero, what is in ``maps.png``.
        self.figure: NDArray[np.uint8] | None = None
        self._maps: GlobalMaps | None = None
        self._inside = RelevanceMass()
        self._affine: Any = np.eye(4)

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start with empty state."""
        self._maps, self._inside, self.biases, self.result = None, RelevanceMass().to(pl_module.device), [], None

    def on_test_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        """Add the batch's maps."""
        target, images = pl_module.target, as_plain_tensor(batch["image"])
        labels, predictions = labels_of(target, batch, outputs.logits)
        if self._maps is None:
            self._start(target.class_names or [str(k) for k in range(predictions.shape[1])], pl_module.device)
            self._affine = affine_of(batch, 0)
        assert self._maps is not None
        maps, targets, ids = outputs.maps, outputs.query.targets, batch["id"]
        about = {"labels": labels, "targets": targets, "predictions": predictions}
        self._maps.update(maps=maps, images=images, ids=ids, groups=batch_groups(batch), **about)
        if self.region is not None:
            enters = entering(labels, predictions, targets, self._maps.subset)
            counted = maps * enters.view(*enters.shape, *(1,) * (maps.ndim - 2))  # a map of zeros is undefined
            region = self.region.to(maps.device).expand(len(maps), 1, *maps.shape[2:])
            self._inside.update(maps=counted, masks=region, targets=targets, ids=ids)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Gather, write and log."""
        names = agreed(None if self._maps is None else self._maps.labels)
        if names is None:
            return
        if self._maps is None:  # another rank had all images
            self._start(names, pl_module.device)
        assert self._maps is not None
        self.result = self._maps.compute()
        inside = [] if self.region is None else self._inside.rows()
        if self.result.overall is None:
            return
        if self.region is not None:
            self.biases = find_bias(self.result, self.region, inside)
        if trainer.is_global_zero:
            folder = Path(trainer.default_root_dir) / "global"
            unit, about = self._maps.normalization, figure_title(trainer, pl_module)
            self.figure = write_maps(folder, self.result, self._affine, unit, self.region, about)
            log_images(trainer, "global/maps", [self.figure])

    def _start(self, names: list[str], device: torch.device) -> None:
        self._maps = GlobalMaps(names, **self.options).to(device)


def labels_of(target: Any, batch: Mapping[str, Any], logits: Tensor) -> tuple[Tensor, Tensor]:
    """The labels of a batch's images and those that the model gives them, bool ``(B, K)``; see the callback."""
    classes = logits.shape[1]
    if target.dense:
        predicted = shown_classes(class_labels(logits), classes)
        truth = shown_classes(as_plain_tensor(batch["mask"])[:, 0], classes) if "mask" in batch else predicted
        return truth, predicted
    probabilities = target.activate(logits)
    several = "label" in batch and batch["label"].ndim == 2 and batch["label"].shape[1] == classes
    predicted = probabilities > 0.5 if several else present_labels(probabilities.argmax(dim=1), classes)
    truth = (
        present_labels(as_plain_tensor(batch["label"]), classes).to(logits.device) if "label" in batch else predicted
    )
    return truth, predicted


def shown_classes(labels: Tensor, classes: int) -> Tensor:
    """Which classes the label images ``(B, *S)`` show, bool ``(B, K)``."""
    return torch.stack([(labels == k).flatten(1).any(dim=1) for k in range(classes)], dim=1)
