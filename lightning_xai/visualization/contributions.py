"""Figures of contributions: percentages in the cells of the regions, classes side by side on one scale."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from lightning_xai.visualization.grid import DPI, SIGNED, UNSIGNED, best_slice, display_image, render, to_plane

#: Cells of fewer pixels have no room for a number.
MIN_CELL = 15
#: Smaller fractions than this are left out.
MIN_FRACTION = 0.001


def contribution_figure(
    image: Tensor,
    contributions: Tensor,
    titles: Sequence[str],
    difference: str | None = None,
    side: float = 3.4,
    heading: str = "",
) -> NDArray[np.uint8]:
    """Draw an image next to what its regions contribute to some classes, all on one scale.

    Args:
        image: ``(C, *S)``.
        contributions: ``(T, *regions)``: fractions of the class probabilities, non-negative.
        titles: One for each class.
        difference: Title of a further panel, the first class minus the second; ``None``: no such panel.
        side: Side of a panel, inches.
        heading: Above all panels.

    Returns:
        ``(H, W, 3)`` uint8.

    Raises:
        ValueError: If there are not as many titles as classes, or a difference is wanted of a single class.

    Example:
        >>> import torch
        >>> contribution_figure(torch.rand(1, 32, 32), torch.rand(2, 4, 4) / 16, ["cat 50 %", "dog 50 %"]).shape[2]
        3
    """
    if len(titles) != len(contributions) or (difference is not None and len(contributions) < 2):
        raise ValueError(
            f"{len(titles)} titles for {len(contributions)} classes; give one each, and two classes for a difference."
        )
    region_slice = best_slice(contributions.sum(dim=0))
    planes = to_plane(contributions, region_slice)
    index = None if region_slice is None else int((region_slice + 0.5) * image.shape[-1] / contributions.shape[-1])
    gray = display_image(image, index).mean(axis=-1)
    panels = [(plane, title, UNSIGNED, float(planes.max())) for plane, title in zip(planes, titles, strict=True)]
    if difference is not None:
        change = planes[0] - planes[1]
        panels.append((change, difference, SIGNED, float(np.abs(change).max())))
    height = side * gray.shape[0] / gray.shape[1] + (0.6 if heading else 0.3)  # inches for the titles
    figure = Figure(figsize=(side * (len(panels) + 1), height), dpi=DPI, layout="constrained")
    figure.suptitle(heading, fontsize=9)
    axes = np.atleast_1d(figure.subplots(1, len(panels) + 1))
    axes[0].imshow(display_image(image, index))
    axes[0].set_title("image" if index is None else f"image, slice {index}", fontsize=8)
    for axis, (plane, title, colors, top) in zip(axes[1:], panels, strict=True):
        _cells(axis, gray, plane, colors, top)
        axis.set_title(title, fontsize=8)
    for axis in axes:
        axis.set_xticks([])
        axis.set_yticks([])
    return render(figure)


def _cells(axis: Any, gray: NDArray[np.float32], plane: NDArray[np.float32], colors: str, top: float) -> None:
    """Draw the regions over the gray image, each with its percentage where there is room."""
    height, width = gray.shape
    rows, columns = plane.shape
    low = -top if colors == SIGNED else 0.0
    axis.imshow(gray, cmap="gray", extent=(0, width, height, 0), interpolation="nearest")
    strength = np.abs(plane) / top if top > 0 else np.zeros_like(plane)
    tinted = colormaps[colors](np.clip((plane - low) / (top - low), 0, 1) if top > 0 else plane)
    tinted[..., 3] = 0.25 + 0.6 * np.sqrt(strength)
    axis.imshow(tinted, extent=(0, width, height, 0), interpolation="nearest")
    room = axis.get_figure().get_size_inches()[0] / len(axis.get_figure().axes) * DPI / columns
    if room < MIN_CELL:
        return
    for row in range(rows):
        for column in range(columns):
            fraction = float(plane[row, column])
            if abs(fraction) >= MIN_FRACTION:
                red, green, blue, alpha = tinted[row, column]
                bright = alpha * (0.3 * red + 0.6 * green + 0.1 * blue) + (1 - alpha) * 0.5
                position = ((column + 0.5) * width / columns, (row + 0.5) * height / rows)
                axis.text(
                    *position,
                    percentage(fraction),
                    color="black" if bright > 0.45 else "white",
                    fontsize=min(8.0, 0.3 * room),
                    ha="center",
                    va="center",
                )


def percentage(fraction: float) -> str:
    """Write a fraction as a percentage, with a decimal below 10 %; the percent sign would fill the cell."""
    value = abs(100 * fraction)
    return f"{'-' if fraction < 0 else ''}{value:.{1 if value < 9.95 else 0}f}"
