"""The Decathlon's layout: volumes and slices of the same voxels, split by volume, classes from dataset.json."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from lightning_xai.data import BadImageError, DecathlonData
from lightning_xai.data.sources import decathlon as module

SHAPE = (6, 8, 5)
COUNT = 8


@pytest.fixture
def task(tmp_path: Path) -> Path:
    """Eight volumes stored left to right; the label 1 is a block, 2 a voxel, and the last slice along z is empty."""
    rng = np.random.default_rng(0)
    affine = np.diag([-1.0, 1.0, 2.0, 1.0])
    rows = []
    for number in range(COUNT):
        name = f"brain_{number:03d}.nii.gz"
        mask = np.zeros(SHAPE, np.uint8)
        mask[:2, 2:5, 1:3], mask[4, 6, 3] = 1, 2
        for folder, values in (("imagesTr", rng.random(SHAPE, np.float32)), ("labelsTr", mask)):
            (tmp_path / folder).mkdir(exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(values, affine), tmp_path / folder / name)
        rows.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    listed = {"labels": {"0": "background", "1": "anterior", "2": "posterior"}, "training": rows, "test": []}
    (tmp_path / "dataset.json").write_text(json.dumps(listed))
    return tmp_path


def make_data(root: Path, **options: object) -> DecathlonData:
    data = DecathlonData(root, batch_size=2, num_workers=0, **options)
    data.setup()
    return data


def stored(root: Path, number: str, folder: str) -> np.ndarray:
    return np.asarray(nibabel.load(root / folder / f"{number}.nii.gz").get_fdata())


def test_whole_volumes_are_turned_and_named(task: Path) -> None:
    data = make_data(task)
    assert data.data_info()["class_names"] == ["background", "anterior", "posterior"] and data.data_info()["dims"] == 3
    batch = next(iter(data.test_dataloader()))
    assert batch["image"].shape[1:] == batch["mask"].shape[1:] == (1, *SHAPE)
    for name, image, mask, affine in zip(batch["id"], batch["image"], batch["mask"], batch["affine"], strict=True):
        assert np.allclose(image[0], stored(task, name, "imagesTr")[::-1])
        assert np.array_equal(mask[0], stored(task, name, "labelsTr")[::-1])
        assert np.allclose(affine.diagonal(), [1, 1, 2, 1])


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("slices", ["foreground", "all"])
def test_slices_are_those_of_the_volume(task: Path, axis: int, slices: str) -> None:
    data = make_data(task, axis=axis, slices=slices)
    numbers = set()
    for batch in data.test_dataloader():
        for name, image, mask in zip(batch["id"], batch["image"], batch["mask"], strict=True):
            volume, _, number = name.rpartition("_")
            expected = (
                np.take(stored(task, volume, folder)[::-1], int(number), axis) for folder in ("imagesTr", "labelsTr")
            )
            assert np.allclose(image[0], next(expected)) and np.array_equal(mask[0], next(expected))
            numbers.add(int(number))
    shown = {0: {1, 4, 5}, 1: {2, 3, 4, 6}, 2: {1, 2, 3}}[axis]
    assert numbers == (shown if slices == "foreground" else set(range(SHAPE[axis])))


def test_no_volume_is_in_two_splits(task: Path) -> None:
    data = make_data(task, axis=2)
    groups = [{item.group for item in items} for items in data.split_items.values()]
    assert sum(map(len, groups)) == len(set.union(*groups)) == COUNT


def test_volumes_are_resampled_before_they_are_cut(task: Path) -> None:
    data = make_data(task, spacing=(1.0, 1.0, 1.0), axis=0, slices="all")
    assert data.image_shape == (1, 8, 9)
    assert set(torch.cat([batch["mask"] for batch in data.test_dataloader()]).unique().tolist()) <= {0, 1, 2}


def test_labels_may_be_merged(task: Path) -> None:
    data = make_data(task, axis=2, mask_classes=["background", "hippocampus"])
    masks = torch.cat([batch["mask"] for batch in data.train_dataloader()])
    assert set(masks.unique().tolist()) == {0, 1} and data.data_info()["classes"] == 2


def test_a_missing_task_is_downloaded_once(task: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def fetch(root: Path, name: str, section: str, **options: object) -> None:
        calls.append((root, name, section))
        (task / "dataset.json").write_text(listed)

    monkeypatch.setattr(module, "DecathlonDataset", fetch)
    listed = (task / "dataset.json").read_text()
    (task / "dataset.json").unlink()
    for _ in range(2):
        make_data(task, download=True)
    assert calls == [(task.parent, task.name, "training")]


def test_clear_errors(task: Path) -> None:
    with pytest.raises(ValueError, match=r"data.axis is 3, data.slices 'foreground'; use 0, 1, 2 or null"):
        DecathlonData(task, axis=3)
    bad = task / "labelsTr" / "brain_002.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.full(SHAPE, 3, np.uint8), np.diag([-1.0, 1.0, 2.0, 1.0])), bad)
    for axis in (None, 2):
        with pytest.raises(BadImageError, match="brain_002.nii.gz holds the value 3, but data.mask_classes names 3"):
            make_data(task, axis=axis)
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4)), bad)
    with pytest.raises(BadImageError, match=r"brain_002.nii.gz has size \(4, 4, 4\) where its image has \(6, 8, 5\)"):
        make_data(task)
    bad.write_bytes(b"no volume")
    with pytest.raises(BadImageError, match=r"brain_002.nii.gz cannot be read"):
        make_data(task)
    (task / "dataset.json").write_text('{"training": [{"image": "a.nii"}], "labels": {"0": "none"}}')
    with pytest.raises(ValueError, match='lacks "labels", or "training" with an image and a label each'):
        make_data(task)
    (task / "dataset.json").write_text("{")
    with pytest.raises(ValueError, match="is no valid JSON"):
        make_data(task)
    (task / "dataset.json").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"dataset.json does not exist; correct data.root, or set data.download"
    ):
        make_data(task)


@pytest.mark.parametrize("axis", [None, 1])
def test_a_bad_volume_may_be_skipped(task: Path, axis: int | None) -> None:
    (task / "labelsTr" / "brain_002.nii.gz").write_bytes(b"no volume")
    data = make_data(task, axis=axis, on_bad_image="skip")
    groups = {item.group for items in data.split_items.values() for item in items}
    assert len(groups) == COUNT - 1 and len(data.skipped) == 1 and "brain_002" in data.skipped[0]


def test_a_task_without_any_object_says_so(task: Path) -> None:
    for path in (task / "labelsTr").iterdir():
        nibabel.save(nibabel.Nifti1Image(np.zeros(SHAPE, np.uint8), np.diag([-1.0, 1.0, 2.0, 1.0])), path)
    with pytest.raises(ValueError, match=r"No slice of .* shows a class besides the background; set data.slices=all"):
        make_data(task, axis=2)
