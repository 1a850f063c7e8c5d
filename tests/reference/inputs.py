"""Small inputs and models, the same bits on every machine; the values in peer_values.json belong to them.

Nothing here draws from a library's random generator: integers come from a linear congruential generator in plain
Python, and every value is an integer over a power of two. Sums of such products are exact in float32, so the linear
model's logits do not depend on the order of summation.
"""

import torch
from torch import Tensor, nn

IMAGES = 4
SIZE = 12
PIXELS = SIZE * SIZE
CLASSES = 3
CONV_LAYERS = ("relu1", "relu2")


def integers(seed: int, count: int, below: int) -> list[int]:
    """``count`` integers in [0, below); the high half of a 32-bit linear congruential generator."""
    state, drawn = (seed * 2654435761 + 12345) % 2**32, []
    for _ in range(count):
        state = (1664525 * state + 1013904223) % 2**32
        drawn.append((state >> 16) % below)
    return drawn


def shuffled(seed: int, count: int) -> list[int]:
    """A permutation of 0 .. count - 1 (Fisher-Yates)."""
    order = list(range(count))
    for last, draw in zip(range(count - 1, 0, -1), integers(seed, count, 2**16), strict=False):
        pick = draw % (last + 1)
        order[last], order[pick] = order[pick], order[last]
    return order


def images(channels: int) -> Tensor:
    """``(4, C, 12, 12)`` float32 in (0, 1): noise, stronger from image to image, and one bright quadrant each.

    Every image has its own minimum, which is above zero.
    """
    count = channels * PIXELS
    rows = [[24 + 8 * row + value for value in integers(100 + row, count, 40 + 20 * row)] for row in range(IMAGES)]
    table = torch.tensor(rows).view(IMAGES, channels, SIZE, SIZE)
    half = SIZE // 2
    for row in range(IMAGES):
        top, left = half * (row // 2), half * (row % 2)
        table[row, :, top : top + half, left : left + half] += 100
    return table.float() / 256


def maps() -> Tensor:
    """``(4, 12, 12)`` float32, positive, no two pixels of a map alike."""
    rows = [[value + 1 for value in shuffled(200 + row, PIXELS)] for row in range(IMAGES)]
    return (torch.tensor(rows).float() / 256).view(IMAGES, SIZE, SIZE)


def signed_maps() -> Tensor:
    """``maps`` shifted so that the lowest 40 pixels are negative."""
    return maps() - 41 / 256


def reversed_maps() -> Tensor:
    """``maps`` with the order of the pixels turned round; positive, as Quantus refuses maps that are all negative."""
    return 145 / 256 - maps()


def tied_maps() -> Tensor:
    """``(4, 12, 12)`` float32 with 8 levels of 18 pixels each."""
    return ((maps() * 256 - 1) // 18 + 1) / 8


def other_maps() -> Tensor:
    """``(4, 12, 12)`` float32: ``maps`` plus a second pattern, for similarities between two maps."""
    rows = [[value + 1 for value in shuffled(300 + row, PIXELS)] for row in range(IMAGES)]
    return maps() + (torch.tensor(rows).float() / 512).view(IMAGES, SIZE, SIZE)


def masks() -> Tensor:
    """``(4, 12, 12)`` bool: a rectangle, scattered pixels that ``maps`` likes, a band with the maximum, nothing."""
    table = torch.zeros(IMAGES, SIZE, SIZE, dtype=torch.bool)
    table[0, 2:7, 3:9] = True
    jitter = torch.tensor(integers(400, PIXELS, PIXELS)).view(SIZE, SIZE)
    table[1] = maps()[1] * 256 + jitter > 190
    table[2, 7:] = True
    table[2].view(-1)[maps()[2].argmax()] = True
    return table


def targets() -> Tensor:
    """``(4,)`` int64: the class asked of each image."""
    return torch.tensor([0, 2, 1, 1])


def set_weights(layer: nn.Linear | nn.Conv2d, seed: int, unit: int) -> None:
    """Weights and biases ``k / unit`` with ``k`` in -8 .. 8."""
    assert layer.bias is not None
    with torch.no_grad():
        for parameter, own in ((layer.weight, seed), (layer.bias, seed + 1)):
            drawn = torch.tensor(integers(own, parameter.numel(), 17)).float() - 8
            parameter.copy_(drawn.view(parameter.shape) / unit)


class LinearModel(nn.Module):
    """Logits ``weight @ flat image + bias``; exact in float32.

    Args:
        channels: Of the image.
        classes: Logits.
    """

    def __init__(self, channels: int, classes: int = CLASSES) -> None:
        super().__init__()
        self.head = nn.Linear(channels * PIXELS, classes)
        set_weights(self.head, 526, 32)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """``(B, C, 12, 12)`` to ``(B, classes)``."""
        logits: Tensor = self.head(images.flatten(1))
        return logits


class ConvNet(nn.Module):
    """Two convolutions with ReLU (12 x 12, then 6 x 6), global mean, linear head.

    Args:
        channels: Of the image.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 4, 3, padding=1)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.relu2 = nn.ReLU()
        self.head = nn.Linear(6, CLASSES)
        set_weights(self.conv1, 600, 16)
        set_weights(self.conv2, 700, 16)
        set_weights(self.head, 1756, 2)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """``(B, C, 12, 12)`` to ``(B, 3)``."""
        hidden = self.relu2(self.conv2(self.relu1(self.conv1(images))))
        logits: Tensor = self.head(hidden.mean(dim=(2, 3)))
        return logits


def models() -> dict[str, tuple[nn.Module, Tensor]]:
    """Every model with its images: linear_gray, linear_rgb, conv_gray, conv_rgb."""
    kinds = {"linear": LinearModel, "conv": ConvNet}
    colors = {"gray": 1, "rgb": 3}
    return {
        f"{kind}_{color}": (net(channels), images(channels))
        for kind, net in kinds.items()
        for color, channels in colors.items()
    }
