"""Read masks as whole numbers, and decide what their values mean."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from lightning_xai.data.reading import MASK_READERS, BadImageError, read_file

Source = Path | np.ndarray
#: Values up to this one can be class indices; larger ones are brightnesses or numbers of objects.
LARGEST_LABEL = 31
#: Brightest values of whole numbers of 8 and 16 bits.
_WHITE = (255, 65535)


def read_mask(source: Source | tuple[Source, ...], size: tuple[int, ...], name: str | None = None) -> np.ndarray:
    """Read a mask as whole numbers, as they are stored.

    Args:
        source: Path or array; palette images give their indices, gray RGB images their gray value. Several masks of one
            image are united: the largest value of each pixel.
        size: Spatial size *S that the mask must have, in pixels.
        name: What error messages call the mask; None takes the path.

    Returns:
        Array (1, *S) of int64, 0 for background.

    Raises:
        BadImageError: The mask is missing, unreadable, of another size, drawn in the alpha channel alone, or holds
            anything but whole numbers.
    """
    if isinstance(source, tuple):
        united: np.ndarray = np.maximum.reduce([read_mask(part, size, name) for part in source])
        return united
    if isinstance(source, Path):
        name = str(source)
        array, _, _ = read_file(source, MASK_READERS, "mask")
    else:
        name = name or "the array"
        array = source
    plane = _one_plane(array, size, name)
    if not _is_whole(plane):
        raise BadImageError(f"The mask {name} holds values that are not whole numbers; save class indices.")
    if plane.min() < 0:
        raise BadImageError(f"The mask {name} holds negative values; save class indices with 0 for background.")
    if isinstance(source, Path) and (plane == plane.flat[0]).all() and _has_shape_in_alpha(source):
        raise BadImageError(
            f"The shape of the mask {name} is drawn in its alpha channel alone, while its colors are the same "
            "everywhere; save it as a gray image with 0 for background."
        )
    return plane.astype(np.int64)[None]


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

    Example:
        >>> values = MaskValues()
        >>> values.add(np.array([[0, 0, 255]]), "a")
        >>> dict(values.counts)
        {0: 2, 255: 1}
    """

    counts: Counter[int] = field(default_factory=Counter)
    first: dict[int, str] = field(default_factory=dict)
    lossy: bool = False

    def add(self, mask: np.ndarray, name: str, lossy: bool = False) -> None:
        """Add a mask.

        Args:
            mask: Values of any shape; those that are no whole numbers or negative are left to `read_mask`.
            name: What messages call it.
            lossy: Whether it comes from a JPEG, which does not keep values.
        """
        self.lossy = self.lossy or lossy
        if not mask.size or not _is_whole(mask) or mask.min() < 0:
            return
        for value, count in _value_counts(mask.ravel(order="K")):
            self.counts[value] += count
            self.first.setdefault(value, name)

    def merge(self, other: "MaskValues") -> None:
        """Add the values of other masks."""
        self.lossy = self.lossy or other.lossy
        self.counts.update(other.counts)
        self.first = other.first | self.first

    def add_source(self, source: Source | tuple[Source, ...], name: str) -> None:
        """Add a mask, or several of one image, as they are stored; unreadable ones are left to `read_mask`."""
        for part in source if isinstance(source, tuple) else (source,):
            if isinstance(part, np.ndarray):
                self.add(part, name)
                continue
            try:
                array, channels, _ = read_file(part, MASK_READERS, "mask")
            except BadImageError:
                continue
            if isinstance(channels, int):
                planes = np.moveaxis(array, channels, 0)
                if not (planes == planes[:1]).all():
                    continue
                array = planes[0]
            self.add(array, str(part), part.suffix.lower() in (".jpg", ".jpeg"))


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


@dataclass(frozen=True)
class MaskRule:
    """A rule that turns the values of masks into class indices.

    Attributes:
        threshold: Values above it are 1 and all others 0; None keeps the values, which are class indices.
        note: What a user should know about it, or None where there is nothing to say.
    """

    threshold: float | None = None
    note: str | None = None

    def __call__(self, mask: np.ndarray) -> np.ndarray:
        """Apply the rule to a mask of any shape."""
        return mask if self.threshold is None else (mask > self.threshold).astype(np.int64)


#: Values stay as they are.
CLASS_INDICES = MaskRule()


def mask_rule(mask_values: MaskValues, classes: Sequence[str] | None, where: str) -> MaskRule:
    """Decide what the values of the masks of a data set mean.

    * More than two classes: values are class indices, and stay.
    * Two values: the larger one is the class, whatever the two are (0 and 1, 0 and 255, 1 and 2).
    * Small values (up to 31): class indices, or numbers of objects. Of two classes the second is every one above 0.
    * Many values up to a brightest one (soft edges after resizing, noise of JPEG): the class begins halfway.
    * Many values that few pixels have each: numbers of objects; all above 0 are the second class.

    Masks that only outline evidence (no classes) keep their values where 0 is the background, unless they have soft
    edges.

    Args:
        mask_values: The values of all masks.
        classes: Names of the values, background first; None for masks of evidence.
        where: What messages call the data set.

    Returns:
        The rule.

    Raises:
        ValueError: The values have no clear meaning: a label to ignore, such as 255 next to 0 and 1, three or four
            brightnesses for two classes, or no background.
    """
    values = sorted(mask_values.counts)
    if not values or (classes is not None and len(classes) > 2):
        return MaskRule()
    low, high = values[0], values[-1]
    above_zero = MaskRule(None if classes is None else 0.0)
    if len(values) == 1 or (classes is None and low == 0 and len(values) == 2):
        return above_zero
    if len(values) == 2:
        return MaskRule((low + high) / 2)
    _check_values(mask_values, values, classes, where)
    if high > LARGEST_LABEL and not _between(mask_values, values) and _is_soft(mask_values, high):
        middle = (low + high) / 2
        thing = "evidence" if classes is None else repr(classes[1])
        return MaskRule(
            middle,
            f"The masks of {where} have {len(values)} values from {low} to {high}, as soft edges and lossy files do: "
            f"all above {middle:g} are {thing}.",
        )
    if classes is None or high == 1:
        return above_zero
    listed = _listed(values)
    return MaskRule(0.0, f"The masks of {where} hold the values {listed}: all above 0 are {classes[1]!r}.")


def _check_values(mask_values: MaskValues, values: list[int], classes: Sequence[str] | None, where: str) -> None:
    """Raise an error for three values or more that could mean several things."""
    if mask_values.lossy:
        return
    small = [value for value in values if value <= LARGEST_LABEL]
    large = values[len(small) :]
    if len(small) > 1 and len(large) == 1 and large[0] > 2 * small[-1]:
        raise ValueError(
            f"The masks of {where} hold {large[0]} (such as {mask_values.first[large[0]]}) next to the small values "
            f"{_listed(small)}: pixels to be ignored are not supported, so give these pixels a class, and where some "
            f"masks are drawn with 1 and others with {large[0]}, draw all alike."
        )
    middle = _between(mask_values, values)
    if classes is not None and large and middle:
        raise ValueError(
            f"The masks of {where} hold the {len(values)} values {_listed(values)} (such as "
            f"{mask_values.first[middle[0]]}), but data.mask_classes names 2 ({', '.join(classes)}); save class "
            "indices 0, 1, 2, ... and name them all, or two values alone."
        )
    if values[0] > 0 and not large:
        raise ValueError(
            f"The masks of {where} hold the values {_listed(values)} and no 0 for the background; save class indices "
            "with 0 for background."
        )


def _between(mask_values: MaskValues, values: list[int]) -> list[int]:
    """Return the one or two brightnesses between dark and bright that are drawn on purpose: edges have more."""
    if mask_values.lossy or len(values) > 4:
        return []
    return [value for value in values if 0.1 * values[-1] <= value <= 0.9 * values[-1]]


def _is_soft(mask_values: MaskValues, high: int) -> bool:
    """Tell brightnesses from numbers of objects: of a drawn shape most pixels are about as bright as the brightest."""
    if mask_values.lossy:
        return True
    shape = sum(count for value, count in mask_values.counts.items() if value > 0)
    bright = sum(count for value, count in mask_values.counts.items() if value >= 0.9 * high)
    return bright > shape * (0.05 if high in _WHITE else 0.25)


def _listed(values: Sequence[int]) -> str:
    """Return at most five values as text."""
    shown = [str(value) for value in values]
    return ", ".join(shown if len(shown) <= 5 else [*shown[:3], "...", shown[-1]])
