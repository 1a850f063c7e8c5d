"""The groups of a batch, however a data module gives them."""

import pytest
import torch

from lightning_xai.functional.groups import batch_groups, units_of


@pytest.mark.parametrize(
    ("batch", "names"),
    [
        ({}, None),
        ({"group": None}, None),
        ({"group": ["ann", "bob"]}, ["ann", "bob"]),
        ({"group": ["ann", None, ""]}, ["ann", "", ""]),
        ({"group": torch.tensor([3, 0])}, ["3", "0"]),
        ({"group": ("a",)}, ["a"]),
    ],
    ids=str,
)
def test_groups_are_names(batch, names):
    assert batch_groups(batch) == names


def test_every_image_has_a_group_or_none_by_name():
    with pytest.raises(ValueError, match="1 groups for 2 images; give one group an image"):
        units_of(["a", "b"], ["ann"])
