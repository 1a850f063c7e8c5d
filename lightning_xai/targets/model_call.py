"""The one place where a model is called, whatever it returns and whatever it does to its input."""

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from lightning_xai.functional.gradients import nodes_of
from lightning_xai.functional.resize import resize
from lightning_xai.functional.text import first_line
from lightning_xai.targets.acceleration import CompilationError, Compiled, channels_last
from lightning_xai.targets.model_output import EXACT, SQUEEZED, Output, OutputReader, per_image, per_pixel
from lightning_xai.targets.padding import cropped, larger_sizes, padded

log = logging.getLogger(__name__)


class ImageShapeError(ValueError, RuntimeError):
    """The error for images that a model does not take; also a ``RuntimeError``, as PyTorch raises for them."""


class NoGradientError(ValueError):
    """The error for a model that gives no gradient by its images, where one is asked for."""


#: What a network raises when it does not take images of some shape.
FAILURES = (RuntimeError, ValueError, AssertionError, IndexError, TypeError)
#: Of these, what another size would not mend.
PASSED_ON = (torch.OutOfMemoryError, RecursionError, ImageShapeError, NoGradientError, CompilationError)
AXES = re.compile(r"input to conv(\d)d")
CHANNELS = re.compile(r"to have (\d+) channels, but got (\d+) channels")
ARGUMENTS = re.compile(r"missing \d+ required .*argument")
#: What PyTorch says where weights, or values that a hook waits for the gradient of, have none.
UNDIFFERENTIABLE = re.compile(r"Inference tensors cannot be saved|hook on a tensor that doesn't require gradient")
NONE_ARRIVES = "it runs under torch.no_grad, detaches them, or is quantized"
NO_GRADIENT = (
    "The model gives no gradient by its images ({}); use an explainer that needs none: RISE, PCIM(gradient='spsa'), "
    "Captum's Occlusion, or EigenCAM, ScoreCAM and AblationCAM of a named layer."
)


class ModelCall:
    """Calls a model with images, and returns its logits in one shape.

    The model gets a new tensor, so that it may write into its input. A segmenter that does not take images of
    some size, such as a U-Net that cannot halve it, gets them with their last pixels repeated up to the first multiple
    that it takes, and its logits are cropped; logits at a fraction of the size are enlarged linearly: gradients flow
    through all of it. Which size it gets depends on the size of the images alone.

    Args:
        dense: Whether the model gives logits for every pixel, as a segmenter does.
        output: Which part of what the model returns holds the logits; see
            :class:`~lightning_xai.targets.model_output.OutputReader`.
        compiled: Runs the model instead of a plain call.
        channels_last: Whether the model gets its images, and gives its logits, with the channels last in memory.

    Raises:
        ValueError: If ``output`` is no key, position or function.
    """

    def __init__(
        self, dense: bool, output: Output = None, compiled: Compiled | None = None, channels_last: bool = False
    ) -> None:
        self.dense = dense
        self.compiled = compiled
        self.channels_last = channels_last
        self.read = OutputReader(output)
        self.shape_of = per_pixel if dense else per_image
        #: Sides with which images reach the model, for every kind and shape ``(C, *S)`` that went through it.
        self.sizes: dict[tuple[Any, ...], tuple[int, ...]] = {}
        self.enlarges = False
        #: Whether the logits are known to depend on the images by a graph.
        self.differentiated = False

    def __call__(self, model: Any, images: Tensor, normalize: Callable[[Tensor], Tensor]) -> Tensor:
        """Run the model once.

        Args:
            model: ``(B, C, *S)`` -> logits, or a structure that holds them.
            images: ``(B, C, *S)``, as the caller has them.
            normalize: Gives the images as the model takes them, as a new tensor.

        Returns:
            ``(B, K)``, or ``(B, K, *S)`` of a segmenter; one logit stays one.

        Raises:
            ValueError: If the model does not take such images (:class:`ImageShapeError`), returns no logits, or gives
                no gradient for images that need one (:class:`NoGradientError`).
        """
        check_images(images)
        key = key_of(images.shape[1:], images.dtype)
        if key in self.sizes:
            return self._run(model, images, normalize, self.sizes[key])
        size = tuple(images.shape[2:])
        try:
            with convolved_in_batches(model, images):
                logits = self._run(model, images, normalize, size)
        except PASSED_ON:
            raise
        except FAILURES as error:
            size = self._larger(model, images, normalize, error)
            logits = self._run(model, images, normalize, size)
        self.sizes[key] = size
        return logits

    def knows(self, shape: Sequence[int], kind: torch.dtype) -> bool:
        """Whether the model has already run on images of this shape ``(C, *S)`` and type."""
        return key_of(shape, kind) in self.sizes

    def size_of(self, images: Tensor) -> tuple[int, ...]:
        """The size of images ``(B, C, *S)`` when they reach the model, after padding."""
        return self.sizes.get(key_of(images.shape[1:], images.dtype), tuple(images.shape[2:]))

    def _run(self, model: Any, images: Tensor, normalize: Callable[[Tensor], Tensor], size: Sequence[int]) -> Tensor:
        values = padded(normalize(images), size)
        if self.channels_last:
            values = channels_last(values)
        shape, start = values.shape, values.grad_fn if torch.is_grad_enabled() else None
        try:
            returned = model(values) if self.compiled is None else self.compiled(model, values)
        except RuntimeError as error:
            if not UNDIFFERENTIABLE.search(str(error)):
                raise
            reason = "its weights were made under torch.inference_mode" if "Inference" in str(error) else NONE_ARRIVES
            raise NoGradientError(NO_GRADIENT.format(reason)) from error
        logits = self.shape_of(self.read(returned, lambda values: self._fit(values, shape)), shape)
        if start is not None:
            self._check_gradient(logits, start)
        logits = cropped(self._enlarged(logits, shape[2:]), images.shape[2:]) if self.dense else logits
        return logits.contiguous() if self.channels_last else logits

    def _check_gradient(self, logits: Tensor, start: Node) -> None:
        """Raise an error for logits that do not depend on the images, which have a node in the graph.

        Raises:
            NoGradientError: See :meth:`__call__`.
        """
        if self.differentiated and logits.requires_grad:
            return
        if not any(node is start for node in nodes_of(logits)):
            raise NoGradientError(NO_GRADIENT.format(NONE_ARRIVES))
        self.differentiated = True

    def _enlarged(self, logits: Tensor, size: torch.Size) -> Tensor:
        """A segmenter's logits at the size of the images, said once where they are not."""
        if logits.shape[2:] != size and not self.enlarges:
            self.enlarges = True
            log.info(
                "The model gives logits of %s for images of %s; they are enlarged linearly.",
                *(" x ".join(map(str, sides)) for sides in (logits.shape[2:], size)),
            )
        return resize(logits, size)

    def _fit(self, logits: Tensor, shape: torch.Size) -> float:
        """How well a tensor has the shape of logits; see :data:`~lightning_xai.targets.model_output.EXACT`."""
        try:
            shaped = self.shape_of(logits, shape)
        except ValueError:
            return 0.0
        if self.dense and shaped.shape[2:] != shape[2:]:
            return shaped.shape[2:].numel() / (1 + shape[2:].numel())
        if logits.ndim == 0:  # of a batch of one image; a loss has this shape for any batch
            return SQUEEZED / 2
        return EXACT if shaped.shape == logits.shape else SQUEEZED

    @torch.no_grad()
    def _larger(
        self, model: Any, images: Tensor, normalize: Callable[[Tensor], Tensor], error: Exception
    ) -> tuple[int, ...]:
        """The sides of the smallest padding that a segmenter takes.

        Raises:
            ImageShapeError: If there is none; its message says why. A ``ValueError`` of the model passes.
        """
        sentence = misfit(model, images, error)
        if sentence is None and self.dense:
            for size in larger_sizes(model, images.shape[2:]):
                try:
                    self._run(model, images[:1], normalize, size)
                except PASSED_ON:
                    raise
                except FAILURES:
                    continue
                log.info(
                    "The model does not take images of %s: their last pixels are repeated up to %s, and its logits "
                    "are cropped.",
                    *(" x ".join(map(str, sides)) for sides in (images.shape[2:], size)),
                )
                return size
        if sentence is None and isinstance(error, ValueError):
            raise error
        raise ImageShapeError(sentence or failure(images, error)) from error


def key_of(shape: Sequence[int], kind: torch.dtype) -> tuple[Any, ...]:
    """The key under which the input size for images of one shape ``(C, *S)`` and type is kept."""
    return (kind, *shape)


def check_images(images: Any) -> None:
    """Raise an error for what is no batch of images, before a model takes it for something else.

    Raises:
        ImageShapeError: If it is no tensor ``(B, C, *S)`` with two or three spatial axes.
    """
    if not isinstance(images, Tensor):
        raise ImageShapeError(f"The images are a {type(images).__name__}; give a tensor (B, C, *S).")
    if images.ndim not in (4, 5):
        raise ImageShapeError(
            f"The images have shape {tuple(images.shape)}; give (B, C, *S) with two or three spatial axes. "
            "Is the batch axis missing? images.unsqueeze(0) adds it."
        )


@contextmanager
def convolved_in_batches(model: Any, images: Tensor) -> Iterator[None]:
    """Raise an error for a volume ``(C, D, H, W)`` that a convolution would silently take for a batch of one.

    Raises:
        ImageShapeError: If a convolution is given the images as they are, without a batch axis.
    """

    def refuse(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if inputs and isinstance(inputs[0], Tensor) and inputs[0].ndim == 4:
            raise ImageShapeError(few_axes(images, 3))

    modules = model.modules() if isinstance(model, nn.Module) and images.ndim == 4 else ()
    with ExitStack() as hooks:
        for module in modules:
            if isinstance(module, nn.Conv3d):
                hooks.enter_context(module.register_forward_pre_hook(refuse))
        yield


def misfit(model: Any, images: Tensor, error: Exception) -> str | None:
    """Say in one sentence why a model fails on images; ``None`` if the reason is unknown."""
    parameters = list(model.parameters()) if isinstance(model, nn.Module) else []
    kinds = {value.dtype for value in parameters if value.is_floating_point()}
    autocast = images.is_floating_point() and torch.is_autocast_enabled(images.device.type)
    if kinds and images.dtype not in kinds and not autocast:
        kind = next(iter(kinds))
        other = f", or model.to({images.dtype})" if images.is_floating_point() else ""
        return f"The images are {images.dtype}, but the model's weights are {kind}; give images.to({kind}){other}."
    if len(kinds) > 1 and "type" in str(error):
        listed = " and ".join(sorted(map(str, kinds)))
        return f"The model's weights are {listed}, which its layers do not convert; give it as model.float()."
    devices = {value.device for value in parameters}
    if devices and images.device not in devices:
        device = next(iter(devices))
        return f"The images are on {images.device}, but the model's weights on {device}; move the target: .to(device)."
    if ARGUMENTS.search(str(error)):
        return (
            f"The model needs more than the images ({first_line(error).rstrip('.')}); wrap it in a module whose "
            "forward takes the images alone and passes on the rest."
        )
    axes = AXES.search(str(error))
    if axes and int(axes[1]) != images.ndim - 2:
        return few_axes(images, int(axes[1]))
    channels = CHANNELS.search(str(error))
    if channels and int(channels[2]) == images.shape[1]:
        return (
            f"The images have {channels[2]} channels, but the model takes {channels[1]}; give a model of "
            f"{channels[2]} channels, or images of {channels[1]}."
        )
    return None


def few_axes(images: Tensor, axes: int) -> str:
    """The error sentence for images with another number of spatial axes than the model's convolutions take."""
    return (
        f"The images have shape {tuple(images.shape)}, so {images.ndim - 2} spatial axes, but the model's convolutions "
        f"take {axes}; is the batch axis or the channel axis missing? Give (B, C, *S)."
    )


def failure(images: Tensor, error: Exception) -> str:
    """The error sentence for a model that fails on images for a reason of which nothing more is known."""
    return (
        f"The model fails on images of shape {tuple(images.shape)} ({images.dtype}): {first_line(error).rstrip('.')}. "
        "Check their channels and size against what it takes."
    )
