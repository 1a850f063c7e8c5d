"""The ``fill=`` of metrics: what stands where pixels are hidden."""

from typing import Any

import torch

from lightning_xai.perturbation.baselines import BASELINES
from lightning_xai.perturbation.context import AnyBaseline

#: Stands for a fill that only a target can name, where passes are counted without one.
INPUT_ZERO = torch.zeros(())


def checked_baseline(fill: AnyBaseline) -> AnyBaseline:
    """Return the ``fill=`` of a metric, unless it is an unknown name.

    Args:
        fill: See :class:`~lightning_xai.metrics.curves.CurveMetric`.

    Raises:
        ValueError: If there is no baseline of that name.
    """
    if isinstance(fill, str) and fill not in (*BASELINES, "input_zero"):
        names = ", ".join((*BASELINES, "input_zero"))
        raise ValueError(f"Unknown fill {fill!r}; use one of {names}, a tensor, or a function of the images.")
    return fill


def input_baseline(fill: AnyBaseline, target: Any) -> AnyBaseline:
    """Replace ``"input_zero"`` by what the target's model receives as zero: black, if it subtracts no mean.

    Args:
        fill: See :class:`~lightning_xai.metrics.curves.CurveMetric`.
        target: The target, or ``None`` where passes are counted without one.
    """
    if not isinstance(fill, str) or fill != "input_zero":
        return fill
    if target is None:
        return INPUT_ZERO
    return "zero" if target.mean is None else target.input_zero
