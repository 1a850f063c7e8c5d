"""What is explained: a frozen model and the scalar it is asked about."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_xai.finite import check_outputs
from lightning_xai.frozen import fingerprint, freeze, normalise
from lightning_xai.pixels import asked_classes, over_set, overlap_and_total, predicted_pixels, reference_pixels
from lightning_xai.weights import load_model
from lightning_xai.windows import by_window

Scorer = Callable[[Tensor, Tensor], Tensor]
Answer = Callable[[Tensor, Tensor, Tensor | None], Tensor]
#: Methods ``(images, targets, pixels) -> (B, T)`` of a target that an explainer may explain.
ANSWERS = ("score", "probability", "dice")


class Target(nn.Module, ABC):
    """A frozen model that answers questions about images.

    The model is kept out of the module tree: its weights are in no ``state_dict``, no optimiser and no DDP bucket, and
    ``train()`` does not reach it. It still follows ``.to(device)``.

    Args:
        model: ``(B, C, *S)`` -> logits; an ``nn.Module``, or any callable for explainers that need no gradient. It is
            put into eval mode and its parameters stop requiring gradients.
        activation: ``"softmax"`` for exclusive classes, ``"sigmoid"`` for multi-label and for a single logit.
        mean: Per-channel mean that is subtracted from the images (natural units), or ``None``.
        std: Per-channel standard deviation that the images are divided by, or ``None``.
        class_names: Names for tables and pictures.
        weights: A weights file (safetensors, state dict, TorchScript, ``torch.export``, or a checkpoint of our target
            training).
        allow_code: Whether the weights file may be code, which TorchScript and ``torch.export`` files are: loading them
            runs what they hold.

    Raises:
        ValueError: If the activation is unknown, or mean and std disagree.
    """

    mean: Tensor | None
    std: Tensor | None
    #: Largest sides of the images that go through the model at once; larger ones go window by window.
    window: Sequence[int] | int | None = None

    def __init__(
        self,
        model: nn.Module | Callable[[Tensor], Tensor] | None = None,
        activation: str = "softmax",
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        class_names: Sequence[str] | None = None,
        weights: str | Path | None = None,
        allow_code: bool = False,
    ) -> None:
        super().__init__()
        if activation not in ("softmax", "sigmoid"):
            raise ValueError(
                f"activation is {activation!r}; "
                "use 'softmax' (exclusive classes) or 'sigmoid' (multi-label, one logit)."
            )
        if weights is not None:
            model, stored = load_model(model if isinstance(model, nn.Module) else None, weights, allow_code)
            mean, std, class_names = stored.mean or mean, stored.std or std, stored.class_names or class_names
        if model is None:
            raise ValueError("A target needs a model, or a weights file that holds one (TorchScript or torch.export).")
        if (mean is None) != (std is None) or (mean is not None and std is not None and len(mean) != len(std)):
            raise ValueError(f"mean ({mean}) and std ({std}) must be given together, one number per channel each.")
        #: False only while an explainer trains the model along with itself.
        self.frozen = True
        #: Classes that the model tells apart; 0 until :meth:`questions` has seen an answer.
        self.classes = 0
        # A plain tuple hides the model from nn.Module's bookkeeping.
        self._hidden: tuple[Any, ...] = (freeze(model),)
        self.activation = activation
        self.class_names = list(class_names) if class_names is not None else None
        self.register_buffer(
            "mean", None if mean is None else torch.tensor(list(mean), dtype=torch.float32), persistent=False
        )
        self.register_buffer(
            "std", None if std is None else torch.tensor(list(std), dtype=torch.float32), persistent=False
        )

    @property
    def model(self) -> Any:
        """The frozen model."""
        return self._hidden[0]

    @property
    def differentiable(self) -> bool:
        """Whether gradients can flow through the model to its input."""
        return isinstance(self.model, nn.Module)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        if isinstance(self.model, nn.Module):
            self.model._apply(fn)  # type: ignore[no-untyped-call]
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def fingerprint(self) -> str:
        """SHA-256 of the model's weights; see :func:`lightning_xai.frozen.fingerprint`."""
        return fingerprint(self.model)

    def normalise(self, images: Tensor) -> Tensor:
        """Images ``(B, C, *S)`` as the model takes them: minus mean, divided by std, where the target has them.

        Raises:
            ValueError: If the channels are not those that the target was made for.
        """
        if self.frozen and getattr(self.model, "training", False):
            # Whoever else holds the model may have called train() on it.
            freeze(self.model)
        if self.mean is None or self.std is None:
            return images
        return normalise(images, self.mean, self.std)

    def logits(self, images: Tensor) -> Tensor:
        """Run the frozen model once.

        Args:
            images: ``(B, C, *S)`` in natural units.

        Returns:
            ``(B, K)`` for a classifier, ``(B, K, *S)`` for a segmenter; one logit becomes the pair (no, yes).

        Raises:
            ValueError: If the channels are not those that the target was made for.
        """
        logits: Tensor = self.model(self.normalise(images))
        if logits.shape[1] > 1:
            return logits
        if logits.ndim > 2:
            self.activation = "sigmoid"
        elif self.activation == "softmax":
            raise ValueError("The model has one logit, whose softmax is always 1; use activation='sigmoid'.")
        return torch.cat([-logits, logits], dim=1)

    def predict(self, images: Tensor) -> Tensor:
        """Class probabilities ``(B, K)``, or ``(B, K, *S)`` for a segmenter."""
        return self.activate(self.logits(images))

    def score(self, images: Tensor, targets: Tensor, pixels: Tensor | None = None) -> Tensor:
        """The scalar under explanation: the logit of each asked class, summed over the pixel set for a segmenter.

        Args:
            images: ``(B, C, *S)``.
            targets: ``(B,)`` or ``(B, T)`` class indices.
            pixels: Pixel sets ``(B, T or 1, *S)``, or ``None`` (segmenters: the pixels predicted as the class).

        Returns:
            ``(B, T)``.
        """
        targets, pixels = self._checked(images, targets, pixels)
        logits = self.logits(images)
        return over_set(asked_classes(logits, targets), self._sets(logits, targets, pixels), mean=False)

    def log_probability(self, images: Tensor, targets: Tensor, pixels: Tensor | None = None) -> Tensor:
        """``log p`` of each asked class, ``(B, T)``; a segmenter gives its mean over the pixel set."""
        targets, pixels = self._checked(images, targets, pixels)
        logits = self.logits(images)
        logs = F.logsigmoid(logits.float()) if self.activation == "sigmoid" else logits.float().log_softmax(dim=1)
        return over_set(asked_classes(logs, targets), self._sets(logits, targets, pixels), mean=True)

    def probability(self, images: Tensor, targets: Tensor, pixels: Tensor | None = None) -> Tensor:
        """Probability ``(B, T)`` of each asked class; a segmenter gives its mean over the pixel set."""
        targets, pixels = self._checked(images, targets, pixels)
        logits = self.logits(images)
        asked = asked_classes(self.activate(logits), targets)
        return over_set(asked, self._sets(logits, targets, pixels), mean=True)

    def scorer(self, images: Tensor, targets: Tensor, pixels: Tensor | None = None) -> Scorer:
        """A ``score(images, rows)`` for :func:`lightning_xai.reveal.reveal_curve`.

        Args:
            images: ``(B, C, *S)``, whole: hiding pixels must not change a segmenter's default pixel sets.
            targets: ``(B, T)``, the asked questions; row ``b * T + t`` is question ``t`` of image ``b``.
            pixels: ``(B, T or 1, *S)`` or ``None`` (segmenters: the pixels predicted as the class in the whole image).

        Returns:
            A function from hidden or revealed images ``(n, C, *S)`` and their rows ``(n,)`` to probabilities ``(n,)``.
        """
        flat, sets = targets.flatten(), None if pixels is None else pixels.flatten(0, 1)

        def score(images: Tensor, rows: Tensor) -> Tensor:
            return self.probability(images, flat[rows, None], None if sets is None else sets[rows, None])[:, 0]

        return score

    def evidence(self, masks: Tensor, targets: Tensor) -> Tensor:
        """The pixels that a mask gives to each question.

        Args:
            masks: ``(B, 1 or T, *S)``: above 0 = evidence. For a segmenter one channel of integers holds classes.
            targets: ``(B, T)``.

        Returns:
            Boolean ``(B, 1 or T, *S)``.
        """
        return masks > 0

    def input_zero(self, images: Tensor) -> Tensor:
        """Images ``(B, C, *S)`` that the model receives as zeros: the mean that the target subtracts, else black."""
        if self.mean is None:
            return torch.zeros_like(images)
        return self.mean.view(1, -1, *(1,) * (images.ndim - 2)).to(images).expand_as(images)

    @abstractmethod
    def questions(self, images: Tensor, targets: Tensor | None, pixels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Complete a question: ``(B, T)`` classes and, for segmenters, ``(B, T, *S)`` pixel sets, both detached."""

    def _sets(self, logits: Tensor, targets: Tensor, pixels: Tensor | None) -> Tensor | None:
        """The pixel sets of the questions; a classifier has none."""
        return None

    def activate(self, logits: Tensor) -> Tensor:
        """Probabilities from logits ``(B, K, *S)``, float32."""
        return logits.float().sigmoid() if self.activation == "sigmoid" else logits.float().softmax(dim=1)

    def _checked(self, images: Tensor, targets: Tensor, pixels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        targets = torch.as_tensor(targets, device=images.device)
        if targets.is_floating_point():
            raise ValueError(
                f"targets are {targets.dtype}, but a question is a class index; is this a multi-hot label?"
            )
        targets = targets.long()
        targets = targets if targets.ndim == 2 else targets.view(-1, 1)
        if targets.shape[0] != images.shape[0]:
            raise ValueError(
                f"{targets.shape[0]} questions for {images.shape[0]} images; targets must be (B,) or (B, T)."
            )
        return targets, pixels


class ClassifierTarget(Target):
    """A frozen classifier; a question is a class index.

    Example:
        >>> target = ClassifierTarget(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)))
        >>> target.score(torch.ones(2, 1, 2, 2), torch.tensor([0, 2])).shape
        torch.Size([2, 1])
    """

    def logits(self, images: Tensor) -> Tensor:
        """See :meth:`Target.logits`."""
        logits = super().logits(images)
        if logits.ndim != 2:
            raise ValueError(
                f"The model returns logits of shape {tuple(logits.shape)}; "
                "a ClassifierTarget needs (B, K). Is it a segmenter?"
            )
        return logits

    def questions(self, images: Tensor, targets: Tensor | None, pixels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Default question: the most probable class. See :meth:`Target.questions`."""
        if pixels is not None:
            raise ValueError(
                "pixels were given, but a classifier has one answer per image; use SegmenterTarget for pixel sets."
            )
        if targets is None or not self.classes:
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

    Args:
        background: The class that default questions leave out, or ``None``.
        window: Largest sides ``*W`` in pixels, or one for all axes, that the model takes at once; see
            :func:`lightning_xai.windows.by_window`. ``None``: any.

    Example:
        >>> target = SegmenterTarget(nn.Conv2d(1, 3, 1))
        >>> target.score(torch.ones(2, 1, 4, 4), torch.tensor([[1, 2], [1, 2]])).shape
        torch.Size([2, 2])
    """

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
        return by_window(self._window_logits, images, self.window)

    def _window_logits(self, images: Tensor) -> Tensor:
        logits = super().logits(images)
        if logits.shape[2:] != images.shape[2:]:
            raise ValueError(
                f"The model returns logits of shape {tuple(logits.shape)} for images {tuple(images.shape)}; "
                "a SegmenterTarget needs one per pixel, (B, K, *S). Is it a classifier?"
            )
        return logits

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
        if pixels is None or not self.classes:
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
