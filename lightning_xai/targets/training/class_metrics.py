"""How good a classifier is, over the classes that have images: a class without any has no score."""

from collections.abc import Callable

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics import classification as scores
from torchmetrics.functional.classification import binary_auroc
from torchmetrics.utilities import dim_zero_cat

from lightning_xai.functional.segmentation import IGNORED

#: True and false positives, false and true negatives of every class, ``(K,)`` each -> a score ``(K,)``, or a scalar.
Score = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def classifier_metrics(num_classes: int, activation: str) -> MetricCollection:
    """Make a classifier's metrics: accuracy, balanced accuracy, macro AUROC and F1, and expected calibration error.

    Means over classes are over those that have a score; ``absent_classes`` counts the classes without an image (for a
    sigmoid, labels without a positive one).

    Args:
        num_classes: Number of logits.
        activation: ``"softmax"`` or ``"sigmoid"``; one logit with a sigmoid is a binary classifier.

    Returns:
        Metrics of probabilities ``(B, K)`` (``(B,)`` for one logit) and labels.
    """
    metrics: dict[str, Metric | MetricCollection]
    if activation == "softmax":
        metrics = {
            "accuracy": MeanOverClasses(num_classes, accuracy),
            "balanced_accuracy": MeanOverClasses(num_classes, recall),
            "auc": MulticlassAUC(num_classes),
            "f1": MeanOverClasses(num_classes, f1),
            "ece": scores.MulticlassCalibrationError(num_classes),
            "absent_classes": AbsentClasses(num_classes),
        }
    elif num_classes == 1:
        metrics = {
            "accuracy": MeanOverClasses(2, accuracy),
            "balanced_accuracy": MeanOverClasses(2, recall),
            "auc": BinaryAUC(),
            "f1": MeanOverClasses(1, f1),
            "ece": scores.BinaryCalibrationError(ignore_index=IGNORED),
            "absent_classes": AbsentClasses(2),
        }
    else:
        metrics = {
            "accuracy": MeanOverClasses(num_classes, label_accuracy),
            "balanced_accuracy": MeanOverClasses(num_classes, balanced),
            "auc": MultilabelAUC(num_classes),
            "f1": MeanOverClasses(num_classes, f1),
            # Takes (B, K) as B * K binary labels.
            "ece": scores.BinaryCalibrationError(ignore_index=IGNORED),
            "absent_classes": AbsentClasses(num_classes),
        }
    # With compute groups two metrics whose first states are equal would be merged for good (torchmetrics 1.9).
    return MetricCollection(metrics, compute_groups=False)


def accuracy(hits: Tensor, false: Tensor, missed: Tensor, rejected: Tensor) -> Tensor:
    """Fraction of all images whose one class is found, a scalar."""
    return hits.sum() / (hits + missed).sum()


def label_accuracy(hits: Tensor, false: Tensor, missed: Tensor, rejected: Tensor) -> Tensor:
    """Fraction of all labels of all images that are right, a scalar."""
    return (hits + rejected).sum() / (hits + false + missed + rejected).sum()


def recall(hits: Tensor, false: Tensor, missed: Tensor, rejected: Tensor) -> Tensor:
    """Fraction of a class's images that are found; NaN for a class without one."""
    return hits / (hits + missed)


def balanced(hits: Tensor, false: Tensor, missed: Tensor, rejected: Tensor) -> Tensor:
    """Mean of the fractions found of the images with and without a label; NaN if there are none of either kind."""
    return (hits / (hits + missed) + rejected / (rejected + false)) / 2


def f1(hits: Tensor, false: Tensor, missed: Tensor, rejected: Tensor) -> Tensor:
    """F1 of a class; NaN for a class without an image."""
    value = 2 * hits / (2 * hits + false + missed)
    return value.masked_fill(hits + missed == 0, float("nan"))


class ClassCounts(Metric):
    """Counts of right and wrong images for each class; base of the scores that follow from them.

    Args:
        num_classes: ``K``; of a binary classifier 1 (the positive class) or 2.
    """

    full_state_update = False
    counts: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.add_state("counts", torch.zeros(4, num_classes, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, probabilities: Tensor, labels: Tensor) -> None:
        """Count a batch.

        Args:
            probabilities: ``(B, K)``, or ``(B,)`` of a binary classifier.
            labels: Classes ``(B,)``, or multi-hot ``(B, K)``; those that are ignored are not counted.
        """
        classes = torch.arange(self.num_classes, device=labels.device) + int(self.num_classes == 1)
        if probabilities.ndim == 1:
            predicted = (probabilities > 0.5).long().unsqueeze(1) == classes
        elif labels.ndim == 1:
            predicted = probabilities.argmax(dim=1, keepdim=True) == classes
        else:
            predicted = probabilities > 0.5
        true = labels > 0 if labels.ndim > 1 else labels.unsqueeze(1) == classes
        known = (labels if labels.ndim > 1 else labels.unsqueeze(1)) != IGNORED
        kinds = (predicted & true, predicted & ~true, ~predicted & true, ~predicted & ~true)
        self.counts += torch.stack([(kind & known).sum(dim=0) for kind in kinds])


class MeanOverClasses(ClassCounts):
    """The mean of a score over the classes that have one; NaN if none has.

    Args:
        num_classes: See :class:`ClassCounts`.
        score: Of every class, NaN where undefined.
    """

    higher_is_better = True

    def __init__(self, num_classes: int, score: Score) -> None:
        super().__init__(num_classes)
        self.score = score

    def compute(self) -> Tensor:
        """Compute the mean."""
        return self.score(*self.counts.float()).nanmean()


class AbsentClasses(ClassCounts):
    """How many classes have no image."""

    def compute(self) -> Tensor:
        """Compute the number."""
        return (self.counts[0] + self.counts[2] == 0).sum().float()


class MulticlassAUC(scores.MulticlassAUROC):
    """The mean AUROC, one against the rest, of the classes that some but not all images have; NaN without any.

    Args:
        num_classes: ``K``.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes, average="none")

    def compute(self) -> Tensor:  # type: ignore[override]  # AUROC's own, not the curve's
        """Compute the mean."""
        labels = dim_zero_cat(self.target)
        images = torch.bincount(labels, minlength=self.num_classes)
        mixed = (images > 0) & (images < len(labels))
        return super().compute().masked_fill(~mixed, float("nan")).nanmean()


class MultilabelAUC(scores.MultilabelAUROC):
    """The mean AUROC of the labels that some but not all images have; NaN without any.

    Args:
        num_labels: ``K``.
    """

    def __init__(self, num_labels: int) -> None:
        super().__init__(num_labels, average="none", ignore_index=IGNORED)

    def compute(self) -> Tensor:  # type: ignore[override]  # AUROC's own, not the curve's
        """Compute the mean."""
        columns = zip(dim_zero_cat(self.preds).T, dim_zero_cat(self.target).T, strict=True)
        return torch.stack([auc(probabilities, labels) for probabilities, labels in columns]).nanmean()


class BinaryAUC(scores.BinaryAUROC):
    """The AUROC of two classes; NaN where one has no image."""

    def __init__(self) -> None:
        super().__init__(ignore_index=IGNORED)

    def compute(self) -> Tensor:  # type: ignore[override]  # AUROC's own, not the curve's
        """Compute it."""
        return auc(dim_zero_cat(self.preds), dim_zero_cat(self.target))


def auc(probabilities: Tensor, labels: Tensor) -> Tensor:
    """AUROC of probabilities ``(N,)`` of images with a label, 1, and without, 0; negative ones are ignored."""
    known = labels >= 0
    if not (labels == 1).any() or not (labels == 0).any():
        return probabilities.new_tensor(float("nan"))
    return binary_auroc(probabilities[known], labels[known])
