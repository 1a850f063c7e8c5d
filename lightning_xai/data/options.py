"""The options that every data module takes besides its source."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypedDict

from lightning_xai.data.reading import ChannelAxis

Size = int | Sequence[int] | Literal["auto"] | None


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
    normalize: Literal["image"] | None
    channels: Literal[1, 3] | None
    ignore_index: int | None


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
    if options["normalize"] not in (None, "image"):
        raise ValueError(f"data.normalize is {options['normalize']!r}; use image, or null for the unit of the files.")
    if options["channels"] not in (None, 1, 3):
        raise ValueError(f"data.channels is {options['channels']!r}; use 1 for gray, 3 for color, or null for neither.")
    if isinstance(size, str) and size != "auto":
        raise ValueError(f"data.size is {size!r}; use a side, a size for each axis, auto, or null to keep the sizes.")
