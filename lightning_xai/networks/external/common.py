"""What the builders of other libraries' networks share."""

import importlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

from torch import nn

from lightning_xai.functional.text import first_line

#: The ``weights`` of a target that has its network as its library publishes it.
AS_PUBLISHED = "builtin"
#: Options that would name weights, or code, where a network is all that is built.
NO_OPTIONS = {"cache_dir", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "trust_remote_code"}
#: Mean and standard deviation of ImageNet's channels, which most published networks take.
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class MissingPackageError(ImportError, ValueError):
    """The error for a library that is not installed; a ``ValueError``, so that a run ends with its sentence."""


def library(name: str, extra: str) -> Any:
    """Import another library.

    Args:
        name: Its module.
        extra: The extra of this project that installs it.

    Raises:
        MissingPackageError: If it is not installed, or torchvision, which it needs, does not fit this PyTorch.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingPackageError(f"{error}; install it with pip install -e '.[{extra}]'.") from error
    except RuntimeError as error:  # of torchvision's operators
        if "torchvision" not in str(error):
            raise
        raise MissingPackageError(
            f"{name} needs torchvision, whose compiled part does not load ({error}); install the build of torchvision "
            "that was made for this build of PyTorch."
        ) from error


def check_name(name: str, known: Iterable[str], what: str) -> None:
    """Raise an error for a name that a library does not have.

    Args:
        name: As given.
        known: The names that there are.
        what: What they name, such as ``"timm network"``.

    Raises:
        ValueError: If it is none of them; its message has the nearest one.
    """
    names = list(known)
    if name not in names:
        close = get_close_matches(name, names, 3, 0.5)
        hint = f"did you mean {' or '.join(map(repr, close))}?" if close else f"there are {', '.join(names[:20])}."
        raise ValueError(f"There is no {what} {name!r}; {hint}")


def check_options(options: dict[str, Any]) -> None:
    """Raise an error for options that name weights or code.

    Raises:
        ValueError: If there is one.
    """
    if named := sorted(NO_OPTIONS & options.keys()):
        raise ValueError(
            f"{named[0]} is no option of a network here; give a file of weights as target.weights=<file>, or "
            "target.weights=builtin for those that its library publishes."
        )


def check_planar(size: Sequence[int] | None, what: str) -> None:
    """Raise an error for volumes.

    Args:
        size: ``*S`` of the images, or ``None``.
        what: What takes images of two axes alone.

    Raises:
        ValueError: If there are three axes.
    """
    if size is not None and len(size) != 2:
        raise ValueError(
            f"{what} takes images of two axes, but the data have {len(size)}; use slices (data.axis), or a network "
            "for volumes, such as target=resnet18."
        )


def check_color(channels: int, taken: int, what: str) -> None:
    """Raise an error for images of other channels than published weights were trained with.

    Raises:
        ValueError: If they are not as many.
    """
    if channels != taken:
        raise ValueError(
            f"The published weights of {what} take images of {taken} channels, but the data have {channels}; "
            f"data.channels={taken} converts them."
        )


@contextmanager
def published_weights(name: str) -> Iterator[None]:
    """Say in one sentence why published weights cannot be had, inside a ``with`` block.

    Raises:
        ValueError: If they cannot.
    """
    try:
        yield
    except Exception as error:  # of the network, of files and of the library
        reason = first_line(error).rstrip(".")
        raise ValueError(
            f"The published weights of {name!r} cannot be loaded ({reason}); give a file of weights with "
            "target.weights=<file>, or train the network on the data (target.weights=null target.pretrained=false)."
        ) from error


def with_statistics(
    model: nn.Module, mean: Sequence[float] | None, std: Sequence[float] | None, channels: int
) -> nn.Module:
    """Note in a network what its images were normalized with, for targets with ``mean=published``.

    Args:
        model: Gets the attributes ``published_mean`` and ``published_std``.
        mean: Of each channel; ``None``: unknown.
        std: Of each channel.
        channels: Of the images; where another number was published, each of them gets the average.
    """
    for name, values in (("published_mean", mean), ("published_std", std)):
        if values is not None and len(values) != channels:
            values = [sum(values) / len(values)] * channels
        setattr(model, name, None if values is None else [float(value) for value in values])
    return model


def with_names(model: nn.Module, names: Iterable[str] | None) -> nn.Module:
    """Note in a network what its published classes are called, so that data with another order are noticed.

    Args:
        model: Gets the attribute ``published_names``.
        names: Of all classes, in the order of the logits; ``None``: unknown.
    """
    setattr(model, "published_names", None if names is None else [str(name) for name in names])  # noqa: B010
    return model
