"""Curves of a score while the pixels of an image are hidden or shown in the order of a map."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from lightning_xai.perturbation.context import AnyBaseline, PerturbationContext
from lightning_xai.perturbation.evaluator import Evaluator
from lightning_xai.perturbation.sets import Curve
from lightning_xai.typing import Scorer


def reveal_curve(
    score: Scorer,
    images: Tensor,
    ranking: Tensor,
    fractions: Sequence[float],
    fill: AnyBaseline = "zero",
    direction: str = "erase",
    chunk_size: int = 64,
) -> Tensor:
    """Score images while pixels are erased from them, or revealed on a baseline, the most important first.

    Args:
        score: ``(inputs (n, C, *S), rows (n,)) -> (n,)``; row ``b * T + t`` is query ``t`` of image ``b``.
            :meth:`lightning_xai.targets.Target.scorer` makes one.
        images: ``(B, C, *S)``.
        ranking: ``(B, T, *S)``, high = important.
        fractions: Fractions of pixels, each in [0, 1].
        fill: See :func:`lightning_xai.perturbation.baselines.hide_pixels`.
        direction: ``"erase"`` or ``"reveal"``.
        chunk_size: Images per forward pass.

    Returns:
        ``(B, T, len(fractions))``.

    Example:
        >>> import torch
        >>> bright = lambda images, rows: images.mean(dim=(1, 2, 3))
        >>> reveal_curve(bright, torch.ones(1, 1, 2, 2), torch.rand(1, 1, 2, 2), [0.0, 0.5, 1.0]).tolist()
        [[[1.0, 0.5, 0.0]]]
    """
    curve = Curve(tuple(fractions), direction, fill)
    return reveal_curves(score, images, ranking, {"curve": curve}, chunk_size)["curve"]


def reveal_curves(
    score: Scorer, images: Tensor, ranking: Tensor, curves: Mapping[str, Curve], chunk_size: int = 64
) -> dict[str, Tensor]:
    """Compute several curves of the same images in one sequence of full forward passes; see :func:`reveal_curve`.

    Returns:
        ``{name: (B, T, len(fractions))}``.
    """
    evaluator = Evaluator(lambda batch: score(batch.inputs, batch.rows), chunk_size, per_image=False)
    return evaluator(PerturbationContext(images, ranking), curves)
