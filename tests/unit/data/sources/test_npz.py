from pathlib import Path

import numpy as np
import pytest

from lightning_xai.data import NpzData

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 65536, (30, 24, 20, 5), np.uint16)


def save(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path / "a.npz", **arrays)
    return path / "a.npz"


def ready(path: Path, **options: object) -> NpzData:
    data = NpzData(path, **options)
    data.setup()
    return data


def test_medmnist_layout(tmp_path: Path) -> None:
    arrays = {}
    for split, count in (("train", 20), ("val", 6), ("test", 8)):
        arrays[f"{split}_images"] = RNG.integers(0, 256, (count, 28, 28), np.uint8)
        arrays[f"{split}_labels"] = (np.arange(count) % 2).astype(np.uint8)[:, None]
    data = ready(save(tmp_path, **arrays), classes=["normal", "ill"])
    assert data.split_counts["train"] == {"normal": 10, "ill": 10}
    batch = next(iter(data.test_dataloader()))
    assert batch["image"].shape == (8, 1, 28, 28)
    assert sorted(batch["id"]) == [f"test_{i:05d}" for i in range(8)]
    rows = [int(name.removeprefix("test_")) for name in batch["id"]]
    assert batch["label"].tolist() == [row % 2 for row in rows]
    np.testing.assert_allclose(batch["image"][:, 0], arrays["test_images"][rows] / 255, rtol=1e-6)


def test_medmnist_with_several_labels_and_masks(tmp_path: Path) -> None:
    arrays = {}
    for split in ("train", "val", "test"):
        arrays[f"{split}_images"] = RNG.integers(0, 256, (6, 28, 28, 3), np.uint8)
        arrays[f"{split}_labels"] = np.tile([[1, 0, 1], [0, 1, 1]], (3, 1))
        arrays[f"{split}_masks"] = np.ones((6, 28, 28), bool)
    data = ready(save(tmp_path, **arrays))
    assert data.multilabel and data.class_names == ["0", "1", "2"]
    batch = next(iter(data.test_dataloader()))
    first = batch["id"].index("test_00000")
    assert batch["label"][first].tolist() == [1, 0, 1]
    assert batch["mask"].unique().tolist() == [1]


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_plain_arrays_with_split_group_ids_and_classes(tmp_path: Path, layout: str) -> None:
    path = save(
        tmp_path,
        images=IMAGES if layout == "NHWC" else IMAGES.transpose(0, 3, 1, 2),
        labels=np.arange(30) % 2,
        split=np.repeat(["train", "val", "test"], 10),
        well=np.repeat(np.arange(6), 5),
        ids=np.array([f"cell{i}" for i in range(30)]),
        classes=np.array(["control", "drug"]),
    )
    data = ready(path, group="well")
    assert data.class_names == ["control", "drug"] and data.channels == 5
    assert {item.group for item in data.split_items["val"]} == {"2", "3"}
    batch = next(iter(data.test_dataloader()))
    first = batch["id"].index("cell20")
    np.testing.assert_allclose(batch["image"][first], IMAGES[20].transpose(2, 0, 1) / 65535, rtol=1e-6)


def test_splits_are_made_by_group_where_there_are_none(tmp_path: Path) -> None:
    path = save(tmp_path, images=IMAGES, labels=np.arange(30) % 2, well=np.repeat(np.arange(10), 3))
    data = ready(path, group="well")
    wells = [{item.group for item in items} for items in data.split_items.values()]
    assert sum(map(len, wells)) == len(set.union(*wells)) == 10


def test_class_names_as_labels(tmp_path: Path) -> None:
    data = ready(save(tmp_path, images=IMAGES, labels=np.array(["b", "a"] * 15)))
    assert data.class_names == ["a", "b"]
    labels = {item.id: item.label for items in data.split_items.values() for item in items}
    assert labels == {f"{i:05d}": 1 - i % 2 for i in range(30)}


def test_cubes_need_the_channel_axis(tmp_path: Path) -> None:
    path = save(tmp_path, images=np.zeros((9, 8, 8, 8), np.uint8), labels=np.arange(9) % 2)
    with pytest.raises(ValueError, match="set data.channel_axis=0, -1, or none"):
        ready(path)
    assert ready(path, channel_axis="none").image_shape == (1, 8, 8, 8)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"labels": np.arange(30) % 3}, {"classes": ["a", "b"]}, "The label 2 of 00002 in .*a.npz is out of range"),
        ({"labels": np.arange(30) - 1.0}, {}, "The label -1 of 00000 .* is out of range; give it a class from 0 to 28"),
        ({"labels": np.arange(9)}, {}, "labels of .*a.npz has 9 entries for 30 images"),
        ({"labels": np.arange(30) % 2 * 2}, {}, "Class '1' has no image in .*a.npz"),
        ({}, {"group": "well"}, "a.npz has no array 'well'; its keys are images, labels"),
        ({"split": np.repeat(["train", "val"], 15), "site": np.zeros(30)}, {"group": "site"}, "Group '0.0' is in two"),
    ],
)
def test_wrong_arrays_are_named(
    tmp_path: Path, change: dict[str, np.ndarray], options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ready(save(tmp_path, **({"images": IMAGES, "labels": np.arange(30) % 2} | change)), **options)


def test_wrong_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="The file nowhere.npz does not exist; set data.path"):
        ready("nowhere.npz")
    with pytest.raises(ValueError, match="a.npz has neither images nor train_images; its keys are x, y"):
        ready(save(tmp_path, x=np.zeros(3), y=np.zeros(3)))
    (tmp_path / "a.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:100])
    with pytest.raises(ValueError, match="a.npz cannot be read as npz .*; replace it"):
        ready(tmp_path / "a.npz")


def test_images_to_segment_need_no_labels(tmp_path: Path) -> None:
    path = save(tmp_path, images=IMAGES, masks=(IMAGES[..., 0] if IMAGES.ndim == 4 else IMAGES) > 100)
    data = ready(path, mask_classes=["background", "bright"])
    assert data.class_names == [] and "label" not in next(iter(data.test_dataloader()))
    with pytest.raises(ValueError, match="has no array 'labels'"):
        ready(path)


IMAGES_12 = RNG.integers(0, 256, (12, 8, 8), np.uint8)
HALF = np.arange(12) % 2


@pytest.mark.parametrize(
    ("labels", "names", "expected"),
    [
        (HALF.astype(np.float32), ["0", "1"], HALF),
        (HALF.astype(float)[:, None], ["0", "1"], HALF),
        (HALF == 1, ["0", "1"], HALF),
        (HALF + 1, ["1", "2"], HALF),
        (np.arange(12) % 3 + 1.0, ["1", "2", "3"], np.arange(12) % 3),
    ],
)
def test_labels_are_taken_where_they_are_exact(
    tmp_path: Path, labels: np.ndarray, names: list[str], expected: np.ndarray
) -> None:
    data = ready(save(tmp_path, images=IMAGES_12, labels=labels))
    assert data.class_names == names and not data.multilabel
    found = {int(item.id): item.label for items in data.split_items.values() for item in items}
    assert [found[i] for i in range(12)] == expected.tolist()


def test_labels_from_one_take_the_given_names(tmp_path: Path) -> None:
    data = ready(save(tmp_path, images=IMAGES_12, labels=HALF + 1), classes=["cat", "dog"])
    assert data.class_names == ["cat", "dog"] and data.split_counts["train"] == {"cat": 4, "dog": 4}
    parts = {f"{split}_{name}": values for split in ("train", "val", "test")
             for name, values in (("images", IMAGES_12), ("labels", (HALF + 1)[:, None]))}  # fmt: skip
    data = ready(save(tmp_path, **parts))
    assert data.class_names == ["1", "2"] and data.split_counts["val"] == {"1": 6, "2": 6}


SHARES = np.stack([np.linspace(0, 1, 12), 1 - np.linspace(0, 1, 12)], 1)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (HALF * 0.9, "labels of .*a.npz holds 0.9, which is no class"),
        (SHARES, "holds 0.09091, which is no class|holds 0.9091, which is no class"),
        (np.where(HALF, np.nan, 1), "holds NaN, as for images without a label"),
        (np.where(HALF, np.inf, 1), "holds numbers too large for class indices"),
        (HALF.astype(complex), "holds complex128 instead of class indices"),
        (np.zeros((12, 2, 2)), r"has shape \(12, 2, 2\)"),
        (np.stack([HALF, 1 - HALF], 1) * 2, "is out of range; give it 2 values of 0 or 1"),
        (HALF - 1, "is out of range"),
    ],
)
def test_other_numbers_are_no_labels(tmp_path: Path, labels: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ready(save(tmp_path, images=IMAGES_12, labels=labels))


def test_names_that_look_alike(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ready(save(tmp_path, images=IMAGES_12, labels=np.array(["Cat", "cat", "dog"] * 4)))
    assert "'Cat' and 'cat' of the labels of" in caplog.text


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"labels": np.array([["a", "b"]] * 12)}, r"labels of .*a\.npz holds names in the shape \(12, 2\)"),
        ({"labels": np.array([b"\x80", b"a"] * 6)}, r"labels of .*a\.npz holds bytes that are no text"),
        ({"classes": np.array([["a", "b"]])}, r"classes of .*a\.npz has the shape \(1, 2\)"),
        ({"classes": np.array("ab")}, r"label 1 of 00001 in .*a\.npz is out of range"),
        ({"labels": np.array(1)}, r"labels of .*a\.npz has 1 entries for 12 images"),
        ({"labels": np.array([[0, -1]] * 12)}, r"labels of .*a\.npz holds -1, which has no meaning"),
    ],
)
def test_labels_of_other_shapes_and_bytes_are_sentences(tmp_path: Path, arrays: dict, sentence: str) -> None:
    content = {"images": np.zeros((12, 8, 8, 1), np.float32), "labels": np.arange(12) % 2} | arrays
    with pytest.raises(ValueError, match=sentence):
        ready(save(tmp_path, **content))


def test_names_as_bytes_are_names(tmp_path: Path) -> None:
    labels = np.array([b"ill", "gr\u00f6\u00dfer".encode()] * 6)
    data = ready(save(tmp_path, images=np.zeros((12, 8, 8, 1), np.float32), labels=labels))
    assert data.class_names == ["gr\u00f6\u00dfer", "ill"]


@pytest.mark.parametrize("options", [{"group": 3}, {"classes": 3}, {"classes": ["a", "a"]}, {"classes": "ab"}])
def test_options_of_another_kind_are_sentences(tmp_path: Path, options: dict) -> None:
    with pytest.raises(ValueError, match=rf"^data\.{next(iter(options))} is "):
        NpzData(tmp_path / "a.npz", **options)
