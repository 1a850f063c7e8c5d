"""Pearson, Spearman and SSIM of maps, against scipy and against stored values of scikit-image."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from lightning_xai.metrics.functional.similarity import pearson, spearman, ssim
from tests.unit.metrics.ssim_values import SHAPES, pairs

STORED = json.loads(Path(__file__).with_name("ssim_values.json").read_text())
ALL = (pearson, spearman, ssim)


def batch(shape, ties):
    """Maps ``(3, 2, *shape)``; with ties, most pixels of each are zero, as on a flat background."""
    a = torch.randn(3, 2, *shape)
    b = a + torch.randn(3, 2, *shape)
    return [torch.where(torch.rand_like(values) < 0.7, 0.0, values.round()) if ties else values for values in (a, b)]


@pytest.mark.parametrize("shape", [(9, 14), (6, 7, 8)])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("ours", "scipys"), [(pearson, stats.pearsonr), (spearman, stats.spearmanr)])
def test_correlations_are_scipys(ours, scipys, ties, shape):
    a, b = batch(shape, ties)
    expected = [
        [scipys(*(values[row, column].flatten().double() for values in (a, b))).statistic for column in range(2)]
        for row in range(3)
    ]
    found = ours(a, b)
    assert found.dtype == torch.float64 and found.shape == (3, 2)
    assert np.abs(found.numpy() - np.array(expected)).max() < 1e-10


@pytest.mark.parametrize("name", SHAPES)
def test_ssim_is_scikit_images(name):
    a, b = (torch.from_numpy(np.stack(side))[:, None] for side in zip(*pairs(SHAPES[name]), strict=True))
    assert ssim(a, b)[:, 0].tolist() == pytest.approx(STORED[name], abs=5e-5), "MONAI computes in single precision"


@pytest.mark.parametrize("shape", [(7, 7), (6, 30), (12, 12, 5), (1, 20)])
def test_ssim_of_maps_smaller_than_the_window(shape):
    a, b = batch(shape, ties=False)
    assert ssim(a, a) == pytest.approx(torch.ones(3, 2), abs=1e-6)
    assert (ssim(a, b) < 0.9).all() and (ssim(a, b) > -1).all()


def test_an_axis_within_the_window_does_not_change_the_others():
    a, b = batch((9, 30), ties=False)
    repeated = [values.unsqueeze(-1).expand(*values.shape, 3) for values in (a, b)]
    assert ssim(*repeated) == pytest.approx(ssim(a, b), abs=1e-4), "constant along an axis: nothing new to see there"


@pytest.mark.parametrize("measure", ALL)
@pytest.mark.parametrize("shape", [(12, 13), (11, 12, 13)])
def test_a_map_is_like_itself_whatever_its_scale(measure, shape):
    a, _ = batch(shape, ties=True)
    assert measure(a, 5 * a - 3) == pytest.approx(torch.ones(3, 2), abs=1e-5)


def test_opposite_maps():
    a, _ = batch((12, 12), ties=False)
    assert pearson(a, -a) == pytest.approx(-torch.ones(3, 2)) and spearman(a, -a) == pytest.approx(-torch.ones(3, 2))
    assert (ssim(a, -a) < 0).all()


def test_ranks_do_not_care_about_monotone_curves():
    a, b = batch((12, 12), ties=True)
    assert torch.equal(spearman(a, b), spearman(a.exp(), b**3))


@pytest.mark.parametrize("measure", ALL)
@pytest.mark.parametrize("flat", [0.0, 0.1, 1e8])
def test_a_constant_map_is_like_nothing(measure, flat):
    a, b = batch((12, 12), ties=False)
    a[0, 1] = flat
    for value in (measure(a, b), measure(b, a)):
        assert value.isnan().tolist() == [[False, True], [False, False], [False, False]]
    assert measure(a, a).isnan().sum() == 1, "constant maps are not alike either"


@pytest.mark.parametrize("measure", ALL)
def test_a_nan_spoils_its_own_map_only(measure):
    a, b = batch((12, 12), ties=False)
    expected = measure(a, b)
    b[1, 0, 3, 3] = torch.nan
    found = measure(a, b)
    assert found.isnan().sum() == 1 and found[1, 0].isnan()
    assert found[~found.isnan()] == pytest.approx(expected[~found.isnan()])


@pytest.mark.parametrize("measure", ALL)
def test_a_value_does_not_depend_on_its_batch(measure):
    a, b = batch((20, 21), ties=True)
    alone = torch.stack([measure(a[i : i + 1], b[i : i + 1])[0] for i in range(3)])
    assert measure(a, b) == pytest.approx(alone, abs=1e-6)


@pytest.mark.parametrize("measure", ALL)
def test_no_maps_give_no_values(measure):
    assert measure(torch.zeros(0, 1, 12, 12), torch.zeros(0, 1, 12, 12)).shape == (0, 1)


def test_ranks_of_large_maps_are_fast():
    a, b = torch.rand(16, 1, 224, 224), torch.rand(16, 1, 224, 224).round(decimals=2)
    start = time.perf_counter()
    spearman(a, b)
    assert time.perf_counter() - start < 5, "16 pairs of 50,000 pixels take a third of a second on an idle core"
