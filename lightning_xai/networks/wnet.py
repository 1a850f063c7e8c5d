"""Little W-Net: two small U-Nets in a row that segment vessels in images of the eye's fundus."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_xai.networks.mask_net import check_halved

WIDTHS = (8, 16, 32)


class LittleWNet(nn.Module):
    """Two small U-Nets; the second reads the image and the logits of the first, and its logits are the output.

    Galdran et al. 2022, "State-of-the-art retinal vessel segmentation with minimalistic models", Scientific Reports 12.
    Names and shapes are those of the published weights (68,482 parameters), which take color images in [0, 1], cropped
    to the field of view, of 512 x 512 pixels. The logits of the published weights mean vessel above log(2 / 3), a
    probability of .4.

    Args:
        in_channels: Image channels.
        out_channels: Logits per pixel.

    Example:
        >>> sum(value.numel() for value in LittleWNet().parameters())
        68482
    """

    def __init__(self, in_channels: int = 3, out_channels: int = 1) -> None:
        super().__init__()
        self.unet1 = LittleUNet(in_channels, out_channels)
        self.unet2 = LittleUNet(in_channels + out_channels, out_channels)

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits ``(B, K, H, W)`` of images ``(B, C, H, W)``, whose sides are multiples of 4.

        Raises:
            ValueError: If a side cannot be halved twice.
        """
        check_halved(images.shape[2:], len(WIDTHS) - 1)
        logits: Tensor = self.unet2(torch.cat([images, self.unet1(images)], dim=1))
        return logits


class LittleUNet(nn.Module):
    """A U-Net of three levels with a convolution in every skip connection.

    Args:
        in_channels: Input channels.
        out_channels: Logits per pixel.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.first = Block(in_channels, WIDTHS[0])
        self.down_path = nn.ModuleList(Block(before, after) for before, after in pairwise(WIDTHS))
        self.up_path = nn.ModuleList(Up(before, after) for before, after in pairwise(reversed(WIDTHS)))
        self.final = nn.Conv2d(WIDTHS[0], out_channels, 1)

    def forward(self, values: Tensor) -> Tensor:
        """Compute logits ``(B, K, H, W)`` of values ``(B, C, H, W)``."""
        skips = [self.first(values)]
        for block in self.down_path:
            skips.append(block(F.max_pool2d(skips[-1], 2)))
        values = skips.pop()
        for up in self.up_path:
            values = up(values, skips.pop())
        logits: Tensor = self.final(values)
        return logits


class Block(nn.Module):
    """Two convolutions, and a shortcut of one convolution that is added to them.

    Args:
        before: Input channels.
        after: Output channels.
    """

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.block = nn.Sequential(*_convolution(before, after), *_convolution(after, after))
        self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, bias=False), nn.BatchNorm2d(after))

    def forward(self, values: Tensor) -> Tensor:
        """Apply the block: ``(B, before, H, W)`` -> ``(B, after, H, W)``."""
        summed: Tensor = self.block(values) + self.shortcut(values)
        return summed


class Up(nn.Module):
    """Doubles the resolution and joins the features that skipped the coarser levels.

    Args:
        before: Input channels.
        after: Channels of the skip and of the output.
    """

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.up_layer = Steps(nn.ConvTranspose2d(before, after, 2, stride=2))
        self.conv_bridge_layer = Steps(*_convolution(after, after))
        self.conv_layer = Block(2 * after, after)

    def forward(self, values: Tensor, skip: Tensor) -> Tensor:
        """Enlarge and join: ``(B, before, H, W)`` and the skip ``(B, after, 2 H, 2 W)`` -> ``(B, after, 2 H, 2 W)``."""
        joined: Tensor = self.conv_layer(torch.cat([self.up_layer(values), self.conv_bridge_layer(skip)], dim=1))
        return joined


class Steps(nn.Module):
    """Layers one after the other, under the name that the published weights give them."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.block = nn.Sequential(*layers)

    def forward(self, values: Tensor) -> Tensor:
        """Apply the layers to values ``(B, before, H, W)``."""
        output: Tensor = self.block(values)
        return output


def _convolution(before: int, after: int) -> list[nn.Module]:
    """A convolution of 3, ReLU (not in place: explainers hook what is before it) and batch norm, in this order."""
    return [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(after)]
