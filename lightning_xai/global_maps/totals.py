"""Running totals of global maps, and the means and standard errors computed from them."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_xai.global_maps import aggregation
from lightning_xai.global_maps.aggregation import FREE
from lightning_xai.metrics.functional.similarity import spearman

#: Groups of a label whose sums are kept apart; more are put into so many pools.
APART = 64


class Part(NamedTuple):
    """Maps to add, ``values (p, *S)``, their labels, whether they are valid, keys of image and unit; and the images."""

    values: Tensor
    labels: Tensor
    alive: Tensor
    keys: Tensor
    unit_keys: Tensor
    images: Tensor
    image_keys: Tensor

    def only(self, keys: Tensor) -> "Part":
        """Select the maps and images with these image keys."""
        rows, images = (torch.isin(part_keys, keys) for part_keys in (self.keys, self.image_keys))
        return Part(*(value[rows] for value in self[:5]), *(value[images] for value in self[5:]))


class Slots(NamedTuple):
    """Sums of the maps of each group and label, of images that have a group.

    Attributes:
        keys: ``(n,)``, of the group, or below :data:`APART` of a pool of groups.
        labels: ``(n,)``.
        counts: ``(n,)``, number of maps.
        sums: ``(n, *S)``, of the maps.
        pairs: ``(m, 2)``, each group's key and label.
    """

    keys: Tensor
    labels: Tensor
    counts: Tensor
    sums: Tensor
    pairs: Tensor

    def units(self, labels: int) -> Tensor:
        """Number of groups of each label ``(L,)``."""
        return torch.bincount(self.pairs[:, 1], minlength=labels)

    def others(self, count: Tensor) -> Tensor:
        """Number of maps of each label ``(L,)``, of all ``count``, whose images have no group."""
        return count - torch.zeros_like(count).index_add_(0, self.labels, self.counts)


def empty_slots(sums: Tensor) -> Slots:
    """No slots, for totals ``(2, L, *S)``."""
    none = torch.zeros(0, dtype=torch.int64, device=sums.device)
    return Slots(none, none, none, sums.new_zeros(0, *sums.shape[2:]), none.view(0, 2))


def pooled(slots: Slots) -> Slots:
    """A slot for each group and label; those of more groups than :data:`APART` become pools, the same in any order."""
    pairs = torch.unique(slots.pairs, dim=0)
    crowded = torch.bincount(pairs[:, 1], minlength=int(slots.labels.max()) + 1 if len(slots.labels) else 0) > APART
    keys = slots.keys.where(~crowded[slots.labels], slots.keys % APART)
    found, row = torch.unique(torch.stack([keys, slots.labels], dim=1), dim=0, return_inverse=True)
    counts = slots.counts.new_zeros(len(found)).index_add_(0, row, slots.counts)
    sums = slots.sums.new_zeros(len(found), *slots.sums.shape[1:]).index_add_(0, row, slots.sums)
    return Slots(found[:, 0], found[:, 1], counts, sums, pairs)


def fold(totals: Mapping[str, Tensor], slots: Slots, part: Part) -> Slots:
    """Add maps to the totals, in place, and to the slots of groups, which are returned."""
    size = totals["sums"].shape[2:]
    valid, labels, keys, units = (
        column[part.alive] for column in (part.values, part.labels, part.keys, part.unit_keys)
    )
    values, half, alone = valid.double(), units & 1, units == keys
    index = half * len(totals["skipped"]) + labels
    totals["sums"].view(-1, *size).index_add_(0, index, values)
    totals["count"].view(-1).index_add_(0, index, torch.ones_like(index))
    totals["squares"].index_add_(0, labels[alone], values[alone].square_())
    totals["skipped"].index_add_(0, part.labels, (~part.alive).long())
    counted = torch.isin(part.image_keys, keys)
    totals["image_sum"].add_(part.images[counted].sum(dim=0, dtype=torch.float64))
    totals["image_count"].add_(counted.sum())
    totals["single_count"].add_(torch.isin(part.image_keys, keys[alone]).sum())
    if totals["sample_keys"].shape[-1]:
        update_sample(totals["sample"], totals["sample_keys"], valid, labels, keys)
    if alone.all():
        return slots
    units, labels = units[~alone], labels[~alone]
    more = Slots(units, labels, torch.ones_like(labels), values[~alone], torch.stack([units, labels], dim=1))
    return pooled(Slots(*(torch.cat(pair) for pair in zip(slots, more, strict=True))))


def update_sample(sample: Tensor, sample_keys: Tensor, values: Tensor, labels: Tensor, keys: Tensor) -> None:
    """Replace maps with larger keys in the samples ``(L, capacity, *S)`` by new ones with smaller keys, in place."""
    largest = sample_keys.amax(dim=1)
    for row in (keys < largest[labels]).nonzero().flatten().tolist():
        label_keys = sample_keys[labels[row]]
        slot = label_keys.argmax()
        if keys[row] < label_keys[slot]:
            label_keys[slot] = keys[row]
            sample[labels[row], slot] = values[row]


def merged(samples: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """Merge the samples ``(W, L, capacity, *S)`` of several ranks into one, and their keys."""
    sample, left = samples[0].clone(), keys[0].clone()
    for label in range(keys.shape[1]):
        kept, maps = aggregation.smallest_keys(keys[:, label].flatten(), samples[:, label].flatten(0, 1), keys.shape[2])
        left[label, len(kept) :] = FREE
        left[label, : len(kept)], sample[label, : len(kept)] = kept, maps
    return sample, left


def once(held: Part, added_keys: Tensor) -> Part:
    """Select the held images that no rank has added itself, each once.

    Raises:
        ValueError: If an image was added on two ranks.
    """
    keys, times = torch.unique(added_keys, return_counts=True)
    added = times - (held.image_keys.unsqueeze(0) == keys.unsqueeze(1)).sum(dim=1)
    if (added > 1).any():
        raise ValueError(
            f"{int((added > 1).sum())} images were added to GlobalMaps on two ranks; give every rank different images."
        )
    waiting = held.only(keys[added == 0])
    rows = aggregation.first_appearances(torch.stack([waiting.keys, waiting.labels], dim=1))
    images = aggregation.first_appearances(waiting.image_keys.unsqueeze(1))
    return Part(*(value[rows] for value in waiting[:5]), *(value[images] for value in waiting[5:]))


def means(sums: Tensor, count: Tensor) -> list[Tensor | None]:
    """Mean map of each label ``(*S)`` from its sum ``(L, *S)`` and its number of maps ``(L,)``."""
    return [total / number if number else None for total, number in zip(sums, count, strict=True)]


def standard_errors(
    averages: Sequence[Tensor | None], squares: Tensor, sums: Tensor, count: Tensor, slots: Slots
) -> list[Tensor | None]:
    """Standard error of each mean map: of the ratio of groups' sums to their numbers of maps; one group has none.

    Args:
        averages: The mean maps.
        squares: ``(L, *S)``, sums of squares over the maps whose images have no group, each a group by itself.
        sums: ``(L, *S)``, over all maps.
        count: ``(L,)``, of all maps.
        slots: Sums of the other groups.

    Returns:
        ``(*S)`` for each label.
    """
    errors: list[Tensor | None] = []
    alone = slots.others(count).tolist()
    for label, (mean, number) in enumerate(zip(averages, count.tolist(), strict=True)):
        mine = slots.labels == label
        units = alone[label] + int(mine.sum())
        if mean is None or units < 2:
            errors.append(None)
            continue
        group_sums, group_counts = slots.sums[mine], slots.counts[mine].view(-1, *(1,) * mean.ndim)
        spread = squares[label] - mean * (2 * (sums[label] - group_sums.sum(dim=0)) - alone[label] * mean)
        spread = spread + (group_sums - group_counts * mean).square().sum(dim=0)
        errors.append((spread.clamp(min=0) * (units / (units - 1))).sqrt() / number)
    return errors


def mean_of_labels(maps: Sequence[Tensor | None]) -> Tensor | None:
    """Mean of the labels' maps, each with mass 1; a label without a map, or with an all-zero one, is left out."""
    heavy = [values / values.sum() for values in maps if values is not None and values.any()]
    return torch.stack(heavy).mean(dim=0) if heavy else None


def likeness(first: Tensor | None, second: Tensor | None) -> float | None:
    """Rank correlation of two maps, tied pixels sharing their rank; ``None`` if one of them is missing or constant.

    Example:
        >>> likeness(torch.tensor([1.0, 2.0, 9.0]), torch.tensor([0.1, 0.2, 0.3]))
        1.0
    """
    if first is None or second is None:
        return None
    # In single precision: what differs by the rounding of a sum is equal.
    value = float(spearman(*(values.float()[None, None] for values in (first, second))))
    return None if math.isnan(value) else round(value, 12)
