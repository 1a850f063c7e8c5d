"""Split images into train, val and test, with groups kept together and classes in proportion."""

import logging
import zlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from lightning_xai.data.items import Item

log = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")
_ALIASES = {"training": "train", "valid": "val", "validation": "val", "dev": "val", "testing": "test"}


def split_name(text: str) -> str | None:
    """Return "train", "val" or "test" for a usual name of a split, or None for any other text.

    Args:
        text: A folder name or a cell of a table.

    Returns:
        The name of the split.

    Example:
        >>> split_name("Validation"), split_name("cat")
        ('val', None)
    """
    text = text.strip().lower()
    name = _ALIASES.get(text, text)
    return name if name in SPLITS else None


def label_counts(items: Sequence[Item], num_classes: int) -> np.ndarray:
    """Return which classes each item has.

    Args:
        items: N items.
        num_classes: K.

    Returns:
        (N, K) of 0 and 1; zeros for unlabeled items and ignored labels.
    """
    counts = np.zeros((len(items), num_classes), np.int64)
    for row, item in zip(counts, items, strict=True):
        if isinstance(item.label, tuple):
            row[:] = np.equal(item.label, 1)
        elif item.label is not None:
            row[item.label] = 1
    return counts


def class_counts(split_items: Mapping[str, Sequence[Item]], class_names: Sequence[str]) -> dict[str, dict[str, int]]:
    """Return how many images of each class each split has; for unlabeled images their number under "unlabeled".

    Args:
        split_items: Items of each split.
        class_names: Name of each class; none of unlabeled images.

    Returns:
        The counts, by split and class.
    """
    if not class_names:
        return {split: {"unlabeled": len(items)} for split, items in split_items.items()}
    return {
        split: dict(zip(class_names, label_counts(items, len(class_names)).sum(0).tolist(), strict=True))
        for split, items in split_items.items()
    }


def log_splits(split_items: Mapping[str, Sequence[Item]], counts: Mapping[str, Mapping[str, int]], seed: int) -> None:
    """Log the splits, and warn of classes that a split lacks.

    Args:
        split_items: Items of each split.
        counts: Images of each class in each split.
        seed: Seed of the splits.
    """
    for split, of_class in counts.items():
        classes = ", ".join(f"{name} {count}" for name, count in of_class.items())
        log.info("Split %s (seed %d): %d images (%s)", split, seed, len(split_items[split]), classes)
        absent = [name for name, count in of_class.items() if not count]
        if absent:
            log.warning("The %s split has no image of class %s", split, ", ".join(absent))


def mixed_order(items: Sequence[Item]) -> list[int]:
    """Return an order of items that depends on their ids alone.

    Sources list class after class: mixed, the first batches of a split are a fair sample of it.

    Args:
        items: N items.

    Returns:
        N indices.

    Example:
        >>> mixed_order([Item("a", np.zeros((2, 2))), Item("b", np.zeros((2, 2))), Item("c", np.zeros((2, 2)))])
        [2, 1, 0]
    """
    return sorted(range(len(items)), key=lambda number: zlib.crc32(items[number].id.encode()))


def assign_splits(items: Sequence[Item], num_classes: int, fractions: Sequence[float], seed: int) -> list[Item]:
    """Return the items, each with its split: that of the source, or one chosen by group.

    Without splits in the source every group goes to one split; classes are spread in proportion as far as groups allow.
    Where val or test is missing from the source's, it is carved out of train in the same way, if there is a train.

    Args:
        items: Items; an item without a group is a group by itself.
        num_classes: Number of classes.
        fractions: Fractions of train, val and test; they sum to 1.
        seed: Which of the equally good splits to make; the order of the items does not matter.

    Returns:
        The items in the same order.

    Raises:
        ValueError: A split of the source is unknown, absent for some items only, or divides a group; or there are fewer
            groups than splits.
    """
    fraction_of = dict(zip(SPLITS, fractions, strict=True))
    assigned = [_stated_split(item) for item in items]
    if all(split is None for split in assigned):
        assigned = ["train"] * len(items)
    elif None in assigned:
        item = items[assigned.index(None)]
        raise ValueError(f"Image {item.id} has no split where others have one; fill it in for every image.")
    _check_groups(items, assigned)
    pool = [i for i, split in enumerate(assigned) if split == "train"]
    missing = [split for split in SPLITS if split not in assigned]
    if pool and missing:
        fractions_of_pool = {split: fraction_of[split] for split in ("train", *missing)}
        divided = _divide([items[i] for i in pool], num_classes, fractions_of_pool, seed)
        for i, split in zip(pool, divided, strict=True):
            assigned[i] = split
    return [replace(item, split=split) for item, split in zip(items, assigned, strict=True)]


def choose_splits(
    items: Sequence[Item], num_classes: int, fractions: Sequence[float], seed: int, where: str
) -> list[Item]:
    """Assign splits as `assign_splits` does; images that are too few for that are all for testing.

    Args:
        items: As in `assign_splits`.
        num_classes: Number of classes.
        fractions: Fractions of train, val and test.
        seed: Which of the equally good splits to make.
        where: What messages call the data set.

    Returns:
        The items in the same order.

    Raises:
        ValueError: As in `assign_splits`.
    """
    groups = {(item.group is None, item.group or item.id) for item in items}
    if len(groups) < len(SPLITS) and all(item.split is None for item in items):
        log.warning("%d images of %s are too few to split: all are for testing, none to train.", len(items), where)
        return [replace(item, split="test") for item in items]
    items = assign_splits(items, num_classes, fractions, seed)
    if not any(item.split == "train" for item in items):
        log.warning("%s has no training image: targets and explainers can be applied, but not trained.", where)
    return items


def _stated_split(item: Item) -> str | None:
    if item.split is None:
        return None
    name = split_name(item.split)
    if name is None:
        raise ValueError(f"Image {item.id} has the unknown split {item.split!r}; use train, val or test.")
    return name


def _check_groups(items: Sequence[Item], splits: Sequence[str | None]) -> None:
    split_of: dict[str, str | None] = {}
    for item, split in zip(items, splits, strict=True):
        if item.group is not None and split_of.setdefault(item.group, split) != split:
            raise ValueError(
                f"Group {item.group!r} is in two splits, {split_of[item.group]} and {split} (image {item.id}); "
                "move all its images to one."
            )


def _divide(items: Sequence[Item], num_classes: int, fraction_of: dict[str, float], seed: int) -> list[str]:
    """Greedily give each group, the large ones first, to the split that lacks its classes most."""
    members: dict[tuple[bool, str], list[int]] = defaultdict(list)
    for i, item in enumerate(items):
        members[(False, item.id) if item.group is None else (True, item.group)].append(i)
    if len(members) < len(fraction_of):
        raise ValueError(
            f"There are {len(members)} groups for the {len(fraction_of)} splits {', '.join(fraction_of)}, so one would "
            "end up empty; add groups, or give the splits yourself."
        )
    # One more column counts images, so that splits keep their size where labels say nothing.
    counts = np.hstack([label_counts(items, num_classes), np.ones((len(items), 1), np.int64)])
    groups = sorted(members)
    sums = np.array([counts[members[group]].sum(0) for group in groups], float)
    weights = 1 / np.maximum(sums.sum(0), 1) ** 2  # rare classes count as much as common ones

    names = list(fraction_of)
    fractions = np.array([fraction_of[name] for name in names])
    lacking = fractions[:, None] / fractions.sum() * sums.sum(0)
    shuffled = np.random.default_rng(seed).permutation(len(groups))
    order = shuffled[np.argsort(-sums[shuffled, -1], kind="stable")]
    empty = set(range(len(names)))
    result = [""] * len(items)
    for done, group in enumerate(order):
        # The last groups go to splits that would else stay empty.
        candidates = sorted(empty) if len(order) - done <= len(empty) else list(range(len(names)))
        best = candidates[int(np.argmax(lacking[candidates] @ (sums[group] * weights)))]
        lacking[best] -= sums[group]
        empty.discard(best)
        for i in members[groups[group]]:
            result[i] = names[best]
    return result


def limit_splits(items: Sequence[Item], num_classes: int, limit: int, seed: int) -> list[Item]:
    """Limit the number of images of each split, with the classes in proportion.

    Args:
        items: Items with their split.
        num_classes: Number of classes.
        limit: Largest number of images a split.
        seed: Which of the images to keep.

    Returns:
        The kept items in the same order.
    """
    rng = np.random.default_rng(seed)
    strata: dict[tuple[str | None, tuple[int, ...]], list[int]] = defaultdict(list)
    for i, counts in enumerate(label_counts(items, num_classes).tolist()):
        strata[items[i].split, tuple(counts)].append(i)
    ranked: dict[str | None, list[tuple[float, int]]] = defaultdict(list)
    for (split, _), indices in sorted(strata.items()):
        # Evenly spaced positions in the queue of the split: its first n images hold every class in proportion.
        positions = (np.arange(len(indices)) + 0.5) / len(indices)
        ranked[split] += zip(positions.tolist(), rng.permutation(indices).tolist(), strict=True)
    kept = {i for queue in ranked.values() for _, i in sorted(queue)[:limit]}
    return [item for i, item in enumerate(items) if i in kept]
