"""Running totals of global maps, and the means and standard errors computed from them."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_xai.global_maps import aggregation
from lightning_xai.global_maps.aggregation import FREE


class Part(NamedTuple):
    """Maps to add, ``values (p, *S)``, with their labels, whether they are valid, their image keys; and the images."""

    values: Tensor
    labels: Tensor
    alive: Tensor
    keys: Tensor
    images: Tensor
    image_keys: Tensor

    def only(self, keys: Tensor) -> "Part":
        """The part of the images with these keys."""
        rows, images = (torch.isin(part_keys, keys) for part_keys in (self.keys, self.image_keys))
        return Part(*(value[rows] for value in self[:4]), *(value[images] for value in self[4:]))


def fold(totals: Mapping[str, Tensor], part: Part) -> None:
    """Add a part to totals, in place."""
    size = totals["sums"].shape[2:]
    valid, labels, keys = part.values[part.alive], part.labels[part.alive], part.keys[part.alive]
    values, half = valid.double(), keys & 1
    index = half * len(totals["skipped"]) + labels
    totals["sums"].view(-1, *size).index_add_(0, index, values)
    totals["count"].view(-1).index_add_(0, index, torch.ones_like(index))
    totals["squares"].index_add_(0, labels, values.square_())
    totals["skipped"].index_add_(0, part.labels, (~part.alive).long())
    counted = torch.isin(part.image_keys, keys)
    totals["image_sum"].add_(part.images[counted].sum(dim=0, dtype=torch.float64))
    totals["image_count"].add_(counted.sum())
    if totals["sample_keys"].shape[-1]:
        update_sample(totals["sample"], totals["sample_keys"], valid, labels, keys)


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
    return Part(*(value[rows] for value in waiting[:4]), *(value[images] for value in waiting[4:]))


def means(sums: Tensor, count: Tensor) -> list[Tensor | None]:
    """Mean map of each label ``(*S)`` from its sum ``(L, *S)`` and its number of maps ``(L,)``."""
    return [total / number if number else None for total, number in zip(sums, count, strict=True)]


def standard_errors(averages: Sequence[Tensor | None], squares: Tensor, count: Tensor) -> list[Tensor | None]:
    """Standard error of each mean map, from the sums of squares ``(L, *S)``; one map has none."""
    return [
        None if mean is None or n < 2 else ((square / n - mean.square()).clamp(min=0) / (n - 1)).sqrt()
        for mean, square, n in zip(averages, squares, count.tolist(), strict=True)
    ]


def mean_of_labels(maps: Sequence[Tensor | None]) -> Tensor | None:
    """Mean of the labels' maps, each with mass 1; a label without a map, or with an all-zero one, is left out."""
    heavy = [values / values.sum() for values in maps if values is not None and values.any()]
    return torch.stack(heavy).mean(dim=0) if heavy else None


def likeness(first: Tensor | None, second: Tensor | None) -> float | None:
    """Rank correlation of two maps; ``None`` if one of them is missing."""
    return None if first is None or second is None else aggregation.spearman(first, second)
