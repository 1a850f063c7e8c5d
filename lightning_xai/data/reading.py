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
    check_numbers,
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


class LocatedImage(NamedTuple):
    """An image, and where it lies.

    Attributes:
        pixels: (C, *S) float32.
        affine: The voxel-to-world matrix (4, 4); None where nothing states it.
    """

    pixels: np.ndarray
    affine: np.ndarray | None


class Stored(NamedTuple):
    """A file as it is stored.

    Attributes:
        array: The pixels.
        channel_axis: The channel axis that the file declares, or None.
        reader: What read it.
        affine: The voxel-to-world matrix (4, 4) of a NIfTI, MHA or NRRD file or of a DICOM volume, else None.
        meta: What else the reader tells: `alpha`, whether transparency was dropped; `pages`, whether an axis of a TIFF
            counts pages whose meaning is not stated; `color`, whether a scan is a color picture.
    """

    array: np.ndarray
    channel_axis: ChannelAxis
    reader: ImageReader
    affine: np.ndarray | None
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
    if path.is_file() and not path.stat().st_size:
        raise BadImageError(f"The {what} {path} is an empty file; replace it or set data.on_bad_image=skip.")
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
        return Stored(array.reshape(shape), axis, reader, meta[MetaKeys.AFFINE], meta)
    if isinstance(reader, NumpyReader):
        return Stored(array, None, reader, None, {})
    declared = meta.get(MetaKeys.ORIGINAL_CHANNEL_DIM)
    # A DICOM plane is a picture, wherever it lies; ITK knows planes without a place in space.
    placed = array.ndim > 2 and isinstance(reader, DicomReader) and not meta["color"] or isinstance(reader, ItkReader)
    affine = np.asarray(meta[MetaKeys.AFFINE]) if placed else np.empty(0)
    return Stored(
        array, "none" if declared is not None and np.isnan(declared) else declared, reader,
        affine if affine.shape == (4, 4) else None, meta,
    )  # fmt: skip


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


def read_located(
    source: Path | np.ndarray,
    channel_axis: ChannelAxis = None,
    name: str | None = None,
    channels: int | None = None,
    notes: Notes | None = None,
) -> LocatedImage:
    """Read an image as channel-first float32 in natural units, and where it lies.

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
        The pixels, and where they lie.

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
        array = stored.array
        _check_pages(stored, channel_axis, name)
        if notes is not None and stored.meta.get("alpha"):
            notes.add("transparent places, which are taken in the color they hide", name)
    else:
        name = name or "the array"
        array = source
    check_shape(array.shape, name)
    check_numbers(array, name)
    values = to_float(array.astype(np.float32) if stored and _keeps_units(stored) else array, name)
    axis = _resolve_axis(values.shape, channel_axis, stored and stored.channel_axis, stored and stored.reader, name)
    image = values[None] if axis == "none" else np.moveaxis(values, axis, 0)
    pixels = np.ascontiguousarray(with_channels(image, channels, name))
    return LocatedImage(pixels, stored and stored.affine)


def _resolve_axis(
    shape: tuple[int, ...], wanted: ChannelAxis, declared: ChannelAxis, reader: ImageReader | None, name: str
) -> int | Literal["none"]:
    """The channel axis of an array: as its file declares it, as the user wants it, or else by its size."""
    if len(shape) == 2:
        return "none"
    # Pictures and scans always state where their channels are; everything else may be overruled.
    fixed = isinstance(reader, PictureReader | DicomReader | ItkReader)
    axis = declared if wanted is None or fixed else wanted
    if axis is None:
        return guess_channel_axis(shape, name)
    if axis != "none":
        check_axis(axis, shape, name)
    return axis


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


def read_image(
    source: Path | np.ndarray, channel_axis: ChannelAxis = None, name: str | None = None, channels: int | None = None
) -> np.ndarray:
    """Read the pixels (C, *S) of an image; see `read_located`."""
    return read_located(source, channel_axis, name, channels).pixels


def read_shape(source: Path | np.ndarray, channel_axis: ChannelAxis = None, name: str | None = None) -> tuple[int, ...]:
    """Read the shape that `read_image` gives an image, from the head of the file: pixels are not decoded.

    Args:
        source: Path or array, as in `read_located`.
        channel_axis: As in `read_located`.
        name: As in `read_located`.

    Returns:
        The channels and the spatial size (C, *S), in pixels.

    Raises:
        BadImageError: The file is missing, unreadable or no image.
        ValueError: The channel axis is ambiguous.
    """
    try:
        shape, declared, reader = (source.shape, None, None) if isinstance(source, np.ndarray) else _read_head(source)
    except Exception:  # a damaged or odd file, or one whose head is not enough: reading it whole says what is wrong
        return read_image(source, channel_axis, name).shape
    name = str(source) if isinstance(source, Path) else name or "the array"
    check_shape(shape, name)
    axis = _resolve_axis(shape, channel_axis, declared, reader, name)
    return (1, *shape) if axis == "none" else (shape[axis], *np.delete(shape, axis).tolist())


def _read_head(path: Path) -> tuple[tuple[int, ...], ChannelAxis, ImageReader]:
    """Return the shape of a stored array, the channel axis it declares, and what reads it."""
    reader = next(reader for reader in _IMAGE_READERS if reader.verify_suffix(str(path)))
    if isinstance(reader, TiffReader):
        return *tiff.stored_shape(path), reader
    if isinstance(reader, NumpyReader):
        return tuple(np.load(path, mmap_mode="r").shape), None, reader
    if isinstance(reader, NibabelReader):
        return *_nifti_axes(tuple(nibabel.load(path).shape)), reader  # type: ignore[attr-defined]
    if isinstance(reader, PictureReader):
        return pictures.stored_shape(path), 0, reader
    if isinstance(reader, DicomReader) and path.is_file():
        return scans.stored_shape(path), 0, reader
    raise ValueError(path)
