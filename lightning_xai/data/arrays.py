"""Bring the array of an image into natural units and the wanted channels, or say why it is none."""

import math
import os
import zipfile
from pathlib import Path
from typing import IO

import numpy as np

#: How much red, green and blue give of the gray that a viewer makes of them (ITU-R 601).
_LUMA = np.array([0.299, 0.587, 0.114])


class BadImageError(ValueError):
    """An image or mask that cannot be used; `data.on_bad_image` decides whether it stops the run."""


def memory() -> int:
    """Bytes of memory that this machine has; 64 GiB where the system does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 64 << 30


#: Values that one image may have; reading takes up to 16 bytes for each.
LARGEST_IMAGE = min(1 << 31, memory() // 16)
#: Values that a volume may be resampled to; that takes 62 bytes for each.
LARGEST_RESAMPLED = LARGEST_IMAGE // 4


def check_claim(shape: tuple[int, ...], what: str, largest: int = LARGEST_IMAGE) -> None:
    """Raise an error for a file whose head claims more pixels than can be read, before any memory is taken for them.

    Args:
        shape: What the head claims.
        what: What messages call the file.
        largest: How many pixels can be read.

    Raises:
        BadImageError: It is too large, or negative.
    """
    if min(shape, default=0) < 0 or math.prod(map(int, shape)) > largest:
        raise BadImageError(
            f"The {what} claims a size of {' x '.join(map(str, shape))}; the largest that is read here has "
            f"{largest:,} values. Replace the file, cut it into parts, or set data.on_bad_image=skip."
        )


def stored_arrays(path: Path) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Read shape and type of the arrays of an npy or npz file from their heads.

    Args:
        path: The file.

    Returns:
        Name -> shape and type; the one array of an npy file has the name "".

    Raises:
        ValueError: It is damaged.
    """
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            return {"": _array_head(file)}
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith(".npy")]
        heads = {}
        for name in names:
            with archive.open(name) as file:
                heads[name.removesuffix(".npy")] = _array_head(file)
        return heads


def _array_head(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    return tuple(shape), dtype


def check_shape(shape: tuple[int, ...], name: str) -> None:
    """Raise an error for an array that is no image.

    Args:
        shape: Of the array.
        name: What messages call it.

    Raises:
        BadImageError: It has too few axes, too many, or an empty one.
    """
    if 0 in shape or not 2 <= len(shape) <= 4:
        raise BadImageError(f"The image {name} has shape {shape}; images have 2 or 3 axes and maybe channels.")


def check_axis(axis: int, shape: tuple[int, ...], name: str) -> None:
    """Raise an error for a channel axis that an array does not have.

    Args:
        axis: Its number, negative from the end.
        shape: Of the array.
        name: What messages call it.

    Raises:
        ValueError: The array has fewer axes.
    """
    if not -len(shape) <= axis < len(shape):
        raise ValueError(f"data.channel_axis is {axis}, but {name} has the shape {shape}; name one of its axes.")


def guess_channel_axis(shape: tuple[int, ...], name: str) -> int:
    """Return the one axis at either end that is much smaller than all others.

    Args:
        shape: Of the array.
        name: What messages call it.

    Returns:
        0 or -1.

    Raises:
        ValueError: There is none, or there are two.
    """

    def is_small(axis: int) -> bool:
        smallest = min(size for i, size in enumerate(shape) if i != axis % len(shape))
        return 3 * shape[axis] <= smallest or (shape[axis] <= 4 and shape[axis] < smallest)

    candidates = [axis for axis in (0, -1) if is_small(axis)]
    if len(candidates) != 1:
        raise ValueError(
            f"The channel axis of {name} with shape {shape} is ambiguous; "
            "set data.channel_axis=0, -1, or none for a volume without channels."
        )
    return candidates[0]


def check_numbers(array: np.ndarray, name: str) -> None:
    """Raise an error for an array of anything but real numbers.

    Args:
        array: The array.
        name: What messages call it.

    Raises:
        BadImageError: It holds text, complex numbers, records or objects.
    """
    if array.dtype.kind not in "biuf":
        raise BadImageError(f"The image {name} holds {array.dtype} instead of numbers; save it as integers or floats.")


def to_float(array: np.ndarray, name: str) -> np.ndarray:
    """Return float32 in natural units: unsigned 8 and 16 bits divided by their largest value, the rest as it is.

    Args:
        array: Real numbers of any type and shape.
        name: What messages call it.

    Returns:
        The values.

    Raises:
        BadImageError: They are not finite.
    """
    if array.dtype.kind == "u" and array.dtype.itemsize <= 2:
        return array.astype(np.float32) / np.float32(np.iinfo(array.dtype).max)
    with np.errstate(over="ignore"):  # what overflows becomes infinite and is reported below
        values = array.astype(np.float32)
    if not np.isfinite(values).all():
        raise BadImageError(
            f"The image {name} has NaN or infinite pixels; repair the file or set data.on_bad_image=skip."
        )
    return values


def with_channels(image: np.ndarray, channels: int | None, name: str) -> np.ndarray:
    """Turn gray into color or color into gray, where that many channels are wanted.

    Args:
        image: (C, *S).
        channels: 1, 3, or None to keep what there is.
        name: What messages call it.

    Returns:
        (channels, *S), or the image itself.

    Raises:
        BadImageError: It is neither gray nor color.
    """
    if channels is None or len(image) == channels:
        return image
    if len(image) not in (1, 3):
        raise BadImageError(
            f"The image {name} has {len(image)} channels, of which data.channels={channels} can make no picture; use "
            "data.channels=null, or data.on_bad_image=skip."
        )
    if channels == 3:
        return np.repeat(image, 3, axis=0)
    # In double precision, so that gray saved as color is the same gray again.
    gray: np.ndarray = np.tensordot(_LUMA, image.astype(np.float64), axes=1)[None].astype(np.float32)
    return gray
