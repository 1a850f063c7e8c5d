"""Read images of any supported format into channel-first arrays, with MONAI readers."""

import math
from pathlib import Path
from typing import Any, Literal, NamedTuple

import nibabel
import numpy as np
from monai.data.image_reader import ImageReader, NibabelReader, NumpyReader
from monai.utils.enums import MetaKeys

from lightning_xai.data import pictures, scans, tiff
from lightning_xai.data.arrays import BadImageError as BadImageError
from lightning_xai.data.arrays import (
    check_axis,
    check_claim,
    check_shape,
    guess_channel_axis,
    stored_arrays,
    to_float,
    with_channels,
)
from lightning_xai.data.notes import Notes
from lightning_xai.data.pictures import PictureReader
from lightning_xai.data.scans import DicomReader, ItkReader
from lightning_xai.data.tiff import TiffReader

# An axis of an array, "none" for an array without a channel axis (a gray volume), or None where it is not stated.
ChannelAxis = int | Literal["none"] | None


class Stored(NamedTuple):
    """A file as it is stored.

    Attributes:
        array: The pixels.
        channel_axis: The channel axis that the file declares, or None.
        reader: What read it.
        meta: What else the reader tells: `alpha`, whether transparency was dropped; `pages`, whether an axis of a TIFF
            counts pages whose meaning is not stated; `color`, whether a scan is a color picture.
    """

    array: np.ndarray
    channel_axis: ChannelAxis
    reader: ImageReader
    meta: dict[str, Any]


def _readers(indices: bool) -> tuple[ImageReader, ...]:
    """All readers; in masks the indices of a palette are the classes."""
    return (
        *(TiffReader(indices), NumpyReader(allow_pickle=False), NibabelReader(), PictureReader(indices)),
        *(DicomReader(), ItkReader()),
    )


_IMAGE_READERS = _readers(indices=False)
MASK_READERS = _readers(indices=True)


def read_file(path: Path, readers: tuple[ImageReader, ...], what: str) -> Stored:
    """Read a file as it is stored.

    Args:
        path: The file, or the folder of the slices of a DICOM series.
        readers: What may read it.
        what: What error messages call it: image or mask.

    Returns:
        What it holds.

    Raises:
        BadImageError: The file is missing, of an unknown format, or unreadable.
    """
    if not path.exists():
        raise BadImageError(f"The {what} {path} does not exist; correct its path or set data.on_bad_image=skip.")
    reader = next((r for r in readers if r.verify_suffix(str(path))), None)
    if reader is None:
        raise BadImageError(
            f"The {what} {path} has an unknown format {path.suffix!r}; use PNG, JPEG, WebP, GIF, BMP, TIFF, npy, "
            "NIfTI, DICOM, MHA or NRRD."
        )
    try:
        claimed = _claimed_shape(reader, path)
    except Exception:  # reading it whole says what is wrong
        claimed = ()
    check_claim(claimed, f"{what} {path}")
    try:
        array, meta = reader.get_data(reader.read(str(path)))
        array = np.asarray(array)
    except Exception as error:  # each format's library raises its own kinds for a damaged file
        cause = error.__cause__ or error  # MONAI blames every damaged npy file on pickle
        reason = " ".join(str(cause).split()).rstrip(".") or type(cause).__name__
        raise BadImageError(
            f"The {what} {path} cannot be read ({reason}); replace the file or set data.on_bad_image=skip."
        ) from error
    if isinstance(reader, NibabelReader):
        shape, axis = _nifti_axes(array.shape)
        return Stored(array.reshape(shape), axis, reader, meta)
    if isinstance(reader, NumpyReader):
        return Stored(array, None, reader, {})
    declared = meta.get(MetaKeys.ORIGINAL_CHANNEL_DIM)
    return Stored(array, "none" if declared is not None and np.isnan(declared) else declared, reader, meta)


def _claimed_shape(reader: ImageReader, path: Path) -> tuple[int, ...]:
    """The shape that the head of a file claims, pages and frames included; Pillow checks pictures by itself."""
    if isinstance(reader, TiffReader):
        return tiff.claimed_shape(path)
    if isinstance(reader, NumpyReader):
        return max((shape for shape, _ in stored_arrays(path).values()), key=math.prod)
    if isinstance(reader, NibabelReader):
        return tuple(map(int, nibabel.load(path).shape))  # type: ignore[attr-defined]
    if isinstance(reader, ItkReader):
        return scans.claimed_shape(path)
    return scans.stored_shape(path) if isinstance(reader, DicomReader) and path.is_file() else ()


def _nifti_axes(shape: tuple[int, ...]) -> tuple[tuple[int, ...], ChannelAxis]:
    """Return the shape without empty trailing axes, with which slices and volumes are stored, and the channel axis."""
    while len(shape) > 2 and shape[-1] == 1:
        shape = shape[:-1]
    return shape, "none" if len(shape) <= 3 else -1


def read_image(
    source: Path | np.ndarray,
    channel_axis: ChannelAxis = None,
    name: str | None = None,
    channels: int | None = None,
    notes: Notes | None = None,
) -> np.ndarray:
    """Read an image as channel-first float32 in natural units.

    Unsigned 8-bit values are divided by 255 and unsigned 16-bit ones by 65535. Signed integers and floats stay as
    they are, and so does all of NIfTI, MHA, NRRD and gray DICOM, where the integer type is only how the values happen
    to be stored.

    Args:
        source: Path of a PNG, JPEG, WebP, GIF, BMP, TIFF, npy, NIfTI, MHA, NRRD or DICOM file, of a folder of DICOM
            slices, or an array of shape (*S), (C, *S) or (*S, C).
        channel_axis: Channel axis of arrays, npy, TIFF and NIfTI files, "none" for a volume without channels; None
            takes what the file states, and else the axis at either end that is much smaller than the others.
        name: What error messages call the image; None takes the path.
        channels: 1 turns color into gray, and 3 gray into color; None keeps the channels of the file.
        notes: Gets what a user should know about the image, such as transparency that is dropped.

    Returns:
        Array (C, *S).

    Raises:
        BadImageError: The file is missing, unreadable or truncated, holds pages without a stated meaning, NaN or
            infinite values, or channels that cannot be turned into those wanted.
        ValueError: The channel axis is ambiguous.

    Example:
        >>> read_image(np.full((8, 8, 3), 255, np.uint8)).shape
        (3, 8, 8)
    """
    stored: Stored | None = None
    if isinstance(source, Path):
        name = str(source)
        stored = read_file(source, _IMAGE_READERS, "image")
        array, declared = stored.array, stored.channel_axis
        _check_pages(stored, channel_axis, name)
        if notes is not None and stored.meta.get("alpha"):
            notes.add("transparent places, which are taken in the color they hide", name)
    else:
        name = name or "the array"
        array, declared = source, None
    check_shape(array.shape, name)
    values = to_float(array.astype(np.float32) if stored and _keeps_units(stored) else array, name)
    # PNG and JPEG always state where their channels are; everything else may be overruled.
    fixed = stored is not None and isinstance(stored.reader, PictureReader | DicomReader | ItkReader)
    axis: ChannelAxis = declared if channel_axis is None or fixed else channel_axis
    if values.ndim == 2:
        axis = "none"
    elif axis is None:
        axis = guess_channel_axis(values.shape, name)
    if axis != "none":
        check_axis(axis, values.shape, name)
    image = values[None] if axis == "none" else np.moveaxis(values, axis, 0)
    return np.ascontiguousarray(with_channels(image, channels, name))


def _check_pages(stored: Stored, channel_axis: ChannelAxis, name: str) -> None:
    """Raise an error for a TIFF with pages of which nobody says whether they are channels or slices."""
    if stored.meta.get("pages") and (channel_axis is None or stored.array.ndim > 4):
        raise BadImageError(
            f"The image {name} holds several pages of axes {stored.meta['axes']} (shape {stored.array.shape}); save "
            "one as a file of its own, or where pages are channels or slices set data.channel_axis=0 or none."
        )


def _keeps_units(stored: Stored) -> bool:
    """Tell whether integers are only how the values of a file happen to be stored."""
    return isinstance(stored.reader, NibabelReader | DicomReader | ItkReader) and not stored.meta.get("color")


def read_shape(source: Path | np.ndarray, channel_axis: ChannelAxis = None, name: str | None = None) -> tuple[int, ...]:
    """Read the shape that an image of `read_image` has, from the head of the file: pixels are not decoded.

    Args:
        source: Path or array, as in `read_image`.
        channel_axis: As in `read_image`.
        name: As in `read_image`.

    Returns:
        The channels and the spatial size (C, *S), in pixels.

    Raises:
        BadImageError: The file is missing, unreadable or no image.
        ValueError: The channel axis is ambiguous.
    """
    try:
        shape, declared = (source.shape, None) if isinstance(source, np.ndarray) else _read_head(source)
    except Exception:  # a damaged or odd file, or one whose head is not enough: reading it whole says what is wrong
        return read_image(source, channel_axis, name).shape
    name = str(source) if isinstance(source, Path) else name or "the array"
    check_shape(shape, name)
    fixed = isinstance(source, Path) and any(
        reader.verify_suffix(source) for reader in (PictureReader(), DicomReader())
    )
    axis: ChannelAxis = declared if channel_axis is None or fixed else channel_axis
    if len(shape) == 2:
        axis = "none"
    elif axis is None:
        axis = guess_channel_axis(shape, name)
    if axis == "none":
        return (1, *shape)
    check_axis(axis, shape, name)
    return (shape[axis], *np.delete(shape, axis).tolist())


def read_size(source: Path | np.ndarray, channel_axis: ChannelAxis = None, name: str | None = None) -> tuple[int, ...]:
    """Read the spatial size *S of an image, in pixels, as `read_shape` does."""
    return read_shape(source, channel_axis, name)[1:]


def _read_head(path: Path) -> tuple[tuple[int, ...], ChannelAxis]:
    """Return the shape of a stored array, and the channel axis it declares."""
    reader = next(reader for reader in _IMAGE_READERS if reader.verify_suffix(str(path)))
    if isinstance(reader, TiffReader):
        return tiff.stored_shape(path)
    if isinstance(reader, NumpyReader):
        return tuple(np.load(path, mmap_mode="r").shape), None
    if isinstance(reader, NibabelReader):
        return _nifti_axes(tuple(nibabel.load(path).shape))  # type: ignore[attr-defined]
    if isinstance(reader, PictureReader):
        return pictures.stored_shape(path), 0
    if isinstance(reader, DicomReader) and path.is_file():
        return scans.stored_shape(path), 0
    raise ValueError(path)


def read_affine(source: Path | np.ndarray) -> np.ndarray:
    """Read the affine of a volume, which says where it lies in the world.

    Args:
        source: Path of a readable image file, or an array.

    Returns:
        The voxel-to-world matrix (4, 4) of a NIfTI, MHA or NRRD file or of a DICOM series, else the identity.
    """
    affine = stated_affine(source)
    return np.eye(4) if affine is None else affine


def stated_affine(source: Path | np.ndarray) -> np.ndarray | None:
    """Read the voxel-to-world matrix (4, 4) of a volume or slice, or None where the format has none."""
    if not isinstance(source, Path):
        return None
    if NibabelReader().verify_suffix(str(source)):
        return np.asarray(nibabel.load(source).affine)  # type: ignore[attr-defined]
    if source.is_dir() or ItkReader().verify_suffix(source):
        affine = np.asarray(read_file(source, _IMAGE_READERS, "image").meta[MetaKeys.AFFINE])
        if affine.shape == (4, 4):
            return affine
    return None
