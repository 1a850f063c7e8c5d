"""Files whose units differ: a warning, and `data.normalize=image`."""

import re
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.transforms import SpatialCropd

from lightning_xai.data import Item
from lightning_xai.data.loading import LoadItem, standardize
from lightning_xai.data.statistics import IntensityRange
from lightning_xai.visualization.grid import display_image

Make = Callable[..., object]
RNG = np.random.default_rng(0)


def test_each_channel_gets_mean_0_and_deviation_1() -> None:
    image = torch.stack([torch.rand(9, 7) * 3000 - 1000, torch.rand(9, 7) * 1e-6, torch.full((9, 7), 0.3)])
    scaled = standardize(image)
    assert scaled.dtype == torch.float32
    assert scaled.mean((1, 2)).abs().max() < 1e-5
    assert torch.allclose(scaled.std((1, 2), correction=0), torch.tensor([1.0, 1, 0]), atol=1e-5)
    assert not scaled[2].any()
    assert torch.allclose(standardize(image * 700 + 5e3)[0], scaled[0], atol=1e-3)


def test_it_comes_after_preparing_and_before_resizing() -> None:
    image = RNG.normal(500, 80, (12, 10))
    image[:4] = 1e6  # cut off
    crop = SpatialCropd(["image"], roi_start=(4, 0), roi_end=(12, 10))
    sample = LoadItem((4, 5), None, False, None, [crop], "image")(Item("a", image))
    part = image[4:]
    expected = ((part - part.mean()) / part.std()).reshape(4, 2, 5, 2).mean((1, 3))
    assert sample["image"].shape == (1, 4, 5)
    assert np.corrcoef(sample["image"].flatten(), expected.ravel())[0, 1] > 0.8
    whole = LoadItem(None, None, False, None, [crop], "image")(Item("a", image))["image"]
    assert np.allclose(whole[0], (part - part.mean()) / part.std(), atol=1e-4)


@pytest.fixture
def scans(tmp_path: Path) -> list[Item]:
    """Twenty volumes, of which every second has a unit a thousand times as large."""
    items = []
    for number in range(20):
        values = RNG.normal(1, 0.2, (8, 9, 6)) * (1000 if number % 2 else 1)
        path = tmp_path / f"scan{number:02d}.nii.gz"
        nibabel.save(nibabel.Nifti1Image(values.astype(np.float32), np.eye(4)), path)
        items.append(Item(f"s{number}", path, number // 2 % 2))
    return items


@pytest.mark.parametrize("cache", [True, False])
def test_units_that_differ_are_named_and_can_be_removed(
    array_data: Make, scans: list[Item], cache: bool, caplog: pytest.LogCaptureFixture
) -> None:
    data = array_data(scans, ["a", "b"], cache=cache)
    data.setup()
    (said,) = [text for text in caplog.messages if "set data.normalize=image" in text]
    assert "\n" not in said and said.count("scan") == 2
    low, high = (int(part[:2]) for part in said.split("scan")[1:])
    assert low % 2 == 0 and high % 2 == 1, "one of each unit, the small one first"
    flat = min(float(image.std()) for batch in data.train_dataloader() for image in batch["image"]) / data.std[0]
    assert flat < 0.01
    caplog.clear()
    data = array_data(scans, ["a", "b"], cache=cache, normalize="image")
    data.setup()
    assert "normalize" not in caplog.text
    assert data.mean == pytest.approx([0], abs=1e-5) and data.std == pytest.approx([1], abs=1e-4)
    for batch in data.test_dataloader():
        assert torch.allclose(batch["image"].flatten(1).std(1, correction=0), torch.tensor(1.0), atol=1e-4)


def said(*images: np.ndarray) -> str | None:
    intensities = IntensityRange()
    for number, image in enumerate(images):
        intensities.update(torch.from_numpy(image)[None].float(), f"file{number}")
    return intensities.sentence()


NOISE = [RNG.random((6, 6)) for _ in range(40)]


@pytest.mark.parametrize(
    "images",
    [
        [],
        NOISE,
        [*NOISE[:5], np.full((6, 6), 900.0), np.zeros((6, 6))],  # what is constant has no unit
        [noise * 7 for noise in NOISE[:20]] + NOISE[20:],
        [*NOISE, NOISE[0] / 1000],  # one dark image among many
        [noise + 2 for noise in NOISE[:20]] + NOISE[20:],
        [noise - 0.5 for noise in NOISE],  # means around 0
    ],
)
def test_images_of_one_unit_say_nothing(images: list[np.ndarray]) -> None:
    assert said(*images) is None


@pytest.mark.parametrize(
    ("images", "named"),
    [
        ([*NOISE, NOISE[0] * 50], r"standard deviation 0\.\d+ in file\d+, 1\d\.?\d* in file40"),
        ([NOISE[0] / 50, *NOISE[1:6]], r"standard deviation 0\.00\d+ in file0, 0\.\d+ in file\d"),
        ([*NOISE, NOISE[0] + 1000], r"mean 0\.\d+ in file\d+, 1e\+03 in file40, standard deviation 0\.\d+"),
        ([NOISE[0] - 1000, *NOISE[1:]], r"mean -999|mean -1e\+03 in file0, 0\.\d+ in file\d+"),
    ],
)
def test_images_of_other_units_are_named(images: list[np.ndarray], named: str) -> None:
    sentence = said(*images)
    assert sentence is not None and re.search(named, sentence), sentence


def test_other_words_are_no_normalization(array_data: Make) -> None:
    with pytest.raises(ValueError, match="data.normalize is 'zscore'; use image, dataset, or none .null. for the unit"):
        array_data([], [], normalize="zscore")


def test_standardized_images_are_drawn_as_the_images_are() -> None:
    image = torch.rand(3, 12, 10)
    gray = image[:1]
    assert np.allclose(display_image(standardize(gray)), display_image(gray), atol=1e-4)
    drawn = display_image(standardize(image))
    assert drawn.min() == 0 and drawn.max() == 1 and drawn.std() > 0.2
