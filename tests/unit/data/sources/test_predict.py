"""`setup("predict")`: every image of a source, whatever else is known of it."""

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from lightning import Trainer
from monai.transforms import SpatialCropd
from PIL import Image

from lightning_xai import ClassifierTarget
from lightning_xai.data import (
    BadImageError,
    DecathlonData,
    EmbeddedDigits,
    FolderData,
    ImageDataModule,
    Item,
    ManifestData,
    NpzData,
)
from tests.helpers import GradientMap, cnn

Make = Callable[..., object]


def write_images(root: Path, *names: str, size: tuple[int, int] = (10, 12)) -> Path:
    """Gray images, each as bright as its position in the list."""
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full(size, number, np.uint8)).save(root / name)
    return root


def predicted_ids(data: ImageDataModule) -> list[str]:
    """The ids of what is explained, in order."""
    data.setup("predict")
    batches = list(data.predict_dataloader())
    assert all("label" not in batch for batch in batches)
    return [name for batch in batches for name in batch["id"]]


@pytest.mark.parametrize(
    "names",
    [
        ("0.png",),
        ("2.png", "10.jpg", "1.png"),
        ("cat/0.png",),
        ("cat/0.png", "dog/0.png"),
        ("train/cat/0.png", "test/dog/0.png", "unlabeled/0.png", "more.png"),
        ("val/0.png",),
        ("a/b/c/d.png", "e.png"),
        ("trainA/0.png", "testA/0.png"),
    ],
)
def test_all_images_below_a_folder(tmp_path: Path, names: tuple[str, ...]) -> None:
    data = FolderData(write_images(tmp_path, *names), batch_size=2)
    assert predicted_ids(data) == sorted(name.rpartition(".")[0] for name in names)
    brightness = torch.cat([batch["image"] for batch in data.predict_dataloader()])[:, 0, 0, 0] * 255
    assert brightness.round().int().tolist() == [names.index(name) for name in sorted(names)]
    data_info = data.data_info()
    assert (data_info["channels"], data_info["dims"], data_info["size"], data_info["classes"]) == (1, 2, [10, 12], 0)
    assert data_info["mean"] is None and data_info["std"] is None and data_info["fingerprint"].isalnum()
    assert data.split_counts == {"predict": {"unlabeled": len(names)}}


def test_one_image_is_a_root(tmp_path: Path) -> None:
    write_images(tmp_path, "a.b.png", "c.png")
    assert predicted_ids(FolderData(tmp_path / "a.b.png")) == ["a.b"]


@pytest.mark.parametrize("classes", [None, ["none", "thing"]])
def test_masks_and_side_files_are_not_explained(tmp_path: Path, classes: list[str] | None) -> None:
    names = ("x/1.png", "x/1_mask.png", "x/1_overlay.png", "y/images/2.png", "y/masks/2.png", ".hidden/3.png")
    data = FolderData(write_images(tmp_path, *names), mask_classes=classes)
    assert predicted_ids(data) == ["x/1", "y/images/2"]
    assert data.has_masks == (classes is not None) == ("mask" in next(iter(data.predict_dataloader())))
    assert data.data_info()["class_names"] == (classes or [])
    apart = FolderData(write_images(tmp_path, "masks/x/1.png"), mask_root=tmp_path / "masks", mask_classes=classes)
    assert predicted_ids(apart) == ["x/1", "y/images/2"]


def test_images_that_differ_in_their_suffix_are_both_explained(tmp_path: Path) -> None:
    assert predicted_ids(FolderData(write_images(tmp_path, "a.png", "a.jpg", "b.png"))) == ["a.jpg", "a.png", "b"]


def test_images_are_resized_and_limited(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_images(tmp_path, "a.png", "b.png", "c.png")
    write_images(tmp_path, "c.png", size=(90, 70))
    assert predicted_ids(FolderData(tmp_path, size=(8, 6), limit=2)) == ["a", "b"]
    data = FolderData(tmp_path, size=(8, 6))
    assert predicted_ids(data) == ["a", "b", "c"] and data.data_info()["size"] == [8, 6]
    data = FolderData(tmp_path)
    assert sorted(predicted_ids(data)) == ["a", "b", "c"] and data.data_info()["size"] is None
    with caplog.at_level(logging.INFO, "lightning_xai"):
        assert predicted_ids(FolderData(tmp_path, size="auto")) == ["a", "b", "c"]
    assert "from 10 x 12 to 90 x 70; all are resized to 8 x 16" in caplog.text


def test_transforms_that_name_masks_do_without(tmp_path: Path) -> None:
    crop = SpatialCropd(["image", "mask"], roi_start=(0, 0), roi_end=(4, 5))
    data = FolderData(write_images(tmp_path, "a.png"), prepare=[crop], mask_classes=["none", "thing"])
    assert predicted_ids(data) == ["a"] and data.image_shape == (1, 4, 5)
    assert set(next(iter(data.predict_dataloader()))) == {"image", "id"}


def test_nothing_to_explain_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="There is no image in .*; check the path"):
        FolderData(tmp_path).setup("predict")
    with pytest.raises(NotADirectoryError, match="nowhere does not exist; correct data.root"):
        FolderData("nowhere").setup("predict")
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(BadImageError, match="a.png cannot be read"):
        FolderData(tmp_path).setup("predict")
    with pytest.raises(ValueError, match="No image of .* can be used; the first one: .*a.png cannot be read"):
        FolderData(tmp_path, on_bad_image="skip").setup("predict")
    write_images(tmp_path, "b.png")
    data = FolderData(tmp_path, on_bad_image="skip")
    assert predicted_ids(data) == ["b"] and len(data.skipped) == 1


def test_after_fit_the_test_images_are_explained_and_after_predict_fit_still_works(class_folders: Path) -> None:
    data = FolderData(class_folders)
    data.setup("fit")
    data.setup("predict")
    assert [name for batch in data.predict_dataloader() for name in batch["id"]] == [
        item.id for item in data.split_items["test"]
    ]
    data = FolderData(class_folders)
    assert len(predicted_ids(data)) == 20
    data.setup("fit")
    data.setup("test")
    assert data.class_names == ["cat", "dog"] and data.data_info()["mean"] is not None
    assert "label" in next(iter(data.train_dataloader())) and set(data.split_items) == {"train", "val", "test"}
    assert len(predicted_ids(data)) == 20


def test_a_trainer_explains_all_images(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png", "b/c.png", "b/d.png")
    explainer = GradientMap(ClassifierTarget(cnn()))
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    results = trainer.predict(explainer, datamodule=FolderData(tmp_path, batch_size=2))
    assert [len(result.maps) for result in results] == [2, 1]


# ------------------------------------------------------------------ other sources


def test_a_table_of_images_alone(tmp_path: Path) -> None:
    write_images(tmp_path, "b.png", "a.png", "masks/a.png")
    (tmp_path / "t.csv").write_text("image,split,group\nb.png,odd,1\na.png,,1\n")
    assert predicted_ids(ManifestData(tmp_path / "t.csv", group_column="nurse", classes=["x"])) == ["b", "a"]
    options = {"label_column": ["x", "y"], "mask_root": "masks", "mask_classes": ["none", "thing"]}
    data = ManifestData(tmp_path / "t.csv", **options)
    assert predicted_ids(data) == ["b", "a"] and data.has_masks and data.data_info()["classes"] == 2
    assert predicted_ids(ManifestData(tmp_path / "t.csv", **(options | {"mask_root": "nowhere"}))) == ["b", "a"]
    with pytest.raises(ValueError, match="has no column 'file'"):
        ManifestData(tmp_path / "t.csv", "file").setup("predict")
    with pytest.raises(NotADirectoryError, match="The image folder .*nowhere does not exist"):
        ManifestData(tmp_path / "t.csv", image_root="nowhere").setup("predict")


def test_a_table_keeps_ids_sides_and_masks_that_are_there(tmp_path: Path) -> None:
    write_images(tmp_path, "b.png", "a.png", "m.png")
    (tmp_path / "t.csv").write_text("image,id,laterality,mask,label\nb.png,two,R,m.png,\na.png,one,L,lost.png,\n")
    data = ManifestData(tmp_path / "t.csv", mask_classes=["none", "thing"])
    assert predicted_ids(data) == ["two", "one"]
    batch = next(iter(data.predict_dataloader()))
    assert batch["laterality"] == ["R", "L"] and batch["mask"].flatten(1).any(1).tolist() == [True, False]


def test_several_labels_are_known_again_after_predict(tmp_path: Path) -> None:
    write_images(tmp_path, *(f"{i}.png" for i in range(9)))
    rows = [f"{i}.png,{i % 2},{int(i < 5)}" for i in range(9)]
    (tmp_path / "t.csv").write_text("\n".join(["image,x,y", *rows]))
    data = ManifestData(tmp_path / "t.csv", label_column=["x", "y"])
    assert len(predicted_ids(data)) == 9
    data.setup("fit")
    assert data.data_info()["activation"] == "sigmoid" and data.data_info()["class_names"] == ["x", "y"]
    assert next(iter(data.train_dataloader()))["label"].shape[1] == 2


@pytest.mark.parametrize("names", [["images"], ["images", "labels", "ids"], ["train_images", "test_images"]])
def test_arrays_of_images_alone(tmp_path: Path, names: list[str]) -> None:
    values = {"images": np.zeros((3, 8, 9), np.uint8), "labels": np.array([-1, 7, 7]), "ids": np.array(["x", "y", "z"])}
    np.savez(tmp_path / "a.npz", **{name: values[name.rpartition("_")[2]] for name in names})
    data = NpzData(tmp_path / "a.npz", group="site", classes=["one"])
    expected = {1: ["00000", "00001", "00002"], 3: ["x", "y", "z"]}.get(len(names))
    found = predicted_ids(data)
    assert found == (expected or [f"{split}_{i:05d}" for split in ("train", "test") for i in range(3)])
    with pytest.raises(ValueError, match="has no array 'images'; its keys are labels"):
        np.savez(tmp_path / "b.npz", test_labels=np.zeros(3))
        NpzData(tmp_path / "b.npz").setup("predict")


@pytest.mark.parametrize(("axis", "count"), [(None, 3), (2, 3 * 5)])
def test_volumes_of_a_task_need_no_labels(tmp_path: Path, axis: int | None, count: int) -> None:
    for folder, number in (("imagesTr", 0), ("imagesTr", 1), ("imagesTs", 2)):
        (tmp_path / folder).mkdir(exist_ok=True)
        volume = nibabel.Nifti1Image(np.random.rand(6, 8, 5).astype(np.float32), np.eye(4))
        nibabel.save(volume, tmp_path / folder / f"v{number}.nii.gz")
    rows = [{"image": f"./imagesTr/v{i}.nii.gz", "label": f"./labelsTr/v{i}.nii.gz"} for i in range(2)]
    listed = {"labels": {"0": "none", "1": "thing"}, "training": rows}
    listed["test"] = ["./imagesTs/v2.nii.gz", "./imagesTs/v3.nii.gz"]
    (tmp_path / "dataset.json").write_text(json.dumps(listed))
    data = DecathlonData(tmp_path, axis=axis)
    names = predicted_ids(data)
    assert len(names) == count and sorted({name[:2] for name in names}) == ["v0", "v1", "v2"]
    assert data.data_info()["class_names"] == ["none", "thing"]


def test_every_other_source_gives_all_its_images(array_data: Make, digits_like: list[Item]) -> None:
    items = [replace(item, split="train" if i else "test") for i, item in enumerate(digits_like[:5])]
    assert predicted_ids(array_data(items, ["even", "odd"])) == [item.id for item in items]
    assert predicted_ids(array_data(items[:1], ["even", "odd"])) == [items[0].id]
    assert len(predicted_ids(EmbeddedDigits(limit=7))) == 7
