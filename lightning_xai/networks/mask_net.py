"""Small networks that MONAI does not have: classifiers, segmenters and mask generators for small images."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from monai.networks.blocks.convolutions import Convolution
from monai.networks.layers.factories import Conv, Pool
from monai.networks.nets.basic_unet import BasicUNet
from torch import Tensor, nn

# Not in place: explainers hook activations and need them as they were.
RELU = ("relu", {"inplace": False})


class SmallCNN(nn.Module):
    """A small classifier whose last convolution keeps a quarter of the resolution, for class activation maps.

    Stages of two conv-BN-ReLU blocks with max-pooling between them, then global average pooling and one linear layer.
    (MONAI's smallest ResNet pools a 28-pixel image down to 4 x 4.)

    Args:
        in_channels: Image channels.
        num_classes: Logits.
        spatial_dims: 2 or 3.
        widths: Channels of each stage; one more stage halves the resolution of the last convolution once more.

    Example:
        >>> import torch
        >>> SmallCNN(5, 3)(torch.rand(2, 5, 28, 28)).shape
        torch.Size([2, 3])
    """

    def __init__(
        self, in_channels: int, num_classes: int, spatial_dims: int = 2, widths: Sequence[int] = (16, 32, 64)
    ) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        for before, width in pairwise((in_channels, *widths)):
            block = [
                Convolution(spatial_dims, channels, width, bias=False, act=RELU, norm="batch", adn_ordering="NA")
                for channels in (before, width)
            ]
            stages.append(nn.Sequential(*([Pool["max", spatial_dims](2)] if stages else []), *block))
        self.features = nn.Sequential(*stages)
        self.head = nn.Linear(widths[-1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits ``(B, K)`` of images ``(B, C, *S)``."""
        logits: Tensor = self.head(self.features(images).flatten(2).mean(dim=2))
        return logits


class CifarResNet(nn.Module):
    """ResNet of 6n + 2 layers for 32-pixel images, with shortcuts that have no parameters (He et al. 2016, option A).

    Names and shapes are those of the widely used weights of Y. Idelbayev ("pytorch_resnet_cifar10").

    Args:
        depth: 20, 32, 44, 56, ...: 6n + 2.
        num_classes: Logits.

    Raises:
        ValueError: If the depth is not 6n + 2.

    Example:
        >>> import torch
        >>> CifarResNet(20)(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(self, depth: int = 20, num_classes: int = 10) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"depth is {depth}; it must be 6n + 2, such as 20 or 56.")
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1, self.layer2, self.layer3 = (
            nn.Sequential(
                CifarBlock(before, width, stride), *(CifarBlock(width, width, 1) for _ in range((depth - 2) // 6 - 1))
            )
            for before, width, stride in ((16, 16, 1), (16, 32, 2), (32, 64, 2))
        )
        self.linear = nn.Linear(64, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits ``(B, K)`` of images ``(B, 3, 32, 32)``."""
        features = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(images))))))
        logits: Tensor = self.linear(features.mean(dim=(2, 3)))
        return logits


class CifarBlock(nn.Module):
    """Two convolutions and a shortcut that drops positions and pads channels with zeros."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.stride, self.padding = stride, (width - before) // 2

    def forward(self, values: Tensor) -> Tensor:
        """Apply the block: ``(B, before, H, W)`` -> ``(B, width, H / stride, W / stride)``."""
        inner = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(values)))))
        shortcut = values[:, :, :: self.stride, :: self.stride]
        return F.relu(inner + F.pad(shortcut, (0, 0, 0, 0, self.padding, self.padding)))


class UNet(nn.Module):
    """The U-Net of U-Noise's paper: two conv-BN-ReLU a level, max-pooling, nearest upsampling, a 1x1 head.

    Koker et al. 2021, arXiv 2101.05791. Five levels of 64 channels are the paper's segmenter (34,527,041 parameters);
    two, three and four levels of 16 its small, medium and large noise networks (28,529, 130,577 and 537,425).

    Args:
        in_channels: Image channels.
        out_channels: Logits per pixel.
        depth: Levels; sides must be multiples of ``2 ** (depth - 1)``.
        width: Channels of the first level; each level doubles them.
        dims: 2 or 3.

    Example:
        >>> import torch
        >>> sum(value.numel() for value in UNet(3, 1, depth=2).parameters())
        28529
    """

    def __init__(self, in_channels: int, out_channels: int, depth: int = 3, width: int = 16, dims: int = 2) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(depth)]
        self.down = nn.ModuleList(_blocks(dims, before, after, 2) for before, after in pairwise((in_channels, *widths)))
        self.rise = nn.ModuleList(_blocks(dims, wide, narrow, 1) for narrow, wide in pairwise(widths))
        self.join = nn.ModuleList(_blocks(dims, 2 * narrow, narrow, 2) for narrow in widths[:-1])
        self.pool: nn.Module = Pool["max", dims](2)
        self.head = Conv["conv", dims](width, out_channels, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits ``(B, K, *S)`` of images ``(B, C, *S)``.

        Raises:
            ValueError: If a side cannot be halved as often as the network does.
        """
        check_halved(images.shape[2:], len(self.join))
        skips: list[Tensor] = []
        for level, block in enumerate(self.down):
            images = block(self.pool(images) if level else images)
            skips.append(images)
        values = skips.pop()
        for rise, join in zip(reversed(self.rise), reversed(self.join), strict=True):
            skip = skips.pop()
            values = join(torch.cat([rise(F.interpolate(values, size=skip.shape[2:], mode="nearest")), skip], dim=1))
        logits: Tensor = self.head(values)
        return logits


def check_halved(size: Sequence[int], times: int) -> None:
    """Raise an error for images that a network cannot halve as often as it does.

    Args:
        size: ``*S``.
        times: How often it does.

    Raises:
        ValueError: If a side is no multiple of ``2 ** times``.
    """
    if any(side % 2**times for side in size):
        raise ValueError(
            f"Images of {tuple(size)} cannot be halved {times} times; pad or resize their sides to multiples of "
            f"{2**times}."
        )


def _blocks(dims: int, before: int, after: int, count: int) -> nn.Sequential:
    """So many convolutions of 3, each with batch norm and ReLU."""
    channels = [before, *[after] * (count - 1)]
    return nn.Sequential(*(Convolution(dims, c, after, act=RELU, norm="batch", adn_ordering="NA") for c in channels))


def mask_features(channels: int, dims: int = 2) -> nn.Module:
    """The default trunk of a mask network: MONAI's U-Net of four levels with 16 features at image resolution.

    Args:
        channels: Image channels.
        dims: 2 or 3.

    Returns:
        ``(B, channels, *S)`` -> ``(B, 16, *S)``, any size of at least 16 a side.
    """
    return BasicUNet(dims, channels, 16, features=(16, 16, 32, 32, 64, 16), norm=("group", {"num_groups": 4}))


class MaskNet(nn.Module):
    """One map per target class from shared features: a linear head with a row per class.

    Args:
        features: ``(B, C, *S)`` -> ``(B, width, *S)``.
        classes: Number of classes.
        width: Features per pixel.
    """

    def __init__(self, features: nn.Module, classes: int, width: int = 16) -> None:
        super().__init__()
        self.features = features
        self.head = nn.Linear(width, classes)

    def forward(self, images: Tensor, targets: Tensor) -> Tensor:
        """Compute maps ``(B, T, *S)`` of the classes ``targets (B, T)``, before any activation."""
        features = self.features(images)
        flat = torch.einsum("bf...,btf->bt...", features, self.head.weight[targets])
        return flat + self.head.bias[targets].view(*targets.shape, *(1,) * (features.ndim - 2))
