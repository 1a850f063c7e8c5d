from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_xai.data.items import Item
from lightning_xai.data.splits import SPLITS, assign_splits, limit_splits

IMAGE = np.zeros((2, 2), np.uint8)
FRACTIONS = (0.7, 0.15, 0.15)


def make(labels: list[int], groups: list[str] | None = None, splits: list[str | None] | None = None) -> list[Item]:
    return [
        Item(f"i{i:04d}", IMAGE, label, split=splits[i] if splits else None, group=groups[i] if groups else None)
        for i, label in enumerate(labels)
    ]


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 2)), min_size=1, max_size=80), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_no_group_crosses_a_split_and_none_is_empty(rows: list[tuple[int, int]], seed: int) -> None:
    items = make([label for _, label in rows], [f"g{group}" for group, _ in rows])
    groups = {item.group for item in items}
    if len(groups) < 3:
        with pytest.raises(ValueError, match=f"There are {len(groups)} groups for the 3 splits"):
            assign_splits(items, 3, FRACTIONS, seed)
        return
    where = defaultdict(set)
    result = assign_splits(items, 3, FRACTIONS, seed)
    for item in result:
        where[item.group].add(item.split)
    assert all(len(splits) == 1 for splits in where.values()), where
    assert {item.split for item in result} == set(SPLITS)


def test_classes_keep_their_proportions_without_groups() -> None:
    result = assign_splits(make([0] * 200 + [1] * 40), 2, FRACTIONS, seed=3)
    counts = Counter((item.split, item.label) for item in result)
    assert counts == {
        ("train", 0): 140, ("val", 0): 30, ("test", 0): 30, ("train", 1): 28, ("val", 1): 6, ("test", 1): 6,
    }  # fmt: skip


def test_classes_stay_close_to_their_proportions_with_groups() -> None:
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 60, 600)
    labels = (rng.random(600) < np.where(groups % 3 == 0, 0.9, 0.2)).astype(int)  # classes differ between groups
    result = assign_splits(make(labels.tolist(), [f"g{g}" for g in groups]), 2, FRACTIONS, seed=0)
    for split, fraction in zip(SPLITS, FRACTIONS, strict=True):
        chosen = [item.label for item in result if item.split == split]
        assert abs(len(chosen) / 600 - fraction) < 0.03
        assert abs(np.mean(chosen) - labels.mean()) < 0.05


@pytest.mark.parametrize("seed", range(5))
def test_one_large_group_does_not_spoil_the_sizes(seed: int) -> None:
    items = make([0] * 100, ["large"] * 60 + [f"g{i}" for i in range(40)])
    counts = Counter(item.split for item in assign_splits(items, 1, FRACTIONS, seed))
    assert counts == {"train": 70, "val": 15, "test": 15}


def test_rare_labels_of_several_reach_every_split() -> None:
    rng = np.random.default_rng(0)
    items = [Item(f"i{i}", IMAGE, (int(rng.random() < 0.5), int(i < 20))) for i in range(400)]
    result = assign_splits(items, 2, FRACTIONS, seed=0)
    assert Counter(item.split for item in result if item.label[1]) == {"train": 14, "val": 3, "test": 3}


def test_seed_decides_and_order_does_not() -> None:
    items = make([0, 1] * 50)
    first = {item.id: item.split for item in assign_splits(items, 2, FRACTIONS, seed=1)}
    assert first == {item.id: item.split for item in assign_splits(items[::-1], 2, FRACTIONS, seed=1)}
    assert first != {item.id: item.split for item in assign_splits(items, 2, FRACTIONS, seed=2)}


def test_given_splits_are_kept_and_spelt_alike() -> None:
    items = make([0] * 4, splits=["Training", "valid", "TEST", "train"])
    assert [item.split for item in assign_splits(items, 1, FRACTIONS, 0)] == ["train", "val", "test", "train"]


@pytest.mark.parametrize(("there", "carved"), [("test", "val"), ("val", "test")])
def test_missing_split_is_carved_from_train_by_group(there: str, carved: str) -> None:
    groups = [f"g{i // 5}" for i in range(100)] + ["held out"] * 20
    items = make([i % 2 for i in range(120)], groups, ["train"] * 100 + [there] * 20)
    result = assign_splits(items, 2, FRACTIONS, 0)
    assert [item.split for item in result[100:]] == [there] * 20
    assert {item.split for item in result[:100]} == {"train", carved}
    assert 10 <= sum(item.split == carved for item in result) <= 25
    assert not {i.group for i in result if i.split == carved} & {i.group for i in result if i.split == "train"}


def test_group_in_two_given_splits_is_named() -> None:
    items = make([0, 0, 0], ["anna", "ben", "anna"], ["train", "val", "test"])
    with pytest.raises(ValueError, match="Group 'anna' is in two splits, train and test .image i0002.; move all"):
        assign_splits(items, 1, FRACTIONS, 0)


def test_wrong_given_splits_are_named() -> None:
    with pytest.raises(ValueError, match="Image i0001 has the unknown split 'fold2'; use train, val or test"):
        assign_splits(make([0, 0], splits=["train", "fold2"]), 1, FRACTIONS, 0)
    with pytest.raises(ValueError, match="Image i0001 has no split where others have one"):
        assign_splits(make([0, 0], splits=["train", None]), 1, FRACTIONS, 0)
    kept = assign_splits(make([0, 0], splits=["val", "test"]), 1, FRACTIONS, 0)
    assert [item.split for item in kept] == ["val", "test"], "nothing is carved out of a test set"


def test_limit_keeps_proportions_order_and_is_deterministic() -> None:
    items = [replace(item, split="train" if i % 4 else "test") for i, item in enumerate(make([0] * 60 + [1] * 30))]
    kept = limit_splits(items, 2, 12, seed=0)
    counts = Counter((item.split, item.label) for item in kept)
    assert counts == {("train", 0): 8, ("train", 1): 4, ("test", 0): 8, ("test", 1): 4}
    assert [item.id for item in kept] == sorted(item.id for item in kept)
    assert [item.id for item in kept] == [item.id for item in limit_splits(items, 2, 12, seed=0)]
    assert len(limit_splits(items, 2, 1000, seed=0)) == 90
