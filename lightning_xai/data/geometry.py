"""Check that images of a data set have channels, axes and orientation in common, and note where sizes differ."""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from monai.data.utils import affine_to_spacing
from nibabel.orientations import aff2axcodes

from lightning_xai.data.grids import Grid
from lightning_xai.data.items import Item
from lightning_xai.data.loaders import read_usable
from lightning_xai.data.loading import LoadItem

log = logging.getLogger(__name__)

#: How many times as large a voxel may be as another before spacing counts as mixed.
SPACING_RATIO = 1.2


class Geometry:
    """Collects channels, sizes and, of volumes, orientation and spacing of images that are added one by one.

    Attributes:
        grids: By the id of each image, where its pixels were in the file.
        channels: Channels of every image.
    """

    def __init__(self) -> None:
        self.grids: dict[str, Grid] = {}
        self.channels = 0
        self._first: Item | None = None
        self._axes: str | None = None
        self._voxels: list[tuple[np.ndarray, str]] = []

    @property
    def sizes(self) -> Counter[tuple[int, ...]]:
        """Number of images of each spatial size."""
        return Counter(grid.size for grid in self.grids.values())

    @property
    def mixed(self) -> bool:
        """Whether sizes differ."""
        return len(self.sizes) > 1

    @property
    def shape(self) -> tuple[int, ...]:
        """Channels and spatial size (C, *S) of every image; where sizes differ, the largest of each axis."""
        return (self.channels, *map(max, zip(*self.sizes, strict=True)))

    def read(
        self, load: LoadItem, items: Sequence[Item], strict: bool, skipped: list[str], where: str
    ) -> Iterator[tuple[Item, dict[str, Any]]]:
        """Read images once, add each, and log what a user should know about all.

        Args:
            load: Reads an item.
            items: What to read.
            strict: Whether an image that cannot be used stops everything.
            skipped: Gets a sentence for each that cannot be used.
            where: What messages call the data set.

        Yields:
            Each usable item in order, with its sample.

        Raises:
            BadImageError: An item cannot be used, and `strict` is set.
            ValueError: The images do not agree, or none can be used.
        """
        for item, (sample, grid) in read_usable(load.with_grid, items, strict, skipped):
            self.add(item, len(sample["image"]), grid, np.asarray(sample.get("affine", np.eye(4))))
            yield item, sample
        if skipped:
            log.warning("Skipped %d of %d images; the first: %s", len(skipped), len(items), skipped[0])
        if not self.grids:
            raise ValueError(f"No image of {where} can be used; the first one: {skipped[0]}")
        self._check_spacing(load, where)
        self._report(load.resize)

    def sizes_of(self, items: Sequence[Item]) -> list[tuple[int, ...]]:
        """Return the spatial size of each image."""
        return [self.grids[item.id].size for item in items]

    def add(self, item: Item, channels: int, grid: Grid, affine: np.ndarray) -> None:
        """Add an image.

        Args:
            item: The image.
            channels: Its channels.
            grid: Where its pixels were.
            affine: (4, 4), of the sample.

        Raises:
            ValueError: It has other axes, channels or another orientation than the first.
        """
        if self._first is None:
            self._first, self.channels = item, channels
        first, dims = self._first.name, len(next(iter(self.grids.values()), grid).size)
        if len(grid.size) != dims:
            raise ValueError(
                f"{item.name} has {len(grid.size)} spatial axes where {first} has {dims}; "
                "keep 2-D and 3-D images apart."
            )
        if channels != self.channels:
            raise ValueError(
                f"{item.name} has {channels} channels where {first} has {self.channels}; "
                "all images of a data set need the same channels."
            )
        self.grids[item.id] = grid
        if dims == 3:
            self._add_volume(item, affine, first)

    def _add_volume(self, item: Item, affine: np.ndarray, first: str) -> None:
        axes = "".join(name or "?" for name in aff2axcodes(affine))  # type: ignore[no-untyped-call]
        self._axes = self._axes or axes
        if axes != self._axes:
            raise ValueError(
                f"The axes of {item.name} point to {axes} where those of {first} point to {self._axes}; "
                "turn all to one orientation with data.orientation=RAS."
            )
        self._voxels.append((affine_to_spacing(affine, 3), item.name))

    def mixed_spacing(self) -> str | None:
        """Tell in a clause how the voxels of volumes differ, or None where they have one size."""
        for axis in range(3 if self._voxels else 0):
            (low, small), (high, large) = (
                choose(((float(voxel[axis]), name) for voxel, name in self._voxels)) for choose in (min, max)
            )
            if high > SPACING_RATIO * low:
                return f"voxels are {low:.3g} mm long in {small} and {high:.3g} mm in {large} (axis {axis})"
        return None

    def _check_spacing(self, load: LoadItem, where: str) -> None:
        """Raise an error for volumes of mixed spacing, unless it was asked for or comes from stretching them."""
        mixed = self.mixed_spacing()
        if mixed is not None and load.spacing != "any" and load.resize != "stretch":
            raise ValueError(
                f"The volumes of {where} have mixed spacing, and a network sees sizes in voxels: {mixed}; resample all "
                "with data.spacing=[1,1,1] (mm), or keep them with data.spacing=any."
            )

    def _report(self, resize: str) -> None:
        """Log what a user should know: sizes that differ, volumes that were cut, spacing that is mixed."""
        if self.mixed:
            least, most = (choose(self.sizes, key=lambda size: int(np.prod(size))) for choose in (min, max))
            log.info(
                "Images keep their %d sizes, from %s to %s: a batch holds images of one size. data.size=auto, or a "
                "size, brings all to one.", len(self.sizes), " x ".join(map(str, least)), " x ".join(map(str, most)),
            )  # fmt: skip
        if resize == "pad" and (cut := sum(grid.cut for grid in self.grids.values())):
            log.warning(
                "Of %d volumes larger than data.size the middle is used: their spacing is kept. data.size=null with "
                "target.window takes them whole, data.resize=stretch resamples them.", cut,
            )  # fmt: skip
