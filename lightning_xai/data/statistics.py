"""Mean and standard deviation of each channel, and how intensities differ, computed image by image."""

import torch


class ChannelStatistics:
    """Computes mean and standard deviation of each channel from images that are added one by one.

    Attributes:
        pixels: How many there were in each channel.

    Example:
        >>> statistics = ChannelStatistics()
        >>> statistics.update(torch.tensor([[[0.0, 1.0], [1.0, 2.0]]]))
        >>> statistics.mean
        [1.0]
    """

    def __init__(self) -> None:
        self.pixels = 0
        self._sum: torch.Tensor | float = 0.0
        self._squares: torch.Tensor | float = 0.0

    def update(self, image: torch.Tensor) -> None:
        """Add one image.

        Args:
            image: (C, *S) float32.
        """
        flat = image.flatten(1).double()
        self.pixels += flat.shape[1]
        self._sum = self._sum + flat.sum(1)
        self._squares = self._squares + flat.square().sum(1)

    @property
    def mean(self) -> list[float]:
        """Mean of each channel."""
        return torch.as_tensor(self._sum / self.pixels).tolist()

    @property
    def std(self) -> list[float]:
        """Standard deviation of each channel, 1 where a channel is constant so that it can be divided by."""
        mean = torch.as_tensor(self._sum / self.pixels)
        std = (torch.as_tensor(self._squares / self.pixels) - mean.square()).clamp_min(0).sqrt()
        # What rounding leaves of a constant channel must not blow up when an image is divided by it.
        return torch.where(std > 1e-7 * mean.abs(), std, 1.0).tolist()


class IntensityRange:
    """Warns where mean and deviation of images differ so much that their units seem to differ from file to file."""

    #: How many times larger intensities must be in one file than in another for a warning.
    FACTOR = 10.0

    def __init__(self) -> None:
        self._images: list[tuple[float, float, str]] = []

    def update(self, image: torch.Tensor, name: str) -> None:
        """Add one image.

        Args:
            image: (C, *S) float32.
            name: What messages call it.
        """
        values = image.double()
        mean, deviation = float(values.mean()), float(values.std(correction=0))
        if deviation > 1e-7 * abs(mean):  # a constant image has no unit
            self._images.append((deviation, mean, name))

    def sentence(self) -> str | None:
        """Warn of deviations that differ tenfold, or of means that lie ten deviations apart.

        The lowest twentieth is left out, so that a dark image among many says nothing.

        Returns:
            The sentence, or None.
        """
        if not self._images:
            return None
        spread = sorted(self._images)
        low, high, typical = spread[(len(spread) - 1) // 20], spread[-1], spread[len(spread) // 2][0]
        if high[0] > self.FACTOR * low[0]:
            difference = f"standard deviation {low[0]:.3g} in {low[2]}, {high[0]:.3g} in {high[2]}"
        else:
            low, high = (choose(self._images, key=lambda image: image[1]) for choose in (min, max))
            if high[1] - low[1] <= self.FACTOR * typical:
                return None
            difference = f"mean {low[1]:.3g} in {low[2]}, {high[1]:.3g} in {high[2]}, standard deviation {typical:.3g}"
        return (
            f"Intensities of training images lie more than tenfold apart ({difference}), so that some look flat to the "
            "target; if their units differ from file to file, set data.normalize=image."
        )
