"""Captum's methods behind our face: the same numbers as Captum itself, and errors that name what there is."""

import captum.attr
import pytest
import torch
import torch.nn.functional as F

from lightning_xai import ClassifierTarget, SegmenterTarget
from lightning_xai.explainers import CaptumExplainer
from lightning_xai.explainers.captum import cells
from tests.helpers import CountingTarget, assert_untouched, cnn, pixel_segmenter, segmenter, state_of

ASKED = torch.tensor([[0, 2], [1, 1], [2, 0]])


@pytest.fixture
def images():
    return torch.rand(3, 2, 8, 8)


def direct(net, method, images, **options):
    """Captum's own maps of every query: (B, T, C, H, W) or a layer's size."""
    maps = [
        getattr(captum.attr, method)(net).attribute(images.clone().requires_grad_(True), target=asked, **options)
        for asked in ASKED.T
    ]
    return torch.stack(maps, dim=1).detach()


METHODS = {
    "InputXGradient": {},
    "Saliency": {"abs": False},
    "IntegratedGradients": {"n_steps": 10},
    "Occlusion": {"sliding_window_shapes": (1, 3, 3)},
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
    """A target that normalizes inside has the gradient of the whole, not of the bare network."""
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


# ------------------------------------------------------------------ squares, noise, and what Captum needs to see


@pytest.mark.parametrize("method", ["Occlusion", "FeatureAblation", "KernelShap"])
def test_hiding_every_channel_at_once_is_one_attribution(method):
    """The score is the mean of all channels' pixels: hiding a square loses its mean, whatever the channels."""
    images = torch.rand(2, 3, 8, 8)
    target = ClassifierTarget(lambda images: torch.stack([images.flatten(1).sum(1), images.flatten(1).sum(1)], dim=1))
    options = {"n_samples": 400} if method == "KernelShap" else {}
    maps = CaptumExplainer(target, method, patch=4, **options).explain(images, torch.tensor([0, 1]))
    squares = F.avg_pool2d(images.sum(dim=1, keepdim=True), 4) * 16
    if method == "Occlusion":  # windows overlap by half; the outermost two pixels lie in one window each way
        assert torch.allclose(maps[:, 0, [0, 0, -1, -1], [0, -1, 0, -1]], squares[:, 0].flatten(1), atol=1e-4)
    else:
        expected = squares.repeat_interleave(4, 2).repeat_interleave(4, 3)
        assert torch.allclose(maps, expected, atol=0.02 if method == "KernelShap" else 1e-4)


def test_the_cells_of_a_grid():
    assert cells(torch.Size((3, 5)), [2, 2])[0, 0].tolist() == [[0, 0, 1, 1, 2], [0, 0, 1, 1, 2], [3, 3, 4, 4, 5]]
    assert cells(torch.Size((4, 4, 4)), [2, 4, 2]).unique(return_counts=True)[1].tolist() == [16, 16, 16, 16]


def test_smoothgrad_is_the_mean_gradient_of_noisy_copies(images):
    weight = torch.rand(3, 128)
    target = ClassifierTarget(lambda images: (images.flatten(1) ** 3) @ weight.T)
    maps = CaptumExplainer(target, "Saliency", smooth=4000, noise=0.2, chunk_size=500, abs=False).explain(
        images, torch.tensor([0, 1, 2])
    )
    # E[3 (x + n)^2] = 3 (x^2 + deviation^2)
    spread = (images.flatten(1).amax(1) - images.flatten(1).amin(1)).view(3, 1, 1, 1)
    expected = 3 * (images**2 + (0.2 * spread) ** 2) * weight.view(3, 2, 8, 8)
    assert torch.allclose(maps, expected.sum(dim=1, keepdim=True), atol=0.12)
    assert (maps - expected.sum(dim=1, keepdim=True)).mean().abs() < 0.01


@pytest.mark.parametrize(("method", "options"), [("Saliency", {"smooth": 4}), ("KernelShap", {"n_samples": 30})])
def test_random_methods_repeat_themselves_and_leave_the_generator_alone(method, options, images):
    explainer = CaptumExplainer(ClassifierTarget(cnn(channels=2)), method, patch=4, **options)
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    first = explainer.explain(images, ASKED)
    assert torch.equal(torch.rand(2), expected), "the caller's random numbers were used up"
    assert torch.equal(explainer.explain(images, ASKED), first)
    assert torch.allclose(explainer.explain(images[1:2], ASKED[1:2]), first[1:2], atol=1e-6)


@pytest.mark.parametrize("chunk_size", [3, 8, 64])
@pytest.mark.parametrize("method", ["IntegratedGradients", "Occlusion", "FeatureAblation", "KernelShap", "Saliency"])
def test_no_pass_is_larger_than_the_chunk(method, chunk_size, images):
    target = CountingTarget(cnn(channels=2))
    patch = None if method in ("IntegratedGradients", "Saliency") else 4
    smooth = 10 if method == "Saliency" else 0
    options = {"n_samples": 20} if method == "KernelShap" else {}
    explainer = CaptumExplainer(target, method, patch=patch, smooth=smooth, chunk_size=chunk_size, **options)
    explainer.explain(images, ASKED[:, :1])
    assert max(target.chunks) <= chunk_size
    if chunk_size == 64:
        assert max(target.chunks) > 8, "passes are smaller than they may be"


def relu_net(inplace=False, functional=False, reused=False):
    torch.manual_seed(0)
    convolutions = [torch.nn.Conv2d(2, 6, 3, padding=1), torch.nn.Conv2d(6, 6, 3, padding=1)]
    if functional:
        return Functional(convolutions)
    one = torch.nn.ReLU(inplace)
    relus = [one, one] if reused else [one, torch.nn.ReLU(inplace)]
    body = [convolutions[0], relus[0], convolutions[1], relus[1]]
    return torch.nn.Sequential(*body, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(6, 3))


class Functional(torch.nn.Module):
    def __init__(self, convolutions):
        super().__init__()
        self.body, self.head = torch.nn.ModuleList(convolutions), torch.nn.Linear(6, 3)

    def forward(self, images):
        for layer in self.body:
            images = layer(images).relu()
        return self.head(images.mean(dim=(2, 3)))


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("method", ["DeepLift", "GuidedBackprop"])
def test_methods_that_change_the_layers_see_them(method, inplace, images):
    net = relu_net(inplace).eval()
    maps = CaptumExplainer(ClassifierTarget(net), method).explain(images, ASKED)
    assert [module.inplace for module in net if isinstance(module, torch.nn.ReLU)] == [inplace, inplace]
    expected = direct(relu_net().eval(), method, images).sum(dim=2)
    assert torch.allclose(maps, expected, atol=1e-6) and expected.std() > 0
    gradient = direct(net, "Saliency", images, abs=False).sum(dim=2) if not inplace else None
    assert gradient is None or not torch.allclose(maps, gradient, atol=1e-4)


def test_deep_lift_adds_up_to_the_change_of_the_score(images):
    target = ClassifierTarget(relu_net())
    maps = CaptumExplainer(target, "DeepLift", baseline="channel_mean").explain(images, ASKED)
    blank = images.mean(dim=(2, 3), keepdim=True).expand_as(images)
    change = (target.score(images, ASKED) - target.score(blank, ASKED)).detach()
    assert torch.allclose(maps.sum(dim=(2, 3)), change, atol=1e-5)


@pytest.mark.parametrize("kind", ["functional", "reused"])
def test_deep_lift_refuses_a_model_that_it_cannot_see_through(kind, images):
    target = ClassifierTarget(relu_net(**{kind: True}))
    with pytest.raises(ValueError, match="cannot see through this model: .* use IntegratedGradients"):
        CaptumExplainer(target, "DeepLift").explain(5 * images - 2, ASKED)
    assert hooks_of(target) == []


@pytest.mark.parametrize("method", ["DeepLift", "GuidedBackprop", "LayerGradCam"])
def test_hooks_are_gone_after_an_exception(method, images):
    class Broken(ClassifierTarget):
        whole = True

        def logits(self, images):
            logits = super().logits(images)
            if self.whole:
                return logits
            raise MemoryError("no more")

    target = Broken(relu_net(inplace=True))
    target.query(images)
    target.whole = False  # from now on the pass in the middle of the method fails
    with pytest.raises(MemoryError):
        CaptumExplainer(target, method, layer="0" if method.startswith("Layer") else None).explain(images, ASKED)
    assert hooks_of(target) == [] and target.model[1].inplace


def hooks_of(target):
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return [kind for module in target.model.modules() for kind in kinds if getattr(module, kind)]


def test_progress_is_shown_where_captum_has_it(images, capfd):
    explainer = CaptumExplainer(ClassifierTarget(cnn(channels=2)), "Occlusion", patch=4, show_progress=True)
    explainer.explain(images, ASKED)
    assert "Occlusion attribution" in capfd.readouterr().err


def test_a_patch_has_a_size():
    with pytest.raises(ValueError, match="patch is 0; it is at least 1 pixel wide"):
        CaptumExplainer(ClassifierTarget(cnn()), "Occlusion", patch=0)


def test_occlusion_of_a_segmenter_by_the_dice_or_the_mass_that_is_lost():
    """The object is what is bright: hiding it costs, hiding the background costs nothing."""
    target = SegmenterTarget(pixel_segmenter(torch.tensor([[0.0], [2.0]]), torch.tensor([0.0, -1.0])))
    images = torch.zeros(1, 1, 8, 8)
    images[..., 2:4, 4:6] = 1
    asked, pixels = torch.tensor([[1]]), (images > 0.5)
    for output in ("dice", "score", "probability"):
        maps = CaptumExplainer(target, "Occlusion", baseline="zero", patch=2, output=output).explain(
            images, asked, pixels
        )
        assert maps[0, 0][pixels[0, 0]].min() > 0.01, "hiding the object must cost"
        assert maps[0, 0, 5:].abs().max() < 1e-5 and maps[0, 0, :, :3].abs().max() < 1e-5
    half = pixels.clone()
    half[..., 2, :] = False
    assert target.dice(images, asked, half).item() == pytest.approx(2 * 2 / (4 + 2))
    assert target.dice(images, asked).item() == 1 and target.dice(0 * images, asked, 0 * pixels).item() == 0


def test_outputs_that_a_method_cannot_explain_are_named():
    target = SegmenterTarget(pixel_segmenter(torch.tensor([[0.0], [2.0]])))
    with pytest.raises(ValueError, match="The Dice has no gradient for Saliency; use one of Occlusion"):
        CaptumExplainer(target, "Saliency", output="dice")
    with pytest.raises(ValueError, match="SegmenterTarget has no output 'logit'; use score"):
        CaptumExplainer(target, "Occlusion", output="logit")
