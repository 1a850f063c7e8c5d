"""Images of several sizes: kept, or brought to one without distortion, and maps brought back."""

import logging
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.transforms import RandSpatialCropd, ScaleIntensityd, SpatialCropd, SpatialPadd
from PIL import Image

from lightning_xai.data import FolderData, Item, MirrorSided
from lightning_xai.data.batches import EqualSizes
from lightning_xai.data.grids import resize_image, scaled_size
from lightning_xai.data.loading import LoadItem

Make = Callable[..., object]
RNG = np.random.default_rng(0)
SIZES = [(12, 10), (9, 14), (12, 10), (20, 8)]


@pytest.fixture
def photos() -> list[Item]:
    """Forty photos of three sizes, with masks."""
    return [
        Item(f"im{i:02d}", RNG.integers(0, 256, SIZES[i % 4], np.uint8), i % 2,
             mask=RNG.integers(0, 2, SIZES[i % 4], np.uint8))
        for i in range(40)
    ]  # fmt: skip


@pytest.mark.parametrize("cache", [True, False])
def test_batches_hold_images_of_one_size_and_each_image_once(
    array_data: Make, photos: list[Item], cache: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "lightning_xai"):
        data = array_data(photos, ["a", "b"], batch_size=3, cache=cache)
        data.setup()
    assert "Images keep their 3 sizes, from 12 x 10 to 20 x 8" in caplog.text
    assert data.image_shape == (1, 20, 14) and data.data_info()["size"] is None
    sizes = {item.id: item.image.shape for item in photos}
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        seen = []
        for batch in loader:
            assert batch["image"].shape[2:] == batch["mask"].shape[2:] and len(batch["id"]) <= 3
            assert {sizes[name] for name in batch["id"]} == {tuple(batch["image"].shape[2:])}
            seen += batch["id"]
        assert len(set(seen)) == len(seen)
    assert sorted(name for items in data.split_items.values() for name in (item.id for item in items)) == sorted(sizes)
    orders = [[name for batch in data.train_dataloader() for name in batch["id"]] for _ in range(2)]
    assert orders[0] == orders[1], "a new loader begins with the seed"
    loader = data.train_dataloader()
    first, second = ([name for batch in loader for name in batch["id"]] for _ in range(2))
    assert first != second and sorted(first) == sorted(second)


def test_lists_are_full_and_in_order() -> None:
    rows = EqualSizes(list("abcdefg"), [(1,), (2,), (1,), (1,), (2,), (1,), (3,)], 2)
    assert [rows[index] for index in range(len(rows))] == [["a", "c"], ["b", "e"], ["d", "f"], ["g"]]


def test_random_crops_end_the_difference(array_data: Make, photos: list[Item]) -> None:
    crop = RandSpatialCropd(["image", "mask"], (8, 8), random_size=False)
    data = array_data(photos, ["a", "b"], batch_size=7, augment=[crop])
    data.setup()
    shapes = [tuple(batch["image"].shape) for batch in data.train_dataloader()]
    assert shapes[:-1] == [(7, 1, 8, 8)] * (len(shapes) - 1)
    assert {tuple(batch["image"].shape[2:]) for batch in data.test_dataloader()} <= {*SIZES}


@pytest.mark.parametrize("mask_classes", [None, ["none", "object"]])
def test_patches_are_random_and_padded(array_data: Make, photos: list[Item], mask_classes: list[str] | None) -> None:
    data = array_data(photos, ["a", "b"], batch_size=40, patch=[12, 9], mask_classes=mask_classes)
    data.setup()
    loader = data.train_dataloader()
    first, second = next(iter(loader)), next(iter(loader))
    assert first["image"].shape == first["mask"].shape == (28, 1, 12, 9)
    by_id = {name: image for name, image in zip(second["id"], second["image"], strict=True)}
    assert any(not torch.equal(by_id[name], image) for name, image in zip(first["id"], first["image"], strict=True))
    assert {tuple(batch["image"].shape[2:]) for batch in data.plain_dataloader("train")} == {*SIZES}
    assert {tuple(batch["image"].shape[2:]) for batch in data.val_dataloader()} <= {*SIZES}


def test_small_images_are_no_patches(array_data: Make, digits_like: list[Item]) -> None:
    data = array_data(digits_like, ["even", "odd"], patch=12)
    data.setup()
    assert next(iter(data.train_dataloader()))["image"].shape[2:] == (12, 10)
    with pytest.raises(ValueError, match=r"data.patch is \[8, 8, 8\], but images have 2 axes"):
        array_data(digits_like, ["even", "odd"], patch=[8, 8, 8]).setup()


@pytest.mark.parametrize("resize", ["pad", "crop"])
@pytest.mark.parametrize("size", [(32, 32), (16, 40), (17, 15)])
def test_proportions_stay(resize: str, size: tuple[int, int]) -> None:
    disk = np.hypot(*np.meshgrid(np.arange(60) - 29.5, np.arange(40) - 19.5)) < 12
    sample, grid = LoadItem(size, None, True, resize=resize).with_grid(
        Item("a", disk.astype(np.float32), mask=disk.astype(np.uint8))
    )
    assert sample["image"].shape[1:] == sample["mask"].shape[1:] == size
    factor = (min if resize == "pad" else max)(size[0] / 40, size[1] / 60)
    assert grid.scaled == (round(40 * factor), round(60 * factor)) == scaled_size((40, 60), size, resize)
    if resize == "pad":
        assert sample["mask"].sum() == pytest.approx(disk.sum() * factor**2, rel=0.15)
    rows, columns = (sample["mask"][0].any(axis).sum().item() for axis in (1, 0))
    assert abs(min(rows, size[0]) - min(columns, size[0])) <= 1 or min(size) < 24 * factor


def test_margins_have_the_lowest_value_and_no_class() -> None:
    image = RNG.normal(-500, 3, (10, 20)).astype(np.float32)
    sample = LoadItem(20, None, True, resize="pad")(Item("a", image, mask=np.ones((10, 20), np.uint8)))
    assert (sample["image"][0, :5] == image.min()).all() and not sample["mask"][0, 15:].any()
    assert torch.equal(sample["image"][0, 5:15], torch.from_numpy(image))


@pytest.mark.parametrize("resize", ["pad", "crop", "stretch"])
@pytest.mark.parametrize("size", [(31, 24), (64, 80), None, (13, 60)])
def test_maps_return_to_the_pixels_of_the_file(resize: str, size: tuple[int, int] | None) -> None:
    image = np.cumsum(np.cumsum(RNG.normal(size=(40, 30)), 0), 1).astype(np.float32)
    image = (image - image.min()) / np.ptp(image) + 1
    sample, grid = LoadItem(size, None, False, resize=resize).with_grid(Item("a", image))
    back = grid.restore(sample["image"])
    assert back.shape == (1, 40, 30) and grid.moved == (size is not None)
    reached = back[0] > 1.05  # at the border of what was cut off, neighbors are 0
    assert (back[0][reached] - torch.from_numpy(image)[reached]).abs().median() < 0.05
    if resize != "crop" or size is None:
        assert (back > 0.99).all()


def test_stretching_is_what_it_was() -> None:
    image = RNG.normal(size=(12, 10)).astype(np.float32)
    sample = LoadItem((18, 8), None, False, resize="stretch")(Item("a", image))
    assert torch.equal(sample["image"], resize_image(torch.from_numpy(image)[None], (18, 8)))


@pytest.fixture
def volume(tmp_path: Path) -> Item:
    affine = np.diag([-2.0, 1.0, 3.0, 1.0])
    affine[:3, 3] = [40, -7, 5]
    values = np.arange(9 * 6 * 4).reshape(9, 6, 4).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(values, affine), tmp_path / "a.nii.gz")
    return Item("a", tmp_path / "a.nii.gz", 0)


@pytest.mark.parametrize("resize", ["pad", "crop"])
def test_volumes_keep_their_spacing(volume: Item, resize: str) -> None:
    sample, grid = LoadItem((7, 8, 4), None, False, resize=resize).with_grid(volume)
    stored = np.asarray(nibabel.load(volume.image).get_fdata(), np.float32)
    assert torch.equal(sample["image"][0, :, 1:7], torch.from_numpy(stored[1:8]))
    assert np.allclose(np.abs(np.diag(sample["affine"].numpy()))[:3], [2, 1, 3])
    file = nibabel.load(volume.image).affine
    assert np.allclose(sample["affine"].numpy() @ [0, 1, 0, 1], file @ [1, 0, 0, 1])
    back = grid.restore(sample["image"])
    assert torch.equal(back[0, 1:8], torch.from_numpy(stored[1:8])) and not back[0, 0].any() and not back[0, 8].any()


def test_orientation_turns_volumes_and_maps_turn_back(volume: Item) -> None:
    for axes in ("RAS", "SPL", "AIR"):
        sample, grid = LoadItem(None, None, False, orientation=axes).with_grid(volume)
        assert "".join(nibabel.aff2axcodes(sample["affine"].numpy())) == axes
        stored = torch.from_numpy(np.asarray(nibabel.load(volume.image).get_fdata(), np.float32))
        assert torch.equal(grid.restore(sample["image"])[0], stored)
        assert np.allclose(grid.affine, nibabel.load(volume.image).affine)
    with pytest.raises(ValueError, match="data.orientation is of volumes, but a is a plane"):
        LoadItem(None, None, False, orientation="RAS")(Item("a", np.zeros((4, 4))))


@pytest.mark.parametrize("side", ["L", "R"])
def test_prepared_images_are_taken_back(side: str) -> None:
    prepare = [
        SpatialCropd(["image", "mask"], roi_start=(2, 1), roi_end=(10, 9)),
        MirrorSided(["image", "mask"], side="R"),
        ScaleIntensityd("image", minv=1, maxv=2),
        SpatialPadd(["image", "mask"], (8, 11)),
    ]
    image = np.cumsum(np.cumsum(RNG.random((12, 10)), 0), 1).astype(np.float32)
    load = LoadItem((16, 22), None, False, prepare=prepare, resize="pad")
    sample, grid = load.with_grid(Item("a", image, laterality=side))
    back = grid.restore(sample["image"])
    part = image[2:10, 1:9]
    expected = (part - part.min()) / np.ptp(part) + 1
    assert back.shape == (1, 12, 10) and not back[0, :2].any() and not back[0, :, 9].any()
    assert np.corrcoef(back[0, 2:10, 1:9].flatten(), expected.flatten())[0, 1] > 0.8


def test_what_cannot_be_taken_back_gives_none() -> None:
    def halve(sample: dict) -> dict:
        return sample | {"image": sample["image"][:, ::2]}

    sample, grid = LoadItem(None, None, False, prepare=[halve]).with_grid(Item("a", np.zeros((8, 6))))
    assert sample["image"].shape == (1, 4, 6) and grid.restore(sample["image"]) is None and grid.moved


def write_volumes(folder: Path, *affines: np.ndarray, size: tuple[int, int, int] = (6, 7, 8)) -> FolderData:
    for number in range(12):
        path = folder / "ab"[number % 2] / f"{number}.nii.gz"
        path.parent.mkdir(exist_ok=True)
        image = nibabel.Nifti1Image(RNG.random(size).astype(np.float32), affines[number % len(affines)])
        nibabel.save(image, path)
    return folder


def test_mixed_orientation_is_turned_or_refused(tmp_path: Path) -> None:
    folder = write_volumes(tmp_path, np.eye(4), np.eye(4), np.diag([-1.0, 1, 1, 1]))
    with pytest.raises(ValueError, match=r"point to (LAS|RAS) .* point to (LAS|RAS); .* data.orientation=RAS"):
        FolderData(folder).setup()
    data = FolderData(folder, orientation="RAS")
    data.setup()
    for batch in data.test_dataloader():
        assert all("".join(nibabel.aff2axcodes(affine.numpy())) == "RAS" for affine in batch["affine"])


@pytest.mark.parametrize("stage", [None, "predict"])
def test_mixed_spacing_is_resampled_or_refused(tmp_path: Path, stage: str | None) -> None:
    FolderData(write_volumes(tmp_path, np.eye(4), np.diag([1.0, 1.1, 1, 1]))).setup(stage)
    folder = write_volumes(tmp_path, np.eye(4), np.eye(4), np.diag([1.0, 1, 5, 1]))
    with pytest.raises(ValueError, match=r"mixed spacing, .* voxels are 1 mm long in .* and 5 mm .*spacing=\[1,1,1\]"):
        FolderData(folder).setup(stage)
    for options in ({"spacing": "any"}, {"resize": "stretch", "size": 8}):
        FolderData(folder, **options).setup(stage)
    data = FolderData(folder, spacing=[2, 1, 1], orientation="LPS")
    data.setup(stage)
    for batch in data.predict_dataloader() if stage else data.test_dataloader():
        assert all(
            torch.equal(affine[:3, :3].abs(), torch.diag(torch.tensor([2.0, 1, 1]))) for affine in batch["affine"]
        )
    for grid in data.geometry.grids.values():
        maps = grid.restore(torch.ones(1, *grid.size))
        assert maps is not None and maps.shape[1:] == grid.stored == (6, 7, 8)


def test_wrong_spacing_is_named(array_data: Make) -> None:
    for spacing in ([1, 1], "auto", [1, 0, 1], ["1", "1", "1"]):
        with pytest.raises(ValueError, match=r"data.spacing is .*; give three lengths in mm, such as \[1,1,1\]"):
            array_data([], [], spacing=spacing)
    data = array_data([Item(f"i{i}", RNG.random((8, 8)), i % 2) for i in range(12)], ["a", "b"], spacing=[1, 1, 1])
    with pytest.raises(ValueError, match="data.spacing is of volumes, but i.* is a plane; set it to null"):
        data.setup()


def test_volumes_find_room_at_their_spacing(array_data: Make, caplog: pytest.LogCaptureFixture) -> None:
    items = [Item(f"v{i}", RNG.random((9 + i % 3, 17, 6)), i % 2) for i in range(12)]
    data = array_data(items, ["a", "b"], size="auto", channel_axis="none")
    data.setup()
    assert data.image_shape == (1, 16, 24, 8) and "larger than data.size" not in caplog.text
    data = array_data(items, ["a", "b"], size=10, channel_axis="none")
    data.setup()
    assert (
        data.image_shape == (1, 10, 10, 10) and "Of 12 volumes larger than data.size the middle is used" in caplog.text
    )


def test_window_and_statistics_of_the_data_set(array_data: Make) -> None:
    items = [Item(f"i{i}", RNG.normal(50, 300, (8, 8)), i % 2) for i in range(12)]
    data = array_data(items, ["a", "b"], window_hu=[-150, 250], cache=False)
    data.setup()
    image = next(iter(data.test_dataloader()))["image"]
    assert image.min() == 0 and image.max() == 1
    raw = {item.id: item.image for item in items}
    names = next(iter(data.test_dataloader()))["id"]
    expected = np.stack([(np.clip(raw[name], -150, 250) + 150) / 400 for name in names])
    assert np.allclose(image[:, 0], expected, atol=1e-5)
    plain = array_data(items, ["a", "b"])
    plain.setup()
    data = array_data(items, ["a", "b"], normalize="dataset")
    data.setup()
    assert data.mean == pytest.approx([0], abs=1e-5) and data.std == pytest.approx([1], abs=1e-5)
    stated = data.data_info()["normalize"]
    assert stated == {"mean": pytest.approx(plain.mean), "std": pytest.approx(plain.std)}
    again = array_data(items, ["a", "b"], normalize=stated)
    again.setup("predict")
    with pytest.raises(ValueError, match="data.normalize=dataset needs training images"):
        array_data(items, ["a", "b"], normalize="dataset").setup("predict")
    assert array_data(items, ["a", "b"], normalize="none").normalize is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resize": "fit"}, "data.resize is 'fit'; use pad, crop, stretch"),
        ({"window_hu": [250, -150]}, "data.window_hu is .*; give the lowest and the highest value"),
        ({"orientation": "RRS"}, "data.orientation is 'RRS'; name where each axis points"),
        ({"orientation": "ras"}, "data.orientation is 'ras'"),
        ({"normalize": {"mean": [0]}}, "data.normalize is"),
    ],
)
def test_wrong_options_are_named(array_data: Make, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        array_data([], [], **options)


def test_photos_of_a_folder_keep_their_sizes(tmp_path: Path) -> None:
    for number in range(12):
        folder = tmp_path / "ab"[number % 2]
        folder.mkdir(exist_ok=True)
        size = (*SIZES[number % 4], 3)
        Image.fromarray(RNG.integers(0, 255, size, np.uint8)).save(folder / f"{number}.png")
    data = FolderData(tmp_path, size=None)
    data.setup("predict")
    sizes = [tuple(batch["image"].shape[2:]) for batch in data.predict_dataloader()]
    assert sorted(sizes) == sorted({*SIZES})
