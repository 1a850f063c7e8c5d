"""What is explained: a frozen classifier or segmenter, and the scalar it is asked about."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_xai.finite import check_outputs
from lightning_xai.pixels import overlap_and_total, predicted_pixels, reference_pixels
from lightning_xai.target_base import Scorer, Target
from lightning_xai.windows import by_window

__all__ = ["ANSWERS", "Answer", "ClassifierTarget", "Scorer", "SegmenterTarget", "Target", "asking", "check_range"]

Answer = Callable[[Tensor, Tensor, Tensor | None], Tensor]
#: Methods ``(images, targets, pixels) -> (B, T)`` of a target that an explainer may explain.
ANSWERS = ("score", "probability", "dice")


class ClassifierTarget(Target):
    """A frozen classifier; a question is a class index.

    Example:
        >>> target = ClassifierTarget(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3)))
        >>> target.score(torch.ones(2, 1, 2, 2), torch.tensor([0, 2])).shape
        torch.Size([2, 1])
    """

    def questions(self, images: Tensor, targets: Tensor | None, pixels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Default question: the most probable class. See :meth:`Target.questions`."""
        if pixels is not None:
            raise ValueError(
                "pixels were given, but a classifier has one answer per image; use SegmenterTarget for pixel sets."
            )
        # Once for each shape before an explainer hooks into the model: a pass that fails would leave its mark there.
        if targets is None or not self.classes or not self.knows(images):
            with torch.no_grad():
                logits = self.logits(images)
            check_outputs(logits)
            self.classes = logits.shape[1]
            targets = logits.argmax(dim=1) if targets is None else targets
        targets, _ = self._checked(images, targets, None)
        check_range(targets, self.classes)
        return targets, None


class SegmenterTarget(Target):
    """A frozen segmenter ``(B, C, *S) -> (B, K, *S)``; a question is a class index and a pixel set.

    Images (or windows) whose sides the model does not take, such as a U-Net that cannot halve them, reach it with their
    last pixels repeated, and its logits are cropped; see :mod:`lightning_xai.padding`.

    Args:
        background: The class that default questions leave out, or ``None``.
        window: Largest sides ``*W`` in pixels, or one for all axes, that the model takes at once; see
            :func:`lightning_xai.windows.by_window`. ``None``: any.

    Example:
        >>> target = SegmenterTarget(torch.nn.Conv2d(1, 3, 1))
        >>> target.score(torch.ones(2, 1, 4, 4), torch.tensor([[1, 2], [1, 2]])).shape
        torch.Size([2, 2])
    """

    dense = True

    def __init__(
        self,
        model: Any = None,
        activation: str = "softmax",
        *args: Any,
        background: int | None = 0,
        window: Sequence[int] | int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(model, activation, *args, **kwargs)
        self.background = background
        self.window = window

    def logits(self, images: Tensor) -> Tensor:
        """See :meth:`Target.logits`; images larger than the window go window by window."""
        return by_window(super().logits, images, self.window)

    @torch.no_grad()
    def dice(self, images: Tensor, targets: Tensor, pixels: Tensor | None = None) -> Tensor:
        """Dice ``(B, T)`` of the pixels predicted as each class against the pixel set; it has no gradient.

        Args:
            images: ``(B, C, *S)``.
            targets: ``(B,)`` or ``(B, T)`` class indices.
            pixels: ``(B, T or 1, *S)``; ``None``: the prediction itself, so 1.

        Returns:
            0 where both are empty.
        """
        targets, pixels = self._checked(images, targets, pixels)
        logits = self.logits(images)
        predicted = predicted_pixels(logits, targets, self.activation).flatten(2)
        sets = predicted if pixels is None else self._sets(logits, targets, pixels).flatten(2)
        overlap, total = overlap_and_total(predicted, sets)
        return overlap / total.clamp(min=1)

    def evidence(self, masks: Tensor, targets: Tensor) -> Tensor:
        """See :meth:`Target.evidence`."""
        if masks.shape[1] > 1 or masks.dtype == torch.bool:
            return masks > 0
        return reference_pixels(masks, targets)

    def scorer(self, images: Tensor, targets: Tensor, pixels: Tensor | None = None) -> Scorer:
        """See :meth:`Target.scorer`."""
        if pixels is None:
            with torch.no_grad():
                pixels = predicted_pixels(self.logits(images), targets, self.activation)
        return super().scorer(images, targets, pixels.expand(-1, targets.shape[1], *pixels.shape[2:]))

    def questions(self, images: Tensor, targets: Tensor | None, pixels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Default questions: every foreground class over the pixels predicted as it. See :meth:`Target.questions`."""
        logits = None
        if pixels is None or not self.classes or not self.knows(images):
            with torch.no_grad():
                logits = self.logits(images)
            check_outputs(logits)
            self.classes = logits.shape[1]
        if targets is None:
            targets = self.foreground(images)
        targets, _ = self._checked(images, targets, None)
        check_range(targets, self.classes)
        if pixels is None:
            assert logits is not None
            return targets, predicted_pixels(logits, targets, self.activation)
        if (
            pixels.shape[2:] != images.shape[2:]
            or pixels.shape[0] != len(images)
            or pixels.shape[1] not in (1, targets.shape[1])
        ):
            raise ValueError(
                f"pixels have shape {tuple(pixels.shape)}; give (B, T or 1, *S) for images {tuple(images.shape)}."
            )
        return targets, pixels.detach().bool().expand(-1, targets.shape[1], *pixels.shape[2:])

    def foreground(self, images: Tensor) -> Tensor:
        """Every class but the background, for each image: ``(B, T)``."""
        classes = self.every_class(images)
        return classes if self.background is None else classes[:, classes[0] != self.background]

    def every_class(self, images: Tensor) -> Tensor:
        """Every class, for each image: ``(B, K)``."""
        if not self.classes:
            with torch.no_grad():
                self.classes = self.logits(images[:1]).shape[1]
        return torch.arange(self.classes, device=images.device).expand(len(images), -1)

    def _sets(self, logits: Tensor, targets: Tensor, pixels: Tensor | None) -> Tensor:
        if pixels is None:
            return predicted_pixels(logits, targets, self.activation)
        return pixels.to(logits.device).expand(-1, targets.shape[1], *pixels.shape[2:])


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


def check_range(targets: Tensor, classes: int) -> None:
    """Refuse a question about a class that the model does not have."""
    if targets.numel() and (int(targets.min()) < 0 or int(targets.max()) >= classes):
        wrong = targets.max() if targets.max() >= classes else targets.min()
        raise ValueError(f"Asked for class {int(wrong)}, but the model has classes 0 to {classes - 1}.")
