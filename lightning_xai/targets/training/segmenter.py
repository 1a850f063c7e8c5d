"""Train a segmenter to be explained, and measure how well it segments each class before anything is explained."""

import re
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection
from torchmetrics.segmentation import DiceScore

from lightning_xai.functional.segmentation import IGNORED, class_labels
from lightning_xai.targets.sliding_window import by_window
from lightning_xai.targets.training.classifier import ClassifierTask, logits_in_words
from lightning_xai.targets.training.dice_loss import LabeledDiceCE


class SegmenterTask(ClassifierTask):
    """Trains a segmenter with Dice and cross-entropy, AdamW and a cosine schedule.

    Pixels that a mask says nothing about (`IGNORED`) count neither in the loss nor in the Dice.

    Args:
        model: ``(B, C, *S)`` -> ``(B, K, *S)`` logits, or a structure that holds them, as a target does; one logit
            with ``activation="sigmoid"`` is a binary segmenter. Images whose sides it does not take reach it padded,
            as they do in a target; see :mod:`lightning_xai.targets.padding`.
        num_classes: Classes of the masks, background included.
        activation: ``"softmax"``, or ``"sigmoid"`` for one logit.
        args: See :class:`~lightning_xai.targets.training.classifier.ClassifierTask`; labels are not smoothed.
        window: Largest sides that the model takes at once in evaluation; see
            :func:`lightning_xai.targets.sliding_window.by_window`. Training takes the images as they
            come, such as random patches.
        kwargs: See :class:`~lightning_xai.targets.training.classifier.ClassifierTask`.

    Raises:
        ValueError: If the activation does not fit the classes; in the first step, if the model's logits do not.
    """

    dense = True

    def __init__(
        self,
        model: nn.Module,
        num_classes: int,
        activation: str = "softmax",
        *args: Any,
        window: Sequence[int] | int | None = None,
        **kwargs: Any,
    ) -> None:
        if activation == "sigmoid" and num_classes != 2:
            raise ValueError(f"A segmenter with a sigmoid tells 2 classes apart, not {num_classes}; use softmax.")
        super().__init__(model, num_classes, activation, *args, **kwargs)
        self.criterion = LabeledDiceCE(activation)
        self.window = window

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits ``(B, K, *S)`` of images ``(B, C, *S)`` in natural units."""
        return by_window(super().forward, images, None if self.training else self.window)

    def metrics_of(self, logits: Tensor, batch: dict[str, Any]) -> MetricCollection:
        """Dice of each foreground class, and their mean, over the images that have the class or its prediction."""
        numbers = range(self.hparams["num_classes"])
        return segmenter_metrics(self.hparams["class_names"] or [str(number) for number in numbers])

    def judged(self, logits: Tensor, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """The predicted and true classes ``(B, *S)`` that the metrics compare; ignored pixels as background in both."""
        predicted = (logits > 0).long()[:, 0] if logits.shape[1] == 1 else class_labels(logits)
        truth = batch["mask"][:, 0]
        return predicted.masked_fill(truth == IGNORED, 0), truth.masked_fill(truth == IGNORED, 0)

    def _loss(self, logits: Tensor, batch: dict[str, Any]) -> Tensor:
        if batch.get("mask") is None:
            raise ValueError("The data have no masks to train a segmenter with; give data with masks, or weights.")
        expected = self.hparams["num_classes"] if self.hparams["activation"] == "softmax" else 1
        if logits.shape[1] != expected:
            raise ValueError(
                f"The model gives {logits_in_words(logits.shape[1])} for each pixel, but the data have "
                f"{self.hparams['num_classes']} classes, background included, so that a segmenter with "
                f"{self.hparams['activation']} gives {expected}; give it so many outputs (target.model.*)"
                + (", or use target.activation=sigmoid." if logits.shape[1] == 1 else ".")
            )
        loss: Tensor = self.criterion(logits, batch["mask"])
        return loss


class ForegroundDice(DiceScore):
    """Mean Dice of the foreground classes that occur, over the images where a class is there or predicted.

    Args:
        num_classes: Classes, background included.
    """

    #: Of each foreground class, computed with the mean; NaN for a class that never occurs.
    each: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes, include_background=False, average="none", input_format="index")

    def compute(self) -> Tensor:
        """Compute the mean, a scalar; NaN if no class occurs."""
        self.each = super().compute().view(-1)
        return self.each.nanmean()


class ClassDice(Metric):
    """Dice of one foreground class, read from the counts that the metric of all classes keeps.

    Args:
        whole: The metric of all classes, which is updated with the same images.
        number: Which class.
    """

    full_state_update = False

    def __init__(self, whole: ForegroundDice, number: int) -> None:
        super().__init__()
        self.whole, self.number = whole, number

    def update(self, predicted: Tensor, truth: Tensor) -> None:
        """Count nothing: the metric of all classes has done it."""

    def compute(self) -> Tensor:
        """Compute the Dice, a scalar; NaN if the class never occurs."""
        self.whole.compute()  # once: it keeps what it computed until it gets more images
        return self.whole.each[self.number - 1]


def segmenter_metrics(names: Sequence[str]) -> MetricCollection:
    """Make the metrics of predicted and true classes ``(B, *S)``: ``dice``, and ``dice_<class>`` of foreground classes.

    Args:
        names: Of all classes, background first; see :func:`metric_names` for what they are called in a log.
    """
    whole = ForegroundDice(len(names))
    each = {f"dice_{name}": ClassDice(whole, n) for n, name in enumerate(metric_names(names)) if n}
    metrics: dict[str, Metric | MetricCollection] = {"dice": whole, **each}
    return MetricCollection(metrics, compute_groups=False)


def metric_names(names: Sequence[str]) -> list[str]:
    """Write class names as the last part of a logged name: no dots, slashes, quotes or spaces, and no two alike.

    Args:
        names: Of all classes, in any script.

    Returns:
        A name for each.

    Example:
        >>> metric_names(["w. matter", "T1/T2", "T1_T2", "Größe"])
        ['w_matter', 'T1_T2', 'T1_T2_2', 'Größe']
    """
    written: list[str] = []
    for number, name in enumerate(names):
        plain = re.sub(r"[^\w()+-]+", "_", name).strip("_") or str(number)
        written.append(f"{plain}_{number}" if plain in written else plain)
    return written
