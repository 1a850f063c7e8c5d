"""Regions of a segmenter's queries."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_xai.functional.segmentation import image_pixels, predicted_pixels, reference_pixels


def test_predicted_sets_of_a_softmax_partition_the_image():
    torch.manual_seed(0)
    logits = torch.randn(2, 4, 5, 6, 7)
    regions = predicted_pixels(logits, torch.arange(4).expand(2, -1))
    assert regions.shape == logits.shape and regions.dtype == torch.bool
    assert (regions.sum(1) == 1).all()


def test_predicted_sets_of_a_sigmoid_may_overlap():
    logits = torch.tensor([[[[1.0, -1.0]], [[2.0, 0.0]]]])
    regions = predicted_pixels(logits, torch.tensor([[1, 0]]), "sigmoid")
    assert regions.flatten(2).tolist() == [[[True, False], [True, False]]]


def test_sets_carry_no_gradient():
    logits = torch.randn(1, 2, 3, 3, requires_grad=True)
    for activation in ("softmax", "sigmoid"):
        assert not predicted_pixels(logits, torch.tensor([[1]]), activation).requires_grad


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 3), st.sampled_from([(4, 5), (2, 3, 4)]))
def test_the_reference_region_is_where_the_mask_has_the_class(target, size):
    mask = torch.randint(0, 3, (2, 1, *size), generator=torch.Generator().manual_seed(target))
    regions = reference_pixels(mask, torch.tensor([[target], [0]]))
    assert regions.shape == mask.shape
    assert torch.equal(regions[0], mask[0] == target) and torch.equal(regions[1], mask[1] == 0)


def test_image_set_is_every_pixel():
    regions = image_pixels(torch.rand(2, 3, 4, 5))
    assert regions.shape == (2, 1, 4, 5) and regions.dtype == torch.bool and regions.all()
