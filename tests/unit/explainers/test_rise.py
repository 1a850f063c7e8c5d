"""RISE: its formula, its masks, and where it is right in the limit."""

import pytest
import torch

from lightning_xai import ClassifierTarget, SegmenterTarget
from lightning_xai.explainers import RISE
from lightning_xai.explainers.rise import enlarged, random_grids
from tests.helpers import CountingTarget, LogitTarget, cnn, linear_net, segmenter


def draw(count, size, cells=4, keep=0.5, seed=0):
    grids, shifts, side = random_grids(count, torch.Size(size), cells, keep, seed)
    assert set(grids.unique().tolist()) == {0.0, 1.0}
    return enlarged(grids, shifts, side, torch.Size(size))


@pytest.mark.parametrize("size", [(28, 28), (9, 30), (8, 12, 10)])
def test_masks_are_smooth_fractions_of_every_pixel(size):
    masks = draw(600, size, keep=0.3)
    assert masks.shape == (600, 1, *size) and masks.min() >= 0 and masks.max() <= 1 + 1e-6
    assert (masks.mean(dim=0) - 0.3).abs().max() < 0.1, "a pixel is shown more often than others"
    assert masks.flatten(1).std(dim=1).mean() > 0.2
    steps = masks.diff(dim=-1).abs()
    assert steps.max() <= 1 / (-(-max(size) // 4)) + 1e-6, "a grid's cells are enlarged linearly"


def test_the_map_is_the_weighted_mean_of_the_masks():
    target, images = ClassifierTarget(cnn()), torch.rand(2, 1, 12, 12)
    targets = torch.tensor([[0, 2], [1, 1]])
    maps = RISE(target, masks=30, cells=3, keep=0.4, baseline="median", seed=7, chunk_size=30).explain(images, targets)
    masks = draw(30, (12, 12), cells=3, keep=0.4, seed=7)
    for row in range(2):
        fill = images[row].flatten(1).median(dim=1).values.view(1, 1, 1, 1)
        told = target.predict(fill + masks * (images[row] - fill))[:, targets[row]]
        expected = torch.einsum("nt,nhw->thw", told, masks[:, 0]) / (30 * 0.4)
        assert torch.allclose(maps[row], expected, atol=1e-5)


def test_of_a_linear_score_it_finds_the_weights():
    """With cells of one pixel, E[f m_j] / p = p * everything + (1 - p) * w_j x_j."""
    weight = torch.linspace(-1, 2, 64)[torch.randperm(64, generator=torch.Generator().manual_seed(0))]
    target = LogitTarget(linear_net(torch.stack([weight, -weight])))
    images = torch.rand(1, 1, 8, 8) + 0.5
    maps = RISE(target, masks=40000, cells=8, chunk_size=4000).explain(images, torch.tensor([0]))
    parts = weight.view(8, 8) * images[0, 0]
    expected = 0.5 * parts.sum() + 0.5 * parts
    assert torch.corrcoef(torch.stack([maps.flatten(), expected.flatten()]))[0, 1] > 0.97
    assert maps.mean() == pytest.approx(float(expected.mean()), rel=0.03)


@pytest.mark.parametrize("chunk_size", [1, 7, 64])
def test_each_mask_is_one_pass_for_all_queries(chunk_size):
    target, images = CountingTarget(cnn()), torch.rand(2, 1, 12, 12)
    whole = RISE(target, masks=20).explain(images, torch.tensor([[0, 1, 2]] * 2))
    target.chunks.clear()
    maps = RISE(target, masks=20, chunk_size=chunk_size).explain(images, torch.tensor([[0, 1, 2]] * 2))
    assert sum(target.chunks) == 2 * 20 and max(target.chunks) <= chunk_size
    assert torch.allclose(maps, whole, atol=1e-5), "how masks are divided into passes changes the map"


def test_a_segmenters_pixels_are_asked_about():
    target, images = SegmenterTarget(segmenter()), torch.rand(2, 1, 12, 12)
    pixels = torch.rand(2, 1, 12, 12) < 0.3
    explainer = RISE(target, masks=25, chunk_size=25)
    maps = explainer.explain(images, torch.tensor([[1], [2]]), pixels)
    masks = draw(25, (12, 12), cells=7)
    told = target.predict(masks * images[1])[:, 2]
    told = (told * pixels[1]).flatten(1).sum(dim=1) / pixels[1].sum()
    assert torch.allclose(maps[1, 0], torch.einsum("n,nhw->hw", told, masks[:, 0]) / 12.5, atol=1e-5)


def test_clear_errors():
    for options in ({"masks": 0}, {"cells": 0}, {"keep": 1.0}):
        with pytest.raises(ValueError, match="give at least 1, 1, and between 0 and 1"):
            RISE(ClassifierTarget(cnn()), **options)


def test_the_dice_of_a_segmenter_can_weigh_the_masks():
    target, images = SegmenterTarget(segmenter()), torch.rand(2, 1, 12, 12)
    pixels = torch.rand(2, 1, 12, 12) < 0.3
    maps = RISE(target, masks=25, output="dice").explain(images, torch.tensor([[1], [2]]), pixels)
    masks = draw(25, (12, 12), cells=7)
    found, wanted = target.predict(masks * images[1]).argmax(dim=1) == 2, pixels[1]
    told = 2 * (found & wanted).flatten(1).sum(dim=1) / (found.flatten(1).sum(dim=1) + wanted.sum())
    assert torch.allclose(maps[1, 0], torch.einsum("n,nhw->hw", told, masks[:, 0]) / 12.5, atol=1e-5)
    with pytest.raises(ValueError, match=r"A ClassifierTarget has no output 'dice'; use score \| probability"):
        RISE(ClassifierTarget(cnn()), output="dice")
