"""Global maps need images whose pixels mean the same position."""

import nibabel
import numpy as np
import pytest

from lightning_xai.cli.tasks.global_maps import check_aligned
from lightning_xai.data import ImageDataModule, Item, MirrorSided


class Arrays(ImageDataModule):
    """Given items."""

    where = "the arrays"
    class_names = ()

    def __init__(self, items, **options):
        super().__init__(**options)
        self.given = items

    def items(self):
        return self.given


def ready(items, **options):
    data = Arrays(items, **options)
    data.setup()
    return data


def test_sizes_must_agree():
    items = [Item(f"i{i}", np.full((8, 6 + i % 2), i, np.uint8)) for i in range(9)]
    with pytest.raises(
        ValueError, match="task=global adds up maps pixel by pixel, but images have sizes such as 8 x 6"
    ):
        check_aligned(ready(items))
    check_aligned(ready(items, size=8))


def test_voxels_must_agree(tmp_path):
    items = []
    for i in range(9):
        image = nibabel.Nifti1Image(
            np.random.default_rng(i).random((6, 6, 6), np.float32), np.diag([1, 1, 1 + i // 8, 1])
        )
        nibabel.save(image, tmp_path / f"{i}.nii.gz")
        items.append(Item(f"i{i}", tmp_path / f"{i}.nii.gz"))
    with pytest.raises(ValueError, match="but voxels are 1 mm long .* and 2 mm .* data.spacing for volumes"):
        check_aligned(ready(items, spacing="any"))
    check_aligned(ready(items[:8]))


def test_both_sides_are_mentioned_unless_one_is_mirrored(caplog):
    items = [Item(f"i{i}", np.full((8, 6), i, np.uint8), laterality="LR"[i % 2]) for i in range(9)]
    check_aligned(ready(items, prepare=[MirrorSided(["image"])]))
    assert "both sides" not in caplog.text
    check_aligned(ready(items))
    assert "both sides of the body (L, R)" in caplog.text
