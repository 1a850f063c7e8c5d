"""Train a segmenter to be explained, and measure how well it segments each class before anything is explained."""

from collections.abc import Sequence
from typing import Any

from monai.losses.dice import DiceCELoss
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection
from torchmetrics.segmentation import DiceScore

from lightning_xai.functional.segmentation import class_labels
from lightning_xai.targets.sliding_window import by_window
from lightning_xai.targets.training.classifier import ClassifierTask, logits_in_words


class SegmenterTask(ClassifierTask):
    """Trains a segmenter with Dice and cross-entropy, AdamW and a cosine schedule.

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
        several = activation == "softmax"
        self.criterion = DiceCELoss(softmax=several, sigmoid=not several, to_onehot_y=several)
        self.window = window

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits ``(B, K, *S)`` of images ``(B, C, *S)`` in natural units."""
        return by_window(super().forward, images, None if self.training else self.window)

    def metrics_of(self, logits: Tensor, batch: dict[str, Any]) -> MetricCollection:
        """Dice of each foreground class, and their mean, over the images that have the class or its prediction."""
        numbers = range(self.hparams["num_classes"])
        return segmenter_metrics(self.hparams["class_names"] or [str(number) for number in numbers])

    def judged(self, logits: Tensor, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """The predicted and true classes ``(B, *S)`` that the metrics compare."""
        predicted = (logits > 0).long()[:, 0] if logits.shape[1] == 1 else class_labels(logits)
        return predicted, batch["mask"][:, 0]

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
        loss: Tensor = self.criterion(logits, batch["mask"].float())
        return loss


class ForegroundDice(DiceScore):
    """Dice of a foreground class, or the mean of all, over the images where the class is there or predicted.

    Args:
        num_classes: Classes, background included.
        number: Which class; ``None``: the mean of the classes that occur.
    """

    def __init__(self, num_classes: int, number: int | None = None) -> None:
        super().__init__(num_classes, include_background=False, average="none", input_format="index")
        self.number = number

    def compute(self) -> Tensor:
        """Compute the Dice, a scalar; NaN if the class never occurs."""
        each = super().compute().view(-1)
        return each.nanmean() if self.number is None else each[self.number - 1]


def segmenter_metrics(names: Sequence[str]) -> MetricCollection:
    """Make the metrics of predicted and true classes ``(B, *S)``: ``dice``, and ``dice_<class>`` of foreground classes.

    Args:
        names: Of all classes, background first.
    """
    count = len(names)
    each: dict[str, Metric | MetricCollection] = {}
    for number, name in enumerate(names):
        key = f"dice_{name.replace('.', '_')}"  # a collection of metrics takes no dots
        if number:
            each[key if key not in each else f"{key}_{number}"] = ForegroundDice(count, number)
    metrics: dict[str, Metric | MetricCollection] = {"dice": ForegroundDice(count), **each}
    return MetricCollection(metrics, compute_groups=False)
