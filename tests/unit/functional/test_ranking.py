"""Orders of pixels: equal ones follow a key that is random, fixed, and the same in a mirror."""

import pytest
import torch

from lightning_xai import ClassifierTarget
from lightning_xai.functional.ranking import order_of, ranks_of, tie_order
from lightning_xai.metrics import DeletionAUC, InsertionAUC, PixelFlipping


@pytest.mark.parametrize("size", [(1,), (7,), (6, 6), (5, 9), (4, 6, 4), (5, 5, 5)])
def test_mirrors_and_quarter_turns_of_a_map_without_order_hide_the_same_pixels(size):
    """But for those that the mirror carries into each other: at most 2^d d! pixels."""
    order = tie_order(torch.Size(size))
    pixels = len(order)
    assert torch.equal(order.sort().values, torch.arange(pixels))
    ranks = torch.empty_like(order).scatter_(0, order, torch.arange(pixels)).view(size)
    most = {1: 2, 2: 8, 3: 48}[len(size)]
    for axis in range(len(size)):
        assert (ranks - ranks.flip(axis)).abs().max() < most
    if len(size) > 1 and size[0] == size[1]:
        assert (ranks - ranks.transpose(0, 1)).abs().max() < most


def test_the_key_is_random_over_the_image():
    """The first half of the pixels has as many in the middle as at the border: no place goes first."""
    first = tie_order(torch.Size([64, 64]))[:2048]
    rows, columns = first // 64, first % 64
    middle = ((rows - 31.5).abs() < 16) & ((columns - 31.5).abs() < 16)
    assert 0.2 < middle.double().mean() < 0.3
    assert abs(rows.double().mean() - 31.5) < 1 and abs(columns.double().mean() - 31.5) < 1


def test_pixels_that_differ_are_in_order_whatever_the_key():
    maps = torch.rand(2, 3, 5, 7)
    order = order_of(maps)
    assert torch.equal(order, maps.flatten(2).argsort(dim=2, descending=True))
    assert torch.equal(ranks_of(order).long().argsort(dim=2), order)


def test_the_key_serves_gradients_after_inference_mode():
    with torch.inference_mode():
        order_of(torch.zeros(1, 1, 3, 11))
    assert order_of(torch.rand(1, 1, 3, 11, requires_grad=True)).shape == (1, 1, 33)


def symmetric(images):
    """Logits that a mirror does not change."""
    bright = images.flatten(1).mean(dim=1) * 8 - 2
    return torch.stack([bright, -bright], 1)


@pytest.mark.parametrize("kind", [DeletionAUC, InsertionAUC, PixelFlipping])
@pytest.mark.parametrize("axis", [2, 3])
@pytest.mark.parametrize("size", [(32, 32), (17, 24)])
def test_curves_of_tied_maps_are_those_of_the_mirrored_image(kind, axis, size):
    images = torch.rand(1, 1, *size, generator=torch.Generator().manual_seed(1)).sort(dim=axis).values
    maps = torch.zeros(1, 1, *size)
    maps[..., 3, 4] = 1  # all other pixels are tied
    target, values = ClassifierTarget(symmetric), []
    for image, given in ((images, maps), (images.flip(axis), maps.flip(axis))):
        metric = kind()
        metric.update(target=target, images=image, maps=given, targets=torch.zeros(1, dtype=torch.long))
        values.append(metric.compute().item())
    assert values[0] == pytest.approx(values[1], abs=0.01)
