"""The options that every data module takes besides its source."""

import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, TypedDict, get_args

from lightning_xai.data.arrays import LARGEST_IMAGE
from lightning_xai.data.grids import Resize
from lightning_xai.data.loading import Normalize, Spacing
from lightning_xai.data.reading import ChannelAxis

Size = int | Sequence[int] | Literal["auto"] | None
#: Opposite directions in the body.
AXES = ("LR", "PA", "IS")


class Options(TypedDict, total=False):
    """The options of every data module; explained in `ImageDataModule`."""

    size: Size
    batch_size: int
    splits: Sequence[float]
    seed: int
    cache: bool
    cache_limit: float | None
    num_workers: int | None
    on_bad_image: Literal["raise", "skip"]
    augment: Sequence[Callable[..., Any]] | None
    limit: int | None
    channel_axis: ChannelAxis
    mask_classes: Sequence[str] | None
    prepare: Sequence[Callable[..., Any]] | None
    channels: Literal[1, 3] | None
    ignore_index: int | None
    normalize: Normalize
    resize: Resize
    orientation: str | None
    spacing: Spacing
    window_hu: Sequence[float] | None
    patch: Sequence[int] | int | None
    boxes: str | Path | None


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _is_positive(value: Any) -> bool:
    return _is_number(value) and value > 0


def _is_whole(value: Any, low: int = 0, high: int = 1 << 32) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and low <= int(value) < high


def _are(values: Any, right: Callable[[Any], bool]) -> bool:
    """Whether this is a list, and not a text, of such values."""
    return isinstance(values, Sequence) and not isinstance(values, str) and all(map(right, values))


def is_name(value: Any) -> bool:
    """Whether a value can name a class: a text that is not empty, or a number."""
    return isinstance(value, bool) or _is_number(value) or (isinstance(value, str) and bool(value.strip()))


def check_names(names: Any, key: str) -> None:
    """Raise an error for names of classes that are no list of different names, or None.

    Raises:
        ValueError: They are not.
    """
    if names is not None and not (_are(names, is_name) and len(names) == len(set(map(str, names))) > 0):
        raise ValueError(f"data.{key} is {names!r}; list the names of the classes, each once.")


def _is_normalize(value: Any) -> bool:
    if not isinstance(value, Mapping):
        return value in (None, "image", "dataset", "none")
    if set(value) != {"mean", "std"} or not all(_are(part, _is_number) for part in value.values()):
        return False
    return len(value["mean"]) == len(value["std"]) > 0 and min(value["std"]) > 0


#: What each option may be, and what to do where it is something else.
_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "size": (
        lambda value: (
            value in (None, "auto") or _is_whole(value, -(1 << 32)) or _are(value, lambda side: _is_whole(side))
        ),
        "use a side, a size for each axis, auto, or null to keep the sizes",
    ),
    "batch_size": (lambda value: _is_whole(value, 1), "give a whole number of images"),
    "splits": (
        lambda value: _are(value, _is_number) and len(value) == 3 and min(value) > 0 and abs(sum(value) - 1) <= 1e-6,
        "give three positive fractions that sum to 1",
    ),
    "seed": (_is_whole, "give a whole number from 0 to 4294967295"),
    "cache": (lambda value: isinstance(value, bool), "use true or false"),
    "cache_limit": (
        lambda value: value is None or _is_positive(value),
        "give gigabytes above 0, null for half of what is free, or data.cache=false",
    ),
    "num_workers": (lambda value: value is None or _is_whole(value), "give a whole number, or null"),
    "on_bad_image": (lambda value: value in ("raise", "skip"), "use raise or skip"),
    "limit": (lambda value: value is None or _is_whole(value, 1, 1 << 62), "give a whole number of images, or null"),
    "channel_axis": (
        lambda value: value in (None, "none") or _is_whole(value, -5, 5),
        "give the number of the axis, none for a volume without channels, or null",
    ),
    "channels": (
        lambda value: value is None or (_is_whole(value) and value in (1, 3)),
        "use 1 for gray, 3 for color, or null for neither",
    ),
    "ignore_index": (lambda value: value is None or _is_whole(value), "give a value of the masks, or null"),
    "normalize": (
        _is_normalize,
        "use image, dataset, or none (null) for the unit of the files",
    ),
    "resize": (lambda value: value in get_args(Resize), f"use {', '.join(get_args(Resize))}"),
    "orientation": (
        lambda value: value is None or (isinstance(value, str) and _points(value)),
        "name where each axis points, such as RAS or LPS",
    ),
    "spacing": (
        lambda value: value in (None, "any") or (_are(value, _is_positive) and len(value) == 3),
        "give three lengths in mm, such as [1,1,1], any to keep mixed ones, or null",
    ),
    "window_hu": (
        lambda value: value is None or (_are(value, _is_number) and len(value) == 2 and value[0] < value[1]),
        "give the lowest and the highest value, such as [-150,250]",
    ),
    "patch": (
        lambda value: (
            value is None or _is_whole(value, 1) or (_are(value, lambda side: _is_whole(side, 1)) and bool(value))
        ),
        "give a side, or one for each axis, or null",
    ),
    "boxes": (
        lambda value: value is None or (isinstance(value, str | Path) and bool(str(value))),
        "give a file or a folder",
    ),
}


def _points(axes: str) -> bool:
    return len(axes) == 3 and [sum(name in pair for name in axes) for pair in AXES] == [1, 1, 1]


def check_options(options: Options) -> None:
    """Check the values of options.

    Args:
        options: The options.

    Raises:
        ValueError: One is wrong.
    """
    for name, value in options.items():
        if name in _RULES and not _RULES[name][0](value):
            raise ValueError(f"data.{name} is {value!r}; {_RULES[name][1]}.")
    classes, size = options["mask_classes"], options["size"]
    check_names(classes, "mask_classes")
    if classes is not None and len(classes) < 2:
        raise ValueError(f"data.mask_classes is {list(classes)}; name the background and at least one class.")
    sides: Any = [size] * 2 if isinstance(size, Integral) else size
    if size not in (None, "auto") and (min(sides, default=0) < 1 or math.prod(map(int, sides)) > LARGEST_IMAGE):
        raise ValueError(
            f"data.size is {size}; give sides of at least one pixel, and at most {LARGEST_IMAGE:,} pixels in all."
        )
