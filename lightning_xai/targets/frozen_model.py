"""The frozen model in a target: its mode, its statistics, its sizes, and the pass that gives its logits."""

import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from lightning_xai.functional.finite import check_outputs
from lightning_xai.targets import freezing
from lightning_xai.targets.acceleration import ChannelsLast, Compiled
from lightning_xai.targets.checks import check_count, check_names, check_same_number
from lightning_xai.targets.model_call import ModelCall
from lightning_xai.targets.model_output import Output
from lightning_xai.targets.probing import OutputWatch
from lightning_xai.targets.sizes import channels_of, likely_outputs
from lightning_xai.targets.sliding_window import pass_sides
from lightning_xai.targets.weights import load_model

log = logging.getLogger(__name__)

ACTIVATIONS = ("softmax", "sigmoid", "none")


class FrozenModel(nn.Module):
    """A model that is run in eval mode and never changed.

    The model is kept out of the module tree: its weights are in no ``state_dict``, no optimizer and no DDP bucket, and
    ``train()`` does not reach it. It still follows ``.to(device)``. :meth:`release`, or leaving a ``with`` block,
    restores the model as it was.

    Args:
        model: ``(B, C, *S)`` -> logits, or a dict, tuple, list or object that holds them; an ``nn.Module``, or any
            callable for explainers that need no gradient. It is put into eval mode and its parameters stop requiring
            gradients, until it is released. It may write into its input, which is never the caller's tensor.
        activation: ``"softmax"`` for exclusive classes, ``"sigmoid"`` for multi-label and for a single logit,
            ``"none"`` for a model that ends in one of them itself: its outputs are probabilities already.
        mean: Per-channel mean that is subtracted from the images (natural units), or ``None``.
        std: Per-channel standard deviation that the images are divided by, or ``None``.
        class_names: Names for tables and figures.
        weights: A weights file (safetensors, state dict, TorchScript, ``torch.export``, or a checkpoint of our target
            training).
        allow_code: Whether the weights file may be code, which TorchScript and ``torch.export`` files are: loading them
            runs what they hold.
        weights_prefix: The prefix of the network's keys in the weights file, where it is not found or not the only one.
        output: Which part of what the model returns holds the logits, where guessing is wrong: a key, an attribute, a
            position, or a function of the whole; see :class:`lightning_xai.targets.model_output.OutputReader`.
        num_classes: Classes that the model tells apart; by default as many as class names, as the example's logits
            have, or as the model's last layer gives.
        in_channels: Channels of the images; by default as many as ``mean`` has, the example, or the model's first
            layer takes.
        example: Images ``(B, C, *S)`` for one pass that finds out both.
        compile: Whether ``torch.compile`` compiles the model, for all passes but those that hook into it.
        channels_last: Whether images and weights have their channels last in memory, which GPUs are faster with.
        freeze: ``False`` for a model that is being trained elsewhere: it is in eval mode during each pass alone.

    Raises:
        ValueError: If the activation or ``output`` is unknown, mean and std disagree, or the class names are not as
            many as those that the weights were trained for.
    """

    mean: Tensor | None
    std: Tensor | None
    #: Largest sides of the images that go through the model at once; larger ones go window by window.
    window: Sequence[int] | int | None = None
    #: Windows a pass; see :func:`lightning_xai.targets.sliding_window.by_window`.
    window_batch: int | None = None
    #: Whether the model gives logits for every pixel.
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
        weights_prefix: str | None = None,
        *,
        num_classes: int | None = None,
        in_channels: int | None = None,
        example: Tensor | None = None,
        compile: bool = False,
        channels_last: bool = False,
        freeze: bool = True,
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(
                f"activation is {activation!r}; use 'softmax' (exclusive classes), 'sigmoid' (multi-label, one logit) "
                "or 'none' (the model gives probabilities)."
            )
        if weights is not None:
            network = model if isinstance(model, nn.Module) else None
            model, stored = load_model(network, weights, allow_code, weights_prefix)
            check_same_number(weights, stored.class_names, class_names)
            mean, std, class_names = stored.mean or mean, stored.std or std, stored.class_names or class_names
        if model is None:
            raise ValueError("A target needs a model, or a weights file that holds one (TorchScript or torch.export).")
        if (mean is None) != (std is None) or (mean is not None and std is not None and len(mean) != len(std)):
            raise ValueError(f"mean ({mean}) and std ({std}) must be given together, one number per channel each.")
        self._state = freezing.ModelState(model)
        # A plain tuple hides the model from nn.Module's bookkeeping.
        self._hidden: tuple[Any, ...] = (model,)
        self._freezes = False
        if freeze:
            self.freeze()
        self._layout = ChannelsLast(model) if channels_last else None
        self.call_model = ModelCall(self.dense, output, Compiled(model) if compile else None, channels_last)
        self._watch = OutputWatch()
        self._activation = activation
        self.class_names = list(class_names) if class_names is not None else None
        for name, values in (("mean", mean), ("std", std)):
            statistic = None if values is None else torch.tensor(list(values), dtype=torch.float32)
            self.register_buffer(name, statistic, persistent=False)
        self._stated_classes = num_classes or (len(class_names) if class_names else None)
        #: Logits that the model gives, 1 for two classes; ``None`` until a pass where its layers do not say.
        self._logits = likely_outputs(model, self._stated_classes)
        self.in_channels = in_channels or (len(mean) if mean is not None else None)
        if example is not None:
            self.in_channels = example.shape[1]
            self.finite_logits(example)
        self.in_channels = self.in_channels or channels_of(model)

    @property
    def model(self) -> Any:
        """The frozen model."""
        return self._hidden[0]

    @property
    def num_classes(self) -> int | None:
        """Number of classes; ``None`` where neither arguments, layers nor a pass of the model state it."""
        count = self._stated_classes or self._logits
        return None if count is None else max(count, 2)

    @property
    def activation(self) -> str:
        """``"softmax"``, ``"sigmoid"`` or ``"none"``; a segmenter with a single logit has no softmax but a sigmoid."""
        one = self.dense and self._logits == 1 and self._activation == "softmax"
        return "sigmoid" if one else self._activation

    @property
    def differentiable(self) -> bool:
        """Whether gradients can flow through the model to its input."""
        return isinstance(self.model, nn.Module)

    def freeze(self) -> None:
        """Put the model into eval mode and stop its parameters from requiring gradients, until :meth:`release`."""
        freezing.freeze(self.model)
        self._freezes = True

    def release(self) -> None:
        """Restore the model's modes and its parameters' gradient flags; the target can still be used."""
        self._freezes = False
        self._state.restore()
        if self._layout is not None:
            self._layout.restore()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        if isinstance(self.model, nn.Module):
            self.model._apply(fn)  # type: ignore[no-untyped-call]
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def fingerprint(self) -> str:
        """SHA-256 of the model's weights; see :func:`lightning_xai.targets.freezing.fingerprint`."""
        return freezing.fingerprint(self.model)

    def normalize(self, images: Tensor) -> Tensor:
        """Images ``(B, C, *S)`` as the model takes them: minus mean, divided by std, where the target has them.

        Returns:
            ``(B, C, *S)``, always a new tensor.

        Raises:
            ValueError: If the channels are not as many as the target has statistics for.
        """
        return freezing.normalize(images, self.mean, self.std)

    def raw_logits(self, images: Tensor) -> Tensor:
        """Run the frozen model once and return its logits as they are: one logit stays one.

        Args:
            images: ``(B, C, *S)`` in natural units; they are never written into.

        Returns:
            ``(B, K)`` for a classifier, ``(B, K, *S)`` for a segmenter.

        Raises:
            ValueError: If the model does not take such images, or returns no logits.
        """
        if self._freezes and getattr(self.model, "training", False):
            # Whoever else holds the model may have called train() on it.
            self.freeze()
        with nullcontext() if self._freezes else freezing.evaluating(self.model):
            return self.call_model(self.model, images, self.normalize)

    def logits(self, images: Tensor) -> Tensor:
        """Run the frozen model once and return its logits.

        Args:
            images: ``(B, C, *S)`` in natural units.

        Returns:
            ``(B, K)`` for a classifier, ``(B, K, *S)`` for a segmenter; one logit becomes the pair (no, yes).

        Raises:
            ValueError: If the model does not take such images, returns no logits, or returns another number of them
                than there are class names.
        """
        return self.as_pair(self.raw_logits(images))

    def as_pair(self, logits: Tensor) -> Tensor:
        """Turn one logit ``(B, 1, *S)`` into the pair (no, yes); return more of them as they are.

        Raises:
            ValueError: If they are not as many as the classes.
        """
        self._logits = logits.shape[1]
        check_names(self.class_names, self._logits)
        check_count(self._stated_classes, self._logits)
        if self._logits > 1:
            return logits
        if self.activation == "softmax":
            raise ValueError("The model has one logit, whose softmax is always 1; use activation='sigmoid'.")
        return torch.cat([1 - logits if self.activation == "none" else -logits, logits], dim=1)

    def live_logits(self, images: Tensor) -> Tensor:
        """The :meth:`logits` of the model in the mode that it is in, for an explainer that trains the model too."""
        return self.as_pair(self.call_model(self.model, images, self.normalize))

    def finite_logits(self, images: Tensor) -> Tensor:
        """The :meth:`logits` of whole images, without a gradient.

        Raises:
            NotFiniteOutputError: If they are NaN or infinite.
            ValueError: If they are no probabilities, but the activation is ``"none"``.
        """
        with torch.no_grad():
            logits = self.logits(images)
        check_outputs(logits)
        self._look(logits)
        return logits

    def _look(self, logits: Tensor) -> None:
        """Warn once if probabilities are taken for logits."""
        sentence = None if self._watch.settled else self._watch(self.given(logits), self.activation)
        if sentence is not None:
            log.warning(sentence)

    def given(self, logits: Tensor) -> Tensor:
        """Logits ``(B, K, *S)`` as the model gives them: of the pair (no, yes) the one that it was made of."""
        return logits[:, 1:] if self._logits == 1 else logits

    def activate(self, logits: Tensor) -> Tensor:
        """Probabilities from logits ``(B, K, *S)``, float32."""
        if self.activation == "none":
            return logits.float()
        return logits.float().sigmoid() if self.activation == "sigmoid" else logits.float().softmax(dim=1)

    def predict(self, images: Tensor) -> Tensor:
        """Class probabilities ``(B, K)``, or ``(B, K, *S)`` for a segmenter."""
        logits = self.logits(images)
        self._look(logits)
        return self.activate(logits)

    def input_zero(self, images: Tensor) -> Tensor:
        """Images ``(B, C, *S)`` that the model receives as zeros: the mean that the target subtracts, else black."""
        if self.mean is None:
            return torch.zeros_like(images)
        return self.mean.view(1, -1, *(1,) * (images.ndim - 2)).to(images).expand_as(images)

    def knows(self, images: Tensor) -> bool:
        """Whether the model has run on images of this type and shape, so that the size that it needs is known."""
        return self.call_model.knows((*images.shape[1:2], *pass_sides(images.shape[2:], self.window)), images.dtype)

    def input_size(self, images: Tensor) -> tuple[int, ...]:
        """The size of images ``(B, C, *S)`` when they reach the model, after padding; they must fit into the window."""
        return self.call_model.size_of(images)
