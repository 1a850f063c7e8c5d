"""Figures of images and maps: overlays and grids, with no knowledge of loggers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from lightning_xai.functional.files import atomic_write

Array = NDArray[np.float32]

# Two channels: green and magenta stay apart for color-blind readers. Four or more: one of these each.
PAIR_COLORS = ((0.1, 0.9, 0.2), (0.9, 0.1, 0.8))
CHANNEL_COLORS = ((0.2, 0.4, 1), (0.1, 0.9, 0.2), (1, 0.1, 0.1), (1, 0.9, 0.1), (0.9, 0.2, 0.9), (0.1, 0.9, 0.9))
SIGNED, UNSIGNED = "RdBu_r", "inferno"
OUTLINE = "#00e5ff"
DPI = 100


def display_image(image: Tensor, index: int | None = None) -> Array:
    """Convert an image with any number of channels to colors.

    One channel becomes gray and three become RGB, stretched together so that their colors stay; others get a color
    each and are stretched one by one.

    Args:
        image: ``(C, H, W)``, or ``(C, H, W, D)`` of which one slice is shown.
        index: The slice of a volume; the middle one if ``None``.

    Returns:
        ``(H, W, 3)`` float32 in [0, 1].

    Example:
        >>> display_image(torch.rand(5, 8, 6)).shape
        (8, 6, 3)
    """
    planes = to_plane(image, middle(image) if index is None else index)
    channels = len(planes)
    if channels in (1, 3):
        colors = np.moveaxis(stretch(planes), 0, -1)
        return np.ascontiguousarray(np.broadcast_to(colors, (*colors.shape[:2], 3)))
    palette = PAIR_COLORS if channels == 2 else CHANNEL_COLORS
    mixed = np.zeros((*planes.shape[1:], 3), np.float32)
    for i, plane in enumerate(planes):
        mixed += stretch(plane)[..., None] * np.array(palette[i % len(palette)], np.float32)
    # Many channels that are bright in one place would all end up white.
    return np.clip(mixed / max(1.0, float(np.percentile(mixed, 99.5))), 0, 1)


def colored(plane: Array, signed: bool) -> Array:
    """Colors ``(H, W, 3)`` of a scaled plane: diverging around 0 if it is signed, else dark to bright."""
    return colormaps[SIGNED if signed else UNSIGNED]((plane + 1) / 2 if signed else plane)[..., :3].astype(np.float32)


def overlay(
    image: Tensor, values: Tensor, signed: bool | None = None, alpha: float = 0.8, index: int | None = None
) -> Array:
    """Lay a map over its image in gray, the more opaque the stronger it is: where the map is 0, only the image shows.

    Gray, because a red stain under a red map would look like the map.

    Args:
        image: ``(C, H, W)`` or ``(C, H, W, D)``.
        values: The map, ``(H, W)`` or ``(H, W, D)``.
        signed: Whether to use diverging colors; ``None``: whether the map has negative values.
        alpha: Opacity of the map's maximum.
        index: The slice of a volume; the one with the map's most mass if ``None``.

    Returns:
        ``(H, W, 3)`` float32 in [0, 1].
    """
    index = best_slice(values) if index is None else index
    return _mixed(display_image(image, index), *scaled_plane(values, signed, index), alpha)


def _mixed(shown: Array, plane: Array, signed: bool, alpha: float = 0.8) -> Array:
    """A plane that :func:`scaled_plane` gave over a shown image in gray; see :func:`overlay`."""
    # The square root keeps weak evidence visible.
    opacity = alpha * np.sqrt(np.abs(plane))[..., None]
    gray = shown.mean(axis=-1, keepdims=True)
    mixed: Array = (gray * (1 - opacity) + colored(plane, signed) * opacity).astype(np.float32)
    return mixed


def map_grid(
    images: Tensor,
    maps: Tensor,
    masks: Tensor | None = None,
    titles: Sequence[Sequence[str]] | None = None,
    labels: Sequence[str] | None = None,
    cell: float = 1.9,
    heading: str = "",
) -> NDArray[np.uint8]:
    """Draw a grid with a row for each image: the image, then the map and its overlay for each query.

    Args:
        images: ``(N, C, *S)``.
        maps: ``(N, T, *S)``.
        masks: ``(N, 1, *S)``, outlined where above 0.
        titles: A title for each query of each image.
        labels: A title for each image.
        cell: Height of a row in inches.
        heading: Above all rows.

    Returns:
        ``(H, W, 3)`` uint8.
    """
    rows, queries = maps.shape[:2]
    height, width = to_plane(images[0], 0).shape[-2:]
    columns, title_room = 1 + 2 * queries, 0.38
    cell_width = max(cell * width / height, 1.2)
    heading_room = 0.25 if heading else 0.0
    full_height = rows * (cell + title_room) + heading_room
    figure = Figure(figsize=(columns * (cell_width + 0.06), full_height), dpi=DPI)
    spaces = {"wspace": 0.06 / cell_width, "hspace": title_room / cell}
    axes = figure.subplots(rows, columns, squeeze=False, gridspec_kw=spaces)
    top = 1 - (title_room + heading_room) / full_height
    figure.subplots_adjust(left=0.005, right=0.995, bottom=0.01 / rows, top=top)
    if heading:
        figure.suptitle(heading, fontsize=8, x=0.005, y=1 - 0.05 / full_height, ha="left", va="top")
    for row in range(rows):
        shown = best_slice(maps[row].abs().sum(dim=0))
        mask = None if masks is None else to_plane(masks[row], shown)[0] > 0
        image = display_image(images[row], shown)
        _draw(axes[row, 0], image, labels[row] if labels else "", mask)
        for query in range(queries):
            values = maps[row, query]
            left, right = axes[row, 1 + 2 * query], axes[row, 2 + 2 * query]
            plane, signed = scaled_plane(values, None, shown)
            _draw(left, colored(plane, signed), titles[row][query] if titles else "", None)
            _draw(right, _mixed(image, plane, signed), value_range(values), mask)
    return render(figure)


def render(figure: Figure) -> NDArray[np.uint8]:
    """Draw a figure, without pyplot and its global state, into ``(H, W, 3)`` uint8."""
    canvas = FigureCanvasAgg(figure)
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # class names may hold dollars
    canvas.draw()  # type: ignore[no-untyped-call]
    pixels: NDArray[np.uint8] = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    return pixels[..., :3].copy()


def save_png(path: str | Path, pixels: NDArray[Any], about: str = "") -> None:
    """Write an image to a PNG file, atomically and with its folder.

    Args:
        path: The file.
        pixels: ``(H, W, 3)``, uint8 or float in [0, 1].
        about: The file's text ``Title``: what made it.
    """
    if pixels.dtype != np.uint8:
        pixels = np.round(pixels * 255).astype(np.uint8)
    texts = PngInfo()
    if about:
        texts.add_text("Title", about)
    with atomic_write(Path(path), "wb") as file:
        Image.fromarray(pixels).save(file, format="PNG", pnginfo=texts)


def best_slice(values: Tensor) -> int | None:
    """Return the slice of a volume's map with most mass; ``None`` for a 2-D map."""
    if values.ndim == 2:
        return None
    return int(torch.nan_to_num(values).abs().flatten(0, 1).sum(dim=0).argmax())


def middle(image: Tensor) -> int:
    """Return the middle slice of ``(C, *S)``."""
    return image.shape[-1] // 2


def to_plane(image: Tensor, index: int | None) -> Array:
    """Return ``(C, H, W)`` as it is, of ``(C, X, Y, Z)`` the slice ``Z = index``, turned so that a head faces up."""
    array: Array = torch.nan_to_num(torch.as_tensor(image).detach().float(), posinf=0.0, neginf=0.0).cpu().numpy()
    return array if array.ndim == 3 else np.rot90(array[..., index], axes=(1, 2))


def stretch(planes: Array) -> Array:
    """Scale values between the 0.5 % and 99.5 % percentiles to [0, 1]; of a constant, only cut it to that range."""
    low, high = np.percentile(planes, (0.5, 99.5))
    return np.clip((planes - low) / (high - low) if high > low else planes, 0, 1).astype(np.float32)


def scaled_plane(values: Tensor, signed: bool | None, index: int | None) -> tuple[Array, bool]:
    """Scale a map's plane to [-1, 1] if it is signed, else to [0, 1] from its lowest value; and say if it is signed."""
    index = best_slice(values) if index is None else index
    plane = to_plane(values.unsqueeze(0), index)[0]
    signed = bool((plane < 0).any()) if signed is None else signed
    if not signed:
        # Weights of which only the order counts float at any level: show them from their lowest on.
        plane = plane - max(plane.min(), 0)
    size = np.abs(plane) if signed else np.clip(plane, 0, None)
    # The percentile keeps one hot pixel from hiding the rest; a map of few pixels needs its maximum.
    top = np.percentile(size, 99.5) or size.max()
    scaled = plane / top if top > 0 else np.zeros_like(plane)
    return np.clip(scaled, -1 if signed else 0, 1).astype(np.float32), signed


def value_range(values: Tensor) -> str:
    """Write the range of a raw map as text."""
    finite = values[torch.isfinite(values)]
    return f"raw {float(finite.min()):.2g} to {float(finite.max()):.2g}" if len(finite) else "no finite value"


def _draw(axes: Any, pixels: Array, title: str, mask: NDArray[np.bool_] | None) -> None:
    axes.imshow(pixels, interpolation="nearest")
    axes.set_title(title, fontsize=7, pad=2)
    axes.axis("off")
    if mask is not None and mask.any():
        axes.contour(mask, levels=[0.5], colors=OUTLINE, linewidths=1)
