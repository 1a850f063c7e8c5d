"""Read masks as whole numbers, and count their values."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from monai.data.image_reader import NibabelReader
from PIL import Image

from lightning_xai.data.reading import MASK_READERS, BadImageError, read_file

Source = Path | np.ndarray
#: Values up to this one can be class indices; larger ones are brightnesses or numbers of objects.
LARGEST_LABEL = 31
#: Brightest values of whole numbers of 8 and 16 bits.
WHITE = (255, 65535)
#: Above it a fraction from 0 to 1 counts as the class.
HALF = 0.5
#: How far from a whole number the scale of a NIfTI header may leave a label.
_ROUNDING = 1e-3


def read_mask(
    source: Source | tuple[Source, ...],
    size: tuple[int, ...],
    name: str | None = None,
    ignored: int | None = None,
    affine: np.ndarray | None = None,
    soft: bool = False,
) -> np.ndarray:
    """Read a mask as whole numbers, as they are stored.

    Args:
        source: Path or array; palette images give their indices, gray RGB images their gray value. Several masks of one
            image are united: the largest value of each pixel.
        size: Spatial size *S that the mask must have, in pixels.
        name: What error messages call the mask; None takes the path.
        ignored: The value of pixels that the mask says nothing about; such a pixel of one of several masks is one.
        affine: The voxel-to-world matrix (4, 4) of the image, or None where nothing states it.
        soft: Whether fractions from 0 to 1 are soft edges: all above 0.5 become 1, and all others 0.

    Returns:
        Array (1, *S) of int64, 0 for background; as stored, also where it is ignored.

    Raises:
        BadImageError: The mask is missing, unreadable, of another size or place than the image, drawn in the alpha
            channel alone, or holds anything but whole numbers.
    """
    if isinstance(source, tuple):
        parts = [read_mask(part, size, name, ignored, affine, soft) for part in source]
        united: np.ndarray = np.maximum.reduce(parts)
        if ignored is not None:
            united[np.logical_or.reduce([part == ignored for part in parts])] = ignored
        return united
    placed = None
    if isinstance(source, Path):
        name = str(source)
        stored = read_file(source, MASK_READERS, "mask")
        array, placed = stored.array, stored.affine
    else:
        name = name or "the array"
        array = source
    plane = _rounded(_one_plane(array, size, name), source)
    _check_place(placed, affine, name)
    if soft and _is_fraction(plane):
        plane = plane > HALF
    if not _is_whole(plane):
        raise BadImageError(f"The mask {name} holds values that are not whole numbers; save class indices.")
    if plane.min(where=plane != ignored, initial=0) < 0:
        raise BadImageError(f"The mask {name} holds negative values; save class indices with 0 for background.")
    if isinstance(source, Path) and (plane == plane.flat[0]).all() and _has_shape_in_alpha(source):
        raise BadImageError(
            f"The shape of the mask {name} is drawn in its alpha channel alone, while its colors are the same "
            "everywhere; save it as a gray image with 0 for background."
        )
    return plane.astype(np.int64)[None]


def _check_place(affine: np.ndarray | None, of_image: np.ndarray | None, name: str) -> None:
    """Raise an error for a mask that lies elsewhere than its image, where both state their place."""
    if affine is not None and of_image is not None and not np.allclose(affine, of_image, atol=1e-2):
        raise BadImageError(
            f"The mask {name} lies elsewhere in the world than its image (their affines differ); resample it to the "
            "image or set data.on_bad_image=skip."
        )


def _one_plane(array: np.ndarray, size: tuple[int, ...], name: str) -> np.ndarray:
    """Return the mask without its channel axis, checked against the size of the image."""
    if array.shape in (size, (1, *size)):
        return array.reshape(size)
    if array.shape[:-1] != size:
        raise BadImageError(
            f"The mask {name} has size {array.shape} where its image has {size}; "
            "redraw it at the size of the image or set data.on_bad_image=skip."
        )
    if not (array == array[..., :1]).all():
        raise BadImageError(f"The mask {name} has {array.shape[-1]} different channels; save class indices in one.")
    return array[..., 0]


def _is_whole(array: np.ndarray) -> bool:
    """Tell whether all values are whole numbers."""
    if array.dtype.kind == "f":
        return bool(np.array_equal(array, np.rint(array)))
    return array.dtype.kind in "biu"


def _is_fraction(array: np.ndarray) -> bool:
    """Tell whether values are fractions from 0 to 1, not all of them whole."""
    return array.dtype.kind == "f" and bool(((array >= 0) & (array <= 1)).all()) and not _is_whole(array)


def _rounded(array: np.ndarray, source: Source | tuple[Source, ...]) -> np.ndarray:
    """Labels of a NIfTI file as the whole numbers that they were before they were scaled by its header."""
    if array.dtype.kind != "f" or not isinstance(source, Path) or not NibabelReader().verify_suffix(str(source)):
        return array
    whole = np.rint(array)
    return whole if np.allclose(array, whole, rtol=0, atol=_ROUNDING) else array


def _has_shape_in_alpha(path: Path) -> bool:
    """Tell whether an image file is more transparent in some places than in others."""
    try:
        with Image.open(path) as image:
            if not image.has_transparency_data:
                return False
            low, high = image.convert("RGBA").getchannel("A").getextrema()
    except OSError:  # no format of Pillow's
        return False
    return low != high


@dataclass
class MaskValues:
    """Counts how often each value occurs in the masks of a data set, and remembers the first mask that has it.

    Args:
        ignored: A value that is not counted, since the masks say nothing there.

    Example:
        >>> values = MaskValues()
        >>> values.add(np.array([[0, 0, 255]]), "a")
        >>> dict(values.counts)
        {0: 2, 255: 1}
    """

    ignored: int | None = None
    counts: Counter[int] = field(default_factory=Counter)
    first: dict[int, str] = field(default_factory=dict)
    #: Brightest values that a mask holds next to small labels.
    white: set[int] = field(default_factory=set)
    lossy: bool = False
    #: The first mask of fractions from 0 to 1.
    fractions: str | None = None

    def add(self, mask: np.ndarray, name: str, lossy: bool = False) -> None:
        """Count the values of a mask.

        Args:
            mask: Values of any shape. Fractions from 0 to 1 are soft edges, and count as 0 or 1; other values that are
                no whole numbers, or negative, are left to `read_mask`.
            name: What messages call it.
            lossy: Whether it comes from a JPEG, which does not keep values.
        """
        self.lossy = self.lossy or lossy
        mask = mask.ravel(order="K") if self.ignored is None else mask[mask != self.ignored]
        if _is_fraction(mask):
            self.fractions = self.fractions or name
            mask = (mask > HALF).astype(np.uint8)
        if not mask.size or not _is_whole(mask) or mask.min() < 0:
            return
        counts = _value_counts(mask)
        for value, count in counts:
            self.counts[value] += count
            self.first.setdefault(value, name)
        if any(0 < value <= LARGEST_LABEL for value, _ in counts):
            self.white |= {value for value, _ in counts if value in WHITE}

    def merge(self, other: "MaskValues") -> None:
        """Add the counts of other masks."""
        self.lossy = self.lossy or other.lossy
        self.fractions = self.fractions or other.fractions
        self.counts.update(other.counts)
        self.first = other.first | self.first
        self.white |= other.white

    def add_source(self, source: Source | tuple[Source, ...], name: str) -> None:
        """Count the values of a mask, or of several of one image, as stored; unreadable ones are for `read_mask`."""
        for part in source if isinstance(source, tuple) else (source,):
            if isinstance(part, np.ndarray):
                self.add(part, name)
                continue
            try:
                array, channels, *_ = read_file(part, MASK_READERS, "mask")
            except BadImageError:
                continue
            if isinstance(channels, int):
                planes = np.moveaxis(array, channels, 0)
                if not (planes == planes[:1]).all():
                    continue
                array = planes[0]
            self.add(_rounded(array, part), str(part), part.suffix.lower() in (".jpg", ".jpeg", ".jpe", ".jfif"))


def _value_counts(mask: np.ndarray) -> list[tuple[int, int]]:
    """Return each value of a flat mask and how often it occurs; by counting, since sorting a volume takes seconds."""
    if mask.max() > np.iinfo(np.uint16).max:
        values, numbers = np.unique(mask.astype(np.int64), return_counts=True)
        return list(zip(values.tolist(), numbers.tolist(), strict=True))
    counts = np.zeros(int(mask.max()) + 1, np.int64)
    for start in range(0, len(mask), 1 << 22):  # counting needs eight bytes a pixel
        counts += np.bincount(mask[start : start + (1 << 22)].astype(np.uint16), minlength=len(counts))
    values = np.flatnonzero(counts)
    return list(zip(values.tolist(), counts[values].tolist(), strict=True))
