"""Mean and standard deviation of each channel, streamed image by image."""

import torch


class ChannelStatistics:
    """Adds up images one by one and keeps three numbers a channel.

    Example:
        >>> statistics = ChannelStatistics()
        >>> statistics.update(torch.tensor([[[0.0, 1.0], [1.0, 2.0]]]))
        >>> statistics.mean
        [1.0]
    """

    def __init__(self) -> None:
        self._pixels = 0
        self._sum: torch.Tensor | float = 0.0
        self._squares: torch.Tensor | float = 0.0

    def update(self, image: torch.Tensor) -> None:
        """Add one image.

        Args:
            image: (C, *S) float32.
        """
        flat = image.flatten(1).double()
        self._pixels += flat.shape[1]
        self._sum = self._sum + flat.sum(1)
        self._squares = self._squares + flat.square().sum(1)

    @property
    def mean(self) -> list[float]:
        """Mean of each channel."""
        return torch.as_tensor(self._sum / self._pixels).tolist()

    @property
    def std(self) -> list[float]:
        """Standard deviation of each channel, 1 where a channel is constant so that it can be divided by."""
        mean = torch.as_tensor(self._sum / self._pixels)
        std = (torch.as_tensor(self._squares / self._pixels) - mean.square()).clamp_min(0).sqrt()
        # What rounding leaves of a constant channel must not blow up when an image is divided by it.
        return torch.where(std > 1e-7 * mean.abs(), std, 1.0).tolist()
