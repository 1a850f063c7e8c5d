"""What an explainer may explain: an output of a target, by name."""

from collections.abc import Callable

from torch import Tensor

from lightning_xai.targets.base import Target
from lightning_xai.targets.segmenter import SegmenterTarget

Answer = Callable[[Tensor, Tensor, Tensor | None], Tensor]


#: Methods ``(images, targets, pixels) -> (B, T)`` of a target that an explainer may explain.
ANSWERS = ("score", "probability", "dice")


def asking(target: Target, answer: str) -> Answer:
    """The target's method of that name.

    Raises:
        ValueError: If there is none, or the target is a classifier and the answer its Dice.
    """
    if answer not in ANSWERS or (answer == "dice" and not isinstance(target, SegmenterTarget)):
        raise ValueError(
            f"A {type(target).__name__} gives no answer {answer!r}; use {' | '.join(ANSWERS)} (dice: segmenters)."
        )
    method: Answer = getattr(target, answer)
    return method
