"""Score-CAM masks what the network receives, whichever side of the target normalizes the images."""

import pytest
import torch
from torch import nn

from lightning_xai import ClassifierTarget, SegmenterTarget
from lightning_xai.explainers import ScoreCAM
from tests.helpers import cnn, segmenter


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("wrap", [ClassifierTarget, SegmenterTarget])
def test_score_cam_masks_the_normalized_images(wrap, dims):
    channels = 3
    mean, std = [0.5, -1.0, 40.0], [0.2, 3.0, 10.0]
    shape = (1, -1) + (1,) * dims
    ready = torch.randn(2, channels, *(12,) * dims, generator=torch.Generator().manual_seed(0))
    images = ready * torch.tensor(std).view(shape) + torch.tensor(mean).view(shape)
    net: nn.Module = (cnn if wrap is ClassifierTarget else segmenter)(dims, channels)
    pixels = None if wrap is ClassifierTarget else ready[:, :1] > 0
    asked = torch.tensor([[1, 2], [2, 0]])
    inside = ScoreCAM(wrap(net, mean=mean, std=std), "0").explain(images, asked, pixels)
    before = ScoreCAM(wrap(net), "0").explain(ready, asked, pixels)
    torch.testing.assert_close(inside, before, rtol=1e-3, atol=1e-4 * float(before.abs().max()))


def test_a_dead_channel_does_not_win():
    """It hides everything, and here a blank image scores highest of all."""
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([0.0, 1.0, 2.0]).view(3, 1, 1, 1).expand(3, 1, 3, 3))
        net[0].bias.copy_(torch.tensor([-1.0, 0.0, 0.0]))
        net[4].weight.fill_(-1)
    images = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    target, asked = ClassifierTarget(net), torch.tensor([[0], [1]])
    assert (target.score(images * 0, asked) > target.score(images, asked) + 10).all()
    maps = ScoreCAM(target, "1").explain(images, asked)
    assert (maps.flatten(2).std(dim=2) > 0).all()
    with torch.no_grad():
        net[0].weight.zero_()
    assert not ScoreCAM(target, "1").explain(images, asked).any(), "no channel has any contrast"
