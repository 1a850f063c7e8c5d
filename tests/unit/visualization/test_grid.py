"""Figures: channel counts, scaling, signs, NaN, slices, grids, atomic files."""

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_xai.visualization.grid import (
    best_slice,
    colored,
    display_image,
    map_grid,
    overlay,
    save_png,
    scaled_plane,
)


def color_map(values):
    return colored(*scaled_plane(values, None, None))


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize("size", [(6, 8), (6, 8, 4)])
def test_any_channels_become_colors(channels, size):
    torch.manual_seed(0)
    pixels = display_image(torch.rand(channels, *size) * 300 - 20)
    assert pixels.shape == ((6, 8, 3) if len(size) == 2 else (8, 6, 3))
    assert pixels.dtype == np.float32 and pixels.min() >= 0 and pixels.max() <= 1
    assert pixels.std() > 0.1, "the stretch lost the contrast"


def test_rgb_keeps_its_hue_and_gray_stays_gray():
    red = torch.zeros(3, 10, 10)
    red[0, :5] = 0.5
    pixels = display_image(red)
    assert pixels[0, 0].tolist() == [1, 0, 0]
    gray = display_image(torch.rand(1, 5, 5))
    assert np.array_equal(gray[..., 0], gray[..., 2])


def test_channels_beyond_three_have_their_own_colors():
    images = torch.zeros(5, 10, 10)
    for channel in range(5):
        images[channel, channel] = 1
    colors = {tuple(display_image(images)[row, 0].round(2)) for row in range(5)}
    assert len(colors) == 5


@pytest.mark.parametrize("value", [0.0, 0.4])
def test_constant_image_and_nan_do_not_break(value):
    image = torch.full((1, 4, 4), value)
    assert np.allclose(display_image(image), value)
    image[0, 0, 0] = float("nan")
    assert np.isfinite(display_image(image)).all()


def test_signed_map_is_centered_at_zero():
    values = torch.tensor([[-1.0, 0.0, 4.0]])
    left, middle, right = color_map(values)[0]
    assert np.ptp(middle) < 0.03, "zero must be neutral, however lopsided the map is"
    assert right[0] > right[2] and left[2] > left[0]
    assert np.abs(left - middle).sum() < np.abs(right - middle).sum()


def test_non_negative_map_gets_brighter():
    brightness = color_map(torch.linspace(0, 1, 9).view(1, 9)).sum(-1)[0]
    assert (np.diff(brightness) > 0).all()


def test_one_hot_pixel_shows():
    values = torch.zeros(40, 40)
    values[3, 4] = 1e-6
    assert color_map(values)[3, 4].sum() > 2 * color_map(values)[0, 0].sum() + 1


@pytest.mark.parametrize("fill", [0.0, float("nan")])
def test_empty_map_leaves_the_image_alone(fill):
    torch.manual_seed(0)
    image, values = torch.rand(3, 6, 6), torch.full((6, 6), fill)
    assert np.allclose(overlay(image, values), display_image(image).mean(-1, keepdims=True))
    assert len(np.unique(color_map(values).reshape(-1, 3), axis=0)) == 1


def test_overlay_changes_only_where_the_map_is():
    image, values = torch.rand(1, 6, 6), torch.zeros(6, 6)
    values[2, 3] = 5
    changed = np.abs(overlay(image, values) - display_image(image)).max(-1) > 1e-6
    assert np.argwhere(changed).tolist() == [[2, 3]]


def test_volume_shows_the_slice_with_most_mass():
    volume, values = torch.zeros(1, 4, 5, 6), torch.zeros(4, 5, 6)
    volume[0, 1, 2, 4], values[1, 2, 4], values[:, :, 0] = 1, -9, 0.1
    assert best_slice(values) == 4
    pixels = overlay(volume, values, alpha=0.5)
    # x goes right and y goes up: (x 1, y 2) of 5 rows is row 2, column 1.
    assert pixels.shape == (5, 4, 3)
    assert np.argwhere(pixels.sum(-1) > 0).tolist() == [[2, 1]]


def test_grid_has_a_row_an_image_and_two_columns_a_query():
    torch.manual_seed(0)
    images, masks = torch.rand(3, 1, 16, 16), torch.zeros(3, 1, 16, 16, dtype=torch.int64)
    one = map_grid(images, torch.rand(3, 1, 16, 16))
    two = map_grid(images, torch.rand(3, 2, 16, 16), titles=[["a", "b"]] * 3, labels=["i"] * 3)
    assert one.dtype == np.uint8 and one.shape[2] == 3
    assert two.shape[0] == one.shape[0] and two.shape[1] == pytest.approx(one.shape[1] * 5 / 3, abs=3)
    masks[:, :, 4:9, 4:9] = 1
    torch.manual_seed(0)
    outlined = map_grid(torch.rand(3, 1, 16, 16), torch.rand(3, 1, 16, 16), masks)
    assert [int((grid == (0, 229, 255)).all(-1).sum()) > 100 for grid in (one, outlined)] == [False, True]


def test_grid_of_volumes():
    assert map_grid(torch.rand(2, 1, 8, 9, 5), torch.rand(2, 1, 8, 9, 5), torch.ones(2, 1, 8, 9, 5)).ndim == 3


def test_png_round_trip_leaves_no_partial_file(tmp_path):
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    save_png(tmp_path / "new" / "a.png", pixels)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "new" / "a.png")), pixels)
    save_png(tmp_path / "new" / "a.png", np.ones((2, 2, 3), np.float32))
    assert np.asarray(Image.open(tmp_path / "new" / "a.png")).min() == 255
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.png"]


@pytest.mark.parametrize("name", ["$^$", "${x}", "a_$_b", "a\\b", "大脳", '"q" & <b>'])
def test_class_names_are_no_formulas(name):
    grid = map_grid(torch.zeros(1, 1, 8, 8), torch.rand(1, 1, 8, 8), titles=[[name]], labels=[name])
    assert grid.dtype == np.uint8 and grid.ndim == 3
