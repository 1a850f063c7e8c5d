"""Figures of global maps: over the mean image, all labels on one scale, with a color bar."""

from collections.abc import Mapping

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from lightning_xai.visualization.grid import DPI, OUTLINE, UNSIGNED, best_slice, display_image, render, to_plane

#: Panels in a row, at most.
COLUMNS = 4
TITLE_ROOM, BAR_ROOM = 0.4, 1.0  # inches


def global_figure(
    mean_image: Tensor | None,
    maps: Mapping[str, Tensor],
    unit: str,
    region: Tensor | None = None,
    side: float = 2.6,
    heading: str = "",
) -> NDArray[np.uint8]:
    """Draw the mean image, and maps over it on one scale.

    Args:
        mean_image: ``(C, *S)``; ``None``: the maps are drawn on black.
        maps: Non-negative maps ``(*S)`` by title; of volumes the slice is shown that holds most of all of them.
        unit: What the color bar's numbers are.
        region: Bool ``(*S)``, outlined.
        side: Height of a panel, inches.
        heading: Above all panels.

    Returns:
        ``(H, W, 3)`` uint8.

    Raises:
        ValueError: If there is no map.

    Example:
        >>> global_figure(torch.rand(1, 16, 16), {"overall": torch.rand(16, 16)}, "fraction").shape[2]
        3
    """
    if not maps:
        raise ValueError("There is no map to draw: every map was left out, so look at the counts of skipped maps.")
    stacked = torch.stack([values.float().cpu() for values in maps.values()])
    index = best_slice(stacked.sum(dim=0))
    planes = to_plane(stacked, index)
    image = torch.zeros(1, *stacked.shape[1:]) if mean_image is None else mean_image.float().cpu()
    shown = display_image(image, index)
    titles = [*([] if mean_image is None else ["mean image"]), *maps]
    height, width = shown.shape[:2]
    rows = -(-len(titles) // COLUMNS)
    columns = -(-len(titles) // rows)  # rows of about equal length
    panel = max(side * width / height, 1.2)
    size = (columns * panel + BAR_ROOM, rows * (side + TITLE_ROOM) + (TITLE_ROOM if heading else 0))
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    figure.suptitle(heading, fontsize=9)
    axes = np.atleast_1d(figure.subplots(rows, columns)).flatten()
    top = float(np.percentile(planes, 99.9)) or float(planes.max()) or 1.0
    outline = None if region is None else to_plane(region.unsqueeze(0).float().cpu(), index)[0]
    gray = shown.mean(axis=-1, keepdims=True).repeat(3, axis=-1)
    for panel_index, (axis, title) in enumerate(zip(axes, titles, strict=False)):
        number = panel_index - len(titles) + len(maps)
        axis.imshow(shown if number < 0 else mixed(gray, planes[number] / top), interpolation="nearest")
        axis.set_title(title if index is None else f"{title}, slice {index}", fontsize=9)
        if outline is not None and 0 < outline.mean() < 1:
            axis.contour(outline, levels=[0.5], colors=OUTLINE, linewidths=0.8)
    for axis in axes:
        axis.axis("off")
    bar = ScalarMappable(Normalize(0, top), UNSIGNED)
    figure.colorbar(bar, ax=list(axes), shrink=0.8, pad=0.02).set_label(unit, fontsize=8)
    return render(figure)


def mixed(gray: NDArray[np.float32], strength: NDArray[np.float32]) -> NDArray[np.float32]:
    """Lay a map ``(H, W)``, 1 = strongest, over a gray image ``(H, W, 3)``: the stronger the more opaque."""
    opacity = 0.85 * np.sqrt(np.clip(strength, 0, 1))[..., None]
    colors = colormaps[UNSIGNED](np.clip(strength, 0, 1))[..., :3]
    overlaid: NDArray[np.float32] = (gray * (1 - opacity) + colors * opacity).astype(np.float32)
    return overlaid


def matrix_figure(values: NDArray[np.float64], rows: list[str], columns: list[str], title: str) -> NDArray[np.uint8]:
    """Draw a table of numbers as colors, 0 white.

    Args:
        values: ``(R, C)``.
        rows: A label for each row.
        columns: A label for each column.
        title: Above it.

    Returns:
        ``(H, W, 3)`` uint8.
    """
    cell = 0.75
    longest = max(map(len, rows))
    size = (cell * len(columns) + 0.09 * longest + 1.6, 0.5 * len(rows) + 1.3 + 0.06 * max(map(len, columns)))
    figure = Figure(
        figsize=(max(size[0], 0.085 * max(map(len, title.splitlines())) + 0.5), size[1]), dpi=DPI, layout="constrained"
    )
    axes = figure.subplots()
    top = float(np.abs(values).max()) or 1.0
    axes.imshow(values, cmap="RdBu_r", vmin=-top, vmax=top, aspect="auto")
    axes.set_xticks(range(len(columns)), columns, rotation=30, ha="right", fontsize=8)
    axes.set_yticks(range(len(rows)), rows, fontsize=8)
    for row, column in np.ndindex(values.shape):
        value = values[row, column]
        shade = "white" if abs(value) > 0.6 * top else "black"
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8, color=shade)
    axes.set_title(title, fontsize=9)
    return render(figure)
