"""What a confusion matrix says about a target that is worse than it should be: class order, or statistics."""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

#: Another order of the classes must explain this much more, and this much in all, to be named.
GAIN, ENOUGH = 0.3, 0.6
#: Labels below which nothing is concluded, and below which a target may be at chance by chance.
FEWEST, FEWEST_AT_CHANCE = 6, 10


def confusion_of(truth: Tensor, predicted: Tensor, classes: int) -> Tensor:
    """Count how often each true class was predicted as each class, ``(K, K)``; labels that are no class are left out.

    Args:
        truth: Integers of any shape.
        predicted: Integers of the same shape.
        classes: ``K``.

    Example:
        >>> confusion_of(torch.tensor([0, 1, 1, 255]), torch.tensor([0, 0, 1, 0]), 2).tolist()
        [[1, 0], [1, 1]]
    """
    truth, predicted = truth.flatten().long(), predicted.flatten().long()
    valid = (truth >= 0) & (truth < classes)
    return torch.bincount(truth[valid] * classes + predicted[valid], minlength=classes**2).view(classes, classes)


def confusion_fault(confusion: Tensor, names: Sequence[str]) -> str | None:
    """A sentence about a target whose classes are in another order, or that is no better than chance.

    Args:
        confusion: Counts ``(K, K)``, true classes by predicted ones.
        names: Of the classes.

    Returns:
        ``None`` if neither can be concluded.
    """
    counts = confusion.double().cpu().numpy()
    present = counts.sum(axis=1) > 0
    total, classes = counts.sum(), int(present.sum())
    if classes < 2 or total < max(FEWEST, 2 * classes):
        return None
    rates = counts[present] / counts[present].sum(axis=1, keepdims=True)
    found = float(rates[np.arange(classes), np.flatnonzero(present)].mean())
    rows, columns = linear_sum_assignment(-rates)
    best = float(rates[rows, columns].mean())
    if best >= max(ENOUGH, found + GAIN):
        pairs = zip(np.flatnonzero(present)[rows], columns, strict=True)
        swapped = [f"{names[true]} is predicted as {names[other]}" for true, other in pairs if true != other]
        more = ", ..." if len(swapped) > 4 else ""
        return (
            f"The classes seem to be in another order: the target is right for {found:.0%} of the labels (mean over "
            f"classes), but would be for {best:.0%} if they were exchanged ({', '.join(swapped[:4])}{more}); bring the "
            "data's classes into the model's order."
        )
    chance = 1 / classes
    error = (chance * (1 - chance) / total) ** 0.5
    if found < chance - 3 * error:
        return (
            f"The target is right for {found:.0%} of the labels (mean over classes), far below the chance of "
            f"{chance:.0%}: the class order or the labels are wrong."
        )
    if found <= chance + error and total >= FEWEST_AT_CHANCE:
        return (
            f"The target is right for {found:.0%} of the labels (mean over classes), no better than the chance of "
            f"{chance:.0%}: as a rule its mean, std, value range or channel order (RGB or BGR) do not suit the images, "
            "or its weights belong to other classes."
        )
    return None
