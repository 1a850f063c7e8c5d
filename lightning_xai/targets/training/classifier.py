"""Train a classifier to be explained, and measure how good it is before anything is explained."""

import logging
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn
from torchmetrics import MetricCollection

from lightning_xai.functional.finite import LossWatch, check_loss, check_weights, newest_checkpoint
from lightning_xai.functional.reference_loss import binary_entropy
from lightning_xai.functional.repeats import ImageMeans, Repeats
from lightning_xai.targets.freezing import evaluating, normalize
from lightning_xai.targets.model_call import ModelCall
from lightning_xai.targets.model_output import Output
from lightning_xai.targets.training.class_metrics import classifier_metrics

log = logging.getLogger(__name__)


class ClassifierTask(LightningModule):
    """Trains a classifier with AdamW and a cosine schedule; the best checkpoint is a weights file for a target.

    Args:
        model: ``(B, C, *S)`` -> ``(B, K)`` logits, or a structure that holds them, as a target takes it.
        num_classes: Classes of the data: ``K``, or 2 for a model of one logit.
        activation: ``"softmax"`` (labels ``(B,)``), or ``"sigmoid"``: labels are multi-hot ``(B, K)``, 0 and 1 for one
            logit, or classes ``(B,)`` of which every logit learns one against the rest.
        mean: Per-channel mean of the training images, in natural units; ``None``: images are taken as they are.
        std: Per-channel standard deviation of the training images, or ``None``.
        class_names: Stored with the weights.
        lr: Highest learning rate.
        weight_decay: AdamW's.
        label_smoothing: Fraction of the label that is spread over all classes (softmax only).
        output: Which part of what the model returns holds the logits; see
            :class:`~lightning_xai.targets.model_output.OutputReader`.

    Raises:
        ValueError: If the activation or ``output`` is unknown; in the first step, if the model's logits do not fit the
            classes and labels of the data.
    """

    #: Whether the model gives logits for every pixel.
    dense = False
    mean: Tensor | None
    std: Tensor | None
    val_metrics: MetricCollection
    test_metrics: MetricCollection

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
        output: Output = None,
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
        for name in ("mean", "std"):
            values = self.hparams[name]
            self.register_buffer(name, None if values is None else torch.tensor(values), persistent=False)
        self.loss_watch = LossWatch()
        self.repeats, self.means = Repeats(), ImageMeans()
        self.call_model = ModelCall(self.dense, output)

    def metrics_of(self, logits: Tensor, batch: dict[str, Any]) -> MetricCollection:
        """Choose the metrics by a batch: labels of one class each count as exclusive, whatever the activation."""
        several = logits.shape[1] == 1 or batch["label"].ndim > 1
        return classifier_metrics(logits.shape[1], "sigmoid" if several else "softmax")

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits ``(B, K)`` of images ``(B, C, *S)`` in natural units."""
        if self.training and not self.call_model.knows(images.shape[1:], images.dtype):
            # A pass that fails, and is tried again with padding, would leave its mark on batch norms in training mode.
            with evaluating(self.model), torch.no_grad():
                self.call_model(self.model, images[:1], self._normalized)
        return self.call_model(self.model, images, self._normalized)

    def _normalized(self, images: Tensor) -> Tensor:
        return normalize(images, self.mean, self.std)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Compute the training loss of a batch of the data module.

        Raises:
            NotFiniteError: If the loss is NaN or infinite; see :class:`~lightning_xai.functional.finite.LossWatch`.
        """
        loss = self._loss(self(batch["image"]), batch)
        self.loss_watch(self, loss, batch)
        self.log("target/train_loss", loss, prog_bar=True, sync_dist=True)
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Collect a batch for the validation metrics."""
        self._evaluate(batch, batch_idx, "val")

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Collect a batch for the test metrics."""
        self._evaluate(batch, batch_idx, "test")

    def configure_optimizers(self) -> Any:
        """Set up AdamW with a cosine schedule over the whole training."""
        settings = {name: self.hparams[name] for name in ("lr", "weight_decay")}
        optimizer = torch.optim.AdamW(self.model.parameters(), **settings)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raise an error instead of saving a checkpoint of weights that are NaN or infinite.

        Raises:
            NotFiniteError: If there are any.
        """
        where = f"The target in epoch {self.current_epoch}, step {self.global_step}"
        remedy = f"lower the learning rate{newest_checkpoint(self)}"
        check_weights(checkpoint.get("state_dict", {}), dict(self.named_buffers()), where, remedy)

    def _evaluate(self, batch: dict[str, Any], batch_idx: int, stage: str) -> None:
        if batch_idx == 0:
            self.repeats.start(self, stage)
        batch, count = self.repeats.counted(batch)
        logits = self(batch["image"]).float()
        loss = self._loss(logits, batch)
        check_loss(self, loss, batch, "validation" if stage == "val" else stage)
        self.means.log(self, {f"target/{stage}_loss": loss}, count)
        if not hasattr(self, "val_metrics"):
            # Only the first batch tells how many logits there are, and of which kind the labels.
            with torch.inference_mode(False):
                metrics = self.metrics_of(logits, batch).to(self.device)
                self.val_metrics = metrics.clone(prefix="target/val_")
                self.test_metrics = metrics.clone(prefix="target/test_")
        stage_metrics = self.val_metrics if stage == "val" else self.test_metrics
        # Also a rank whose images count elsewhere takes part with states that others can be joined to.
        stage_metrics.update(*(values[:count] for values in self.judged(logits, batch)))
        self.log_dict(stage_metrics, batch_size=len(logits))

    def judged(self, logits: Tensor, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """The probabilities and labels that the metrics compare."""
        labels = batch["label"].long()
        if self.hparams["activation"] == "softmax":
            return logits.softmax(dim=1), labels
        if logits.shape[1] == 1:
            return logits.sigmoid()[:, 0], labels.flatten()
        return logits.sigmoid(), labels

    def _loss(self, logits: Tensor, batch: dict[str, Any]) -> Tensor:
        if batch.get("label") is None:
            raise ValueError("The data have no labels to train a classifier with; give data with labels, or weights.")
        labels: Tensor = batch["label"]
        check_logits(logits.shape[1], labels, self.hparams["num_classes"], self.hparams["activation"])
        if self.hparams["activation"] == "softmax":
            return F.cross_entropy(logits, labels, label_smoothing=self.hparams["label_smoothing"])
        if labels.ndim == 1 and logits.shape[1] > 1:
            labels = F.one_hot(labels, logits.shape[1])
        return binary_entropy(logits, labels.to(logits).view_as(logits))


def check_logits(count: int, labels: Tensor, num_classes: int, activation: str) -> None:
    """Raise an error for a classifier whose logits do not fit the data.

    Args:
        count: Logits of the model.
        labels: ``(B,)`` classes, or ``(B, K)`` multi-hot.
        num_classes: Classes of the data.
        activation: ``"softmax"`` or ``"sigmoid"``.

    Raises:
        ValueError: If they do not.
    """
    if activation == "softmax" and labels.ndim > 1:
        raise ValueError(
            "An image of these data may have several labels, but the target's activation is softmax, which allows one; "
            "use target.activation=sigmoid."
        )
    if activation == "softmax" and count == 1:
        raise ValueError(
            "The model has one logit, whose softmax is always 1; use target.activation=sigmoid for two classes, or a "
            f"model of {num_classes} outputs."
        )
    binary = count == 1 and num_classes == 2 and labels.ndim == 1
    if count != num_classes and not binary:
        raise ValueError(
            f"The model gives {logits_in_words(count)}, but the data have {num_classes} classes; give it {num_classes} "
            "outputs (target.model.*)" + (", or one with target.activation=sigmoid." if num_classes == 2 else ".")
        )


def logits_in_words(count: int) -> str:
    """A number of logits in words."""
    return "1 logit" if count == 1 else f"{count} logits"


def fit_target(
    module: ClassifierTask, trainer: Trainer, data: LightningDataModule, last: str | None = None
) -> dict[str, float]:
    """Train a classifier, go back to its best checkpoint, and test it.

    Args:
        module: The classifier; holds the best weights afterwards.
        trainer: A trainer with a ``ModelCheckpoint`` and, usually, an ``EarlyStopping`` on ``target/val_loss``.
        data: The data module.
        last: The checkpoint of an interrupted training, which goes on.

    Returns:
        ``accuracy``, ``balanced_accuracy``, ``auc``, ``f1``, ``ece`` (calibration error), ``absent_classes`` (those
        without a test image, which no mean over classes counts) and ``loss`` on the test set; of a segmenter ``dice``,
        ``dice_<class>`` and ``loss``.
    """
    trainer.fit(module, datamodule=data, ckpt_path=last, weights_only=True)
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
