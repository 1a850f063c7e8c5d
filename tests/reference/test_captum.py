"""Infidelity, sensitivity and layer maps against Captum, given the very same noise and queries."""

import captum.attr
import captum.metrics
import pytest
import torch
import torch.nn.functional as F

from lightning_xai import ClassifierTarget, SegmenterTarget
from lightning_xai.explainers import CaptumExplainer
from lightning_xai.metrics import Infidelity, MaxSensitivity
from lightning_xai.perturbation.perturbations import Noisy
from tests.helpers import cnn, linear_net, segmenter
from tests.reference import inputs

ASKED = torch.tensor([[0, 2], [1, 1], [2, 0]])
SETTINGS = [(2, 1), (2, 3), (3, 1)]
SAMPLES = 13
# Relative; probabilities are float32, and the squares of what noise changes in them, of some thousandths, know less.
EXACT, SINGLE, SQUARED = 1e-9, 1e-6, 1e-3
# So are an explainer's maps: how far one moves is known to this fraction of the map.
MOVED = 1e-7


@pytest.fixture(params=SETTINGS, ids=["gray", "rgb", "volume"])
def case(request):
    """A float64 classifier that normalizes its images, and images of unlike contrast and range."""
    dims, channels = request.param
    mean, std = [0.2, 0.4, 0.3][:channels], [0.5, 0.3, 0.8][:channels]
    target = ClassifierTarget(cnn(dims, channels).double(), mean=mean, std=std)
    contrast = torch.tensor([0.3, 1.0, 2.0], dtype=torch.float64).view(3, *(1,) * (dims + 1))
    return target, contrast * torch.rand(3, channels, *(8, 6, 5)[:dims], dtype=torch.float64)


def score_of(output, target):
    """``(images, asked (B, 1)) -> (B,)`` for Captum; float64, because Captum adds up squares of differences."""
    ask = {"score": target.score, "probability": target.probability}[output]
    return lambda images, *asked: ask(images, *asked)[:, 0].double()


def noise_on(noise, inputs):
    """Our noise for images that Captum repeated: image by image, each with all samples. Its size is taken anew."""
    assert len(inputs) % noise.samples == 0, "Captum did not hand over all samples at once"
    fields, axes = noise.fields(inputs), tuple(range(1, inputs.ndim))
    if noise.law == "gaussian":
        size = inputs.std(dim=axes, keepdim=True)
        assert 0.9 < fields.std() < 1.1
    else:
        size = inputs.amax(dim=axes, keepdim=True) - inputs.amin(dim=axes, keepdim=True)
        assert 0.9 < fields.abs().max() <= 1
    repeated = fields.expand(-1, *inputs.shape[1:]).repeat(len(inputs) // noise.samples, *(1,) * len(axes))
    return noise.level * size * repeated


def captums_infidelity(noise, forward, images, attribution, args, scale):
    def perturb(repeated):
        added = noise_on(noise, repeated)
        return -added, repeated + added  # Captum's perturbation is what was taken away

    return captum.metrics.infidelity(
        forward,
        perturb,
        images,
        attribution,
        additional_forward_args=args,
        n_perturb_samples=noise.samples,
        normalize=scale,
    )


def attributions(forward, images, method, *args):
    """Captum's attribution per channel, ``(B, C, *S)``."""
    options = {"abs": False} if method == "Saliency" else {}
    explainer = getattr(captum.attr, method)(forward)
    return explainer.attribute(images.clone().requires_grad_(True), additional_forward_args=args, **options).detach()


def assert_close(ours, theirs, tolerance, least=0.0):
    torch.testing.assert_close(ours.double(), theirs.double(), rtol=tolerance, atol=least)


# ------------------------------------------------------------------ infidelity


@pytest.mark.parametrize("method", ["InputXGradient", "Saliency"])
@pytest.mark.parametrize("output", ["score", "probability"])
@pytest.mark.parametrize("scale", [False, True])
def test_infidelity(case, scale, output, method):
    target, images = case
    forward = score_of(output, target)
    columns = list(ASKED.split(1, dim=1))
    maps = [attributions(forward, images, method, asked) for asked in columns]
    metric = Infidelity(samples=SAMPLES, level=0.3, scale=scale, output=output, seed=4, chunk_size=7)
    noise = Noisy(SAMPLES, 0.3, "gaussian", per_channel=False, seed=4)
    metric.update(target=target, images=images, maps=torch.stack([map.sum(1) for map in maps], 1), targets=ASKED)
    ours = metric.per_image()
    theirs = [
        captums_infidelity(noise, forward, images, map, (asked,), scale)
        for asked, map in zip(columns, maps, strict=True)
    ]
    assert_close(ours, torch.stack(theirs, dim=1), EXACT if output == "score" else SQUARED)
    other = Infidelity(samples=SAMPLES, level=0.3, scale=scale, output=output, seed=5)
    other.update(target=target, images=images, maps=torch.stack([map.sum(1) for map in maps], 1), targets=ASKED)
    assert (other.per_image() / ours - 1).abs().max() > 0.01, "another seed gives other noise"


def test_scaling_matters():
    """Otherwise the two cases above could be one."""
    target, images = ClassifierTarget(cnn()), torch.rand(3, 1, 8, 8)
    maps, values = torch.rand(3, 1, 8, 8), []
    for scale in (False, True):
        metric = Infidelity(samples=SAMPLES, scale=scale)
        metric.update(target=target, images=images, maps=maps, targets=ASKED[:, 0])
        values.append(metric.per_image())
    assert (values[1] < 0.9 * values[0]).all(), values


@pytest.mark.parametrize("scale", [False, True])
def test_infidelity_of_a_segmenters_logit_mass(scale):
    target, images = SegmenterTarget(segmenter(channels=2).double()), torch.rand(2, 2, 8, 8, dtype=torch.float64)
    targets, pixels = torch.tensor([[1], [2]]), torch.rand(2, 1, 8, 8) < 0.4
    forward = score_of("score", target)
    attribution = attributions(forward, images, "InputXGradient", targets, pixels)
    metric = Infidelity(samples=SAMPLES, scale=scale)
    maps = attribution.sum(dim=1, keepdim=True)
    metric.update(target=target, images=images, maps=maps, targets=targets, pixels=pixels)
    theirs = captums_infidelity(metric.noise, forward, images, attribution, (targets, pixels), scale)
    assert_close(metric.per_image()[:, 0], theirs, EXACT)
    whole = captums_infidelity(metric.noise, forward, images, attribution, (targets, torch.ones_like(pixels)), scale)
    assert ((whole / theirs - 1).abs() > 1e-3).all(), "the pixel set must matter"


def test_the_gradient_of_a_linear_model_is_faithful():
    target = ClassifierTarget(linear_net(torch.randn(3, 36)).double())
    images = torch.rand(2, 1, 6, 6, dtype=torch.float64)
    forward, targets = score_of("score", target), torch.tensor([[0], [2]])
    gradient = attributions(forward, images, "Saliency", targets)
    for scale in (False, True):
        metric = Infidelity(samples=SAMPLES, scale=scale)
        metric.update(target=target, images=images, maps=gradient, targets=targets)
        theirs = captums_infidelity(metric.noise, forward, images, gradient, (targets,), scale)
        assert metric.per_image().max() < 1e-20 and theirs.abs().max() < 1e-12


# ------------------------------------------------------------------ sensitivity


@pytest.mark.parametrize("method", ["InputXGradient", "Saliency"])
def test_max_sensitivity(case, method):
    target, images = case
    options = {"abs": False} if method == "Saliency" else {}
    explainer = CaptumExplainer(target, method, **options)
    metric = MaxSensitivity(samples=SAMPLES, radius=0.05, seed=2, chunk_size=7)
    metric.update(
        target=target, images=images, maps=explainer.explain(images, ASKED), targets=ASKED, explainer=explainer
    )
    noise = Noisy(SAMPLES, 0.05, "uniform", per_channel=True, seed=2)
    forward = score_of("score", target)

    def explain(pictures, additional_forward_args):
        pictures = pictures[0] if isinstance(pictures, tuple) else pictures
        with torch.enable_grad():
            return (attributions(forward, pictures, method, *additional_forward_args).sum(dim=1),)

    theirs = [
        captum.metrics.sensitivity_max(
            explain,
            images,
            lambda repeated: repeated + noise_on(noise, repeated),
            n_perturb_samples=SAMPLES,
            norm_ord="fro",
            additional_forward_args=(asked,),
        )
        for asked in ASKED.split(1, dim=1)
    ]
    ours = metric.per_image()
    assert ours.min() > 1e-3
    assert_close(ours, torch.stack(theirs, dim=1), SINGLE, MOVED)


# ------------------------------------------------------------------ explainers


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("layer", inputs.CONV_LAYERS)
def test_grad_cam(layer, relu):
    net, images = inputs.ConvNet(3), inputs.images(3)
    asked = torch.tensor([[0, 2], [1, 1], [2, 0], [1, 0]])
    explainer = CaptumExplainer(ClassifierTarget(net), "LayerGradCam", layer=layer, relu_attributions=relu)
    maps = explainer.explain(images, asked)
    assert maps.shape == (4, 2, 12, 12) and maps.std() > 0 and ((maps < 0).any() != relu)
    for column in range(2):
        cam = captum.attr.LayerGradCam(net, getattr(net, layer))
        small = cam.attribute(images, target=asked[:, column], relu_attributions=relu).detach()
        expected = F.interpolate(small, size=(12, 12), mode="bilinear", align_corners=False)[:, 0]
        torch.testing.assert_close(maps[:, column], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("baseline", [None, "channel_mean"])
def test_occlusion_with_strides_and_a_fill(baseline):
    net, images, asked = inputs.ConvNet(3), inputs.images(3), inputs.targets()
    options = {"sliding_window_shapes": (3, 5, 4), "strides": (3, 3, 2)}
    maps = CaptumExplainer(ClassifierTarget(net), "Occlusion", baseline=baseline, **options).explain(images, asked)
    fill = None if baseline is None else images.mean(dim=(2, 3), keepdim=True).expand_as(images)
    expected = captum.attr.Occlusion(net).attribute(images, target=asked, baselines=fill, **options).mean(dim=1)
    assert expected.std() > 0
    torch.testing.assert_close(maps[:, 0], expected.detach(), atol=1e-5, rtol=0)
