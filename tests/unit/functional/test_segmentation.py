"""Pixel sets of a segmenter's queries."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_xai.functional.segmentation import image_pixels, predicted_pixels, reference_pixels


def test_predicted_sets_of_a_softmax_partition_the_image():
    torch.manual_seed(0)
    logits = torch.randn(2, 4, 5, 6, 7)
    sets = predicted_pixels(logits, torch.arange(4).expand(2, -1))
    assert sets.shape == logits.shape and sets.dtype == torch.bool
    assert (sets.sum(1) == 1).all()


def test_predicted_sets_of_a_sigmoid_may_overlap():
    logits = torch.tensor([[[[1.0, -1.0]], [[2.0, 0.0]]]])
    sets = predicted_pixels(logits, torch.tensor([[1, 0]]), "sigmoid")
    assert sets.flatten(2).tolist() == [[[True, False], [True, False]]]


def test_sets_carry_no_gradient():
    logits = torch.randn(1, 2, 3, 3, requires_grad=True)
    for activation in ("softmax", "sigmoid"):
        assert not predicted_pixels(logits, torch.tensor([[1]]), activation).requires_grad


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 3), st.sampled_from([(4, 5), (2, 3, 4)]))
def test_reference_set_is_where_the_mask_has_the_class(wanted, size):
    mask = torch.randint(0, 3, (2, 1, *size), generator=torch.Generator().manual_seed(wanted))
    sets = reference_pixels(mask, torch.tensor([[wanted], [0]]))
    assert sets.shape == mask.shape
    assert torch.equal(sets[0], mask[0] == wanted) and torch.equal(sets[1], mask[1] == 0)


def test_image_set_is_every_pixel():
    sets = image_pixels(torch.rand(2, 3, 4, 5))
    assert sets.shape == (2, 1, 4, 5) and sets.dtype == torch.bool and sets.all()
