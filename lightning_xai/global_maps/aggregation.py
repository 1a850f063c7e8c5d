"""Functions that aggregate maps: which maps count, on what scale, and how a sample of them is reduced."""

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lightning_xai.functional.groups import units_of
from lightning_xai.functional.ranking import average_ranks
from lightning_xai.metrics.state import first_appearance

NORMALIZATIONS = ("mass", "max", "none", "rank")
SUBSETS = ("label", "true_positive", "all")
#: The key of a free slot in a sample; keys of images are smaller.
FREE = torch.iinfo(torch.int64).max
#: Pixels that are sorted at once.
BLOCK = 4096


def normalize_maps(maps: Tensor, how: str = "mass") -> tuple[Tensor, Tensor]:
    """Bring the positive parts of maps to a common scale, and tell which maps have any.

    Args:
        maps: ``(n, *S)``.
        how: ``"mass"``: each map sums to 1; ``"max"``: its maximum is 1; ``"rank"``: every pixel holds the fraction of
            the other pixels below it, tied ones count half; ``"none"``: as it is.

    Returns:
        ``(n, *S)``, 0 where the map is all zero or not finite, and ``(n,)`` bool, false for those.

    Example:
        >>> values, alive = normalize_maps(torch.tensor([[[1.0, 3.0]], [[0.0, -1.0]]]))
        >>> values.tolist(), alive.tolist()
        ([[[0.25, 0.75]], [[0.0, 0.0]]], [True, False])
    """
    flat = maps.flatten(1)
    finite = flat.isfinite().all(dim=1)
    flat = flat.where(finite.unsqueeze(1), 0).clamp(min=0)
    alive = flat.any(dim=1)
    if how == "rank":
        scaled = pixel_fractions(flat)
    elif how == "none":
        scaled = flat
    else:
        size = flat.sum(dim=1, keepdim=True) if how == "mass" else flat.amax(dim=1, keepdim=True)
        scaled = flat / size.where(size > 0, 1)
    return scaled.where(alive.unsqueeze(1), 0).view(maps.shape), alive


def pixel_fractions(flat: Tensor) -> Tensor:
    """For every value of rows ``(n, N)`` the fraction of the row's other values below it; equal ones count half.

    Example:
        >>> pixel_fractions(torch.tensor([[5.0, 1.0, 5.0]])).tolist()
        [[0.75, 0.0, 0.75]]
    """
    return average_ranks(flat) / max(1, flat.shape[1] - 1)


def present_labels(labels: Tensor, classes: int) -> Tensor:
    """Turn class indices ``(B,)`` or multi-hot labels ``(B, L)``, of which an ignored one is absent, into booleans.

    Raises:
        ValueError: If the labels are not of so many classes.
    """
    if labels.ndim == 2 and labels.shape[1] == classes:
        return labels > 0
    # One column is a binary label, as targets of one logit have it.
    flat = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if flat.ndim != 1 or (len(flat) and not 0 <= int(flat.min()) <= int(flat.max()) < classes):
        raise ValueError(
            f"Labels {tuple(labels.shape)} do not fit {classes} labels; give class indices below {classes}, (B,), or "
            f"multi-hot ones, (B, {classes})."
        )
    return flat.long().unsqueeze(1) == torch.arange(classes, device=labels.device)


def entering(present: Tensor, predicted: Tensor | None, targets: Tensor, subset: str) -> Tensor:
    """Decide which maps ``(B, T)`` are aggregated.

    Args:
        present: ``(B, L)`` bool, the labels of the images.
        predicted: ``(B, L)`` bool, those that the model predicts; needed for ``"true_positive"`` alone.
        targets: ``(B, T)``, the class that each map is about.
        subset: ``"label"``: maps of a label that the image has; ``"true_positive"``: and that the model predicts;
            ``"all"``: every map.

    Raises:
        ValueError: If the predictions are needed and missing.
    """
    if subset == "all":
        return torch.ones_like(targets, dtype=torch.bool)
    if subset == "true_positive":
        if predicted is None:
            raise ValueError(
                "subset is 'true_positive', which needs the model's predictions; give predictions to update."
            )
        present = present & predicted
    return present.gather(1, targets)


def image_keys(ids: Sequence[str]) -> Tensor:
    """A 64-bit hash of every id, ``(n,)``: it tells images apart, and decides on their half and on the sample."""
    digests = (hashlib.blake2b(name.encode(), digest_size=8).digest() for name in ids)
    # Without its lowest value's neighbor FREE: no image may look like a free slot.
    return torch.tensor([min(int.from_bytes(digest, "big", signed=True), FREE - 1) for digest in digests])


def unit_keys(ids: Sequence[str], groups: Sequence[str] | None) -> Tensor:
    """The key of each image's group, ``(n,)``, or of the image itself where it has none (``""``).

    Raises:
        ValueError: If there are more or fewer groups than images.
    """
    units = units_of(ids, [""] * len(ids) if groups is None else groups)
    return image_keys([f"group\0{name}" if grouped else name for grouped, name in units])


def first_appearances(keys: Tensor) -> Tensor:
    """Whether each row of ``(n, d)`` is the first of equal ones, ``(n,)``.

    Example:
        >>> first_appearances(torch.tensor([[3], [1], [3]])).tolist()
        [True, True, False]
    """
    first = torch.zeros(len(keys), dtype=torch.bool, device=keys.device)
    first[first_appearance(keys)[0]] = True
    return first


def smallest_keys(keys: Tensor, maps: Tensor, capacity: int) -> tuple[Tensor, Tensor]:
    """The maps with the smallest distinct keys, in their order: a fair sample of the images.

    Args:
        keys: ``(n,)`` int64, :data:`FREE` = a free slot.
        maps: ``(n, *S)``.
        capacity: How many to keep.
    """
    where = keys.argsort(stable=True)
    where = where[first_appearances(keys[where].unsqueeze(1)) & (keys[where] < FREE)][:capacity]
    return keys[where], maps[where]


def check_targets(targets: Tensor, classes: int) -> None:
    """Raise an error for maps about a class that has no label."""
    if targets.numel() and not 0 <= int(targets.min()) <= int(targets.max()) < classes:
        raise ValueError(
            f"Maps are about classes {int(targets.min())} to {int(targets.max())}, but there are {classes} labels."
        )


def reduce_sample(maps: Tensor, reduction: str, trim: float, quantile: float) -> Tensor:
    """Reduce several maps ``(n, *S)`` to one, float64; see :class:`~lightning_xai.global_maps.GlobalMaps`.

    Example:
        >>> reduce_sample(torch.tensor([[0.0], [1.0], [2.0], [90.0]]), "trimmed_mean", trim=0.25, quantile=0.5)
        tensor([1.5000], dtype=torch.float64)
    """
    # A block of pixels at a time: the sample is large, and sorting takes several times its memory.
    blocks = [reduce_rows(part, reduction, trim, quantile) for part in torch.split(maps.flatten(1), BLOCK, dim=1)]
    return torch.cat(blocks).view(maps.shape[1:])


def reduce_rows(values: Tensor, reduction: str, trim: float, quantile: float) -> Tensor:
    """Reduce several rows ``(n, N)`` to one ``(N,)``; see :func:`reduce_sample`."""
    ordered = values.double().sort(dim=0).values
    if reduction == "trimmed_mean":
        cut = int(trim * len(values))
        return ordered[cut : len(values) - cut].mean(dim=0)
    position = (0.5 if reduction == "median" else quantile) * (len(values) - 1)
    low = int(position)
    return torch.lerp(ordered[low], ordered[min(low + 1, len(values) - 1)], position - low)


def agreed(value: Any) -> Any:
    """The value of the first process that has one, ``None`` if none has; every process must call it."""
    if not (dist.is_available() and dist.is_initialized()):
        return value
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return next((rank_value for rank_value in values if rank_value is not None), None)
