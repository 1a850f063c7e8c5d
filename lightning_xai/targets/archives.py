"""Weights files that hold a whole network, and are code: TorchScript and ``torch.export``."""

import logging
import types
import zipfile
from pathlib import Path

import torch
from torch import nn

from lightning_xai.functional.text import first_line

log = logging.getLogger(__name__)

TORCHSCRIPT, EXPORT = "TorchScript", "torch.export"


def archive_format(path: Path) -> str | None:
    """The format of a file that holds a whole network, found by its content.

    Returns:
        ``"TorchScript"``, ``"torch.export"``, or ``None`` for any other file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.partition("/")[2] or name for name in archive.namelist()}
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError):
        return None
    if "constants.pkl" in names:
        return TORCHSCRIPT
    # Older releases wrote one JSON file, newer ones a folder of models.
    if "serialized_exported_program.json" in names or any(name.startswith("models/") for name in names):
        return EXPORT
    return None


def load_archive(path: Path, kind: str, allow_code: bool) -> nn.Module:
    """Load the network of a file that is code.

    Args:
        path: The file.
        kind: What :func:`archive_format` returned.
        allow_code: Whether the user trusts the file.

    Raises:
        ValueError: If the user does not, or the file cannot be loaded.
    """
    # A config may bring a string here, and every string but the empty one would count as yes.
    if allow_code is not True:
        raise ValueError(
            f"{path} is a {kind} file, and such a file is code that runs on this machine; if you trust where it comes "
            "from, allow it with target.allow_code=true (allow_code=True in Python)."
        )
    return _load_script(path) if kind == TORCHSCRIPT else _load_export(path)


def _load_script(path: Path) -> nn.Module:
    try:
        module: nn.Module = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
    except Exception as error:  # the loader and what it loads raise many types
        raise ValueError(f"{path} looks like TorchScript but cannot be loaded: {first_line(error)}") from error
    return module


def _load_export(path: Path) -> nn.Module:
    try:
        program = torch.export.load(path)
    except Exception as error:  # torch.export raises its own, undocumented types
        raise ValueError(f"{path} looks like a torch.export file but cannot be loaded: {first_line(error)}") from error
    for node in program.graph.nodes:
        if _trains(node):
            raise ValueError(f"{path} was exported in training mode ({node.name}); call model.eval() before exporting.")
    module = _with_layers(program)
    # An exported graph has no modes and refuses eval(); the one it was exported in is the right one here.
    for name in ("train", "eval"):
        setattr(module, name, types.MethodType(_keep_mode, module))
    return module


def _with_layers(program: torch.export.ExportedProgram) -> nn.Module:
    """The network of an exported program with the modules that it had, whose layers can be named, where possible."""
    try:
        return torch.export.unflatten(program)
    except Exception as error:  # its own, undocumented types: some graphs share modules in ways that it cannot undo
        log.debug("The exported graph has no layers: %s", error)
        return program.module()


def _trains(node: torch.fx.Node) -> bool:
    """Whether a graph node is a batch norm or dropout that was traced in training mode."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    names = [argument.name for argument in node.target._schema.arguments]
    arguments = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
    return arguments.get("train") is True or arguments.get("training") is True


def _keep_mode(self: nn.Module, mode: bool = False) -> nn.Module:
    return self
