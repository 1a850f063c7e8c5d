"""Load a target's weights: safetensors, state dicts, TorchScript, ``torch.export`` and our own target checkpoints."""

import logging
import types
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

log = logging.getLogger(__name__)

PREFIXES = ("module.", "model.", "net.", "_orig_mod.")
CONTAINERS = ("state_dict", "model_state_dict", "model")


@dataclass(frozen=True)
class LoadedInfo:
    """What a weights file said besides its tensors.

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


def load_model(model: nn.Module | None, weights: str | Path) -> tuple[nn.Module, LoadedInfo]:
    """Load weights into a model, or a whole model from a file that holds one.

    Args:
        model: The network that the weights belong to; ``None`` for a TorchScript or ``torch.export`` file.
        weights: The file. Pickles are read with ``weights_only=True``, keys are matched strictly.

    Returns:
        The model, and what else the file said.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file has an unknown format, would need to run code, or does not fit the model.
    """
    path = Path(weights).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"There is no weights file {path}; check target.weights.")
    archive = _archive_format(path)
    if archive is None:
        if model is None:
            raise ValueError(
                f"{path} holds weights but no network; give target.model, or a TorchScript or torch.export file."
            )
        state, info = _read_state(path)
    else:
        loaded = _load_script(path) if archive == "TorchScript" else _load_export(path)
        info = LoadedInfo(archive)
        if model is None:
            return loaded, info
        state = dict(loaded.state_dict())
    state, prefix = _strip_prefixes(state, model)
    if prefix:
        log.info("%s: stripped prefix %r from %d keys", path.name, prefix, len(state))
    _check_fit(state, model, path)
    model.load_state_dict(state)
    return model, LoadedInfo(info.format, prefix, info.mean, info.std, info.class_names)


def _archive_format(path: Path) -> str | None:
    """``"TorchScript"``, ``"torch.export"``, or ``None`` for files of bare tensors; told by content, not by suffix."""
    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        names = {name.partition("/")[2] or name for name in archive.namelist()}
    if "constants.pkl" in names:
        return "TorchScript"
    # Older releases wrote one JSON file, newer ones a folder of models.
    if "serialized_exported_program.json" in names or any(name.startswith("models/") for name in names):
        return "torch.export"
    return None


def _load_script(path: Path) -> nn.Module:
    try:
        module: nn.Module = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        raise ValueError(f"{path} looks like TorchScript but cannot be loaded: {_first_line(error)}") from error
    return module


def _load_export(path: Path) -> nn.Module:
    try:
        program = torch.export.load(path)
    except Exception as error:  # torch.export raises its own, undocumented types
        raise ValueError(f"{path} looks like a torch.export file but cannot be loaded: {_first_line(error)}") from error
    for node in program.graph.nodes:
        if _trains(node):
            raise ValueError(f"{path} was exported in training mode ({node.name}); call model.eval() before exporting.")
    module = program.module()
    # An exported graph has no modes and refuses eval(); the one it was exported in is the one wanted here.
    for name in ("train", "eval"):
        setattr(module, name, types.MethodType(_keep_mode, module))
    return module


def _trains(node: torch.fx.Node) -> bool:
    """Whether a graph node is a batch norm or dropout that was traced in training mode."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    names = [argument.name for argument in node.target._schema.arguments]
    arguments = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
    return arguments.get("train") is True or arguments.get("training") is True


def _keep_mode(self: nn.Module, mode: bool = False) -> nn.Module:
    return self


def _read_state(path: Path) -> tuple[dict[str, Tensor], LoadedInfo]:
    if path.suffix == ".safetensors":
        try:
            return load_file(path), LoadedInfo("safetensors")
        except SafetensorError as error:
            raise ValueError(f"{path} is not a valid safetensors file: {_first_line(error)}") from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError, KeyError, ValueError) as error:
        if "Unsupported" in str(error):
            raise ValueError(
                f"{path} holds pickled Python objects, which could run code when loaded, and is refused; "
                "save model.state_dict() instead, with torch.save or as safetensors."
            ) from error
        raise ValueError(f"{path} is neither safetensors, a state dict, TorchScript nor torch.export.") from error
    stored = content.get("hyper_parameters") if isinstance(content, Mapping) else None
    extras: Mapping[str, Any] = stored if isinstance(stored, Mapping) else {}
    info = LoadedInfo("state dict", "", extras.get("mean"), extras.get("std"), extras.get("class_names"))
    return _find_state(content, path), info


def _find_state(content: Any, path: Path) -> dict[str, Tensor]:
    """The state dict itself, taken out of the usual containers."""
    if isinstance(content, Mapping):
        for name in CONTAINERS:
            if isinstance(content.get(name), Mapping):
                return _find_state(content[name], path)
        if content and all(isinstance(value, Tensor) for value in content.values()):
            return {str(key): value for key, value in content.items()}
        keys = ", ".join(map(repr, list(content)[:6]))
        raise ValueError(f"{path} holds no state dict; its top-level keys are {keys}.")
    raise ValueError(f"{path} holds a {type(content).__name__}, not a state dict.")


def _strip_prefixes(state: dict[str, Tensor], model: nn.Module) -> tuple[dict[str, Tensor], str]:
    """Strip wrappers' prefixes that every key carries, unless the model's own keys start so."""
    expected, stripped = set(model.state_dict()), ""
    while state and not expected & state.keys():
        prefix = next((p for p in PREFIXES if all(key.startswith(p) for key in state)), None)
        if prefix is None:
            break
        state = {key.removeprefix(prefix): value for key, value in state.items()}
        stripped += prefix
    return state, stripped


def _check_fit(state: dict[str, Tensor], model: nn.Module, path: Path) -> None:
    """Say in one sentence why the weights do not fit, before any of them is copied."""
    expected = {key: value for key, value in model.state_dict().items() if isinstance(value, Tensor)}
    # PyTorch itself fills this counter in for files older than it.
    missing = [key for key in expected if key not in state and not key.endswith("num_batches_tracked")]
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


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
