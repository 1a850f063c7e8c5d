"""Look at what a model gives for a few images, and say in plain words what does not fit."""

from collections.abc import Sequence

import torch
from torch import Tensor

#: How far probabilities may be outside of [0, 1], or from 1 in sum, by rounding.
ROUNDING = {torch.float16: 2e-2, torch.bfloat16: 5e-2}
#: So many outputs in [0, 1] are hardly a chance, if they differ so much or are all so large: logits of an untrained
#: network are small and alike, and may all be positive.
FEWEST, LEAST_SPREAD, LARGE = 16, 0.2, 0.3
#: After so many outputs nothing more is looked for.
MOST = 256
#: The sigmoid of 1, below which it stays for everything in [0, 1].
LARGEST_TWICE = 0.7311
#: Normalized images have about mean 0 and deviation 1; beyond these bounds the statistics belong to other units.
FAR_MEAN, FAR_STD = 10.0, (0.02, 20.0)


class OutputWatch:
    """Notices outputs that the activation does not fit: probabilities that are taken for logits, and the reverse.

    Args:
        fewest: Outputs in [0, 1] from which on it speaks, where they do not sum to 1.
    """

    def __init__(self, fewest: int = FEWEST) -> None:
        self.fewest = fewest
        self.seen = 0
        self.low, self.high = float("inf"), float("-inf")
        #: Whether nothing more is to be said.
        self.settled = False

    def __call__(self, outputs: Tensor, activation: str) -> str | None:
        """A sentence about outputs, at most one in all.

        Args:
            outputs: ``(B, K, *S)``, as the model gives them.
            activation: The target's.

        Raises:
            ValueError: If they are no probabilities, but the activation is ``"none"``.
        """
        if self.settled or not outputs.numel():
            return None
        slack = ROUNDING.get(outputs.dtype, 1e-3)
        values = outputs.detach().float()
        low, high = torch.stack(torch.aminmax(values)).tolist()
        inside = low >= -slack and high <= 1 + slack
        self.seen += values.numel()
        self.low, self.high = min(low, self.low), max(high, self.high)
        several = self.seen >= self.fewest and (self.high - self.low >= LEAST_SPREAD or self.low >= LARGE)
        sentence = None
        if activation == "none":
            if not inside:
                raise ValueError(
                    f"The model's outputs reach from {low:.3g} to {high:.3g}, so they are no probabilities, which "
                    "activation='none' takes them for; use 'softmax' or 'sigmoid' (target.activation)."
                )
            twice = low >= 0.5 - slack and high <= LARGEST_TWICE + slack and not sum_to_one(values, slack)
            sentence = TWICE if twice and self.seen >= self.fewest else None
        elif inside and sum_to_one(values, slack):
            sentence = PROBABILITIES.format(", and sum to 1 over the classes", activation)
        elif inside and several:
            sentence = PROBABILITIES.format("", activation)
        elif activation == "sigmoid" and high <= slack and sum_to_one(values.exp(), slack):
            sentence = LOGARITHMS
        self.settled = sentence is not None or not inside or self.seen >= MOST
        return sentence


PROBABILITIES = (
    "The model's outputs all lie in [0, 1]{}: they look like probabilities, and the target's {} squashes them once "
    "more; if the model ends in a softmax or sigmoid, use activation='none' (target.activation=none)."
)
TWICE = (
    "The model's outputs all lie between 0.5 and 0.73, as those of a sigmoid behind a sigmoid do; take one of them out "
    "of the model."
)
LOGARITHMS = (
    "The model's outputs look like logarithms of the probabilities of exclusive classes; use activation='softmax' "
    "(target.activation=softmax)."
)


def sum_to_one(values: Tensor, slack: float) -> bool:
    """Whether values ``(B, K, *S)`` of several classes sum to 1."""
    return values.shape[1] > 1 and bool(((values.sum(dim=1) - 1).abs() <= slack).all())


def statistics_fault(normalized: Tensor, stated: bool) -> str | None:
    """A sentence about images as the model receives them, if they are far from what mean and std make of their own.

    Args:
        normalized: ``(B, C, *S)``.
        stated: Whether the target subtracts a mean at all.
    """
    values = normalized.detach().double()
    mean, std = float(values.mean()), float(values.std()) if values.numel() > 1 else 0.0
    if not stated or std == 0 or (abs(mean) <= FAR_MEAN and FAR_STD[0] <= std <= FAR_STD[1]):
        return None
    return (
        f"Normalized by the target's mean and std the images have mean {mean:.3g} and deviation {std:.3g} instead of "
        "about 0 and 1: the statistics seem to belong to other units, such as 0 to 1 instead of 0 to 255; give "
        "target.mean and target.std in the images' own units."
    )


def constant_fault(images: Tensor, logits: Tensor) -> str | None:
    """A sentence about a model that gives the same outputs for images that differ."""
    if len(images) < 2 or bool((images == images[:1]).all()):
        return None
    spread = float((logits - logits[:1]).abs().max())
    if spread > 1e-6 * float(1 + logits.abs().max()):
        return None
    return (
        "The model gives the same outputs for all images, so no map can say anything: check its weights, and the "
        "target's mean and std."
    )


def classes_fault(own: int | None, own_names: Sequence[str] | None, classes: int | Sequence[str] | None) -> str | None:
    """A sentence about classes of the data that are not the model's, or in another order.

    Args:
        own: How many classes the model has.
        own_names: Their names, if they have any.
        classes: Those of the data: their number or names.
    """
    if classes is None or own is None:
        return None
    names = None if isinstance(classes, int) else [str(name) for name in classes]
    count = classes if isinstance(classes, int) else len(classes)
    if count != own:
        return (
            f"The model has {own} classes, but the data have {count}: labels of the data are not the model's classes; "
            "query classes of the model, and do not judge it by these labels."
        )
    if names and own_names and plain(names) != plain(own_names) and sorted(plain(names)) == sorted(plain(own_names)):
        return (
            f"The target's classes are those of the data in another order ({', '.join(map(str, own_names[:5]))}; the "
            f"data: {', '.join(names[:5])}), so that every label means another class; bring them into the model's "
            "order."
        )
    return None


def plain(names: Sequence[str]) -> list[str]:
    """Names without what does not tell them apart: case, and spaces around them."""
    return [str(name).strip().casefold() for name in names]
