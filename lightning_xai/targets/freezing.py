"""What a frozen model needs around it: its mode, its fingerprint, and the statistics that it was trained with."""

import contextlib
import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from lightning_xai.functional.tensors import without_metadata


def freeze(model: Any) -> Any:
    """Put a model into eval mode and stop its parameters from requiring gradients; a plain callable is left alone."""
    if isinstance(model, nn.Module):
        # One by one: a TorchScript module has no requires_grad_().
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        # An exported graph has its mode baked in: it refuses eval(), or ignores it.
        with contextlib.suppress(NotImplementedError):
            model.eval()
        model.training = False
    elif not callable(model):
        raise ValueError(
            f"The model is a {type(model).__name__}; give an nn.Module or a callable from images to logits."
        )
    return model


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a module that learns into eval mode for a while; every part of it gets its own mode back."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def fingerprint(model: Any) -> str:
    """SHA-256 of every parameter and buffer (names, shapes, bytes); of the name for a plain callable."""
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
    """Images as the model takes them: minus mean, divided by standard deviation, channel by channel.

    Args:
        images: ``(B, C, *S)``, natural units.
        mean: ``(C,)``; ``None``: the images are taken as they are.
        std: ``(C,)``, or ``None``.

    Returns:
        ``(B, C, *S)`` in memory of its own: a model may write into its input.

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
