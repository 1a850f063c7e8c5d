"""Measure how good a frozen target is on a test set, as a target that is trained here is measured."""

from typing import Any

import torch
import torch.nn.functional as F
from lightning import LightningDataModule, LightningModule, Trainer
from torch import Tensor
from torchmetrics import MetricCollection

from lightning_xai.functional.reference_loss import binary_entropy, reference_loss
from lightning_xai.targets.base import Target
from lightning_xai.targets.confusion import confusion_fault, confusion_of
from lightning_xai.targets.outputs import log_probabilities
from lightning_xai.targets.training.class_metrics import classifier_metrics
from lightning_xai.targets.training.segmenter import segmenter_metrics

#: The AUC up to which a multi-label target is no better than chance.
AT_CHANCE = 0.55


class TargetTest(LightningModule):
    """Tests a frozen target: the numbers that its own training would report, and what the confusion matrix tells.

    Args:
        target: The target.
        class_names: Of the data, as many as the target has classes.
    """

    confusion: Tensor

    def __init__(self, target: Target, class_names: list[str]) -> None:
        super().__init__()
        self.target = target
        self.class_names = class_names
        self.metrics: MetricCollection | None = None
        self.register_buffer("confusion", torch.zeros(len(class_names), len(class_names), dtype=torch.long))

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Collect a batch for the metrics."""
        logits = self.target.logits(batch["image"])
        truth = batch["mask" if self.target.dense else "label"]
        truth = truth[:, 0].long() if self.target.dense else truth
        predicted, exclusive = self.target.predicted_classes(logits), truth.ndim == 1 or self.target.dense
        if exclusive:
            self.confusion += confusion_of(truth, predicted, len(self.class_names))
        if self.metrics is None:
            with torch.inference_mode(False):
                if self.target.dense:
                    metrics = segmenter_metrics(self.class_names)
                else:
                    metrics = classifier_metrics(logits.shape[1], "softmax" if exclusive else "sigmoid")
                self.metrics = metrics.clone(prefix="target/test_").to(self.device)
        if self.target.dense:
            labeled = (truth >= 0) & (truth < len(self.class_names))  # a mask ignores the others
            self.metrics.update(predicted * labeled, truth * labeled)
        else:
            self.metrics.update(self.target.activate(logits), truth.long())
            loss = label_loss(logits, truth, self.target.activation)
            self.log("target/test_loss", loss, batch_size=len(logits), sync_dist=True)
        self.log_dict(self.metrics, batch_size=len(logits))


def label_loss(logits: Tensor, labels: Tensor, activation: str) -> Tensor:
    """Cross-entropy of a classifier's logits ``(B, K)``: binary where classes do not exclude each other."""
    if activation != "none":
        return reference_loss(logits, labels.long(), "sigmoid" if labels.ndim > 1 else activation)
    if labels.ndim == 1:
        return F.nll_loss(log_probabilities(logits, "none"), labels.long())
    return binary_entropy(logits.float().clamp(0, 1), labels.float(), probabilities=True)


def measure(
    target: Target, trainer: Trainer, data: LightningDataModule, names: list[str]
) -> tuple[dict[str, float], str | None]:
    """Test a target.

    Args:
        target: The target.
        trainer: A trainer.
        data: A data module with labels, or masks of classes for a segmenter.
        names: Of the classes of the data.

    Returns:
        The numbers, as :func:`lightning_xai.targets.training.classifier.fit_target` gives them, and a sentence about
        the order of the classes or the statistics, where one of them seems wrong.
    """
    test = TargetTest(target, names)
    results = trainer.test(test, datamodule=data, verbose=False)[0]
    numbers = {name.removeprefix("target/test_"): float(value) for name, value in results.items()}
    several = not test.confusion.any()
    return numbers, auc_fault(numbers.get("auc")) if several else confusion_fault(test.confusion, names)


def auc_fault(auc: float | None) -> str | None:
    """A sentence about a multi-label target that ranks the images no better than chance, or the wrong way round."""
    if auc is None or not auc < AT_CHANCE:  # NaN is no number to judge by
        return None
    if auc < 1 - AT_CHANCE:
        return f"The target's mean AUC is {auc:.2f}, far below chance: its classes or its labels are in another order."
    return (
        f"The target's mean AUC is {auc:.2f}, no better than chance: as a rule its mean, std, value range or class "
        "order do not suit the data."
    )
