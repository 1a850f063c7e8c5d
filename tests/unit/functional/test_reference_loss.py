"""The loss against a reference whose mask says nothing about some pixels."""

import pytest
import torch

from lightning_xai.functional.reference_loss import binary_entropy, reference_loss
from lightning_xai.functional.segmentation import IGNORED


@pytest.mark.parametrize("dice", [False, True])
@pytest.mark.parametrize("classes", [None, torch.tensor([1, 2])])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_ignored_pixels_count_for_nothing(activation, classes, dice):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 6, generator=generator).double().requires_grad_(True)
    truth = torch.randint(0, 3, (2, 4, 6), generator=generator)
    partly = truth.clone()
    partly[:, :, 4:] = IGNORED
    loss = reference_loss(logits, partly, activation, classes, dice, 0)
    expected = torch.stack(
        [
            reference_loss(logits[n, None, :, :, :4], truth[n, None, :, :4], activation, part, dice, 0)
            for n, part in enumerate([None, None] if classes is None else classes.split(1))
        ]
    ).mean()
    torch.testing.assert_close(loss, expected)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert not gradient[..., 4:].any() and gradient[..., :4].any()


def test_an_image_without_labeled_pixels_is_left_out_and_none_is_zero():
    logits, truth = torch.randn(2, 3, 4, 4), torch.randint(0, 3, (2, 4, 4))
    truth[1] = IGNORED
    torch.testing.assert_close(
        reference_loss(logits, truth, "softmax"), reference_loss(logits[:1], truth[:1], "softmax")
    )
    assert reference_loss(logits, torch.full_like(truth, IGNORED), "softmax") == 0


@pytest.mark.parametrize("dice", [False, True])
@pytest.mark.parametrize("classes", [None, torch.tensor([1, 2])])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_probabilities_have_the_loss_of_their_logits(activation, classes, dice):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 6, generator=generator).double()
    truth = torch.randint(0, 3, (2, 4, 6), generator=generator)
    if activation == "sigmoid":
        truth, probabilities = torch.rand(logits.shape, generator=generator) > 0.5, logits.sigmoid()
    else:
        truth[:, 0], probabilities = IGNORED, logits.softmax(dim=1)
    torch.testing.assert_close(
        reference_loss(probabilities, truth, "none", classes, dice, 0),
        reference_loss(logits, truth, activation, classes, dice, 0),
    )


def test_a_probability_of_zero_or_beyond_one_by_rounding_has_a_finite_loss():
    for truth in (torch.tensor([1]), torch.tensor([[0, 1]])):
        values = torch.tensor([[1 + 1e-4, -1e-4]], requires_grad=True)
        loss = reference_loss(values, truth, "none")
        (gradient,) = torch.autograd.grad(loss, values)
        assert 40 < loss.item() < 200 and gradient.isfinite().all()


def test_ignored_labels_count_for_nothing():
    plain = torch.nn.functional.binary_cross_entropy_with_logits
    generator = torch.Generator().manual_seed(0)
    logits = torch.rand(5, 4, generator=generator).requires_grad_(True)
    truth = (torch.rand(5, 4, generator=generator) < 0.5).float()
    assert torch.equal(binary_entropy(logits, truth), plain(logits, truth)), "to the last bit"
    truth[1], truth[:, 2] = IGNORED, IGNORED
    known = truth != IGNORED
    loss = binary_entropy(logits, truth)
    torch.testing.assert_close(loss, plain(logits[known], truth[known]))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert not gradient[~known].any() and gradient[known].all()
    assert binary_entropy(logits, torch.full_like(truth, IGNORED)) == 0
    probabilities = torch.rand(5, 4, generator=generator)
    expected = torch.nn.functional.binary_cross_entropy(probabilities[known], truth[known])
    torch.testing.assert_close(reference_loss(probabilities, truth, "none"), expected)
