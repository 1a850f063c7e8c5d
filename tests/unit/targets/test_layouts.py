"""On which axis the channels of a layer lie: told by what the modules do, whatever the sizes."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_xai import ClassifierTarget, SegmenterTarget
from lightning_xai.explainers import (
    CAM,
    CAPE,
    PCIM,
    RISE,
    AblationCAM,
    CaptumExplainer,
    EigenCAM,
    GradCAM,
    HiResCAM,
    ScoreCAM,
    UNoise,
)
from lightning_xai.functional.resize import resize
from lightning_xai.targets.layers.find import auto_layer
from lightning_xai.targets.layers.layout import channel_axes, reshaped
from lightning_xai.targets.pooled_head import PooledHead


class Permute(nn.Module):
    def __init__(self, *order):
        super().__init__()
        self.order = order

    def forward(self, values):
        return values.permute(self.order)


class Block(nn.Module):
    """As Swin's: attention in windows, an MLP, both with a skip, channels last throughout."""

    def __init__(self, width):
        super().__init__()
        self.norm, self.mix = nn.LayerNorm(width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, values):
        b, h, w, c = values.shape
        windows = self.norm(values).view(b, h // 2, 2, w // 2, 2, c).transpose(2, 3).reshape(-1, 4, c)
        mixed = self.mix(windows).view(b, h // 2, w // 2, 2, 2, c).transpose(2, 3).reshape(b, h, w, c)
        values = values + torch.roll(mixed, (1, 1), (1, 2))
        return values + self.mlp(values)


class ConvNeXt(nn.Module):
    """Channels first outside, last inside of the block."""

    def __init__(self, width):
        super().__init__()
        self.deep, self.norm, self.mlp = nn.Conv2d(width, width, 3, 1, 1), nn.LayerNorm(width), nn.Linear(width, width)
        self.scale = nn.Parameter(torch.rand(width, 1, 1))

    def forward(self, values):
        inside = self.mlp(self.norm(torch.einsum("bchw->bhwc", self.deep(values)).contiguous()))
        return values + self.scale * inside.permute(0, 3, 1, 2)


class Mixer(nn.Module):
    """A linear layer over the tokens, then one over the channels."""

    def __init__(self, tokens, width):
        super().__init__()
        self.tokens, self.channels = nn.Linear(tokens, tokens), nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, values):
        values = values + self.tokens(self.norm(values).transpose(1, 2)).transpose(1, 2)
        return values + self.channels(values)


def swin(width):
    stem = [nn.Conv2d(1, width, 2, 2), Permute(0, 2, 3, 1), nn.LayerNorm(width)]
    tail = [Permute(0, 3, 1, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 3)]
    return nn.Sequential(*stem, Block(width), Block(width), *tail).eval()


def axes_of(net, images):
    with torch.no_grad(), channel_axes(list(net.modules())) as axes:
        net(images)
    return {name: axes.get(module) for name, module in net.named_modules()}


@pytest.mark.parametrize("width", [4, 8, 6])
@pytest.mark.parametrize("size", [(8, 8), (8, 12), (16, 8), (12, 12)])
def test_channels_of_a_swin_lie_last_whatever_the_sizes(width, size):
    """With 4 x 4 positions and 4 channels the shapes say nothing, with 4 x 6 and 4 channels the opposite."""
    axes = axes_of(swin(width), torch.rand(2, 1, *size))
    found = {name: axes[name] for name in ("0", "1", "2", "3", "3.mlp", "3.mlp.0", "4", "5")}
    assert found == {"0": 1, "1": 3, "2": 3, "3": 3, "3.mlp": 3, "3.mlp.0": 3, "4": 3, "5": 1}


@pytest.mark.parametrize("width", [4, 8])
def test_channels_of_a_convnext_lie_first_outside_and_last_inside(width):
    axes = axes_of(nn.Sequential(nn.Conv2d(1, width, 2, 2), ConvNeXt(width)), torch.rand(1, 1, 8, 8))
    assert axes["1"] == axes["1.deep"] == 1 and axes["1.norm"] == axes["1.mlp"] == 3


def test_a_linear_layer_over_tokens_does_not_move_the_channels():
    net = nn.Sequential(nn.Conv2d(1, 16, 2, 2), nn.Flatten(2), Permute(0, 2, 1), Mixer(16, 16))
    axes = axes_of(net, torch.rand(1, 1, 8, 8))
    assert axes["1"] == 1 and axes["2"] == axes["3"] == axes["3.channels"] == 2 and axes["3.tokens"] == 1


@pytest.mark.parametrize("dims", [2, 3])
def test_channels_of_convolutions_lie_first(dims):
    conv, norm, pool = ((nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d), (nn.Conv3d, nn.BatchNorm3d, nn.MaxPool3d))[dims - 2]
    net = nn.Sequential(
        conv(1, 4, 1), norm(4), nn.ReLU(inplace=True), pool(2), nn.Dropout(), nn.Upsample(scale_factor=2)
    )
    axes = axes_of(net.eval(), torch.rand(1, 1, *(8,) * dims))
    assert set(axes.values()) == {1}


def test_what_follows_says_where_the_channels_of_a_custom_layer_lie():
    class Stem(nn.Module):
        """Patches by hand: no operation here knows of channels."""

        def forward(self, images):
            b, _, h, w = images.shape
            return images.view(b, h // 2, 2, w // 2, 2).permute(0, 1, 3, 2, 4).reshape(b, h // 2, w // 2, 4)

    net = nn.Sequential(Stem(), nn.Linear(4, 4))
    assert axes_of(net, torch.rand(1, 1, 8, 8))["0"] == 3


@pytest.mark.parametrize(
    "turn",
    [
        lambda x: x.mT, lambda x: x.mH, torch.adjoint, lambda x: x.transpose(1, 2), lambda x: x.swapaxes(-1, -2),
        lambda x: torch.movedim(x, 1, 2), lambda x: x.permute(0, 2, 1),
    ],
)  # fmt: skip
def test_every_way_to_turn_axes_moves_the_channels(turn):
    class Turned(nn.Module):
        def forward(self, values):
            return turn(values.flatten(2))

    net = nn.Sequential(nn.Conv2d(1, 4, 2, 2), Turned(), nn.Dropout())
    assert [axes_of(net, torch.rand(1, 1, 8, 8))[name] for name in "012"] == [1, 2, 2]


def test_an_axis_through_shapes():
    assert reshaped((2, 8, 8), (2, 8, 4, 2), 1) == 1 and reshaped((2, 8, 8), (2, 4, 2, 8), 2) == 3
    assert reshaped((2, 8, 4), (2, 2, 4, 4), 1) is None


@pytest.mark.parametrize("cam", [GradCAM, HiResCAM, EigenCAM, ScoreCAM, AblationCAM])
def test_maps_of_a_square_of_positions_as_wide_as_the_channels(cam):
    """The maps of channels last are those of the same values turned to channels first by a module that follows."""
    torch.manual_seed(0)
    target, images = ClassifierTarget(swin(4)), torch.rand(2, 1, 8, 8)
    asked = torch.tensor([[1, 2], [0, 1]])
    last, first = (cam(target, layer).explain(images, asked) for layer in ("4", "5"))
    torch.testing.assert_close(last, first, rtol=1e-4, atol=1e-6)
    assert auto_layer(target, images, asked) == "5"


def test_the_closed_form_of_channels_last():
    torch.manual_seed(0)

    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = swin(4)[:5], nn.Linear(4, 3)

        def forward(self, images):
            return self.head(self.body(images).mean((1, 2)))

    target, images = ClassifierTarget(Pooled()), torch.rand(2, 1, 8, 8)
    features, logits = PooledHead(target)(images)
    body = target.model.body(images).permute(0, 3, 1, 2)
    torch.testing.assert_close(features, body)
    maps = CAM(target).explain(images, torch.tensor([1, 2]))
    expected = torch.einsum("bd,bdhw->bhw", target.model.head.weight[[1, 2]], body).unsqueeze(1) / 16
    torch.testing.assert_close(maps, resize(expected.detach(), (8, 8)))


# ------------------------------------------------------------------ layer=auto


class Then(nn.Module):
    """A body, and what a forward method does with what it gives."""

    def __init__(self, after):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
        self.last, self.idle, self.drop = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.Dropout2d()
        self.same, self.head, self.after = nn.Identity(), nn.Linear(4, 3), after

    def forward(self, images):
        return self.head(self.after(self, images).mean((2, 3)))


def passes_through(net, images):
    return net.drop(net.same(net.last(net.body(images))))


def leaves_one_unused(net, images):
    values = net.last(net.body(images))
    net.idle(values)
    return values


def without_gradient(net, images):
    with torch.no_grad():
        values = net.body(images)
    return net.last(values)


def ends_in_a_detour(net, images):
    values = net.last(net.body(images))
    return values + net.idle(values).detach()


@pytest.mark.parametrize("after", [passes_through, leaves_one_unused, ends_in_a_detour])
def test_auto_skips_what_is_no_layer(after):
    assert auto_layer(ClassifierTarget(Then(after)), torch.rand(1, 1, 8, 8), torch.tensor([[1]])) == "last"


def no_grad(net, images):
    with torch.no_grad():
        return net.last(net.body(images))


def detached(net, images):
    return net.last(net.body(images)).detach()


def in_inference_mode(net, images):
    with torch.inference_mode():
        values = net.last(net.body(images))
    return values.clone()


@pytest.mark.parametrize("after", [no_grad, detached, in_inference_mode, without_gradient])
def test_a_body_without_gradient_is_named(after):
    target, images = ClassifierTarget(Then(after)), torch.rand(1, 1, 8, 8)
    with pytest.raises(ValueError, match="up to 'last' without a gradient .*EigenCAM") as caught:
        GradCAM(target).explain(images)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"no gradient by the layer Sequential.*EigenCAM") as caught:
        GradCAM(target, "body").explain(images)
    assert "\n" not in str(caught.value)
    for cam in (EigenCAM, ScoreCAM, AblationCAM):
        maps = cam(target, "last").explain(images)
        assert maps.shape == images.shape and maps.isfinite().all()


def test_logits_at_a_fraction_are_no_layer_of_a_segmenter():
    net = nn.Sequential(nn.Conv2d(1, 6, 3, 2, 1), nn.ReLU(), nn.Conv2d(6, 5, 3, 2, 1), nn.ReLU(), nn.Conv2d(5, 3, 1))
    assert auto_layer(SegmenterTarget(net), torch.rand(1, 1, 16, 16), torch.tensor([[1]])) == "3"


class Head(nn.Module):
    """As in torchvision's segmenters: coarse logits that the model enlarges itself."""

    def __init__(self, corners):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 6, 3, 4, 1), nn.ReLU(), nn.Conv2d(6, 5, 3, 1, 1), nn.ReLU())
        self.classifier, self.corners = nn.Conv2d(5, 3, 1), corners

    def forward(self, images):
        values = self.classifier(self.body(images))
        return {"out": F.interpolate(values, images.shape[2:], mode="bilinear", align_corners=self.corners)}


@pytest.mark.parametrize("corners", [False, True])
def test_logits_that_the_model_enlarges_itself_are_no_layer(corners):
    assert auto_layer(SegmenterTarget(Head(corners)), torch.rand(1, 1, 16, 16), torch.tensor([[1]])) == "body"


# ------------------------------------------------------------------ models that hide their layers


def deep():
    torch.manual_seed(0)
    body = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU()]
    return nn.Sequential(nn.Sequential(*body), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()


@pytest.mark.parametrize("layer", ["auto", "0"])
def test_scripts_and_compiled_models_name_the_explainers_that_work(layer):
    script = torch.jit.script(deep())
    for make in (lambda target: GradCAM(target, layer), CAM, CAPE):
        with pytest.raises(ValueError, match="The model is TorchScript .*hides its layers; use .*PCIM.*occlusion"):
            make(ClassifierTarget(script))
    compiled, in_place = torch.compile(deep()), deep()
    in_place.compile()
    for model in (compiled, in_place):
        with pytest.raises(ValueError, match=r"The model is compiled .*model\._orig_mod.*PCIM"):
            GradCAM(ClassifierTarget(model), layer)


@pytest.mark.parametrize("model", ["script", "trace", "export"])
def test_the_explainers_that_are_named_do_work(tmp_path, model):
    net, images = deep(), torch.rand(2, 1, 8, 8)
    if model == "export":
        shapes = ({0: torch.export.Dim("batch")},)
        torch.export.save(torch.export.export(net, (images,), dynamic_shapes=shapes), tmp_path / "net.pt2")
        target = ClassifierTarget(weights=tmp_path / "net.pt2", allow_code=True, in_channels=1, num_classes=3)
    else:
        hidden = torch.jit.script(net) if model == "script" else torch.jit.trace(net, images)
        target = ClassifierTarget(hidden, in_channels=1, num_classes=3)
    occlusion = {"sliding_window_shapes": (1, 4, 4), "strides": (1, 4, 4)}
    for explainer in (
        PCIM(target, steps=2),
        RISE(target, masks=8),
        UNoise(target),
        CaptumExplainer(target, "Saliency"),
        CaptumExplainer(target, "Occlusion", **occlusion),
    ):
        maps = explainer.explain(images)
        assert maps.shape == images.shape and maps.isfinite().all()


def test_a_part_that_is_a_script_is_named():
    net = nn.Sequential(torch.jit.script(nn.Sequential(*deep()[:3])), nn.Linear(4, 3))
    with pytest.raises(ValueError, match="The part '0' of the model is TorchScript"):
        GradCAM(ClassifierTarget(net)).explain(torch.rand(1, 1, 8, 8))


@pytest.mark.parametrize("cam", [GradCAM, EigenCAM, ScoreCAM, AblationCAM])
@pytest.mark.parametrize("layer", ["auto", "0", "0.2"])
def test_an_exported_graph_keeps_its_layers(tmp_path, cam, layer):
    net, images = deep(), torch.rand(2, 1, 8, 8)
    shapes = ({0: torch.export.Dim("batch")},)
    torch.export.save(torch.export.export(net, (images,), dynamic_shapes=shapes), tmp_path / "net.pt2")
    exported = ClassifierTarget(weights=tmp_path / "net.pt2", allow_code=True)
    plain = ClassifierTarget(net)
    asked = torch.tensor([[1, 2], [0, 1]])
    torch.testing.assert_close(cam(exported, layer).explain(images, asked), cam(plain, layer).explain(images, asked))
