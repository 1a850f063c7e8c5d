"""Read images of any supported format into channel-first arrays, with MONAI readers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import nibabel
import numpy as np
import tifffile
from monai.data.image_reader import ImageReader, NibabelReader, NumpyReader, PILReader
from monai.data.utils import is_supported_format
from monai.utils.enums import MetaKeys
from PIL import Image

# An axis of an array, "none" for an array without a channel axis (a gray volume), or None where it is not stated.
ChannelAxis = int | Literal["none"] | None


class BadImageError(ValueError):
    """An image or mask that cannot be used; `data.on_bad_image` decides whether it stops the run."""


class TiffImage(NamedTuple):
    """The first series of a TIFF file and its axes, as tifffile names them (such as "CYX")."""

    array: np.ndarray
    axes: str


class TiffReader(ImageReader):
    """Reads one TIFF file of any depth and number of channels, which Pillow cannot.

    The channel axis is taken from the file (ImageJ, OME and RGB files state it); where it is not stated,
    the metadata have no `original_channel_dim`.
    """

    def verify_suffix(self, filename: Sequence[Any] | Any) -> bool:
        """Tell whether the name ends in tif or tiff."""
        return bool(is_supported_format(filename, ["tif", "tiff"]))

    def read(self, data: Sequence[Any] | Any, **kwargs: Any) -> TiffImage:
        """Read the first series of the file `data`."""
        with tifffile.TiffFile(str(data), **kwargs) as file:
            series = file.series[0]
            try:
                return TiffImage(series.asarray(), series.axes)
            except ValueError:
                # LZW and some others need the package imagecodecs; Pillow decodes plain pages of them by itself.
                with Image.open(str(data)) as image:
                    array = np.asarray(image)
                if (array.shape, array.dtype) != (series.shape, series.dtype):
                    raise
                return TiffImage(array, series.axes)

    def get_data(self, img: TiffImage) -> tuple[np.ndarray, dict[str, Any]]:
        """Return the array as stored, and the metadata."""
        meta: dict[str, Any] = {"axes": img.axes}
        declared = _tiff_channel_axis(img.axes)
        if declared is not None:
            meta[MetaKeys.ORIGINAL_CHANNEL_DIM] = float("nan") if declared == "none" else declared
        return img.array, meta


def _tiff_channel_axis(axes: str) -> ChannelAxis:
    """The channel axis among the axes of a TIFF file, as tifffile names them."""
    channels = [axis for axis, name in enumerate(axes) if name in "CS"]
    if len(channels) == 1:
        return channels[0]
    return "none" if set(axes) <= set("ZYX") else None


def _gray_or_rgb(image: Image.Image) -> Image.Image:
    """Drop alpha, resolve palettes and other color spaces, keep the depth of gray images."""
    if image.mode == "I" and image.format == "PNG":  # how older Pillow opens a 16-bit gray PNG
        return image.convert("I;16")
    if image.mode in ("1", "LA", "La"):
        return image.convert("L")
    return image if image.mode == "L" or image.mode[0] in "IF" else image.convert("RGB")


def _index_mask(image: Image.Image) -> Image.Image:
    """Drop alpha but keep palette indices: in a mask they are the classes."""
    return image if image.mode == "P" else _gray_or_rgb(image)


def _readers(converter: Any) -> tuple[ImageReader, ...]:
    pil = PILReader(converter=converter, reverse_indexing=False)  # False keeps (H, W)
    return TiffReader(), NumpyReader(allow_pickle=False), NibabelReader(), pil


_IMAGE_READERS = _readers(_gray_or_rgb)
MASK_READERS = _readers(_index_mask)


def read_file(path: Path, readers: tuple[ImageReader, ...], what: str) -> tuple[np.ndarray, ChannelAxis, ImageReader]:
    """Read a file as it is stored.

    Args:
        path: The file.
        readers: What may read it.
        what: What error messages call it: image or mask.

    Returns:
        The array as stored, the channel axis that the file declares, and the reader that was used.

    Raises:
        BadImageError: The file is missing, of an unknown format, or unreadable.
    """
    if not path.is_file():
        raise BadImageError(f"The {what} {path} does not exist; correct its path or set data.on_bad_image=skip.")
    reader = next((r for r in readers if r.verify_suffix(str(path))), None)
    if reader is None:
        raise BadImageError(
            f"The {what} {path} has an unknown format {path.suffix!r}; use PNG, JPEG, BMP, TIFF, npy or NIfTI."
        )
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
        return array.reshape(shape), axis, reader
    if isinstance(reader, NumpyReader):
        return array, None, reader
    declared = meta.get(MetaKeys.ORIGINAL_CHANNEL_DIM)
    return array, "none" if declared is not None and np.isnan(declared) else declared, reader


def _nifti_axes(shape: tuple[int, ...]) -> tuple[tuple[int, ...], ChannelAxis]:
    """Return the shape without empty trailing axes, with which slices and volumes are stored, and the channel axis."""
    while len(shape) > 2 and shape[-1] == 1:
        shape = shape[:-1]
    return shape, "none" if len(shape) <= 3 else -1


def _check_shape(shape: tuple[int, ...], name: str) -> None:
    """Raise an error for an array that is no image."""
    if 0 in shape or not 2 <= len(shape) <= 4:
        raise BadImageError(f"The image {name} has shape {shape}; images have 2 or 3 axes and maybe channels.")


def _guess_channel_axis(shape: tuple[int, ...], name: str) -> int:
    """Return the one axis at either end that is much smaller than all others."""

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


def _to_float(array: np.ndarray, name: str) -> np.ndarray:
    """Return float32 in natural units: unsigned 8 and 16 bits divided by their largest value, the rest as it is."""
    if array.dtype.kind not in "biuf":
        raise BadImageError(f"The image {name} holds {array.dtype} instead of numbers; save it as integers or floats.")
    if array.dtype.kind == "u" and array.dtype.itemsize <= 2:
        return array.astype(np.float32) / np.float32(np.iinfo(array.dtype).max)
    with np.errstate(over="ignore"):  # what overflows becomes infinite and is reported below
        values = array.astype(np.float32)
    if not np.isfinite(values).all():
        raise BadImageError(
            f"The image {name} has NaN or infinite pixels; repair the file or set data.on_bad_image=skip."
        )
    return values


def read_image(source: Path | np.ndarray, channel_axis: ChannelAxis = None, name: str | None = None) -> np.ndarray:
    """Read an image as channel-first float32 in natural units.

    Unsigned 8-bit values are divided by 255 and unsigned 16-bit ones by 65535. Signed integers and floats stay as
    they are, and so does all of NIfTI, where the integer type is only how the values happen to be stored.

    Args:
        source: Path of a PNG, JPEG, BMP, TIFF, npy or NIfTI file, or an array of shape (*S), (C, *S) or (*S, C).
        channel_axis: Channel axis of arrays, npy, TIFF and NIfTI files, "none" for a volume without channels; None
            takes what the file states, and else the axis at either end that is much smaller than the others.
        name: What error messages call the image; None takes the path.

    Returns:
        Array (C, *S).

    Raises:
        BadImageError: The file is missing, unreadable or truncated, or holds NaN or infinite values.
        ValueError: The channel axis is ambiguous.

    Example:
        >>> read_image(np.full((8, 8, 3), 255, np.uint8)).shape
        (3, 8, 8)
    """
    reader: ImageReader | None = None
    if isinstance(source, Path):
        name = str(source)
        array, declared, reader = read_file(source, _IMAGE_READERS, "image")
    else:
        name = name or "the array"
        array, declared = source, None
    _check_shape(array.shape, name)
    values = array.astype(np.float32) if isinstance(reader, NibabelReader) and array.dtype.kind == "u" else array
    values = _to_float(values, name)
    if values.ndim == 2:
        return values[None]
    # PNG and JPEG always state where their channels are; everything else may be overruled.
    axis = declared if channel_axis is None or isinstance(reader, PILReader) else channel_axis
    if axis is None:
        axis = _guess_channel_axis(values.shape, name)
    return np.ascontiguousarray(values[None] if axis == "none" else np.moveaxis(values, axis, 0))


def read_size(source: Path | np.ndarray, channel_axis: ChannelAxis = None, name: str | None = None) -> tuple[int, ...]:
    """Read the spatial size that an image of `read_image` has, from the head of the file: pixels are not decoded.

    Args:
        source: Path or array, as in `read_image`.
        channel_axis: As in `read_image`.
        name: As in `read_image`.

    Returns:
        The spatial size *S, in pixels.

    Raises:
        BadImageError: The file is missing, unreadable or no image.
        ValueError: The channel axis is ambiguous.
    """
    try:
        shape, declared = (source.shape, None) if isinstance(source, np.ndarray) else _read_shape(source)
    except Exception:  # a damaged or odd file: reading it whole says what is wrong
        return read_image(source, channel_axis, name).shape[1:]
    name = str(source) if isinstance(source, Path) else name or "the array"
    _check_shape(shape, name)
    if len(shape) == 2:
        return shape
    axis = declared if channel_axis is None else channel_axis
    if axis is None:
        axis = _guess_channel_axis(shape, name)
    return shape if axis == "none" else tuple(np.delete(shape, axis).tolist())


def _read_shape(path: Path) -> tuple[tuple[int, ...], ChannelAxis]:
    """Return the shape of a stored array (of PNG and JPEG without channels), and the channel axis it declares."""
    reader = next(reader for reader in _IMAGE_READERS if reader.verify_suffix(str(path)))
    if isinstance(reader, TiffReader):
        with tifffile.TiffFile(str(path)) as file:
            return tuple(file.series[0].shape), _tiff_channel_axis(file.series[0].axes)
    if isinstance(reader, NumpyReader):
        return tuple(np.load(path, mmap_mode="r").shape), None
    if isinstance(reader, NibabelReader):
        return _nifti_axes(tuple(nibabel.load(path).shape))  # type: ignore[attr-defined]
    with Image.open(path) as image:
        return (image.height, image.width), None


def read_affine(source: Path | np.ndarray) -> np.ndarray:
    """Read the affine of a volume, which says where it lies in the world.

    Args:
        source: Path of a readable image file, or an array.

    Returns:
        The voxel-to-world matrix (4, 4) of a NIfTI file, else the identity.
    """
    if isinstance(source, Path) and NibabelReader().verify_suffix(str(source)):
        return np.asarray(nibabel.load(source).affine)  # type: ignore[attr-defined]
    return np.eye(4)
