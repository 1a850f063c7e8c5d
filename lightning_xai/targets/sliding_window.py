"""Run images and volumes that are too large for one pass window by window, and average where windows overlap."""

from collections.abc import Callable, Sequence

from monai.inferers.utils import sliding_window_inference
from torch import Tensor

OVERLAP = 0.25
#: Windows a pass, by device: on a CPU several at once gain nothing, and elsewhere one alone leaves much of it idle.
WINDOWS = {"cpu": 1}
WINDOWS_ELSEWHERE = 4


def by_window(
    function: Callable[[Tensor], Tensor],
    values: Tensor,
    window: Sequence[int] | int | None,
    batch: int | None = None,
    overlap: float = OVERLAP,
) -> Tensor:
    """Apply a function to windows of its argument and put the results together.

    Overlapping results are averaged, those near the middle of their window with more weight. What is linear in the
    result of every window, such as the logits and the maps that add up to them, stays so.

    Args:
        function: ``(n, C, *W)`` -> ``(n, K, *W)``.
        values: ``(B, C, *S)``.
        window: Largest sides ``*W`` of a pass in pixels, or one for all axes; ``None``: no limit.
        batch: Windows a pass; ``None``: :data:`WINDOWS` of the device.
        overlap: Fraction of a window that its neighbor covers as well, in [0, 1).

    Returns:
        ``(B, K, *S)``; exactly ``function(values)`` where it fits.

    Raises:
        ValueError: If the window has another number of axes, or a side below 1, or there is less than one a pass.

    Example:
        >>> import torch
        >>> by_window(lambda part: 2 * part, torch.ones(1, 1, 6, 5), 4).unique().tolist()
        [2.0]
    """
    if fits(values.shape[2:], window):
        return function(values)
    sides = pass_sides(values.shape[2:], window)
    batch = WINDOWS.get(values.device.type, WINDOWS_ELSEWHERE) if batch is None else batch
    if batch < 1:
        raise ValueError(f"window_batch is {batch}; give the windows of a pass, at least 1.")
    result = sliding_window_inference(values, sides, batch, function, overlap=overlap, mode="gaussian")
    assert isinstance(result, Tensor)
    return result


def fits(size: Sequence[int], window: Sequence[int] | int | None) -> bool:
    """Whether images of size ``*S`` fit into one window."""
    return window is None or all(side <= limit for side, limit in zip(size, limits(size, window), strict=True))


def pass_sides(size: Sequence[int], window: Sequence[int] | int | None) -> tuple[int, ...]:
    """The size of one window over images of size ``*S``."""
    return tuple(size) if window is None else tuple(map(min, limits(size, window), size))


def limits(size: Sequence[int], window: Sequence[int] | int) -> list[int]:
    """Largest side of a window on each axis of images ``*S``.

    Raises:
        ValueError: See :func:`by_window`.
    """
    sides = [window] * len(size) if isinstance(window, int) else list(window)
    if len(sides) != len(size) or min(sides) < 1:
        raise ValueError(f"window is {window} for images of {tuple(size)}; give one side, or one for each axis.")
    return sides
