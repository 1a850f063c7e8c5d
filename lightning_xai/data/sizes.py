"""Choose one size for images of different sizes."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

#: Larger images are of no use to the usual networks, and would fill the memory.
LARGEST_SIDE = 1024


def common_size(sizes: Sequence[tuple[int, ...]], whole: bool = False) -> tuple[int, ...] | None:
    """Choose the size that images of different sizes are brought to: the median of each side, rounded.

    Sides above 64 are rounded to a multiple of 32, shorter ones to a multiple of 8, so that networks can halve them.
    Where a side would exceed 1024, all are scaled down together.

    Args:
        sizes: Spatial size *S of each image, in pixels.
        whole: Whether to take the largest of each side instead, rounded up, so that each image fits in unscaled.

    Returns:
        The size, or None where all images have the same, or not even the same number of axes.

    Example:
        >>> common_size([(180, 210), (260, 330), (640, 480)])
        (256, 320)
    """
    if len(set(sizes)) < 2 or len({len(size) for size in sizes}) > 1:
        return None
    if whole:
        return tuple(_step(side) * math.ceil(side / _step(side)) for side in map(max, zip(*sizes, strict=True)))
    sides = np.median(np.array(sizes), axis=0)
    sides = sides * min(1.0, LARGEST_SIDE / sides.max())
    return tuple(_rounded(float(side)) for side in sides)


def describe_sizes(sizes: Sequence[tuple[int, ...]], chosen: tuple[int, ...]) -> str:
    """Describe in a sentence the sizes of images, and the size that they are resized to.

    Args:
        sizes: Spatial size of each image.
        chosen: The size that all get.

    Returns:
        The sentence.
    """
    least, most = min(sizes, key=math.prod), max(sizes, key=math.prod)
    return (
        f"Images have sizes from {_text(least)} to {_text(most)}; all are resized to {_text(chosen)} (data.size=auto)."
    )


def _rounded(side: float) -> int:
    step = _step(side)
    return max(step, step * math.floor(side / step + 0.5))


def _step(side: float) -> int:
    return 32 if side > 64 else 8


def _text(size: tuple[Any, ...]) -> str:
    return " x ".join(map(str, size))
