"""What every target shares: a frozen model, and how it is asked about images."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from lightning_xai.functional.finite import check_outputs
from lightning_xai.structures import Query
from lightning_xai.targets.checks import check_names, check_range, check_same_number, checked_targets
from lightning_xai.targets.freezing import fingerprint, freeze, normalize
from lightning_xai.targets.model_call import ModelCall
from lightning_xai.targets.model_output import Output
from lightning_xai.targets.outputs import log_probability, probability, score
from lightning_xai.targets.sliding_window import pass_sides
from lightning_xai.targets.weights import load_model

Scorer = Callable[[Tensor, Tensor], Tensor]


class Target(nn.Module, ABC):
    """A frozen model that answers queries about images.

    The model is kept out of the module tree: its weights are in no ``state_dict``, no optimizer and no DDP bucket, and
    ``train()`` does not reach it. It still follows ``.to(device)``.

    Args:
        model: ``(B, C, *S)`` -> logits, or a dict, tuple, list or object that holds them; an ``nn.Module``, or any
            callable for explainers that need no gradient. It is put into eval mode and its parameters stop requiring
            gradients. It may write into its input, which is never the caller's tensor.
        activation: ``"softmax"`` for exclusive classes, ``"sigmoid"`` for multi-label and for a single logit.
        mean: Per-channel mean that is subtracted from the images (natural units), or ``None``.
        std: Per-channel standard deviation that the images are divided by, or ``None``.
        class_names: Names for tables and pictures.
        weights: A weights file (safetensors, state dict, TorchScript, ``torch.export``, or a checkpoint of our target
            training).
        allow_code: Whether the weights file may be code, which TorchScript and ``torch.export`` files are: loading them
            runs what they hold.
        output: Which part of the model's answer holds the logits, where guessing is wrong: a key, an attribute, a
            position, or a function of the answer; see :class:`lightning_xai.targets.model_output.OutputReader`.

    Raises:
        ValueError: If the activation or ``output`` is unknown, mean and std disagree, or the class names are not as
            many as those that the weights were trained for.
    """

    mean: Tensor | None
    std: Tensor | None
    #: Largest sides of the images that go through the model at once; larger ones go window by window.
    window: Sequence[int] | int | None = None
    #: Whether the model answers for every pixel.
    dense = False

    def __init__(
        self,
        model: nn.Module | Callable[[Tensor], Tensor] | None = None,
        activation: str = "softmax",
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        class_names: Sequence[str] | None = None,
        weights: str | Path | None = None,
        allow_code: bool = False,
        output: Output = None,
    ) -> None:
        super().__init__()
        if activation not in ("softmax", "sigmoid"):
            raise ValueError(
                f"activation is {activation!r}; "
                "use 'softmax' (exclusive classes) or 'sigmoid' (multi-label, one logit)."
            )
        if weights is not None:
            model, stored = load_model(model if isinstance(model, nn.Module) else None, weights, allow_code)
            check_same_number(weights, stored.class_names, class_names)
            mean, std, class_names = stored.mean or mean, stored.std or std, stored.class_names or class_names
        if model is None:
            raise ValueError("A target needs a model, or a weights file that holds one (TorchScript or torch.export).")
        if (mean is None) != (std is None) or (mean is not None and std is not None and len(mean) != len(std)):
            raise ValueError(f"mean ({mean}) and std ({std}) must be given together, one number per channel each.")
        #: False only while an explainer trains the model along with itself.
        self.frozen = True
        #: Classes that the model tells apart; 0 until :meth:`query` has seen logits.
        self.classes = 0
        # A plain tuple hides the model from nn.Module's bookkeeping.
        self._hidden: tuple[Any, ...] = (freeze(model),)
        self.call_model = ModelCall(self.dense, output)
        self.activation = activation
        self.class_names = list(class_names) if class_names is not None else None
        for name, values in (("mean", mean), ("std", std)):
            statistic = None if values is None else torch.tensor(list(values), dtype=torch.float32)
            self.register_buffer(name, statistic, persistent=False)

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
        """SHA-256 of the model's weights; see :func:`lightning_xai.targets.freezing.fingerprint`."""
        return fingerprint(self.model)

    def normalize(self, images: Tensor) -> Tensor:
        """Images ``(B, C, *S)`` as the model takes them: minus mean, divided by std, where the target has them.

        Returns:
            ``(B, C, *S)`` in memory of its own, whatever the target has.

        Raises:
            ValueError: If the channels are not those that the target was made for.
        """
        return normalize(images, self.mean, self.std)

    def raw_logits(self, images: Tensor) -> Tensor:
        """Run the frozen model once and leave its logits as they are: one logit stays one.

        Args:
            images: ``(B, C, *S)`` in natural units; they are never written into.

        Returns:
            ``(B, K)`` for a classifier, ``(B, K, *S)`` for a segmenter.

        Raises:
            ValueError: If the model does not take such images, or answers without logits.
        """
        if self.frozen and getattr(self.model, "training", False):
            # Whoever else holds the model may have called train() on it.
            freeze(self.model)
        return self.call_model(self.model, images, self.normalize)

    def logits(self, images: Tensor) -> Tensor:
        """Run the frozen model once.

        Args:
            images: ``(B, C, *S)`` in natural units.

        Returns:
            ``(B, K)`` for a classifier, ``(B, K, *S)`` for a segmenter; one logit becomes the pair (no, yes).

        Raises:
            ValueError: If the model does not take such images, answers without logits, or with another number of them
                than there are class names.
        """
        logits = self.raw_logits(images)
        count = logits.shape[1]
        check_names(self.class_names, count)
        if count > 1:
            return logits
        if self.dense:
            self.activation = "sigmoid"
        elif self.activation == "softmax":
            raise ValueError("The model has one logit, whose softmax is always 1; use activation='sigmoid'.")
        return torch.cat([-logits, logits], dim=1)

    def finite_logits(self, images: Tensor) -> Tensor:
        """The :meth:`logits` of whole images, without a gradient.

        Raises:
            NotFiniteOutputError: If they are NaN or infinite.
        """
        with torch.no_grad():
            logits = self.logits(images)
        check_outputs(logits)
        return logits

    def predict(self, images: Tensor) -> Tensor:
        """Class probabilities ``(B, K)``, or ``(B, K, *S)`` for a segmenter."""
        return self.activate(self.logits(images))

    def score(self, images: Tensor, targets: Tensor, pixels: Tensor | None = None) -> Tensor:
        """The scalar under explanation: the logit of each class, summed over the region for a segmenter.

        Args:
            images: ``(B, C, *S)``.
            targets: ``(B,)`` or ``(B, T)`` class indices.
            pixels: Regions ``(B, T or 1, *S)``, or ``None`` (segmenters: the pixels predicted as the class).

        Returns:
            ``(B, T)``.
        """
        return score(self, *self._logits_and_query(images, targets, pixels))

    def log_probability(self, images: Tensor, targets: Tensor, pixels: Tensor | None = None) -> Tensor:
        """``log p`` of each class, ``(B, T)``; a segmenter gives its mean over the region."""
        return log_probability(self, *self._logits_and_query(images, targets, pixels))

    def probability(self, images: Tensor, targets: Tensor, pixels: Tensor | None = None) -> Tensor:
        """Probability ``(B, T)`` of each class; a segmenter gives its mean over the region."""
        return probability(self, *self._logits_and_query(images, targets, pixels))

    def scorer(self, images: Tensor, targets: Tensor, pixels: Tensor | None = None) -> Scorer:
        """A ``score(images, rows)`` for :func:`lightning_xai.reveal.reveal_curve`.

        Args:
            images: ``(B, C, *S)``, whole: hiding pixels must not change a segmenter's default regions.
            targets: ``(B, T)`` class indices; row ``b * T + t`` is query ``t`` of image ``b``.
            pixels: ``(B, T or 1, *S)`` or ``None`` (segmenters: the pixels predicted as the class in the whole image).

        Returns:
            A function from hidden or revealed images ``(n, C, *S)`` and their rows ``(n,)`` to probabilities ``(n,)``.
        """
        query = self.query(images, targets, pixels)

        def score(images: Tensor, rows: Tensor) -> Tensor:
            asked = query.rows(rows)
            return self.probability(images, asked.targets, asked.regions)[:, 0]

        return score

    def evidence(self, masks: Tensor, targets: Tensor) -> Tensor:
        """The pixels that a mask gives to each query.

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

    def knows(self, images: Tensor) -> bool:
        """Whether images of this kind and shape went through the model before: what it wants of them is known then."""
        return self.call_model.knows((*images.shape[1:2], *pass_sides(images.shape[2:], self.window)), images.dtype)

    def seen_size(self, images: Tensor) -> tuple[int, ...]:
        """Sides with which images ``(B, C, *S)`` that fit into the window reach the model: larger where it needs it."""
        return self.call_model.size_of(images)

    def query(
        self, images: Tensor, targets: Tensor | None = None, pixels: Tensor | None = None, logits: Tensor | None = None
    ) -> Query:
        """Complete a query: what :meth:`Explainer.explain` is given, as class indices and regions.

        Args:
            images: ``(B, C, *S)``.
            targets: ``None`` (the default classes), ``(B,)`` or ``(B, T)`` class indices.
            pixels: ``None`` (a segmenter's predicted pixels) or boolean ``(B, T or 1, *S)``.
            logits: ``(B, K)`` or ``(B, K, *S)`` of the images, where a pass has given them.

        Raises:
            ValueError: If the query does not fit the images or the model.
            NotFiniteOutputError: If the logits that it follows from are not finite.
        """
        if logits is None and self.needs_logits(images, targets, pixels):
            logits = self.finite_logits(images)
        targets = self.class_indices(images, targets, logits)
        return Query(targets, self.regions(images, targets, pixels, logits))

    def class_indices(self, images: Tensor, targets: Tensor | None, logits: Tensor | None) -> Tensor:
        """The class indices ``(B, T)`` of a query; see :meth:`query`."""
        if logits is not None:
            self.classes = logits.shape[1]
        targets = checked_targets(images, self.default_targets(images, logits) if targets is None else targets)
        check_range(targets, self.classes)
        return targets

    def needs_logits(self, images: Tensor, targets: Tensor | None, pixels: Tensor | None) -> bool:
        """Whether a query can only be completed after a pass."""
        # Once for each shape before an explainer hooks into the model: a pass that fails would leave its mark there.
        return targets is None or not self.classes or not self.knows(images)

    @abstractmethod
    def default_targets(self, images: Tensor, logits: Tensor | None) -> Tensor:
        """The classes ``(B,)`` or ``(B, T)`` that are asked about when nobody says."""

    def regions(self, images: Tensor, targets: Tensor, pixels: Tensor | None, logits: Tensor | None) -> Tensor | None:
        """The regions ``(B, T, *S)`` of a query to a segmenter; see :meth:`query`."""
        if pixels is not None:
            raise ValueError(
                "pixels were given, but a classifier has one output per image; use SegmenterTarget for regions."
            )
        return None

    def _logits_and_query(self, images: Tensor, targets: Tensor, pixels: Tensor | None) -> tuple[Tensor, Query]:
        targets = checked_targets(images, targets)
        logits = self.logits(images)
        return logits, Query(targets, self.regions(images, targets, pixels, logits))

    def activate(self, logits: Tensor) -> Tensor:
        """Probabilities from logits ``(B, K, *S)``, float32."""
        return logits.float().sigmoid() if self.activation == "sigmoid" else logits.float().softmax(dim=1)
