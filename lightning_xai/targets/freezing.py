"""Freeze a model, restore it, fingerprint its weights, and normalize its input."""

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_xai.functional.tensors import without_metadata


def freeze(model: Any) -> Any:
    """Put a model into eval mode and stop its parameters from requiring gradients; a plain callable is left alone."""
    if isinstance(model, nn.Module):
        if any(map(is_lazy, model.parameters())):
            raise ValueError("The model has lazy layers without weights yet; run it once on images before it is given.")
        if any(parameter.is_meta for parameter in model.parameters()):
            raise ValueError("The model's weights have no values (device meta); load them before it is given.")
        # One by one: a TorchScript module has no requires_grad_().
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        set_mode(model, False)
    elif not callable(model):
        raise ValueError(
            f"The model is a {type(model).__name__}; give an nn.Module or a callable from images to logits."
        )
    return model


class ModelState:
    """Remembers the mode of every module and the gradient flag of every parameter, to restore them.

    Args:
        model: Anything; what is no ``nn.Module`` has neither.
    """

    def __init__(self, model: Any) -> None:
        self.modes = modes_of(model)
        parameters = model.parameters() if isinstance(model, nn.Module) else ()
        self.flags = [(parameter, parameter.requires_grad) for parameter in parameters]

    def restore(self) -> None:
        """Restore the mode of every module and the gradient flag of every parameter."""
        restore_modes(self.modes)
        for parameter, flag in self.flags:
            parameter.requires_grad_(flag)


def modes_of(model: Any) -> dict[nn.Module, bool]:
    """Whether each module of a model is in training mode, the model itself first; none of what is no module."""
    return {module: module.training for module in model.modules()} if isinstance(model, nn.Module) else {}


def restore_modes(modes: Mapping[nn.Module, bool]) -> None:
    """Put every module back into the mode that :func:`modes_of` found."""
    if modes:
        set_mode(*next(iter(modes.items())))
    for module, mode in modes.items():
        module.training = mode


def set_mode(model: nn.Module, training: bool) -> None:
    """Put a model into a mode by its own ``train()``, which may do more than set a flag."""
    # An exported graph has its mode baked in: it refuses, or ignores it.
    with contextlib.suppress(NotImplementedError):
        model.train(training)
    model.training = training


@contextlib.contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Keep a model in eval mode inside a ``with`` block; then restore the mode of every module."""
    modes = modes_of(model)
    if not any(modes.values()):
        yield
        return
    set_mode(model, False)
    try:
        yield
    finally:
        restore_modes(modes)


def fingerprint(model: Any) -> str:
    """Hash a model: SHA-256 of every parameter and buffer (names, shapes, bytes), or of a plain callable's name."""
    digest = hashlib.sha256()
    if isinstance(model, nn.Module):
        for name, value in model.state_dict().items():
            if isinstance(value, Tensor):
                digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
                digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    else:
        digest.update(getattr(model, "__qualname__", type(model).__qualname__).encode())
    return digest.hexdigest()[:16]


def normalize(images: Tensor, mean: Tensor | None, std: Tensor | None) -> Tensor:
    """Normalize images as the model takes them: subtract the mean, divide by the standard deviation, per channel.

    Args:
        images: ``(B, C, *S)``, natural units.
        mean: ``(C,)``; ``None``: the images are taken as they are.
        std: ``(C,)``, or ``None``.

    Returns:
        ``(B, C, *S)``, always a new tensor: a model may write into its input.

    Raises:
        ValueError: If the images have other channels than the statistics, or are no floating numbers.
    """
    images = without_metadata(images)
    if mean is None or std is None:
        return images.clone()
    if not images.is_floating_point():
        raise ValueError(f"The images are {images.dtype}, of which no mean can be subtracted; give images.float().")
    if len(mean) != images.shape[1]:
        stated = tuple([round(value, 4) for value in stat.tolist()] for stat in (mean, std))
        raise ValueError(
            f"The images have {images.shape[1]} channels, but the target takes {len(mean)} "
            f"(trained with mean {stated[0]}, std {stated[1]}); check data.* and target.*."
        )
    shape = (1, -1) + (1,) * (images.ndim - 2)
    return (images - mean.view(shape).to(images)) / std.view(shape).to(images)
