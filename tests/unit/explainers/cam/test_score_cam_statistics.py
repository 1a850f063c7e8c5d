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
