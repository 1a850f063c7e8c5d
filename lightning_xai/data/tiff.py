"""Read TIFF files of every kind of color into the pixels that the same picture has as a PNG."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import tifffile
from monai.data.utils import is_supported_format
from monai.utils.enums import MetaKeys
from PIL import Image, ImageSequence
from tifffile import PHOTOMETRIC

from lightning_xai.data.pictures import PaletteReader, gray_or_rgb, index_mask

#: Axes of an array that have a meaning for an image: depth, rows, columns, channels and colors. Q: whatever was saved.
_KNOWN_AXES = set("ZYXCSQ")
#: Values of the tag ExtraSamples: transparency that the colors are multiplied by, and that they are not.
_PREMULTIPLIED, _ALPHA = 1, 2
#: Of the colors that Pillow knows and tifffile does not.
_LEFT_TO_PILLOW = (PHOTOMETRIC.YCBCR, PHOTOMETRIC.CIELAB, PHOTOMETRIC.ICCLAB, PHOTOMETRIC.ITULAB)
_AS_STORED = (PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.RGB, PHOTOMETRIC.MASK)


class TiffImage(NamedTuple):
    """The pixels of a TIFF file, their axes as tifffile names them (such as "CYX"), and whether alpha was dropped."""

    array: np.ndarray
    axes: str
    alpha: bool = False


class TiffReader(PaletteReader):
    """Reads one TIFF file of any depth, kind of color and number of channels, which Pillow cannot.

    The channel axis is taken from the file (ImageJ, OME and RGB files state it); where it is not stated,
    the metadata have no `original_channel_dim`, and `pages` where it is a number of pages without a meaning.
    """

    def verify_suffix(self, filename: Sequence[Any] | Any) -> bool:
        """Tell whether the name ends in tif or tiff."""
        return bool(is_supported_format(filename, ["tif", "tiff"]))

    def read(self, data: Sequence[Any] | Any, **kwargs: Any) -> TiffImage:
        """Read the only image of the file `data`."""
        with tifffile.TiffFile(str(data), **kwargs) as file:
            series = only_series(file)
            if series.keyframe.photometric in _LEFT_TO_PILLOW:
                return self._with_pillow(data, series)
            try:
                array = series.asarray()
            except (ValueError, NotImplementedError, ImportError):
                # LZW, four bits, Zstandard and others need imagecodecs, or Python 3.14; Pillow decodes plain pages
                # of them by itself.
                return self._with_pillow(data, series)
            array, axes, alpha = _resolve(array, series.axes, series.keyframe, self.indices)
            return TiffImage(_turned(array, axes, series.keyframe), axes, alpha)

    def get_data(self, img: TiffImage) -> tuple[np.ndarray, dict[str, Any]]:
        """Return the array, and the metadata."""
        meta: dict[str, Any] = {"axes": img.axes, "alpha": img.alpha, "pages": has_pages(img.axes)}
        declared = channel_axis(img.axes)
        if declared is not None:
            meta[MetaKeys.ORIGINAL_CHANNEL_DIM] = float("nan") if declared == "none" else declared
        return img.array, meta

    def _with_pillow(self, data: Any, series: tifffile.TiffPageSeries) -> TiffImage:
        """Read pages that tifffile cannot decode."""
        with Image.open(str(data)) as image:
            if np.asarray(image).dtype.itemsize != np.dtype(series.dtype).itemsize:
                raise ValueError("its compression cannot be read; save it uncompressed, or with deflate")
            convert = index_mask if self.indices else gray_or_rgb
            number = len(series.pages)
            arrays, alpha = [], False
            for page in ImageSequence.Iterator(image) if number > 1 else (image,):  # each time the same object
                picture, transparent = convert(page)
                arrays.append(np.array(picture))
                alpha = alpha or transparent
        axes = "YX" if arrays[0].ndim == 2 else "YXS"
        return TiffImage(arrays[0], axes, alpha) if number == 1 else TiffImage(np.stack(arrays), f"I{axes}", alpha)


def only_series(file: tifffile.TiffFile) -> tifffile.TiffPageSeries:
    """Return the one image of a TIFF file, besides smaller copies of it.

    Args:
        file: An open file.

    Returns:
        Its pages.

    Raises:
        ValueError: There is none, or there are several of different kinds.
    """
    images = [series for series in file.series if not series.keyframe.is_reduced]
    if not images:
        raise ValueError("it holds no image")
    if len(images) > 1:
        sizes = ", ".join(" x ".join(map(str, series.shape)) for series in images[:3])
        raise ValueError(f"it holds {len(images)} images ({sizes}); save each as a file of its own")
    return images[0]


def has_pages(axes: str) -> bool:
    """Tell whether an axis of a TIFF file counts pages, or moments, of which an image has one."""
    return not set(axes) <= _KNOWN_AXES or {"Q", "S"} <= set(axes)


def is_plain(page: tifffile.TiffPage) -> bool:
    """Tell whether the stored shape of a page is that of its picture: no palette, no alpha, no turn."""
    turned = page.tags.valueof("Orientation", 1) != 1
    return page.photometric in (*_AS_STORED, PHOTOMETRIC.MINISWHITE) and not page.extrasamples and not turned


def _resolve(array: np.ndarray, axes: str, page: tifffile.TiffPage, indices: bool) -> tuple[np.ndarray, str, bool]:
    """Turn stored pixels into gray or red, green and blue; also returns their axes and whether alpha was dropped."""
    color, bits = page.photometric, page.bitspersample
    if color == PHOTOMETRIC.MINISWHITE:
        array = _inverted(array, bits)
    elif color == PHOTOMETRIC.PALETTE and not indices:
        table = (np.asarray(page.colormap) >> 8).astype(np.uint8)
        return table.T[array], f"{axes}S", False
    elif color not in (*_AS_STORED, PHOTOMETRIC.PALETTE, PHOTOMETRIC.SEPARATED):
        raise ValueError(f"its colors are stored as {PHOTOMETRIC(color).name}; save it as gray or RGB")
    if bits in (2, 4) and not indices and color != PHOTOMETRIC.PALETTE:  # where imagecodecs is installed
        array = array * np.uint8(255 // (2**bits - 1))
    if "S" not in axes:
        return array, axes, False
    array, axes = np.moveaxis(array, axes.index("S"), -1), axes.replace("S", "") + "S"
    array, alpha = _without_alpha(array, page.extrasamples)
    if color == PHOTOMETRIC.SEPARATED:
        array = _from_inks(array)
    return (array[..., 0], axes[:-1], alpha) if array.shape[-1] == 1 else (array, axes, alpha)


def _inverted(array: np.ndarray, bits: int) -> np.ndarray:
    """Values of a file in which 0 is white, with 0 as black."""
    if array.dtype.kind == "b":
        return np.asarray(np.logical_not(array))
    if array.dtype.kind != "u":
        raise ValueError("its zero is white, and its values have no largest one; save it with black as zero")
    return np.asarray(array.dtype.type(2**bits - 1) - array)


def _without_alpha(array: np.ndarray, extra: Sequence[int]) -> tuple[np.ndarray, bool]:
    """Drop transparency from the last axis; also returns whether it was anywhere less than full."""
    kinds = [int(kind) for kind in extra]
    places = [place for place, kind in enumerate(kinds, start=array.shape[-1] - len(kinds)) if kind]
    if not places or array.dtype.kind != "u":
        return array, False
    alpha = array[..., places[0]]
    full = np.iinfo(array.dtype).max
    colors = np.delete(array, places, axis=-1)
    if _PREMULTIPLIED in kinds and _ALPHA not in kinds:
        opacity = np.maximum(alpha, 1)[..., None] / full
        colors = np.minimum(np.rint(colors / opacity), full).astype(array.dtype)
    return colors, bool((alpha < full).any())


def _from_inks(array: np.ndarray) -> np.ndarray:
    """Red, green and blue of cyan, magenta, yellow and black, as Pillow computes them without a color profile."""
    if array.shape[-1] != 4 or array.dtype.kind != "u":
        raise ValueError(f"it is printed with {array.shape[-1]} inks; save it as RGB")
    full = np.iinfo(array.dtype).max
    light: np.ndarray = (full - array[..., :3].astype(np.float64)) * (full - array[..., 3:].astype(np.float64)) / full
    return np.asarray(np.rint(light), array.dtype)


def _turned(array: np.ndarray, axes: str, page: tifffile.TiffPage) -> np.ndarray:
    """The array as its tag of orientation says that it is shown."""
    code = int(page.tags.valueof("Orientation", 1))
    rows, columns = axes.index("Y"), axes.index("X")
    if code in (5, 6, 7, 8):  # the first stored row is shown as a column
        array = array.swapaxes(rows, columns)
    # Then by where the first stored row and the first stored column are shown.
    if code in (3, 4, 7, 8):
        array = np.flip(array, rows)
    if code in (2, 3, 6, 7):
        array = np.flip(array, columns)
    return array


def stored_shape(path: Path) -> tuple[tuple[int, ...], int | Literal["none"] | None]:
    """Read the shape of a TIFF file from its head.

    Args:
        path: The file.

    Returns:
        The shape and the channel axis, "none" for a gray image and None where it is not stated.

    Raises:
        ValueError: The head does not tell the shape of the picture.
    """
    with tifffile.TiffFile(str(path)) as file:
        series = only_series(file)
        if not is_plain(series.keyframe) or has_pages(series.axes):
            raise ValueError(f"{path} has to be read")
        return tuple(series.shape), channel_axis(series.axes)


def claimed_shape(path: Path) -> tuple[int, ...]:
    """Read the shape that a TIFF file claims to have, whatever its colors are.

    Args:
        path: The file.

    Returns:
        The shape of its only image.
    """
    with tifffile.TiffFile(str(path)) as file:
        return tuple(only_series(file).shape)


def channel_axis(axes: str) -> int | Literal["none"] | None:
    """The channel axis among the axes of a TIFF file, as tifffile names them.

    Args:
        axes: A letter for each.

    Returns:
        The number of the axis, "none" where there is none, and None where it is not stated.

    Raises:
        ValueError: There are channels of several colors each.
    """
    channels = [axis for axis, name in enumerate(axes) if name in "CS"]
    if len(channels) > 1:
        raise ValueError("it has channels of several colors each; save each channel as one gray plane")
    if channels:
        return channels[0]
    return "none" if set(axes) <= set("ZYX") else None
