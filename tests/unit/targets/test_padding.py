"""Sides that a network cannot halve: padded and cropped, the same in training and explaining, also by window."""

import logging

import pytest
import torch
from monai.networks import nets
from torch import nn

from lightning_xai import ClassifierTarget, SegmenterTarget
from lightning_xai.explainers import CaptumExplainer, GradCAM, HiResCAM, ScoreCAM
from lightning_xai.explainers.cam.channel import AblationCAM
from lightning_xai.functional.resize import resize
from lightning_xai.networks.mask_net import UNet
from lightning_xai.networks.wnet import LittleWNet
from lightning_xai.targets.layers.grid import to_image
from lightning_xai.targets.padding import cropped, larger_sizes, padded
from lightning_xai.targets.training.segmenter import SegmenterTask
from tests.helpers import cnn, segmenter

BOTH = {"in_channels": 1, "out_channels": 3}


def swin_like():
    """Refuses sides that are no multiples of 32, as MONAI's SwinUNETR does."""

    class Refuses(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = segmenter()

        def forward(self, x):
            if any(side % 32 for side in x.shape[2:]):
                raise ValueError("spatial dimensions of input image must be divisible by 32")
            return self.net(x)

    return Refuses()


def rounds_up():
    """Gives logits for more pixels than its input has, without an error."""
    return nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.ReLU(), nn.ConvTranspose2d(4, 3, 2, 2))


#: Network, sides of the images, sides that reach the network.
NETS = {
    "MONAI": (lambda: nets.UNet(2, **BOTH, channels=(4, 8, 8, 8), strides=(2, 2, 2)), (33, 20), (40, 24)),
    "strides of 3": (lambda: nets.UNet(2, **BOTH, channels=(4, 8, 8), strides=(3, 2)), (33, 20), (36, 24)),
    "volumes": (lambda: nets.UNet(3, **BOTH, channels=(4, 8, 8), strides=(2, 2)), (9, 13, 8), (12, 16, 8)),
    "flat strides": (
        lambda: nets.UNet(3, **BOTH, channels=(4, 8, 8), strides=((1, 2, 2), (1, 2, 2))), (9, 13, 7), (9, 16, 8),
    ),
    "attention": (lambda: nets.AttentionUnet(2, **BOTH, channels=(4, 8, 8), strides=(2, 2)), (33, 20), (36, 20)),
    "residual": (lambda: nets.SegResNet(2, 8, **BOTH, blocks_down=(1, 1, 1), blocks_up=(1, 1)), (33, 20), (36, 20)),
    "own": (lambda: UNet(1, 3, depth=4, width=4), (33, 20), (40, 24)),
    "own volumes": (lambda: UNet(1, 3, depth=3, width=4, dims=3), (9, 13, 8), (12, 16, 8)),
    "W-Net": (lambda: LittleWNet(1, 3), (33, 21), (36, 24)),
    "refuses": (swin_like, (33, 20), (64, 32)),
    "rounds up": (rounds_up, (33, 20), (34, 20)),
}  # fmt: skip
each_net = pytest.mark.parametrize("name", NETS)


def network_case(name, training=False):
    build, size, reached = NETS[name]
    torch.manual_seed(0)
    images = torch.rand(2, 1, *size, generator=torch.Generator().manual_seed(1))
    return build().train(training), images, reached


def test_the_last_pixels_are_repeated_and_cropped_again():
    for size, larger in (((3, 2), (4, 6)), ((2, 3, 2), (2, 4, 3))):
        values = torch.rand(2, 3, *size)
        large = padded(values, larger)
        assert large.shape[2:] == larger and torch.equal(cropped(large, size), values)
        assert torch.equal(large[..., -1], large[..., size[-1] - 1])
    assert padded(values, size) is values


def test_sizes_are_tried_from_the_smallest_and_each_once():
    assert list(larger_sizes(None, (6, 16))) == [(8, 16), (16, 16), (32, 32), (64, 64)]
    net = nn.Module()
    net.strides = "wide"
    assert list(larger_sizes(net, (64, 64))) == []


@each_net
def test_logits_are_those_of_the_padded_image_cropped(name):
    net, images, reached = network_case(name)
    expected = cropped(net(padded(images, reached)), images.shape[2:])
    target = SegmenterTarget(net)
    assert torch.equal(target.logits(images), expected) and target.input_size(images) == reached
    whole = padded(images, reached)
    assert torch.equal(target.logits(whole), net(whole)) and target.input_size(whole) == reached


@each_net
def test_training_and_explaining_pad_alike(name):
    net, images, reached = network_case(name, training=True)
    trainer = SegmenterTask(net, 3, mean=[0.4], std=[0.3]).train()
    twin, _, _ = network_case(name, training=True)
    expected = cropped(twin(padded((images - 0.4) / 0.3, reached)), images.shape[2:])
    logits = trainer(images)
    assert torch.allclose(logits, expected, atol=1e-5) and logits.requires_grad
    state = twin.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items()), "a pass too many"
    assert all(module.training for module in net.modules())
    logits.sum().backward()
    assert all(value.grad is not None for value in net.parameters())
    evaluated = trainer.eval()(images).detach()
    assert torch.equal(SegmenterTarget(net, mean=[0.4], std=[0.3]).logits(images), evaluated)


@each_net
def test_gradients_reach_the_image(name):
    net, images, reached = network_case(name)
    leaf = images.clone().requires_grad_(True)
    targets, regions = torch.tensor([[1], [2]]), torch.ones_like(images, dtype=torch.bool)
    (gradient,) = torch.autograd.grad(SegmenterTarget(net).score(leaf, targets, regions).sum(), leaf)
    leaf = images.clone().requires_grad_(True)
    logits = cropped(net(padded(leaf, reached)), images.shape[2:])
    (expected,) = torch.autograd.grad(logits[0, 1].sum() + logits[1, 2].sum(), leaf)
    assert torch.allclose(gradient, expected, atol=1e-5 * float(expected.abs().max()))


def test_the_sides_do_not_depend_on_what_went_through_before():
    sizes = [(33, 33), (34, 34), (20, 28), (40, 40)]
    fresh = {}
    for size in sizes:
        target, images = SegmenterTarget(network_case("MONAI")[0]), torch.rand(1, 1, *size)
        target.logits(images)
        fresh[size] = target.input_size(images)
    target = SegmenterTarget(network_case("MONAI")[0])
    for size in reversed(sizes):
        target.logits(torch.rand(1, 1, *size))
    assert {size: target.input_size(torch.rand(1, 1, *size)) for size in sizes} == fresh


def test_padding_is_logged_once_for_each_size(caplog):
    net, images, _ = network_case("MONAI")
    target = SegmenterTarget(net)
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            target.logits(images)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1 and "33 x 20" in said[0] and "40 x 24" in said[0]


def test_images_that_fit_cost_one_pass():
    calls = []
    net = segmenter()
    net.register_forward_hook(lambda *_: calls.append(1))
    SegmenterTarget(net).logits(torch.rand(2, 1, 33, 20))
    assert len(calls) == 1


@pytest.mark.parametrize("wrap", [SegmenterTarget, ClassifierTarget])
def test_no_padding_helps_a_model_of_another_kind(wrap):
    images = torch.rand(2, 1, 9, 9)
    with pytest.raises(ValueError, match="Is it a"):
        wrap(cnn() if wrap is SegmenterTarget else segmenter()).logits(images)
    with pytest.raises(ValueError, match=r"fails on images of shape \(2, 1, 9, 9\)"):
        wrap(nn.Sequential(nn.Flatten(), nn.Linear(64, 2))).logits(images)


@pytest.mark.parametrize(("dims", "stride"), [(2, 4), (2, 3), (3, 2)])
def test_logits_at_a_fraction_of_the_size_are_enlarged_linearly_and_said_once(dims, stride, caplog):
    """SegFormer's are a quarter of the image's size, others' an eighth."""
    torch.manual_seed(0)
    net = (nn.Conv2d, nn.Conv3d)[dims - 2](1, 3, stride, stride)
    target, images = SegmenterTarget(net), torch.rand(2, 1, *(24, 12, 12)[:dims])
    with caplog.at_level(logging.INFO):
        logits = target.logits(images)
        target.logits(images)
    assert torch.equal(logits, resize(net(images), images.shape[2:]))
    assert sum("enlarged linearly" in line for line in caplog.messages) == 1
    regions = torch.ones_like(images, dtype=torch.bool)
    maps = GradCAM(target, layer="").explain(images, torch.tensor([1, 2]), regions)
    assert maps.shape == images.shape and maps.isfinite().all() and maps.any()


def test_of_several_heads_below_the_size_the_largest_counts_and_equal_ones_are_refused():
    y = torch.rand(1, 3, 4, 4)
    images = torch.rand(1, 1, 16, 16)
    finest = SegmenterTarget(lambda _: [y, resize(y, (8, 8)), y[:, :, :2, :2]]).logits(images)
    assert torch.equal(finest, resize(resize(y, (8, 8)), (16, 16)))
    with pytest.raises(ValueError, match="all have the shape of logits"):
        SegmenterTarget(lambda _: [y, 2 * y]).logits(images)


def test_a_part_of_the_image_is_no_fraction_of_it():
    """Convolutions without padding see the middle alone: enlarging their logits would shift them."""
    with pytest.raises(ValueError, match=r"\(1, 3, 28, 28\) for images \(1, 1, 32, 32\).*whole fraction"):
        SegmenterTarget(nn.Conv2d(1, 3, 5)).logits(torch.rand(1, 1, 32, 32))


@pytest.mark.parametrize("dims", [2, 3])
def test_a_window_that_cannot_be_halved_is_padded_too(dims):
    torch.manual_seed(0)
    net = nets.UNet(dims, **BOTH, channels=(4, 8, 8), strides=(2, 2))
    images = torch.rand(1, 1, *(20, 15, 14)[:dims])
    target = SegmenterTarget(net, window=10)
    logits = target.logits(images)
    assert logits.shape == (1, 3, *images.shape[2:]) and logits.isfinite().all()
    corner = images[..., :10, :10] if dims == 2 else images[..., :10, :10, :10]
    alone = cropped(net(padded(corner, (12,) * dims)), corner.shape[2:])
    first = (..., *(slice(0, 2),) * dims)  # no other window sees it
    assert torch.allclose(logits[first], alone[first], atol=1e-5)
    trainer = SegmenterTask(net, 3, window=10).eval()
    assert torch.allclose(trainer(images), logits, atol=1e-6)
    maps = GradCAM(target, layer="model.0").explain(images, torch.tensor([1]))
    assert maps.shape == (1, 1, *images.shape[2:])


# ------------------------------------------------------------------ maps of layers


class Halves(nn.Module):
    """A U-Net in small: its layer ``mid`` is an average over cells of 4 x 4 pixels, and the logits show the cell."""

    def __init__(self):
        super().__init__()
        self.mid = nn.AvgPool2d(4)

    def forward(self, x):
        if any(side % 4 for side in x.shape[2:]):
            raise RuntimeError("Sizes of tensors must match except in dimension 1.")
        y = nn.functional.interpolate(self.mid(x), scale_factor=4)
        return torch.cat([0 * y, y], dim=1)


def test_maps_of_a_layer_lie_where_its_cells_saw_the_image():
    images = torch.zeros(1, 1, 9, 17)
    images[..., 4:8, 12:16] = 1  # one cell of the grid that begins at the first pixel
    target, regions = SegmenterTarget(Halves()), torch.ones(1, 1, 9, 17, dtype=torch.bool)
    cells = torch.zeros(1, 1, 3, 5)
    cells[..., 1, 3] = 1
    expected = resize(cells, (12, 20))[..., :9, :17]
    for explainer in (GradCAM, HiResCAM):
        maps = explainer(target, layer="mid").explain(images, torch.tensor([1]), regions)
        assert torch.allclose(maps / maps.max(), expected / expected.max(), atol=1e-6), explainer
        assert torch.equal(maps == maps.max(), expected == expected.max())
    gradient = CaptumExplainer(target, "LayerActivation", layer="mid").explain(images, torch.tensor([1]), regions)
    assert torch.allclose(gradient, expected, atol=1e-6)
    assert torch.allclose(to_image(target, cells, images), expected)


@pytest.mark.parametrize("make", [GradCAM, HiResCAM, ScoreCAM, AblationCAM])
@pytest.mark.parametrize("layer", ["auto", "model.1.submodule.0"])
def test_every_class_activation_map_of_a_padded_image(make, layer):
    net, images, _ = network_case("MONAI")
    target = SegmenterTarget(net)
    regions = torch.rand(2, 1, *images.shape[2:]) < 0.5
    warm = SegmenterTarget(net)
    warm.logits(images)
    for targets, pixels in ((None, None), (torch.tensor([[1, 2], [0, 1]]), regions)):
        maps = make(target, layer=layer).explain(images, targets, pixels)
        assert maps.shape == (2, 2, *images.shape[2:]) and maps.isfinite().all()
        # Whether the padding was found before or during the explanation must not matter.
        assert torch.equal(maps, make(warm, layer=layer).explain(images, targets, pixels))
    other = torch.rand(1, 1, 25, 18)  # a size that is new to a target whose classes are known
    maps = make(target, layer=layer).explain(other, torch.tensor([1]), torch.ones(1, 1, 25, 18, dtype=torch.bool))
    fresh = make(SegmenterTarget(net), layer=layer)
    assert torch.equal(maps, fresh.explain(other, torch.tensor([1]), torch.ones(1, 1, 25, 18, dtype=torch.bool)))
