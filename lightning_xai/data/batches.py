"""Batches of images of different sizes, and random patches of one size."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from monai.data.dataset import Dataset
from monai.transforms.compose import Compose
from monai.transforms.croppad.dictionary import RandCropByPosNegLabeld, RandSpatialCropd, SpatialPadd
from torch.utils.data import Dataset as TorchDataset

Size = tuple[int, ...]


class EqualSizes(TorchDataset[list[Any]]):
    """Gives samples in lists of equal size, each of which becomes a batch.

    That images of several sizes need batches of several lengths stays hidden from samplers, those of several ranks too.

    Args:
        dataset: The samples.
        sizes: Spatial size of each, in pixels.
        batch_size: Samples a list, at most.
    """

    def __init__(self, dataset: Dataset, sizes: Sequence[Size], batch_size: int) -> None:
        self.dataset = dataset
        rows: dict[Size, list[int]] = defaultdict(list)
        for row, size in enumerate(sizes):
            rows[size].append(row)
        parts = [same[i : i + batch_size] for same in rows.values() for i in range(0, len(same), batch_size)]
        self.batches = sorted(parts, key=lambda part: part[0])

    def __len__(self) -> int:
        """Return the number of lists."""
        return len(self.batches)

    def __getitem__(self, index: int) -> list[Any]:
        """Return one list of samples."""
        return [self.dataset[row] for row in self.batches[index]]


def batched(dataset: Dataset, sizes: Sequence[Size], batch_size: int) -> Dataset | EqualSizes:
    """Return a data set as it is, or in batches of equal size where sizes differ; see `EqualSizes`."""
    return EqualSizes(dataset, sizes, batch_size) if len(set(sizes)) > 1 else dataset


def random_patches(patch: int | Sequence[int] | None, sizes: Sequence[Size], labeled: bool) -> list[Callable[..., Any]]:
    """Make the transforms that give a random patch of every training image, where one is larger than that.

    Args:
        patch: Side or sides of the patch, in pixels; smaller images get margins. None takes images whole.
        sizes: Spatial sizes of the images.
        labeled: Whether the mask holds classes: every second patch is then centered on one.

    Returns:
        MONAI dictionary transforms.

    Raises:
        ValueError: The patch has another number of axes than the images.
    """
    if patch is None or not sizes:
        return []
    sides = [patch] * len(sizes[0]) if isinstance(patch, int) else list(patch)
    if len(sides) != len(sizes[0]):
        raise ValueError(f"data.patch is {sides}, but images have {len(sizes[0])} axes; give a side for each.")
    if all(side <= limit for size in sizes for side, limit in zip(size, sides, strict=True)):
        return []
    keys = ("image", "mask")
    padded = SpatialPadd(keys, sides, mode=("minimum", "constant"), allow_missing_keys=True)
    if labeled:
        return [padded, RandCropByPosNegLabeld(keys, "mask", sides, num_samples=1)]
    return [padded, RandSpatialCropd(keys, sides, random_size=False, allow_missing_keys=True)]


def augmented_sizes(augment: Sequence[Callable[..., Any]], dataset: Dataset, sizes: Sequence[Size]) -> Sequence[Size]:
    """Find the sizes of augmented images: random crops, for one, bring images of different sizes to one.

    Args:
        augment: The transforms.
        dataset: The images without augmentation.
        sizes: Their spatial sizes.

    Returns:
        One size for all if the smallest and the largest image have the same afterwards, else the sizes as they were.
    """
    found: list[Size] = []
    for size in {min(sizes), max(sizes)} if len(set(sizes)) > 1 else set():
        sample: Any = Compose(list(augment))(dict(dataset[sizes.index(size)]))
        found += [tuple(part["image"].shape[1:]) for part in (sample if isinstance(sample, list) else [sample])]
    return found[:1] * len(sizes) if len(set(found)) == 1 else sizes
