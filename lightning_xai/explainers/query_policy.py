"""Which query the steps of an explainer make about a batch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_xai.functional.tensors import as_plain_tensor
from lightning_xai.structures import Query
from lightning_xai.targets import Target
from lightning_xai.targets.regions import Region, RegionContext, predicted

CLASSES = ("prediction", "label", "all")


@dataclass(frozen=True)
class QueryPolicy:
    """Which classes, and which pixels of a segmenter, ``fit``, ``validate``, ``test`` and ``predict`` explain.

    Attributes:
        classes: The model's own ``"prediction"`` (a segmenter's foreground classes), the ``"label"`` of a
            single-label data set, or ``"all"`` classes.
        region: The pixels of a query to a segmenter.

    Raises:
        ValueError: If the classes are none of these.
    """

    classes: str = "prediction"
    region: Region = predicted

    def __post_init__(self) -> None:
        if self.classes not in CLASSES:
            raise ValueError(f"ask is {self.classes!r}; use one of {', '.join(CLASSES)}.")

    def __call__(self, target: Target, batch: Mapping[str, Any], logits: Tensor) -> Query:
        """The query about a batch.

        Args:
            target: The target.
            batch: With ``image``, and ``label`` or ``mask`` where the policy needs them.
            logits: ``(B, K)`` or ``(B, K, *S)`` of the whole images.

        Raises:
            ValueError: If the labels are wanted, and the batch has none.
        """
        images = as_plain_tensor(batch["image"])
        targets, pixels = target.class_indices(images, self.targets(batch, logits), logits), None
        if target.dense:
            masks = as_plain_tensor(batch["mask"]) if "mask" in batch else None
            pixels = self.region(RegionContext(target, images, targets, masks, logits))
        return Query(targets, target.regions(images, targets, pixels, logits))

    def targets(self, batch: Mapping[str, Any], logits: Tensor) -> Tensor | None:
        """Class indices ``(B,)`` or ``(B, K)``; ``None``: the target's default."""
        if self.classes == "label" and "label" not in batch:
            raise ValueError("ask=label needs labels, and the data set has none; use ask=prediction or ask=all.")
        if self.classes == "prediction":
            return None
        if self.classes == "label" and batch["label"].ndim == 1:
            labels: Tensor = as_plain_tensor(batch["label"])
            return labels
        return torch.arange(logits.shape[1], device=logits.device).expand(len(logits), -1)
