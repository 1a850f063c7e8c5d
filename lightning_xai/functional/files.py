"""Write files in one step, so that an interrupted run leaves no half-written file."""

import gzip
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray


@contextmanager
def atomic_write(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file next to ``path`` and move it into place when everything was written.

    Args:
        path: The final file; its folder is created.
        mode: ``"w"`` or ``"wb"``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(part, mode, newline=None if "b" in mode else "", encoding=None if "b" in mode else "utf-8") as file:
            yield file
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_nifti(path: Path, values: "NDArray[Any]", affine: "NDArray[Any]") -> None:
    """Write a volume as compressed NIfTI.

    Args:
        path: Ends in ``.nii.gz``.
        values: ``(X, Y, Z)`` or ``(X, Y, Z, T)``.
        affine: Voxel-to-world matrix ``(4, 4)``.
    """
    import nibabel  # at first use: the start of a command needs the other functions alone

    volume = nibabel.Nifti1Image(values, affine)  # type: ignore[no-untyped-call]
    with atomic_write(path, "wb") as file:
        file.write(gzip.compress(volume.to_bytes()))


def safe_name(text: str) -> str:
    """Turn a text into a file name: anything but letters, digits, dot, dash and underscore becomes an underscore.

    Args:
        text: Any text.

    Returns:
        A name that stays in its folder and is not hidden.

    Example:
        >>> safe_name("../patient 3/left.png")
        'patient_3_left.png'
    """
    return re.sub(r"[^\w.-]+", "_", text).lstrip("._") or "_"
