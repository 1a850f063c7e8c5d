"""The options that every data module takes besides its source."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict, get_args

from lightning_xai.data.arrays import LARGEST_IMAGE
from lightning_xai.data.grids import Resize
from lightning_xai.data.reading import ChannelAxis

Normalize = Literal["image", "dataset", "none"] | Mapping[str, Sequence[float]] | None
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
    window_hu: Sequence[float] | None
    patch: Sequence[int] | int | None
    boxes: str | Path | None


def check_options(options: Options) -> None:
    """Check the options that allow few values.

    Args:
        options: The options.

    Raises:
        ValueError: One is wrong.
    """
    splits, classes, size = options["splits"], options["mask_classes"], options["size"]
    if len(splits) != 3 or min(splits) <= 0 or abs(sum(splits) - 1) > 1e-6:
        raise ValueError(f"data.splits is {list(splits)}; give three positive fractions that sum to 1.")
    if classes is not None and len(classes) < 2:
        raise ValueError(f"data.mask_classes is {list(classes)}; name the background and at least one class.")
    if options["on_bad_image"] not in ("raise", "skip"):
        raise ValueError(f"data.on_bad_image is {options['on_bad_image']!r}; use raise or skip.")
    if options["channels"] not in (None, 1, 3):
        raise ValueError(f"data.channels is {options['channels']!r}; use 1 for gray, 3 for color, or null for neither.")
    normalize = options["normalize"]
    if normalize not in (None, "image", "dataset", "none") and not (
        isinstance(normalize, Mapping) and set(normalize) == {"mean", "std"}
    ):
        raise ValueError(
            f"data.normalize is {normalize!r}; use image, dataset, or none (null) for the unit of the files."
        )
    if options["resize"] not in get_args(Resize):
        raise ValueError(f"data.resize is {options['resize']!r}; use {', '.join(get_args(Resize))}.")
    window, axes = options["window_hu"], options["orientation"]
    if window is not None and (len(window) != 2 or window[0] >= window[1]):
        raise ValueError(
            f"data.window_hu is {list(window)}; give the lowest and the highest value, such as [-150,250]."
        )
    if axes is not None and (len(axes) != 3 or [sum(name in pair for name in axes) for pair in AXES] != [1, 1, 1]):
        raise ValueError(f"data.orientation is {axes!r}; name where each axis points, such as RAS or LPS.")
    sides = [size] * 2 if isinstance(size, int) else [] if size is None or isinstance(size, str) else list(size)
    if sides and (min(sides) < 1 or math.prod(sides) > LARGEST_IMAGE):
        raise ValueError(
            f"data.size is {size}; give sides of at least one pixel, and at most {LARGEST_IMAGE:,} pixels in all."
        )
    if isinstance(size, str) and size != "auto":
        raise ValueError(f"data.size is {size!r}; use a side, a size for each axis, auto, or null to keep the sizes.")
