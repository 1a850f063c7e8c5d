"""Captum's methods behind our face: the same numbers as Captum itself, and errors that name what there is."""

import captum.attr
import pytest
import torch
import torch.nn.functional as F

from lightning_xai import ClassifierTarget, SegmenterTarget
from lightning_xai.explainers import CaptumExplainer
from tests.helpers import assert_untouched, cnn, segmenter, state_of

ASKED = torch.tensor([[0, 2], [1, 1], [2, 0]])


@pytest.fixture
def images():
    return torch.rand(3, 2, 8, 8)


def direct(net, method, images, **options):
    """Captum's own maps of every question: (B, T, C, H, W) or a layer's size."""
    maps = [
        getattr(captum.attr, method)(net).attribute(images.clone().requires_grad_(True), target=asked, **options)
        for asked in ASKED.T
    ]
    return torch.stack(maps, dim=1).detach()


METHODS = {
    "InputXGradient": {},
    "Saliency": {"abs": False},
    "IntegratedGradients": {"n_steps": 10},
    "Occlusion": {"sliding_window_shapes": (2, 3, 3)},
    "FeatureAblation": {},
}


@pytest.mark.parametrize("method", METHODS)
def test_the_maps_are_captums_summed_over_channels(method, images):
    net = cnn(channels=2).eval()
    maps = CaptumExplainer(ClassifierTarget(net), method, **METHODS[method]).explain(images, ASKED)
    expected = direct(net, method, images, **METHODS[method]).sum(dim=2)
    assert maps.shape == (3, 2, 8, 8) and expected.std() > 0
    assert torch.allclose(maps, expected, atol=1e-6)


@pytest.mark.parametrize("baseline", ["zero", "channel_mean"])
def test_a_baseline_is_a_fill(baseline, images):
    net = cnn(channels=2).eval()
    options = {"n_steps": 10}
    maps = CaptumExplainer(ClassifierTarget(net), "IntegratedGradients", baseline=baseline, **options).explain(
        images, ASKED
    )
    fill = torch.zeros_like(images) if baseline == "zero" else images.mean(dim=(2, 3), keepdim=True).expand_as(images)
    expected = direct(net, "IntegratedGradients", images, baselines=fill, **options).sum(dim=2)
    assert torch.allclose(maps, expected, atol=1e-6)


def test_integrated_gradients_add_up_to_the_change_of_the_score(images):
    target = ClassifierTarget(cnn(channels=2), mean=[0.3, 0.5], std=[0.2, 0.4])
    explainer = CaptumExplainer(target, baseline="zero", n_steps=200)
    with torch.no_grad():
        change = target.score(images, ASKED) - target.score(torch.zeros_like(images), ASKED)
    assert torch.allclose(explainer.explain(images, ASKED).sum(dim=(2, 3)), change, atol=0.02)


def test_the_scale_of_the_target_is_part_of_the_map(images):
    """A target that normalises inside has the gradient of the whole, not of the bare network."""
    net = cnn(channels=2).eval()
    target = ClassifierTarget(net, mean=[0.3, 0.5], std=[0.2, 0.4])
    mean, std = torch.tensor([0.3, 0.5]).view(1, 2, 1, 1), torch.tensor([0.2, 0.4]).view(1, 2, 1, 1)
    expected = direct(lambda x: net((x - mean) / std), "InputXGradient", images).sum(dim=2)
    assert torch.allclose(CaptumExplainer(target, "InputXGradient").explain(images, ASKED), expected, atol=1e-6)


def test_a_layers_maps_are_upsampled(images):
    net = torch.nn.Sequential(cnn(channels=2)[:3], torch.nn.MaxPool2d(2), cnn(channels=2)[3:]).eval()
    maps = CaptumExplainer(ClassifierTarget(net), "LayerGradientXActivation", layer="1").explain(images, ASKED)
    for column in range(2):
        layer = captum.attr.LayerGradientXActivation(net, net[1])
        small = layer.attribute(images, target=ASKED[:, column]).sum(dim=1, keepdim=True)
        assert small.shape == (3, 1, 4, 4)
        expected = F.interpolate(small, size=(8, 8), mode="bilinear", align_corners=False)[:, 0]
        assert torch.allclose(maps[:, column], expected, atol=1e-6)


def test_a_segmenters_pixels_are_summed():
    net, images = segmenter(channels=1).eval(), torch.rand(2, 1, 8, 8)
    pixels, asked = torch.rand(2, 1, 8, 8) < 0.4, torch.tensor([[1], [2]])
    maps = CaptumExplainer(SegmenterTarget(net), "InputXGradient").explain(images, asked, pixels)
    leaf = images.clone().requires_grad_(True)
    score = sum((net(leaf)[row, asked[row, 0]] * pixels[row, 0]).sum() for row in range(2))
    (gradient,) = torch.autograd.grad(score, leaf)
    assert torch.allclose(maps, (gradient * images).detach(), atol=1e-6)


@pytest.mark.parametrize("method", ["IntegratedGradients", "LayerGradientXActivation"])
def test_the_target_and_the_images_are_left_as_they_were(method, images):
    target = ClassifierTarget(cnn(channels=2))
    before, copy = state_of(target), images.clone()
    layer = "0" if method.startswith("Layer") else None
    options = {} if layer else {"n_steps": 5}
    with torch.no_grad():
        CaptumExplainer(target, method, layer=layer, **options).explain(images)
    assert_untouched(before, state_of(target))
    assert torch.equal(images, copy) and images.grad is None and not images.requires_grad


def test_unknown_methods_and_layers_are_named():
    target = ClassifierTarget(cnn())
    with pytest.raises(ValueError, match="captum.attr has no 'IntegratedGradient'; .*'IntegratedGradients'"):
        CaptumExplainer(target, "IntegratedGradient")
    with pytest.raises(ValueError, match="no layer 'layer4'; it has 0, 1, 2, 3, 4, 5, 6"):
        CaptumExplainer(target, "LayerGradCam", layer="layer4")
    with pytest.raises(ValueError, match="no layer 'layer4'"):
        CaptumExplainer(ClassifierTarget(lambda images: images.flatten(1)[:, :2]), "LayerGradCam", layer="layer4")
