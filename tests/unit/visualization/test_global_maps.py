"""Figures of global maps: panels, slices, colors, tables."""

import numpy as np
import pytest
import torch

from lightning_xai.visualization.global_maps import global_figure, matrix_figure, mixed


@pytest.mark.parametrize("size", [(20, 30), (10, 12, 6)])
@pytest.mark.parametrize("channels", [1, 3])
def test_panels_for_every_map(size, channels):
    maps = {f"label {number}": torch.rand(size) for number in range(5)}
    region = torch.zeros(size, dtype=torch.bool)
    region[:5] = True
    pixels = global_figure(torch.rand(channels, *size), maps, "fraction", region)
    one_row = global_figure(torch.rand(channels, *size), dict(list(maps.items())[:2]), "fraction")
    assert pixels.dtype == np.uint8 and pixels.shape[2] == 3
    assert pixels.shape[0] == pytest.approx(2 * one_row.shape[0], rel=0.02), "six panels are two rows"
    assert global_figure(None, maps, "fraction").shape[2] == 3


def test_a_map_of_zeros_and_no_map():
    assert global_figure(None, {"flat": torch.zeros(4, 4)}, "fraction").any()
    with pytest.raises(ValueError, match="no map to draw"):
        global_figure(None, {}, "fraction")


def test_where_the_map_is_zero_only_the_image_shows():
    gray = np.full((2, 2, 3), 0.4, np.float32)
    drawn = mixed(gray, np.array([[0, 0.2], [0.7, 1]], np.float32))
    assert np.allclose(drawn[0, 0], 0.4)
    assert drawn[1, 1].sum() > drawn[0, 1].sum()


def test_a_table_of_numbers():
    pixels = matrix_figure(np.array([[0.5, -0.2], [0.0, 0.1]]), ["left", "right"], ["left", "right"], "specificity")
    assert pixels.shape[2] == 3 and pixels.std() > 10
