import logging
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from lightning_xai.data import FolderData


def test_one_folder_a_class_with_parallel_masks(class_folders: Path) -> None:
    data = FolderData(class_folders, mask_root=class_folders.parent / "masks")
    data.setup()
    assert data.class_names == ["cat", "dog"]
    assert (data.channels, data.spatial_dims, data.has_masks) == (3, 2, True)
    assert [sum(counts.values()) for counts in data.split_counts.values()] == [14, 3, 3]
    batch = next(iter(data.test_dataloader()))
    assert torch.equal(batch["mask"][:, 0] > 0, batch["image"][:, 0] > 128.5 / 255)
    labels = [data.class_names[label] for label in batch["label"]]
    assert [name.split("/")[0] for name in batch["id"]] == labels


def test_masks_inside_the_root_and_with_another_suffix(class_folders: Path) -> None:
    shutil.copytree(class_folders.parent / "masks", class_folders / "masks")
    for path in sorted(class_folders.glob("[cd]*/*.png")):
        Image.open(path).save(path.with_suffix(".jpg"))
        path.unlink()
    data = FolderData(class_folders, mask_root=class_folders / "masks")
    data.setup()
    assert data.class_names == ["cat", "dog"]
    assert next(iter(data.test_dataloader()))["mask"].any()


def test_masks_inside_the_root_may_be_links(class_folders: Path) -> None:
    stored, masks = class_folders.parent / "stored", class_folders / "masks"
    shutil.copytree(class_folders.parent / "masks", stored)
    for path in sorted(stored.rglob("*.png")):
        link = masks / path.relative_to(stored)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
    data = FolderData(class_folders, mask_root=masks)
    data.setup("predict")
    assert len(data.predict_items()) == len([path for path in class_folders.glob("[cd]*/*.png")])


def test_split_level_above_the_classes(class_folders: Path, tmp_path: Path) -> None:
    root = tmp_path / "split"
    for split in ("train", "valid", "test"):
        shutil.copytree(class_folders, root / split)
    data = FolderData(root)
    data.setup()
    assert data.split_counts == {split: {"cat": 10, "dog": 10} for split in ("train", "val", "test")}
    names = {f"valid/{name}/{i}" for name in ("cat", "dog") for i in range(10)}
    assert {item.id for item in data.split_items["val"]} == names


def test_volumes_and_hidden_and_other_files(tmp_path: Path) -> None:
    for name in ("2", "10"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "notes.txt").write_text("x")
        (tmp_path / name / ".hidden.png").write_text("x")
        for i in range(5):
            nibabel.save(
                nibabel.Nifti1Image(np.ones((6, 7, 8), np.float32), np.eye(4)), tmp_path / name / f"{i}.nii.gz"
            )
    (tmp_path / ".cache").mkdir()
    data = FolderData(tmp_path, size=4)
    data.setup()
    assert data.class_names == ["2", "10"]
    assert data.spatial_dims == 3
    assert next(iter(data.train_dataloader()))["image"].shape == (6, 1, 4, 4, 4)


def test_what_is_not_read_is_said_by_suffix_and_count(class_folders: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number, name in enumerate(["a.HEIC", "b.heic", "scan", "c.svg", ".hidden.heic", "notes.txt"]):
        (class_folders / ("cat", "dog")[number % 2] / name).write_bytes(b"x")
    (class_folders / "__MACOSX" / "cat").mkdir(parents=True)
    (class_folders / "__MACOSX" / "cat" / "d.heic").write_bytes(b"x")
    with caplog.at_level(logging.INFO):
        FolderData(class_folders).setup()
    (record,) = [record for record in caplog.records if "Not read" in record.getMessage()]
    assert record.getMessage() == (
        f"Not read are these files of {class_folders}, by suffix: 2 .heic, 1 .svg, 1 .txt, 1 without suffix."
    )
    assert record.levelno == logging.WARNING


def test_notes_next_to_images_are_no_warning(class_folders: Path, caplog: pytest.LogCaptureFixture) -> None:
    (class_folders / "labels.csv").write_text("x")
    FolderData(class_folders).setup()
    FolderData(class_folders).setup("predict")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_missing_root_and_mask_root_are_named(class_folders: Path) -> None:
    with pytest.raises(NotADirectoryError, match="The folder nowhere does not exist; correct data.root"):
        FolderData("nowhere").setup()
    with pytest.raises(NotADirectoryError, match="The folder nowhere does not exist"):
        FolderData(class_folders, mask_root="nowhere").setup()


def test_empty_class_and_missing_class_folders_are_named(class_folders: Path, tmp_path: Path) -> None:
    (class_folders / "emu").mkdir()
    with pytest.raises(ValueError, match="The folder .*emu has no images; add some or remove the folder"):
        FolderData(class_folders).setup()
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ValueError, match="nothing has no class folders; put each class into a folder"):
        FolderData(tmp_path / "nothing").setup()


def test_images_in_no_class_folder_have_no_label(class_folders: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = FolderData(class_folders / "cat")
    data.setup()
    assert data.class_names == [] and sum(map(len, data.split_items.values())) == 10
    assert "label" not in next(iter(data.test_dataloader()))
    assert "cat has no class folders: its images have no labels, and a target needs weights." in caplog.text


def test_missing_mask_is_named_or_skipped(class_folders: Path) -> None:
    masks = class_folders.parent / "masks"
    (masks / "dog" / "3.png").unlink()
    with pytest.raises(ValueError, match="The mask .*dog/3.png does not exist"):
        FolderData(class_folders, mask_root=masks).setup()
    data = FolderData(class_folders, mask_root=masks, on_bad_image="skip")
    data.setup()
    assert len(data.skipped) == 1 and "dog/3.png" in data.skipped[0]


def test_one_gray_image_among_color_is_named(class_folders: Path) -> None:
    Image.open(class_folders / "dog" / "4.png").convert("L").save(class_folders / "dog" / "4.png")
    with pytest.raises(ValueError, match="dog/4.png has 1 channels where .* images have 3; set data.channels=1 or 3"):
        FolderData(class_folders).setup()


@pytest.mark.parametrize("splits", [(), ("train", "val", "test")])
def test_images_to_segment_need_no_class_folders(class_folders: Path, tmp_path: Path, splits: tuple[str, ...]) -> None:
    root = tmp_path / "flat"
    for part in splits or ("",):
        shutil.copytree(class_folders / "cat", root / part, dirs_exist_ok=True)
        shutil.copytree(class_folders.parent / "masks" / "cat", root / "masks" / part)
    data = FolderData(root, mask_root=root / "masks", mask_classes=["background", "bright"])
    data.setup()
    assert data.class_names == [] and data.data_info()["class_names"] == ["background", "bright"]
    assert sum(len(items) for items in data.split_items.values()) == 10 * len(splits or ("",))
    batch = next(iter(data.test_dataloader()))
    assert "label" not in batch and torch.equal(batch["mask"][:, 0] > 0, batch["image"][:, 0] > 128.5 / 255)
    if splits:
        with pytest.raises(ValueError, match="hold images but no class folders"):
            FolderData(root, mask_root=root / "masks").setup()
