"""Find labels whose maps lie outside of where the evidence can be, and the images that contribute most to it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lightning_xai.data.grids import resize_mask
from lightning_xai.data.reading import read_image
from lightning_xai.functional.components import connected_component
from lightning_xai.global_maps.maps_result import GlobalMapsResult

BINS = 256


@dataclass(frozen=True)
class Bias:
    """How much of a label's map lies outside of where the evidence can be.

    Attributes:
        label: Name of the label.
        outside: Fraction of the map's mass outside of the region.
        chance: Fraction of the pixels outside of it: what a constant map has there.
        images: The images that contribute most to it: id, and fraction of their map's mass outside.
    """

    label: str
    outside: float
    chance: float
    images: list[tuple[str, float]]

    @property
    def found(self) -> bool:
        """Whether most of the map lies outside, and more of it than of a constant map."""
        return self.outside > max(0.5, self.chance)


def find_bias(
    result: GlobalMapsResult, region: Tensor, inside: Sequence[tuple[str, int, float]] = (), top: int = 10
) -> list[Bias]:
    """Measure how much of every label's map lies outside of where the evidence should be.

    Args:
        result: The maps.
        region: Bool ``(*S)``, where evidence can be.
        inside: ``(id, label index, fraction inside)`` of single images' maps, as
            :class:`~lightning_xai.metrics.RelevanceMass` has them in its rows.
        top: Images of each label to name.

    Returns:
        One for each label that has a map, the most biased first.

    Raises:
        ValueError: If the region does not fit the maps, or is empty or everything.

    Example:
        >>> from lightning_xai.global_maps import GlobalMaps
        >>> metric = GlobalMaps(["cat"])
        >>> metric.update(maps=torch.tensor([[[[1.0, 3.0]]]]), labels=torch.tensor([0]))
        >>> find_bias(metric.compute(), torch.tensor([[True, False]]))[0].outside
        0.75
    """
    rows: dict[int, list[tuple[str, float]]] = {}
    for name, index, fraction in inside:
        if fraction == fraction:
            rows.setdefault(index, []).append((name, 1 - fraction))
    biases = []
    for index, (label, values) in enumerate(zip(result.labels, result.label_wise, strict=True)):
        if values is None or not values.any():
            continue
        if region.shape != values.shape or region.all() or not region.any():
            raise ValueError(
                f"The region {tuple(region.shape)} marks {int(region.sum())} pixels of maps {tuple(values.shape)}; "
                "give one of their size that holds some pixels, but not all."
            )
        outside = float(values[~region.to(values.device)].sum() / values.sum())
        images = sorted(rows.get(index, []), key=lambda row: -row[1])[:top]
        biases.append(Bias(label, outside, float((~region).double().mean()), images))
    return sorted(biases, key=lambda bias: -bias.outside)


def foreground(mean_image: Tensor) -> Tensor:
    """The largest connected component of the pixels above Otsu's threshold of a mean image, bool ``(*S)``.

    Otsu 1979, A threshold selection method from gray-level histograms.

    Args:
        mean_image: ``(C, *S)``; its channels are averaged.

    Raises:
        ValueError: If the image is constant.

    Example:
        >>> foreground(torch.tensor([[[0.1, 0.2, 0.8, 0.9]]])).tolist()
        [[False, False, True, True]]
    """
    gray = mean_image.double().mean(dim=0)
    low, high = gray.min(), gray.max()
    if not low < high:
        raise ValueError("The mean image is constant, so it has no foreground; give a mask file as the region.")
    level = ((gray - low) / (high - low) * BINS).long().clamp(max=BINS - 1)
    counts = torch.bincount(level.flatten(), minlength=BINS).double()
    below = counts.cumsum(dim=0)
    weight = (counts * torch.arange(BINS, device=counts.device)).cumsum(dim=0)
    apart = below * (below[-1] - below)
    # Variance between the two sides of every threshold; that of an empty side is 0.
    between = (weight[-1] * below - weight * below[-1]).square() / apart.where(apart > 0, 1)
    # Where no pixel lies between the sides, every threshold is as good: the middle one is the least arbitrary.
    best = (between >= between.max() * (1 - 1e-12)).nonzero().flatten()
    return torch.from_numpy(connected_component((level > best[len(best) // 2]).cpu().numpy(), "largest"))


def read_region(path: str | Path, size: tuple[int, ...]) -> Tensor:
    """Read a mask file as a region: bool ``size``, resized to the nearest pixel, true above 0.

    Raises:
        ValueError: If the file is not of as many dimensions.
    """
    mask = torch.from_numpy(read_image(Path(path), None, str(path))).amax(dim=0, keepdim=True)
    if mask.ndim != len(size) + 1:
        raise ValueError(f"The region {path} has {mask.ndim - 1} dimensions, but the images have {len(size)}.")
    return resize_mask((mask > 0).long(), size)[0] > 0
