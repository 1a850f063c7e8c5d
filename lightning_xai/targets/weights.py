"""Load a target's weights: safetensors, state dicts, TorchScript, ``torch.export`` and our own target checkpoints."""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lightning_xai.functional.finite import check_weights
from lightning_xai.functional.text import first_few, first_line
from lightning_xai.targets.archives import EXPORT, archive_format, load_archive
from lightning_xai.targets.prefixes import find_prefix, foreign_keys, strip_wrappers, tensors_in, weights_of

log = logging.getLogger(__name__)

CONTAINERS = ("state_dict", "model_state_dict", "model")
#: What torch says where a pickle holds more than tensors and plain values.
PICKLED = re.compile(r"GLOBAL|unrecognized function|Can only (create|build)|allowlisted")


@dataclass(frozen=True)
class LoadedInfo:
    """What a weights file holds besides its tensors.

    Attributes:
        format: ``"safetensors"``, ``"state dict"``, ``"TorchScript"`` or ``"torch.export"``.
        prefix: The prefix that was stripped from every key, or ``""``.
        mean: Per-channel mean that the model was trained with, or ``None``.
        std: Per-channel standard deviation that the model was trained with, or ``None``.
        class_names: Names of the classes, or ``None``.
    """

    format: str
    prefix: str = ""
    mean: list[float] | None = None
    std: list[float] | None = None
    class_names: list[str] | None = None


def load_model(
    model: nn.Module | None, weights: str | Path, allow_code: bool = False, prefix: str | None = None
) -> tuple[nn.Module, LoadedInfo]:
    """Load weights into a model, or a whole model from a file that holds one.

    A checkpoint may hold more than the network, such as weights of a loss, states of metrics or averaged copies: the
    prefix whose keys cover the network is found, and the rest is named in the log. The file's name bounds what it may
    be: ``.safetensors`` holds tensors and nothing else, ``.pt2`` is ``torch.export``.

    Args:
        model: The network that the weights belong to; ``None`` for a TorchScript or ``torch.export`` file.
        weights: The file. Pickles are read with ``weights_only=True``; every weight of the network must be there.
        allow_code: Whether the file may be code: TorchScript and ``torch.export`` run what they hold.
        prefix: The prefix of the network's keys, such as ``"teacher.backbone"``; ``None`` finds it.

    Returns:
        The model, and what else the file holds.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file has an unknown format, is code or would need to run code, holds NaN or infinite weights,
            or does not fit the model.
    """
    path = Path(weights).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"There is no weights file {path}; check target.weights.")
    archive = _allowed_archive(path)
    if archive is None:
        state, info = read_state(path, prefix)
        if model is None:
            raise ValueError(
                f"{path} holds weights but no network; give target.model, or a TorchScript or torch.export file."
            )
    else:
        loaded = load_archive(path, archive, allow_code)
        info = LoadedInfo(archive)
        if model is None:
            check_weights(loaded.state_dict(), dict(loaded.named_buffers()), str(path))
            return loaded, info
        state = dict(loaded.state_dict())
    state, prefix = _network_of(state, model, path, prefix)
    if prefix:
        log.info("%s: stripped prefix %r from %d keys", path.name, prefix, len(state))
    _check_fit(state, model, path)
    check_weights(state, model.state_dict(), str(path))
    model.load_state_dict(state)
    return model, LoadedInfo(info.format, prefix, info.mean, info.std, info.class_names)


def _allowed_archive(path: Path) -> str | None:
    """What :func:`~lightning_xai.targets.archives.archive_format` says, as far as the file's name allows it."""
    if path.suffix.lower() == ".safetensors":
        return None
    archive = archive_format(path)
    if path.suffix.lower() == ".pt2" and archive != EXPORT:
        what = f"a {archive} file" if archive else "something else, or damaged"
        raise ValueError(f"{path} is called .pt2, which is torch.export's name, but is {what}; give the right file.")
    return archive


def read_state(path: Path, prefix: str | None = None) -> tuple[dict[str, Tensor], LoadedInfo]:
    """Read a file of bare tensors; no file can run code here.

    Args:
        path: A safetensors file, or a pickled state dict or checkpoint.
        prefix: The prefix of the wanted keys, counted from the state dict or from the whole checkpoint.

    Raises:
        ValueError: If the file is something else, or damaged.
    """
    if path.suffix.lower() == ".safetensors":
        return _read_safetensors(path), LoadedInfo("safetensors")
    content = read_pickle(path)
    stored = content.get("hyper_parameters") if isinstance(content, Mapping) else None
    extras: Mapping[str, Any] = stored if isinstance(stored, Mapping) else {}
    mean, std = (_list_of(extras.get(name), int | float) for name in ("mean", "std"))
    info = LoadedInfo("state dict", "", mean, std, _list_of(extras.get("class_names"), str))
    return _find_state(content, path, prefix), info


def _list_of(value: Any, kind: Any) -> list[Any] | None:
    """A list of such values; ``None`` for what another program stored under the same name."""
    return value if isinstance(value, list) and all(isinstance(part, kind) for part in value) else None


def read_pickle(path: Path) -> Any:
    """Read what ``torch.save`` wrote, as far as it is tensors and plain values.

    Raises:
        ValueError: If the file holds more than that, or is no such file.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises whatever its bytes happen to mean
        if PICKLED.search(str(error)):
            raise ValueError(
                f"{path} holds pickled Python objects, which could run code when loaded, and is refused; "
                "save model.state_dict() instead, with torch.save or as safetensors."
            ) from error
        if isinstance(error, OSError):
            raise ValueError(f"{path} cannot be read: {first_line(error)}.") from error
        raise ValueError(
            f"{path} is neither safetensors, a state dict, TorchScript nor torch.export, or it is damaged."
        ) from error


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except Exception as error:  # its own errors, and those of the operating system
        archive = archive_format(path)
        reason = f"it is {archive}, which is code and cannot hide under this name" if archive else first_line(error)
        raise ValueError(f"{path} is not a valid safetensors file: {reason}.") from error


def _find_state(content: Any, path: Path, prefix: str | None) -> dict[str, Tensor]:
    """The tensors of the state dict, taken out of the usual containers; of other checkpoints all that there are."""
    whole = content
    for _ in CONTAINERS:
        if isinstance(content, Mapping):
            content = next((content[name] for name in CONTAINERS if isinstance(content.get(name), Mapping)), content)
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a state dict.")
    state = tensors_in(content)
    if prefix and not any(key.startswith(prefix) for key in state):
        state = tensors_in(whole)
    if state:
        return state
    keys = ", ".join(map(repr, list(content)[:6]))
    raise ValueError(f"{path} holds no state dict; its top-level keys are {keys}.")


def _network_of(
    state: dict[str, Tensor], model: nn.Module, path: Path, prefix: str | None
) -> tuple[dict[str, Tensor], str]:
    """The tensors of the network among those of a file, by its own keys, and the prefix that they had.

    Raises:
        ValueError: If no key has the prefix that was given, or the network is there more than once.
    """
    if prefix is None:
        found = find_prefix(state, model, path)
        if found is None:
            return strip_wrappers(state, model)
        prefix = found
    elif prefix and not prefix.endswith("."):
        prefix += "."
    inside = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    if not inside:
        raise ValueError(
            f"{path} has no key that begins with weights_prefix={prefix!r}; it has {first_few(list(state))}."
        )
    rest = foreign_keys(inside, model)
    left_out = [key for key in state if not key.startswith(prefix)] + [prefix + key for key in rest]
    if left_out:
        log.info("%s holds more than the network; left out: %s", path.name, first_few(left_out))
    return {key: value for key, value in inside.items() if key not in rest}, prefix


def _check_fit(state: dict[str, Tensor], model: nn.Module, path: Path) -> None:
    """Say in one sentence why the weights do not fit, before any of them is copied."""
    expected = {key: value for key, value in model.state_dict().items() if isinstance(value, Tensor)}
    missing = [key for key in weights_of(model) if key not in state]
    unexpected = [key for key in state if key not in expected]
    shapes = [
        f"{key} is {tuple(state[key].shape)} in the file and {tuple(value.shape)} in the model"
        for key, value in expected.items()
        if key in state and state[key].shape != value.shape
    ]
    problems = [_count(missing, "missing"), _count(unexpected, "unexpected"), _count(shapes, "of another shape")]
    if any(problems):
        raise ValueError(
            f"{path} does not fit {type(model).__name__} ({len(state)} keys in the file, {len(expected)} in the model)"
            f": {'; '.join(filter(None, problems))}."
        )


def _count(items: Sequence[str], what: str) -> str:
    return f"{len(items)} {what} ({', '.join(items[:3])}{', ...' if len(items) > 3 else ''})" if items else ""
