"""The totals of global maps: maps come in, a part at a time, and means and errors come out."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_xai.global_maps import aggregation
from lightning_xai.global_maps.aggregation import FREE


class Part(NamedTuple):
    """Maps that enter, ``values (p, *S)`` with label, key of their image, and whether they are any good; images."""

    values: Tensor
    labels: Tensor
    alive: Tensor
    keys: Tensor
    images: Tensor
    image_keys: Tensor

    def only(self, keys: Tensor) -> "Part":
        """The part of the images with these keys."""
        rows, images = (torch.isin(own, keys) for own in (self.keys, self.image_keys))
        return Part(*(value[rows] for value in self[:4]), *(value[images] for value in self[4:]))


def fold(totals: Mapping[str, Tensor], part: Part) -> None:
    """Add a part to totals, in place."""
    size = totals["sums"].shape[2:]
    good, labels, keys = part.values[part.alive], part.labels[part.alive], part.keys[part.alive]
    values, half = good.double(), keys & 1
    place = half * len(totals["skipped"]) + labels
    totals["sums"].view(-1, *size).index_add_(0, place, values)
    totals["count"].view(-1).index_add_(0, place, torch.ones_like(place))
    totals["squares"].index_add_(0, labels, values.square_())
    totals["skipped"].index_add_(0, part.labels, (~part.alive).long())
    counted = torch.isin(part.image_keys, keys)
    totals["image_sum"].add_(part.images[counted].sum(dim=0, dtype=torch.float64))
    totals["image_count"].add_(counted.sum())
    if totals["sample_keys"].shape[-1]:
        draw(totals["sample"], totals["sample_keys"], good, labels, keys)


def draw(sample: Tensor, sample_keys: Tensor, values: Tensor, labels: Tensor, keys: Tensor) -> None:
    """Let maps take the places of those with larger keys in the samples ``(L, capacity, *S)``, in place."""
    largest = sample_keys.amax(dim=1)
    for row in (keys < largest[labels]).nonzero().flatten().tolist():
        own = sample_keys[labels[row]]
        place = own.argmax()
        if keys[row] < own[place]:
            own[place] = keys[row]
            sample[labels[row], place] = values[row]


def merged(samples: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """The samples ``(W, L, capacity, *S)`` of several ranks as one, and their keys."""
    sample, left = samples[0].clone(), keys[0].clone()
    for label in range(keys.shape[1]):
        kept, maps = aggregation.smallest_keys(keys[:, label].flatten(), samples[:, label].flatten(0, 1), keys.shape[2])
        left[label, len(kept) :] = FREE
        left[label, : len(kept)], sample[label, : len(kept)] = kept, maps
    return sample, left


def once(held: Part, seen: Tensor) -> Part:
    """The held images that no rank has added itself, each once.

    Raises:
        ValueError: If an image was added on two ranks.
    """
    keys, times = torch.unique(seen, return_counts=True)
    added = times - (held.image_keys.unsqueeze(0) == keys.unsqueeze(1)).sum(dim=1)
    if (added > 1).any():
        raise ValueError(
            f"{int((added > 1).sum())} images were added to GlobalMaps on two ranks; give every rank images of its own."
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
    """Rank correlation of two maps, where both are there."""
    return None if first is None or second is None else aggregation.spearman(first, second)
