"""Images with a planted square, a model that sees nothing else, and a PCIM that notes what it does."""

import torch
import torch.nn.functional as F
from torch import nn

from lightning_xai.explainers import PCIM


def squares(count=4, side=16, contrast=0.8, square=3):
    """Dark noise with a bright square at a random place: images and masks."""
    images, masks = 0.1 * torch.rand(count, 1, side, side), torch.zeros(count, 1, side, side, dtype=torch.bool)
    for image, mask in zip(images, masks, strict=True):
        row, column = (int(place) for place in torch.randint(1, side - square, (2,)))
        mask[:, row : row + square, column : column + square] = True
        image[mask] += contrast
    return images, masks


class SquareFinder(nn.Module):
    """Class 1 where any 3 x 3 patch is bright, class 0 elsewhere: the square is all the evidence there is."""

    def forward(self, images):
        brightest = F.avg_pool2d(images.mean(dim=1, keepdim=True), 3, stride=1).amax(dim=(1, 2, 3))
        return torch.stack([torch.zeros_like(brightest), 20 * (brightest - 0.4)], dim=1)


def mass(maps, masks):
    """Fraction of the positive relevance inside the masks, per image."""
    positive = maps[:, 0].clamp(min=0)
    return (positive * masks[:, 0]).flatten(1).sum(dim=1) / positive.flatten(1).sum(dim=1)


class Spy(PCIM):
    """Notes the arguments of every objective."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.calls = []

    def objective(self, raw, images, baseline, query, step):
        self.calls.append((raw.detach().clone(), baseline, step))
        return super().objective(raw, images, baseline, query, step)


def correlation(a, b):
    return torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]
