"""One size for images of different sizes."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile
from monai.transforms import SpatialCropd
from PIL import Image

from lightning_xai.data import FolderData, Item
from lightning_xai.data import survey as survey_module
from lightning_xai.data.reading import BadImageError, read_image, read_shape
from lightning_xai.data.sizes import common_size

Make = Callable[..., object]
RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([(10, 12)] * 3, None),
        ([(10, 12), (10, 12, 9)], None),
        ([], None),
        ([(180, 210), (256, 330), (640, 480)], (256, 320)),
        ([(100, 300), (110, 300)], (96, 288)),
        ([(65, 90), (79, 90), (81, 20)], (64, 96)),
        ([(28, 28), (30, 30), (40, 41)], (32, 32)),
        ([(3, 60), (4, 61)], (8, 64)),
        ([(35, 51, 33), (36, 49, 40), (34, 50, 36)], (32, 48, 40)),
        ([(3000, 4000), (3000, 4000), (4000, 3000)], (768, 1024)),
    ],
)
def test_the_rounded_median_of_each_side(sizes: list[tuple[int, ...]], expected: tuple[int, ...] | None) -> None:
    assert common_size(sizes) == expected


def stored(folder: Path) -> list[tuple[Path, tuple[int, ...]]]:
    """One file of each kind."""
    picture, deep, cells, volume = (RNG.integers(0, 255, shape, np.uint8) for shape in
                                    ((9, 7, 3), (9, 7), (5, 30, 40), (6, 20, 8)))  # fmt: skip
    for name in ("a.png", "a.jpg", "a.bmp", "plain.tif"):
        Image.fromarray(picture).save(folder / name)
    Image.fromarray(deep.astype(np.uint16)).save(folder / "deep.png")
    tifffile.imwrite(folder / "cells.tif", cells)
    tifffile.imwrite(folder / "volume.tif", volume, imagej=True, metadata={"axes": "ZYX"})
    np.save(folder / "a.npy", cells)
    for name, values in (("volume.nii.gz", volume), ("slice.nii", volume[..., :1]), ("many.nii", volume[..., None])):
        nibabel.save(nibabel.Nifti1Image(np.repeat(values, 2, -1) if name == "many.nii" else values, np.eye(4)),
                     folder / name)  # fmt: skip
    return sorted(folder.iterdir())


def test_sizes_of_heads_are_those_of_the_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = stored(tmp_path)
    assert len(files) == 11
    expected = [read_image(path).shape[1:] for path in files]
    monkeypatch.setattr("lightning_xai.data.reading.read_image", None)  # nothing is decoded
    assert [read_shape(path)[1:] for path in files] == expected
    assert read_shape(np.zeros((8, 9, 10)), channel_axis=-1)[1:] == (8, 9)
    assert read_shape(np.zeros((8, 9, 10)), channel_axis="none")[1:] == (8, 9, 10)
    assert read_shape(tmp_path / "volume.tif", channel_axis=0)[1:] == (20, 8)
    assert read_shape(tmp_path / "a.png", channel_axis=0)[1:] == (9, 7)


def test_what_cannot_be_read_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    for path in (tmp_path / "a.png", tmp_path / "b.png"):
        with pytest.raises(BadImageError, match="cannot be read|does not exist"):
            read_shape(path)
    with pytest.raises(ValueError, match="The channel axis of cell 7 with shape .* is ambiguous"):
        read_shape(np.zeros((8, 8, 8)), name="cell 7")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes of six photos: three high, one square and eight broad ones."""
    for number in range(12):
        folder = tmp_path / "ab"[number % 2]
        folder.mkdir(exist_ok=True)
        size = (210, 180) if number < 3 else (200, 200) if number == 3 else (130, 300)
        Image.fromarray(RNG.integers(0, 255, size, np.uint8)).save(folder / f"{number}.png")
    return tmp_path


@pytest.mark.parametrize("cache", [True, False])
def test_photos_of_different_sizes_are_resized(photos: Path, cache: bool, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "lightning_xai"):
        data = FolderData(photos, size="auto", cache=cache)
        data.setup()
    assert data.image_shape == (1, 128, 288) and data.data_info()["size"] == [128, 288]
    sentence = "Images have sizes from 210 x 180 to 200 x 200; all are resized to 128 x 288 (data.size=auto)."
    assert caplog.messages.count(sentence) == 1
    for split in data.split_items:
        for batch in data.plain_dataloader(split):
            assert batch["image"].shape[1:] == (1, 128, 288)


def test_photos_of_one_size_stay(photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    for path in photos.glob("*/*.png"):
        Image.fromarray(RNG.integers(0, 255, (37, 51), np.uint8)).save(path)
    with caplog.at_level(logging.INFO, "lightning_xai"):
        data = FolderData(photos, size="auto")
        data.setup()
    assert data.image_shape == (1, 37, 51) and "data.size=auto" not in caplog.text


def test_heads_are_read_unless_images_are_prepared(
    array_data: Make, digits_like: list[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def spy(*given: object) -> tuple[int, ...]:
        seen.append(given)
        return read_shape(*given)

    monkeypatch.setattr(survey_module, "read_shape", spy)
    items = [replace(item, mask=None) for item in digits_like]
    items[3] = replace(items[3], image=np.zeros((90, 80), np.uint8))
    data = array_data(items, ["even", "odd"], size="auto")
    data.setup()
    assert data.image_shape == (1, 16, 8) and len(seen) == 2 * len(items), "for channels and sizes"
    crop = SpatialCropd(["image", "mask"], roi_start=(0, 0), roi_end=(30, 9))
    data = array_data(items, ["even", "odd"], size="auto", prepare=[crop])
    data.setup()
    assert data.image_shape == (1, 16, 8) and len(seen) == 2 * len(items)


def test_bad_images_do_not_stop_the_survey(array_data: Make, digits_like: list[Item], tmp_path: Path) -> None:
    items = [replace(item, mask=None) for item in digits_like]
    items[2] = replace(items[2], image=tmp_path / "absent.png")
    data = array_data(items, ["even", "odd"], size="auto", on_bad_image="skip")
    data.setup()
    assert data.image_shape == (1, 12, 10) and len(data.skipped) == 1


@pytest.mark.parametrize("shape", [(12,), (1, 2, 3, 12, 10), (0, 10)])
@pytest.mark.parametrize("size", ["auto", 8])
def test_what_is_no_image_does_not_stop_the_survey(
    array_data: Make, digits_like: list[Item], shape: tuple[int, ...], size: str | int
) -> None:
    items = [replace(item, mask=None) for item in digits_like]
    items[2] = replace(items[2], image=np.zeros(shape, np.uint8))
    data = array_data(items, ["even", "odd"], size=size, on_bad_image="skip")
    data.setup()
    assert len(data.skipped) == 1 and f"has shape {shape}" in data.skipped[0]


def test_planes_and_volumes_do_not_mix(array_data: Make, digits_like: list[Item]) -> None:
    items = [replace(item, mask=None) for item in digits_like]
    items[3] = replace(items[3], image=np.zeros((5, 12, 10), np.uint8))
    with pytest.raises(ValueError, match="keep 2-D and 3-D images apart"):
        array_data(items, ["even", "odd"], channel_axis="none", size="auto").setup()


def test_other_words_are_no_size(array_data: Make) -> None:
    with pytest.raises(ValueError, match="data.size is 'large'; use a side, a size for each axis, auto, or null"):
        array_data([], [], size="large")
