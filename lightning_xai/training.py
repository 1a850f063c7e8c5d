"""Train a classifier to be explained, and say how good it is before anything is explained."""

import logging
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection
from torchmetrics import classification as scores

from lightning_xai.finite import LossWatch, check_loss, check_weights
from lightning_xai.frozen import normalise

log = logging.getLogger(__name__)


class TargetTrainer(LightningModule):
    """Trains a classifier with AdamW and a cosine schedule; the best checkpoint is a weights file for a target.

    Args:
        model: ``(B, C, *S)`` -> ``(B, K)`` logits.
        num_classes: ``K``.
        activation: ``"softmax"`` (labels ``(B,)``), or ``"sigmoid"`` (multi-hot ``(B, K)``, or 0 and 1 for one logit).
        mean: Per-channel mean of the training images, in natural units; ``None``: images are taken as they are.
        std: Per-channel standard deviation of the training images, or ``None``.
        class_names: Stored with the weights.
        lr: Highest learning rate.
        weight_decay: AdamW's.
        label_smoothing: Share of the label that is spread over all classes (softmax only).
    """

    def __init__(
        self,
        model: nn.Module,
        num_classes: int,
        activation: str = "softmax",
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        class_names: Sequence[str] | None = None,
        lr: float = 1e-3,
        weight_decay: float = 1e-4,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        if activation not in ("softmax", "sigmoid"):
            raise ValueError(
                f"activation is {activation!r}; use 'softmax' (exclusive classes) or 'sigmoid' (multi-label or binary)."
            )
        self.save_hyperparameters(
            {
                "num_classes": int(num_classes),
                "activation": activation,
                "mean": None if mean is None else [float(value) for value in mean],
                "std": None if std is None else [float(value) for value in std],
                "class_names": None if class_names is None else [str(name) for name in class_names],
                "lr": lr,
                "weight_decay": weight_decay,
                "label_smoothing": label_smoothing,
            }
        )
        self.model = model
        self.loss_watch = LossWatch()
        self.val_metrics = self.metrics_of(num_classes, activation, class_names).clone(prefix="target/val_")
        self.test_metrics = self.metrics_of(num_classes, activation, class_names).clone(prefix="target/test_")

    def metrics_of(self, num_classes: int, activation: str, names: Sequence[str] | None) -> MetricCollection:
        """See :func:`classifier_metrics`."""
        return classifier_metrics(num_classes, activation)

    def forward(self, images: Tensor) -> Tensor:
        """``(B, C, *S)`` in natural units -> logits ``(B, K)``."""
        if self.hparams["mean"] is not None:
            statistics = (images.new_tensor(self.hparams[name]) for name in ("mean", "std"))
            images = normalise(images, *statistics)
        logits: Tensor = self.model(images)
        return logits

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """One step on a batch of the data module.

        Raises:
            NotFiniteError: If the loss is NaN or infinite; see :class:`~lightning_xai.finite.LossWatch`.
        """
        loss = self._loss(self(batch["image"]), batch)
        self.loss_watch(self, loss, batch)
        self.log("target/train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Collect a batch for the validation metrics."""
        self._evaluate(batch, self.val_metrics, "val")

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Collect a batch for the test metrics."""
        self._evaluate(batch, self.test_metrics, "test")

    def configure_optimizers(self) -> Any:
        """AdamW with a cosine schedule over the whole training."""
        settings = {name: self.hparams[name] for name in ("lr", "weight_decay")}
        optimizer = torch.optim.AdamW(self.model.parameters(), **settings)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write no checkpoint of weights that have become NaN or infinite.

        Raises:
            NotFiniteError: If there are any.
        """
        where = f"The target in epoch {self.current_epoch}, step {self.global_step}"
        check_weights(checkpoint.get("state_dict", {}), dict(self.named_buffers()), where, "lower the learning rate")

    def _evaluate(self, batch: dict[str, Any], metrics: MetricCollection, stage: str) -> None:
        logits = self(batch["image"]).float()
        loss = self._loss(logits, batch)
        check_loss(self, loss, batch, "validation" if stage == "val" else stage)
        self.log(f"target/{stage}_loss", loss, batch_size=len(logits), sync_dist=True)
        metrics.update(*self.judged(logits, batch))
        self.log_dict(metrics, batch_size=len(logits))

    def judged(self, logits: Tensor, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """What the metrics compare: probabilities and labels."""
        if self.hparams["activation"] == "softmax":
            return logits.softmax(dim=1), batch["label"]
        return logits.sigmoid().squeeze(1), batch["label"].long()

    def _loss(self, logits: Tensor, batch: dict[str, Any]) -> Tensor:
        labels: Tensor = batch["label"]
        if self.hparams["activation"] == "softmax":
            return F.cross_entropy(logits, labels, label_smoothing=self.hparams["label_smoothing"])
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits).view_as(logits))


def classifier_metrics(num_classes: int, activation: str) -> MetricCollection:
    """Accuracy, balanced accuracy, macro AUROC and F1, and the expected calibration error.

    Args:
        num_classes: Number of logits.
        activation: ``"softmax"`` or ``"sigmoid"``; one logit with a sigmoid is a binary classifier.

    Returns:
        Metrics of probabilities ``(B, K)`` (``(B,)`` for one logit) and labels.
    """
    metrics: dict[str, Metric | MetricCollection]
    if activation == "softmax":
        metrics = {
            "accuracy": scores.MulticlassAccuracy(num_classes, average="micro"),
            "balanced_accuracy": scores.MulticlassAccuracy(num_classes, average="macro"),
            "auc": scores.MulticlassAUROC(num_classes),
            "f1": scores.MulticlassF1Score(num_classes, average="macro"),
            "ece": scores.MulticlassCalibrationError(num_classes),
        }
    elif num_classes == 1:
        metrics = {
            "accuracy": scores.BinaryAccuracy(),
            "balanced_accuracy": (scores.BinaryRecall() + scores.BinarySpecificity()) / 2,
            "auc": scores.BinaryAUROC(),
            "f1": scores.BinaryF1Score(),
            "ece": scores.BinaryCalibrationError(),
        }
    else:
        metrics = {
            "accuracy": scores.MultilabelAccuracy(num_classes, average="micro"),
            "balanced_accuracy": (scores.MultilabelRecall(num_classes) + scores.MultilabelSpecificity(num_classes)) / 2,
            "auc": scores.MultilabelAUROC(num_classes),
            "f1": scores.MultilabelF1Score(num_classes, average="macro"),
            # Takes (B, K) as B * K yes-or-no answers.
            "ece": scores.BinaryCalibrationError(),
        }
    # With compute groups two metrics whose first states are equal would be merged for good (torchmetrics 1.9).
    return MetricCollection(metrics, compute_groups=False)


def fit_target(module: TargetTrainer, trainer: Trainer, data: LightningDataModule) -> dict[str, float]:
    """Train a classifier, go back to its best checkpoint, and test it.

    Args:
        module: The classifier; holds the best weights afterwards.
        trainer: A trainer with a ``ModelCheckpoint`` and, usually, an ``EarlyStopping`` on ``target/val_loss``.
        data: The data module.

    Returns:
        ``accuracy``, ``balanced_accuracy``, ``auc``, ``f1``, ``ece`` (calibration error) and ``loss`` on the test set;
        of a segmenter ``dice``, ``dice_<class>`` and ``loss``.
    """
    trainer.fit(module, datamodule=data)
    best = getattr(trainer.checkpoint_callback, "best_model_path", "") or None
    results = trainer.test(module, datamodule=data, ckpt_path=best, verbose=False, weights_only=True)[0]
    return {name.removeprefix("target/test_"): float(value) for name, value in results.items()}


@rank_zero_only
def warn_if_weak(metrics: dict[str, float], min_accuracy: float) -> None:
    """Warn in plain words when a target is too poor for its maps to mean anything.

    Args:
        metrics: What :func:`fit_target` returned.
        min_accuracy: The lowest test accuracy, or mean Dice of a segmenter, that raises no warning.
    """
    name = "accuracy" if "accuracy" in metrics else "dice"
    if not metrics[name] >= min_accuracy:
        log.warning(
            "The target's test %s is %.3f, below %.3f: a map of a bad model is worthless. Train it longer, or "
            "give better weights, before you believe any map (target_trainer.min_accuracy sets the bound).",
            name,
            metrics[name],
            min_accuracy,
        )
