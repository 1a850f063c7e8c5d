"""Read pictures (PNG, JPEG, WebP, GIF, ...) as a viewer shows them, with Pillow."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.data.image_reader import ImageReader
from monai.utils.enums import MetaKeys
from PIL import Image, ImageCms, ImageOps

PICTURE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".webp", ".jp2", ".avif"),
    *(".pgm", ".ppm", ".pbm", ".pnm"),
)
#: Formats whose further frames are others than the first: a photo with a preview is one too, but not an animation.
_ANIMATED = ("GIF", "WEBP", "PNG", "AVIF", "TIFF")
_ORIENTATION = 0x0112


class PaletteReader(ImageReader):
    """A reader of files that may have a palette.

    Args:
        indices: Whether the indices of a palette are kept: in a mask they are the classes.
    """

    def __init__(self, indices: bool = False) -> None:
        super().__init__()
        self.indices = indices


class PictureReader(PaletteReader):
    """Reads one picture, turned by its EXIF tag as viewers and annotation tools turn it."""

    def verify_suffix(self, filename: Sequence[Any] | Any) -> bool:
        """Tell whether the name is that of a picture."""
        return str(filename).lower().endswith(PICTURE_SUFFIXES)

    def read(self, data: Sequence[Any] | Any, **kwargs: Any) -> tuple[np.ndarray, bool]:
        """Read the file `data`: its pixels, and whether something in it is transparent."""
        with Image.open(str(data), **kwargs) as image:
            frames = getattr(image, "n_frames", 1)
            if frames > 1 and image.format in _ANIMATED:
                raise ValueError(f"it holds {frames} frames, as an animation does; save each as a picture of its own")
            picture, alpha = (index_mask if self.indices else gray_or_rgb)(image)
            return np.asarray(picture), alpha

    def get_data(self, img: tuple[np.ndarray, bool]) -> tuple[np.ndarray, dict[str, Any]]:
        """Return the array (H, W) or (H, W, 3), and the metadata."""
        array, alpha = img
        axis = float("nan") if array.ndim == 2 else -1
        return array, {MetaKeys.ORIGINAL_CHANNEL_DIM: axis, "alpha": alpha, "pages": False}


def gray_or_rgb(image: Image.Image) -> tuple[Image.Image, bool]:
    """Turn a picture as its tag says, drop alpha, resolve palettes and colors, and keep the depth of gray pictures.

    Args:
        image: As opened.

    Returns:
        The picture, gray or RGB, and whether something in it was transparent.
    """
    depth16 = image.mode == "I" and image.format in ("PNG", "PPM")  # how Pillow opens 16-bit gray ones
    image = _turned(image)
    alpha = _has_alpha(image)
    if depth16:
        return image.convert("I;16"), alpha
    if image.mode in ("1", "LA", "La"):
        return image.convert("L"), alpha
    if image.mode == "LAB":
        lab, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, lab, rgb, outputMode="RGB")
        assert converted is not None
        return converted, alpha
    return image if image.mode == "L" or image.mode[0] in "IF" else image.convert("RGB"), alpha


def index_mask(image: Image.Image) -> tuple[Image.Image, bool]:
    """As `gray_or_rgb`, but with the indices of a palette: in a mask they are the classes."""
    return (_turned(image), False) if image.mode == "P" else gray_or_rgb(image)


def stored_shape(path: Path) -> tuple[int, int, int]:
    """Read channels, height and width of a picture from the head of its file.

    Args:
        path: The file.

    Returns:
        The shape (C, H, W) that it is read with.
    """
    with Image.open(path) as image:
        # A PNG can have its tags behind its pixels, which are not decoded for it.
        exif = image.getexif() if image.format != "PNG" or "exif" in image.info else {}
        turned = exif.get(_ORIENTATION, 1) in (5, 6, 7, 8)
        size = (image.width, image.height) if turned else (image.height, image.width)
        gray = image.mode in ("1", "L", "LA", "La") or image.mode[0] in "IF"
        return (1 if gray else 3, *size)


def _turned(image: Image.Image) -> Image.Image:
    """The picture upright; one whose tags are damaged stays as it is stored."""
    try:
        image.load()  # a damaged picture must not pass for one with damaged tags
        orientation = image.getexif().get(_ORIENTATION, 1)
    except (SyntaxError, KeyError, TypeError):
        return image
    return image if orientation == 1 else ImageOps.exif_transpose(image)


def _has_alpha(image: Image.Image) -> bool:
    """Tell whether something in a picture is transparent."""
    if not image.has_transparency_data:
        return False
    if "A" in image.getbands():
        return bool(np.asarray(image.getchannel("A")).min() < 255)
    return bool(np.asarray(image.convert("RGBA").getchannel("A")).min() < 255)
