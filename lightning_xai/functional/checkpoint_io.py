"""Checkpoints that are whole or not there at all."""

import io
import os
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from typing_extensions import override

from lightning_xai.functional.files import atomic_write
from lightning_xai.functional.text import first_line


class WholeCheckpoints(TorchCheckpointIO):
    """Lightning's plugin for checkpoints, but each is written next to its place, and moved there when it is on disk.

    Lightning's own writes into the folder of temporary files; from there, a file moves to another file system piece by
    piece, and a kill leaves half of it.
    """

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        content = io.BytesIO()
        torch.save(checkpoint, content)
        with atomic_write(Path(path), "wb") as file:
            file.write(content.getbuffer())
            file.flush()
            os.fsync(file.fileno())

    @override
    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Read a checkpoint.

        Raises:
            ValueError: If it is none, is broken, or holds what only code can read.
        """
        try:
            content: dict[str, Any] = super().load_checkpoint(path, *args, **kwargs)
        except (EOFError, RuntimeError, UnpicklingError, ValueError) as error:
            reason = first_line(error)
            raise ValueError(f"{path} cannot be read as a checkpoint ({reason}); give another one.") from error
        if not isinstance(content, dict) or "state_dict" not in content:
            raise ValueError(f"{path} is no checkpoint of a trained explainer (no state_dict); give another one.")
        return content
