"""The loss of a model's logits against what they should be, for classes that exclude each other or do not."""

import torch
import torch.nn.functional as F
from monai.losses.dice import DiceLoss
from torch import Tensor

from lightning_xai.functional.segmentation import IGNORED, gather_classes


def reference_loss(
    logits: Tensor,
    truth: Tensor,
    activation: str,
    classes: Tensor | None = None,
    dice: bool = False,
    background: int | None = None,
) -> Tensor:
    """Compute the cross-entropy of logits against a reference, binary for each class of a sigmoid.

    Args:
        logits: ``(B, K, *S)``.
        truth: Classes ``(B, *S)``, or multi-hot ``(B, K, *S)`` for a sigmoid. Pixels that a mask ignores count for
            nothing: the loss is then the mean over the images that have others. Nor do multi-hot labels count that are
            ignored.
        activation: ``"softmax"``; ``"sigmoid"``: the mean of the binary cross-entropies of all classes, of which
            the pair that a target makes of one logit has twice the same; or ``"none"``: the logits are probabilities,
            of classes that exclude each other unless the reference is multi-hot.
        classes: ``(B,)``, the class that is judged, one against the rest; ``None``: all.
        dice: Whether the Dice loss of the foreground is added.
        background: The class of a sigmoid that is not in the Dice; a softmax's is 0.

    Returns:
        A scalar.

    Raises:
        ValueError: If a multi-hot reference has another number of classes than the logits.

    Example:
        >>> truth = torch.tensor([[1, 1, 0]])  # the first two of three classes
        >>> reference_loss(torch.tensor([[9.0, 9.0, -9.0]]), truth, "sigmoid").item() < 0.001
        True
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    if activation == "none":
        activation = "softmax" if truth.ndim < logits.ndim else "sigmoid"
        logits = log_of(logits) if activation == "softmax" else log_of(logits) - log_of(1 - logits)
    if truth.ndim < logits.ndim and bool((truth == IGNORED).any()):
        return _of_labeled_pixels(logits, truth, activation, classes, dice, background)
    if activation == "sigmoid":
        return _binary(logits, multi_hot_like(truth, logits), classes, dice, background)
    if classes is not None:
        own = F.one_hot(classes, logits.shape[1]).bool().view(*logits.shape[:2], *(1,) * (logits.ndim - 2))
        rest = logits.masked_fill(own, -torch.inf).logsumexp(dim=1, keepdim=True)
        logits = torch.cat([rest, gather_classes(logits, classes.unsqueeze(1))], dim=1)
        truth = (truth == classes.view(-1, *(1,) * (truth.ndim - 1))).long()
    entropy = F.cross_entropy(logits, truth)
    if not dice:
        return entropy
    lost: Tensor = DiceLoss(softmax=True, to_onehot_y=True, include_background=False)(logits, truth.unsqueeze(1))
    return entropy + lost


def log_of(probabilities: Tensor) -> Tensor:
    """Logarithms of probabilities, finite also where one is 0, or by rounding below."""
    return probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()


def _of_labeled_pixels(
    logits: Tensor, truth: Tensor, activation: str, classes: Tensor | None, dice: bool, background: int | None
) -> Tensor:
    """The mean over images of the loss of the pixels that their masks say something about."""
    losses = []
    for number, labeled in enumerate(truth != IGNORED):
        if labeled.any():
            one = None if classes is None else classes[number, None]
            part, reference = logits[number][:, labeled].unsqueeze(0), truth[number][labeled].unsqueeze(0)
            losses.append(reference_loss(part, reference, activation, one, dice, background))
    return torch.stack(losses).mean() if losses else logits.sum() * 0


def _binary(logits: Tensor, truth: Tensor, classes: Tensor | None, dice: bool, background: int | None) -> Tensor:
    """Every class by itself; logits and truth are ``(B, K, *S)``."""
    if classes is not None:
        logits, truth = (gather_classes(values, classes.unsqueeze(1)) for values in (logits, truth))
    entropy = binary_entropy(logits, truth)
    if not dice:
        return entropy
    if classes is None:
        shown = [number for number in range(logits.shape[1]) if number != background]
        logits, truth = logits[:, shown], truth[:, shown]
    lost: Tensor = DiceLoss(sigmoid=True)(logits, truth)
    return entropy + lost


def binary_entropy(logits: Tensor, truth: Tensor) -> Tensor:
    """Compute the mean binary cross-entropy of the labels that are not ignored; 0 if all are.

    Args:
        logits: Of any shape.
        truth: 0, 1 or `IGNORED`, of the same shape and type.

    Returns:
        A scalar.
    """
    ignored = truth == IGNORED
    entropies = F.binary_cross_entropy_with_logits(logits, truth.masked_fill(ignored, 0), reduction="none")
    return entropies.masked_fill(ignored, 0).sum() / (~ignored).sum().clamp_min(1)


def multi_hot_like(truth: Tensor, logits: Tensor) -> Tensor:
    """Classes ``(B, *S)``, or multi-hot ``(B, K, *S)``, as 0 and 1 for each of the logits ``(B, K, *S)``.

    Raises:
        ValueError: If there are not as many classes as logits.
    """
    if truth.ndim < logits.ndim:
        truth = F.one_hot(truth, logits.shape[1]).movedim(-1, 1)
    if truth.shape != logits.shape:
        raise ValueError(
            f"The reference has {truth.shape[1]} classes, but the model gives {logits.shape[1]} logits; "
            "give masks or labels with one channel for each of them."
        )
    return truth.to(logits)
