"""Pixels that a mask ignores count in no metric that compares with masks."""

import pytest
import torch
from torch import nn

from lightning_xai import SegmenterTarget, metrics
from lightning_xai.functional.segmentation import IGNORED

LOCALIZATION = [
    metrics.PointingGame, lambda: metrics.PointingGame(1),
    metrics.RelevanceMass, metrics.RelevanceRank, metrics.PixelAUC, metrics.PixelAveragePrecision,
    metrics.BestIoU, metrics.FixedIoU, metrics.BoxEnergy, lambda: metrics.TopKIntersection(5),
]  # fmt: skip


def example(seed=0, classes=2):
    """Maps and masks of three images of which the last columns are ignored, as are more of the first image."""
    generator = torch.Generator().manual_seed(seed)
    maps = torch.rand(3, 2, 8, 8, generator=generator)
    masks = torch.zeros(3, 1, 8, 8, dtype=torch.long)
    masks[:, :, 1:4, 1:4] = 1
    masks[..., 5:] = IGNORED
    return maps, masks


@pytest.mark.parametrize("make", LOCALIZATION)
@pytest.mark.parametrize("place", ["right", "first image"])
def test_localization_is_that_of_the_labeled_pixels(make, place):
    maps, masks = example()
    if place == "first image":  # the others must keep their values
        masks[1:][masks[1:] == IGNORED] = 0
    expected = make()
    for image in range(3):
        kept = slice(None, 5) if masks[image, 0, 0, -1] == IGNORED else slice(None)
        expected.update(maps=maps[image : image + 1, ..., kept], masks=masks[image : image + 1, ..., kept])
    found, whole = make(), make()
    found.update(maps=maps, masks=masks)
    whole.update(maps=maps, masks=masks.clamp(min=0))
    torch.testing.assert_close(found.per_image(), expected.per_image())
    if not isinstance(found, metrics.PointingGame):
        assert not torch.equal(found.per_image(), whole.per_image())
    torch.testing.assert_close(found.per_image("random"), expected.per_image("random"))


def test_the_box_of_a_random_map_has_the_fraction_of_the_labeled_pixels():
    maps, masks = example()
    masks[:, :, 2, 2] = IGNORED  # within the box
    metric = metrics.BoxEnergy()
    metric.update(maps=maps, masks=masks)
    assert metric.per_image("random").unique().item() == pytest.approx((9 - 1) / (8 * 5 - 1))
    constant = metrics.BoxEnergy()
    constant.update(maps=torch.ones_like(maps), masks=masks)
    torch.testing.assert_close(constant.per_image(), metric.per_image("random"))


@pytest.mark.parametrize("make", LOCALIZATION)
def test_a_mask_that_ignores_everything_is_undefined(make):
    maps, masks = example()
    masks[0] = IGNORED
    metric = make()
    metric.update(maps=maps, masks=masks)
    assert metric.per_image()[0].isnan().all() and not metric.per_image()[1:].isnan().any()


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_the_dice_of_a_segmenter_is_that_of_the_labeled_pixels(activation):
    generator = torch.Generator().manual_seed(0)
    images, (maps, masks) = torch.randn(3, 1, 8, 8, generator=generator), example()
    target = SegmenterTarget(nn.Conv2d(1, 3, 1), activation)
    targets = torch.tensor([[1, 2]] * 3)
    masks[:, :, 6:, :5] = 2
    values = []
    for kept in (slice(None), slice(None, 5)):
        metric = metrics.DiceDrop(fraction=0.5, fill=torch.zeros(1, 8, 8)[..., kept])
        # The map ranks ignored pixels last, so that the same pixels are hidden with them and without them.
        ranked = maps.masked_fill(masks == IGNORED, -1.0)[..., kept]
        pixels = 40 if kept == slice(None, 5) else 64
        metric.fraction = 20 / pixels
        metric.update(maps=ranked, masks=masks[..., kept], target=target, images=images[..., kept], targets=targets)
        values.append(metric.per_image())
    torch.testing.assert_close(*values)


def test_relevance_on_ignored_pixels_is_no_context():
    maps, masks = example()
    images = torch.rand(3, 1, 8, 8)
    target = SegmenterTarget(nn.Conv2d(1, 2, 1))
    values = []
    for kept in (slice(None), slice(None, 5)):
        metric = metrics.ContextReliance()
        metric.update(
            maps=maps[:, :1, :, kept], masks=masks[..., kept], target=target, images=images[..., kept],
            targets=torch.ones(3, 1, dtype=torch.long),
        )  # fmt: skip
        values.append(metric.per_image())
    torch.testing.assert_close(*values)
