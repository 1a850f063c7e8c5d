"""Networks: shapes, resolutions, and one map per target class."""

import pytest
import torch
from torch import nn

from lightning_xai.networks.mask_net import CifarBlock, CifarResNet, MaskNet, SmallCNN, UNet, mask_features


@pytest.mark.parametrize(("dims", "size"), [(2, (28, 20)), (3, (16, 12, 16))])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_small_cnn_takes_any_channels_and_dimensions(dims, size, channels):
    net = SmallCNN(channels, 4, dims, widths=(4, 8, 8)).eval()
    images = torch.rand(2, channels, *size)
    assert net(images).shape == (2, 4)
    features = net.features(images)
    assert features.shape == (2, 8, *(side // 4 for side in size)), "the last convolution must keep a quarter"


def test_one_more_stage_halves_the_last_convolution():
    net = SmallCNN(1, 2, widths=(4, 4, 4, 4)).eval()
    assert net.features(torch.rand(1, 1, 32, 32)).shape[2:] == (4, 4)


def test_small_cnn_changes_nothing_in_place():
    """Explainers hook activations: a later layer must not overwrite what an earlier one gave."""
    net = SmallCNN(1, 2, widths=(4, 4)).eval()
    captured = []
    for module in net.modules():
        if not list(module.children()):
            module.register_forward_hook(lambda _, __, output: captured.append((output, output.clone())))
    net(torch.randn(1, 1, 8, 8))
    assert captured and all(torch.equal(output, copy) for output, copy in captured)


@pytest.mark.parametrize(("dims", "size"), [(2, (16, 16)), (2, (28, 35)), (3, (16, 17, 18))])
def test_mask_features_keep_the_image_size(dims, size):
    net = mask_features(2, dims).eval()
    with torch.no_grad():
        assert net(torch.rand(1, 2, *size)).shape == (1, 16, *size)


def test_mask_features_do_not_depend_on_the_batch():
    net = mask_features(1)  # training mode: no batch statistics either
    images = torch.rand(3, 1, 16, 16)
    with torch.no_grad():
        assert torch.allclose(net(images)[1:2], net(images[1:2]), atol=1e-5)


@pytest.mark.parametrize("size", [(6, 5), (4, 5, 3)])
def test_mask_net_reads_a_row_per_class(size):
    conv = (nn.Conv2d, nn.Conv3d)[len(size) - 2](2, 7, 1)
    net = MaskNet(conv, classes=4, width=7)
    images, targets = torch.rand(2, 2, *size), torch.tensor([[3, 0, 3], [1, 2, 0]])
    maps = net(images, targets)
    assert maps.shape == (2, 3, *size)
    every = torch.einsum("bf...,kf->bk...", conv(images), net.head.weight)
    every = every + net.head.bias.view(1, -1, *(1,) * len(size))
    for row in range(2):
        assert torch.allclose(maps[row], every[row, targets[row]], atol=1e-6)
    assert torch.allclose(maps[0, 0], maps[0, 2], atol=1e-6), "one class has one map"


def test_mask_net_runs_its_features_once_for_all_queries():
    features = nn.Conv2d(1, 16, 3, padding=1)
    calls = []
    features.register_forward_hook(lambda *_: calls.append(1))
    MaskNet(features, 5)(torch.rand(2, 1, 8, 8), torch.tensor([[0, 1, 2, 3, 4]] * 2))
    assert len(calls) == 1


def test_a_cifar_resnet_has_as_many_layers_as_it_says():
    for depth, parameters in ((20, 269_722), (56, 853_018)):  # the published counts
        net = CifarResNet(depth)
        convolutions = [module for module in net.modules() if isinstance(module, nn.Conv2d)]
        assert len(convolutions) + 1 == depth
        assert sum(value.numel() for value in net.parameters()) == parameters
    with pytest.raises(ValueError, match="depth is 21; it must be 6n"):
        CifarResNet(21)


def test_a_shortcut_pads_channels_with_zeros_and_drops_positions():
    block = CifarBlock(4, 8, 2).eval()
    nn.init.zeros_(block.bn2.weight)
    images = torch.rand(2, 4, 6, 6)
    expected = torch.zeros(2, 8, 3, 3)
    expected[:, 2:6] = images[:, :, ::2, ::2]
    assert torch.equal(block(images), expected)


@pytest.mark.parametrize(
    ("depth", "width", "parameters"), [(5, 64, 34_527_041), (2, 16, 28_529), (3, 16, 130_577), (4, 16, 537_425)]
)
def test_the_u_nets_of_the_paper_have_its_parameter_counts(depth, width, parameters):
    net = UNet(3, 1, depth, width)
    assert sum(value.numel() for value in net.parameters()) == parameters


@pytest.mark.parametrize(("dims", "size"), [(2, (16, 24)), (3, (8, 16, 8))])
def test_a_u_net_gives_one_logit_a_pixel_and_class(dims, size):
    net = UNet(2, 3, depth=3, width=4, dims=dims).eval()
    images = torch.rand(2, 2, *size)
    assert net(images).shape == (2, 3, *size)
    alone = net(images[:1])
    assert torch.allclose(net(images)[:1], alone, atol=1e-5)
    with pytest.raises(ValueError, match="cannot be halved 2 times; pad or resize their sides to multiples of 4"):
        net(images[:, :, :-2])
