"""Masks and other files next to the images they belong to."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_xai.data import FolderData
from lightning_xai.data.side_files import sort_files


def sorted_names(*names: str) -> tuple[list[str], dict[str, list[str]], list[str]]:
    """Images, masks of each and what is left out, of files of these names."""
    root = Path("root")
    sorted_files = sort_files(sorted(root / name for name in names), root)

    def text(path: Path) -> str:
        return path.relative_to(root).as_posix()

    masks = {text(image): [text(mask) for mask in parts] for image, parts in sorted_files.masks.items()}
    return [text(path) for path in sorted_files.images], masks, [text(path) for path in sorted_files.left_out]


@pytest.mark.parametrize(
    ("image", "masks"),
    [
        ("x.png", ["x_mask.png"]),
        ("benign (1).png", ["benign (1)_mask.png", "benign (1)_mask_1.png", "benign (1)_mask_2.png"]),
        ("x.jpg", ["x_mask.png", "x_mask2.png", "x_mask (3).png"]),
        ("x.jpg", ["x-Mask.PNG"]),
        ("x.tif", ["x.mask.tif"]),
        ("x.jpg", ["x_seg.png"]),
        ("ISIC_0001.jpg", ["ISIC_0001_segmentation.png"]),
        ("brain.01.nii.gz", ["brain.01_seg.nii.gz"]),
        ("x.png", ["x_label.png"]),
        ("x.png", ["x_labels.png"]),
        ("x.png", ["x_gt.png"]),
        ("x.png", ["x_ground_truth.png"]),
        ("7.png", ["mask_7.png"]),
        ("img_7.png", ["mask_7.png"]),
        ("x_image.png", ["x_mask.png"]),
        ("x_orig.png", ["x_mask.png"]),
        ("case_1.png", ["case_mask_1.png"]),
        ("x.png", ["x.png_mask.png"]),
        ("case_1/image.png", ["case_1/mask.png"]),
        ("case_1/img.nii.gz", ["case_1/seg.nii.gz"]),
        ("case_1/original.png", ["case_1/label_1.png", "case_1/label_2.png"]),
        ("images/x.jpg", ["masks/x.png"]),
        ("images/x.jpg", ["masks/x_mask.png"]),
        ("a/Images/x.jpg", ["a/Masks/x.png"]),
        ("x.jpg", ["masks/x.png"]),
        ("train/images/x.jpg", ["train/labels/x.png"]),
        ("images/train/x.jpg", ["masks/train/x.png"]),
    ],
)
def test_masks_find_their_image(image: str, masks: list[str]) -> None:
    assert sorted_names(image, *masks) == ([image], {image: sorted(masks)}, [])


@pytest.mark.parametrize(
    "name",
    [
        "x_overlay",
        "x-thumb",
        "x_thumbnail_2",
        "x_annotated",
        "x_preview",
        "x_mask_color",
        "x_seg_overlay",
        "x_heatmap",
        "x_visualization",
        "x_visualisation",
    ],
)
def test_side_files_are_left_out(name: str) -> None:
    assert sorted_names("x.png", f"{name}.png", "y.png") == (["x.png", "y.png"], {}, [f"{name}.png"])


@pytest.mark.parametrize(
    "names",
    [
        ("x.png", "x_1.png", "x_2.png", "x_flip.png", "x_left.png"),
        ("x_mask.png", "y_mask.png"),  # faces with masks
        ("mask_1.png", "mask_2.png"),
        ("x.png", "y_overlay.png"),
        ("masked.png", "m.png", "segment.png", "s.png", "xmask.png"),
        ("label/1.png", "bottle/1.png"),
        ("a/x.png", "b/x_mask.png"),
    ],
)
def test_everything_else_is_an_image(names: tuple[str, ...]) -> None:
    assert sorted_names(*names) == (sorted(names), {}, [])


def test_a_mask_without_image_is_left_out_where_others_have_one() -> None:
    assert sorted_names("x.png", "x_mask.png", "y_mask.png") == (["x.png"], {"x.png": ["x_mask.png"]}, ["y_mask.png"])


# ------------------------------------------------------------------ in a data set


@pytest.fixture
def ultrasound(tmp_path: Path) -> Path:
    """Two class folders of twelve images; each has a mask of its first row, and every third one of its last row too."""
    for name in ("benign", "malignant"):
        (tmp_path / name).mkdir()
        for number in range(12):
            stem = tmp_path / name / f"{name} ({number})"
            Image.fromarray(np.full((8, 8), 100, np.uint8)).save(f"{stem}.png")
            for row, mark in [(0, "_mask"), (7, "_mask_1")][: 2 if number % 3 == 0 else 1]:
                mask = np.zeros((8, 8), np.uint8)
                mask[row] = 255
                Image.fromarray(mask).save(f"{stem}{mark}.png")
    return tmp_path


def test_masks_next_to_images_are_united(ultrasound: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = FolderData(ultrasound, batch_size=3)
    with caplog.at_level(logging.INFO, "lightning_xai"):
        data.setup()
    assert "have masks next to them" in caplog.text and "Left out" not in caplog.text
    assert sum(map(len, data.split_items.values())) == 24 and data.class_names == ["benign", "malignant"]
    for split in data.split_items:
        for batch in data.plain_dataloader(split):
            two = torch.tensor([int(name.split("(")[1][:-1]) % 3 == 0 for name in batch["id"]])
            assert batch["mask"][:, 0, 0].bool().all() and not batch["mask"][:, 0, 1:7].any()
            assert torch.equal(batch["mask"][:, 0, 7].bool().all(1), two)


def test_an_image_without_mask(ultrasound: Path) -> None:
    (ultrasound / "benign" / "benign (1)_mask.png").unlink()
    data = FolderData(ultrasound)
    data.setup()  # as evidence it is empty
    assert sum(map(len, data.split_items.values())) == 24
    with pytest.raises(ValueError, match=r"The mask .*benign \(1\)_mask.png does not exist; correct its path or"):
        FolderData(ultrasound, mask_classes=["tissue", "tumor"]).setup()
    data = FolderData(ultrasound, mask_classes=["tissue", "tumor"], on_bad_image="skip")
    data.setup()
    assert len(data.skipped) == 1


def test_a_folder_of_masks_goes_before_masks_next_to_images(
    ultrasound: Path, tmp_path_factory: pytest.TempPathFactory, caplog: pytest.LogCaptureFixture
) -> None:
    other = tmp_path_factory.mktemp("masks")
    for path in ultrasound.glob("*/*).png"):
        target = other / path.relative_to(ultrasound)
        target.parent.mkdir(exist_ok=True)
        Image.fromarray(np.eye(8, dtype=np.uint8)).save(target)
    data = FolderData(ultrasound, mask_root=other)
    data.setup()
    assert "Left out the masks next to 24 images" in caplog.text
    assert torch.equal(next(iter(data.test_dataloader()))["mask"][0, 0], torch.eye(8, dtype=torch.int64))


def test_side_files_are_named(ultrasound: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("benign (3)_overlay", "benign (4)_thumb", "benign (99)_mask"):
        Image.fromarray(np.zeros((9, 9), np.uint8)).save(ultrasound / "benign" / f"{name}.png")
    data = FolderData(ultrasound)
    data.setup()
    assert sum(map(len, data.split_items.values())) == 24
    assert [text for text in caplog.messages if text.startswith("Left out 3 files") and "benign (3)_overlay" in text]


def test_the_fingerprint_follows_every_mask(ultrasound: Path) -> None:
    def fingerprint() -> str:
        data = FolderData(ultrasound)
        data.setup()
        return data.data_info()["fingerprint"]

    before = fingerprint()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(ultrasound / "benign" / "benign (3)_mask_1.png", compress_level=0)
    assert fingerprint() != before


def test_other_endings_are_named(ultrasound: Path, caplog: pytest.LogCaptureFixture) -> None:
    def write(name: str) -> None:
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(ultrasound / "benign" / f"{name}.png")

    for number in range(1, 6):
        write(f"benign ({number})_binary")
    write("benign (3)_dark")
    for predict in (False, True):
        caplog.clear()
        FolderData(ultrasound).setup("predict" if predict else None)
        said = [text for text in caplog.messages if "with 'binary' added" in text]
        assert len(said) == 1 and said[0].startswith("5 images of ") and "name them x_mask" in said[0]
        assert "'dark'" not in caplog.text, "one image is no pattern"
