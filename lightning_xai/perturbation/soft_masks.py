"""Soft masks, blends and objectives shared by the explainers that learn a mask."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_xai.functional.resize import resize
from lightning_xai.perturbation.baselines import BaselineFunction, baseline_images
from lightning_xai.structures import Query
from lightning_xai.targets import Target

GOLDEN_RATIO = 0.6180339887498949
#: Side of the coarse grid that :func:`smooth_noise` is drawn on.
NOISE_GRID = 8
Baseline = str | Tensor | BaselineFunction | Sequence[str]


def blend(images: Tensor, baseline: Tensor, alpha: Tensor) -> Tensor:
    """Blend images with a baseline image, pixel by pixel: ``b + alpha (x - b)``.

    The same as a mix of the N channels of :func:`isolate`, without computing them.

    Args:
        images: ``(B, C, *S)``.
        baseline: ``(B, C, *S)``, the baseline image, which absent pixels show.
        alpha: ``(B, 1 or C, *S)``, 1 = the pixel, 0 = the baseline.
    """
    # lerp, because b + (x - b) rounds: alpha = 1 must give x to the last bit.
    return torch.lerp(baseline, images, alpha.to(images.dtype))


def isolate(images: Tensor, baseline: Tensor) -> Tensor:
    """One image per pixel that shows that pixel alone, for tests and teaching: N^2 memory.

    Args:
        images: ``(B, C, *S)``.
        baseline: ``(B, C, *S)``.

    Returns:
        ``(B, N, C, *S)``; channel ``i`` is the baseline everywhere but at pixel ``i``.
    """
    pixels = images[0, 0].numel()
    one_hot = torch.eye(pixels, dtype=torch.bool, device=images.device).view(1, pixels, 1, *images.shape[2:])
    return torch.where(one_hot, images.unsqueeze(1), baseline.unsqueeze(1))


def baselines(images: Tensor, baseline: Baseline) -> list[Tensor]:
    """The baseline images of an explainer that takes one or several, each ``(B, C, *S)``.

    Args:
        images: ``(B, C, *S)``.
        baseline: One baseline (see :func:`lightning_xai.perturbation.baselines.baseline_images`) or a list of names.
    """
    if isinstance(baseline, str | Tensor) or callable(baseline):
        return [baseline_images(images, baseline)]
    images_of = {name: baseline_images(images, name) for name in baseline}
    return [images_of[name] for name in baseline]


def distinct(baselines: Sequence[Tensor]) -> list[Tensor]:
    """The baseline images of :func:`baselines`, each once however often it is listed."""
    return list({id(baseline): baseline for baseline in baselines}.values())


def area_fraction(step: int, low: float = 0.01, high: float = 0.99) -> float:
    """Area fraction that the mask of an optimization step keeps, from a deterministic low-discrepancy sequence.

    It is the same for all images, so that B images equal B single runs.
    """
    return low + (high - low) * ((step + 1) * GOLDEN_RATIO % 1.0)


def top_fraction(alpha: Tensor, fraction: float | Tensor, tau: float) -> Tensor:
    """Soft mask of the top ``fraction`` of each map: ``sigmoid((a - quantile(a)) / (tau std(a)))``.

    The quantile and the spread are constants for the gradient, which then says pixel by pixel whether to rise or fall.

    Args:
        alpha: ``(B, 1 or C, *S)``.
        fraction: Fraction of the map to keep, in (0, 1): one for all, or one per map ``(B,)``.
        tau: Softness of the edge, in standard deviations of the map.

    Returns:
        ``(B, 1 or C, *S)`` in (0, 1).
    """
    flat = alpha.detach().flatten(1)
    count = flat.shape[1]
    if isinstance(fraction, Tensor):
        rank = ((1 - fraction) * count).round().long().clamp(1, count) - 1
        threshold = flat.sort(dim=1).values.gather(1, rank.unsqueeze(1))
    else:
        threshold = flat.kthvalue(min(count, max(1, round((1 - fraction) * count))), dim=1).values
    shape = (-1, *(1,) * (alpha.ndim - 1))
    spread = flat.std(dim=1).view(shape) + 1e-3
    return torch.sigmoid((alpha - threshold.view(shape)) / (tau * spread))


def smooth_noise(
    count: int, size: Sequence[int], device: torch.device, generator: torch.Generator | None = None
) -> Tensor:
    """Random smooth fields of mean 0 and deviation 1, which shift what a mask keeps without breaking it into pixels.

    Args:
        count: Number of fields ``R``.
        size: ``*S``.
        device: Where the fields go; they are drawn on the CPU, so that a seed means the same everywhere.
        generator: Where the numbers come from; the global one if ``None``.

    Returns:
        ``(R, 1, *S)``.
    """
    coarse = torch.randn(count, 1, *(min(NOISE_GRID, side) for side in size), generator=generator)
    return standardize(resize(coarse.to(device, non_blocking=True), size))


def standardize(maps: Tensor) -> Tensor:
    """Bring every map of ``(B, T, *S)`` to mean 0 and standard deviation 1; a constant map to 0."""
    flat = maps.flatten(2)
    flat = (flat - flat.mean(dim=2, keepdim=True)) / (flat.std(dim=2, keepdim=True, correction=0) + 1e-3)
    return flat.view_as(maps)


def total_variation(alpha: Tensor) -> Tensor:
    """Mean absolute difference of neighbors, summed over the axes: ``(B,)``."""
    total = alpha.new_zeros(len(alpha))
    for axis in range(2, alpha.ndim):
        if alpha.shape[axis] > 1:
            total = total + alpha.diff(dim=axis).abs().flatten(1).mean(dim=1)
    return total


def two_sided(target: Target, images: Tensor, baseline: Tensor, mask: Tensor, query: Query) -> Tensor:
    """Loss of a mask whose inside should show the class, and whose outside should not: ``(1 - p(kept)) + p(rest)``.

    Probabilities, not their logarithms: averaged over area fractions this is 1 minus the insertion - deletion gap, so
    areas at which no mask could keep the class do not dominate those at which one can.

    Args:
        target: The frozen target.
        images: ``(R, C, *S)``.
        baseline: ``(R, C, *S)``.
        mask: ``(R, 1 or C, *S)`` in [0, 1].
        query: One query a row, ``(R, 1)``.

    Returns:
        ``(R,)``, 0 at best.
    """
    both = torch.cat([blend(images, baseline, mask), blend(images, baseline, 1 - mask)])
    twice = query.repeat(2)
    kept, rest = target.probability(both, twice.targets, twice.regions)[:, 0].chunk(2)
    return (1 - kept) + rest
