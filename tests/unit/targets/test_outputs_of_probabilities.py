"""``activation="none"``: the model's outputs are probabilities already, of exclusive classes or of others."""

import pytest
import torch
from torch import nn

from lightning_xai import ClassifierTarget, SegmenterTarget
from lightning_xai.explainers import PCIM, GradCAM
from lightning_xai.functional.segmentation import predicted_pixels
from tests.helpers import cnn, segmenter

IMAGES = torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(0))
LAST = {"softmax": nn.Softmax(1), "sigmoid": nn.Sigmoid()}


@pytest.mark.parametrize("last", LAST)
@pytest.mark.parametrize(("wrap", "net"), [(ClassifierTarget, cnn), (SegmenterTarget, segmenter)])
def test_probabilities_are_those_of_the_logits_before(last, wrap, net):
    whole = wrap(nn.Sequential(net(), LAST[last]), activation="none")
    plain = wrap(net(), activation=last)
    targets = torch.tensor([[0, 2], [1, 1], [2, 0]])
    regions = None if wrap is ClassifierTarget else IMAGES > 0.3
    torch.testing.assert_close(whole.predict(IMAGES), plain.predict(IMAGES))
    for name in ("probability", "log_probability"):
        found, expected = (getattr(target, name)(IMAGES, targets, regions) for target in (whole, plain))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert whole.score(IMAGES, targets, regions).isfinite().all()
    if wrap is ClassifierTarget:
        assert torch.equal(whole.score(IMAGES, targets), whole.probability(IMAGES, targets))
    else:
        query = [target.query(IMAGES, targets).regions for target in (whole, plain)]
        assert torch.equal(*query), "predicted pixels"


def test_one_probability_is_the_pair_of_the_complement_and_itself():
    target = ClassifierTarget(nn.Sequential(cnn(classes=1), nn.Sigmoid()), activation="none")
    pair = target.predict(IMAGES)
    torch.testing.assert_close(pair, ClassifierTarget(cnn(classes=1), "sigmoid").predict(IMAGES))
    dense = SegmenterTarget(nn.Sequential(segmenter(classes=1), nn.Sigmoid()), activation="none")
    assert dense.activation == "none" and dense.predict(IMAGES).sum(1).allclose(torch.ones(3, 16, 16))


def test_the_logarithm_of_zero_is_finite():
    target = ClassifierTarget(lambda images: torch.tensor([[1.0, 0.0]]).expand(len(images), -1), activation="none")
    assert target.log_probability(IMAGES, torch.tensor([1, 1, 1])).isfinite().all()


def test_predicted_pixels_of_probabilities():
    exclusive, several = torch.tensor([0.4, 0.35, 0.25]), torch.tensor([0.9, 0.6, 0.1])
    logits = torch.stack([exclusive, several], dim=1).unsqueeze(0)
    found = predicted_pixels(logits, torch.tensor([[0, 1, 2]]), "none")
    assert found.tolist() == [[[True, True], [False, True], [False, False]]]


@pytest.mark.parametrize("make", [lambda target: GradCAM(target), lambda target: PCIM(target, steps=3)])
def test_explainers_take_probabilities(make):
    maps = make(ClassifierTarget(nn.Sequential(cnn(), nn.Softmax(1)), activation="none")).explain(IMAGES)
    assert maps.shape == IMAGES.shape and maps.isfinite().all() and maps.any()
