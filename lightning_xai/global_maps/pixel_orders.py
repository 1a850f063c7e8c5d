"""Which pixels PEPPR hides: orders without ties, the masks of their steps, and the baseline image."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_xai.functional.groups import batch_groups, numbers_of, units_of
from lightning_xai.functional.segmentation import IGNORED
from lightning_xai.functional.tensors import as_plain_tensor
from lightning_xai.perturbation.baselines import noise_field
from lightning_xai.perturbation.sets import pixel_count

PEPPR_BASELINES = ("channel_mean", "mean_image", "noise", "blur", "black")


@dataclass(frozen=True)
class Survey:
    """Statistics of a data set, computed in one pass.

    Attributes:
        mean: ``(C, *S)`` float64, the mean image.
        square: ``(C, *S)`` float64, the mean of the squares.
        truth: The labels of all images, ``(N,)`` or ``(N, K)``; ``None`` where there are none.
        digest: A hash of all images and labels, in their order.
        units: ``(N,)``, the number of the group that each image is of; ``None`` where there are no groups.
    """

    mean: Tensor
    square: Tensor
    truth: Tensor | None
    digest: str
    units: Tensor | None


def survey(batches: Iterable[dict[str, Any]]) -> Survey:
    """Compute the statistics of a data set in one pass.

    Raises:
        ValueError: If there is no batch, the images have several sizes, or a label is uncertain.
    """
    total, square, count, truth, digest = torch.zeros(()), torch.zeros(()), 0, [], hashlib.sha256()
    groups: list[str] = []
    for batch in batches:
        images = as_plain_tensor(batch["image"]).double().cpu()
        if count and images.shape[1:] != total.shape:
            raise ValueError(
                f"Images of {tuple(total.shape)} and {tuple(images.shape[1:])}: aligned images have one size."
            )
        total, square, count = total + images.sum(dim=0), square + images.square().sum(dim=0), count + len(images)
        groups += batch_groups(batch) or [""] * len(images)
        digest.update(as_plain_tensor(batch["image"]).cpu().contiguous().numpy().tobytes())
        for name in ("label", "mask"):
            if name in batch:
                digest.update(torch.as_tensor(batch[name]).cpu().contiguous().numpy().tobytes())
        if "label" in batch:
            truth.append(torch.as_tensor(batch["label"]).cpu())
            if (truth[-1] == IGNORED).any():
                raise ValueError(
                    "Some labels are uncertain, and erasing pixels step by step needs all of them; set "
                    "data.uncertain=zero or one."
                )
    if not count:
        raise ValueError("There is no batch to erase pixels from; check the data set.")
    labels = torch.cat(truth) if truth else None
    return Survey(total / count, square / count, labels, digest.hexdigest(), unit_numbers(groups))


def unit_numbers(groups: Sequence[str]) -> Tensor | None:
    """Number the groups ``(N,)``, an image without one (``""``) a group by itself; ``None`` where no image has one.

    Example:
        >>> unit_numbers(["ann", "", "ann", ""]).tolist()
        [0, 1, 0, 2]
    """
    if not any(groups):
        return None
    return torch.tensor(numbers_of(units_of([str(image) for image in range(len(groups))], groups)))


def data_baseline(statistics: Survey, fill: str, seed: int) -> Tensor:
    """The baseline image ``(1, C, *S)`` that is the same for all images of a data set.

    See :func:`lightning_xai.global_maps.peppr`.

    Raises:
        ValueError: If the baseline is unknown.
    """
    mean = statistics.mean.unsqueeze(0)
    axes = tuple(range(2, mean.ndim))
    level = mean.mean(dim=axes, keepdim=True)
    if fill == "mean_image":
        baseline = mean
    elif fill == "black":
        baseline = torch.zeros_like(mean)
    elif fill == "channel_mean":
        baseline = level.expand_as(mean)
    elif fill == "noise":
        variance = statistics.square.unsqueeze(0).mean(dim=axes, keepdim=True) - level.square()
        baseline = level + variance.clamp(min=0).sqrt() * noise_field(mean.shape[1:], seed)
    else:
        raise ValueError(f"Unknown fill {fill!r}; use one of {', '.join(PEPPR_BASELINES)}.")
    return baseline.float().contiguous()


def tie_keys(size: Sequence[int], orders: int, seed: int, block_size: int = 1) -> Tensor:
    """Random permutations ``(R, N)`` of the pixels: the random orders, of which the first also breaks ties.

    Args:
        size: ``*S``.
        orders: ``R``.
        seed: Another seed gives other orders.
        block_size: Side of the blocks of pixels that follow each other.
    """
    generator = torch.Generator().manual_seed(seed)
    coordinates = torch.meshgrid(*(torch.arange(side) // block_size for side in size), indexing="ij")
    block = torch.zeros(*size, dtype=torch.int64)
    for coordinate in coordinates:
        block = block * (int(coordinate.max()) + 1) + coordinate
    keys = []
    for _ in range(orders):
        pixels = torch.randperm(block.numel(), generator=generator)
        if block_size > 1:
            blocks = torch.randperm(int(block.max()) + 1, generator=generator)
            pixels = (blocks[block.flatten()] * block.numel() + pixels).argsort().argsort()
        keys.append(pixels)
    return torch.stack(keys)


def pixel_ranks(ranking: Tensor, key: Tensor) -> Tensor:
    """Rank of every pixel ``(*S)``, 0 = most important; equal pixels follow the key ``(N,)``, its highest first.

    Raises:
        ValueError: If the ranking holds NaN.
    """
    if ranking.isnan().any():
        raise ValueError("The ranking holds NaN; leave out undefined maps before they are averaged.")
    by_key = key.argsort(descending=True)
    order = by_key[ranking.detach().cpu().flatten()[by_key].argsort(descending=True, stable=True)]
    ranks = torch.empty_like(order)
    ranks[order] = torch.arange(len(order))
    return ranks.view(ranking.shape)


def closeness(size: Sequence[int]) -> Tensor:
    """A map that is highest in the center: minus the distance to it, ``(*size)``, in pixels."""
    axes = [torch.arange(side, dtype=torch.float64) - (side - 1) / 2 for side in size]
    return -torch.stack(torch.meshgrid(*axes, indexing="ij")).square().sum(dim=0).sqrt()


def shown_pixels(ranks: Tensor, fractions: Sequence[float], curve: str) -> list[Tensor]:
    """The masks of the pixels that each step of a curve shows, bool ``(*S)``.

    Args:
        ranks: From :func:`pixel_ranks`.
        fractions: Fractions of pixels.
        curve: ``"erase"``: the top fraction is hidden; ``"restore"``: it alone is shown; ``"erase_reversed"``: the
            least important fraction is hidden.

    Example:
        >>> shown_pixels(torch.tensor([0, 1, 2, 3]), [0.25], "erase")[0].tolist()
        [False, True, True, True]
    """
    pixels = ranks.numel()
    if curve == "erase":
        return [ranks >= pixel_count(fraction, pixels) for fraction in fractions]
    # Hiding the least important p shows the most important 1 - p: the same masks as those of restoring.
    tops = fractions if curve == "restore" else [1 - fraction for fraction in fractions]
    return [ranks < pixel_count(top, pixels) for top in tops]


def curves_of(
    ranking: Tensor,
    other_maps: Mapping[str, Tensor],
    fractions: Sequence[float],
    random_orders: int,
    seed: int,
    block_size: int,
) -> dict[str, list[Tensor]]:
    """The masks of every curve, by name; see :class:`~lightning_xai.global_maps.PEPPRResult`.

    Raises:
        ValueError: If a ranking holds NaN, or has another size than the first.
    """
    keys = tie_keys(ranking.shape, random_orders, seed, block_size)
    ranks_of_map = pixel_ranks(ranking, keys[0])
    curves = {name: shown_pixels(ranks_of_map, fractions, name) for name in ("erase", "restore", "erase_reversed")}
    for number, key in enumerate(keys):
        ranks = pixel_ranks(torch.zeros(ranking.shape), key)
        curves[f"erase_random_{number}"] = shown_pixels(ranks, fractions, "erase")
    for name, values in {"center": closeness(ranking.shape), **other_maps}.items():
        if values.shape != ranking.shape:
            raise ValueError(
                f"Map {name!r} is {tuple(values.shape)}, the ranking {tuple(ranking.shape)}; give maps of one size."
            )
        ranks = pixel_ranks(values, keys[0])
        for curve in ("erase", "restore"):
            curves[f"{curve}:{name}"] = shown_pixels(ranks, fractions, curve)
    return curves
