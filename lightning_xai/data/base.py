"""The data module that every source layout shares: splits, checks, statistics, caching and loaders."""

import logging
import math
import os
import zlib
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, Literal, TypedDict

import torch
from lightning import LightningDataModule
from monai.data.dataloader import DataLoader
from monai.data.dataset import CacheDataset, Dataset
from monai.transforms.compose import Compose
from monai.transforms.utility.dictionary import EnsureTyped
from torch.utils.data import default_collate

from lightning_xai.data.checks import check_agreement, check_items, fingerprint
from lightning_xai.data.items import Item
from lightning_xai.data.loading import LoadItem
from lightning_xai.data.reading import BadImageError, ChannelAxis
from lightning_xai.data.splits import SPLITS, assign_splits, label_counts, limit_splits
from lightning_xai.data.statistics import ChannelStatistics

log = logging.getLogger(__name__)


class Options(TypedDict, total=False):
    """What every data module takes beside its source; explained in `ImageDataModule`."""

    size: int | Sequence[int] | None
    batch_size: int
    splits: Sequence[float]
    seed: int
    cache: bool
    num_workers: int | None
    on_bad_image: Literal["raise", "skip"]
    augment: Sequence[Callable[..., Any]] | None
    limit: int | None
    channel_axis: ChannelAxis
    mask_classes: Sequence[str] | None
    prepare: Sequence[Callable[..., Any]] | None


class ImageDataModule(LightningDataModule, ABC):
    """Images with labels, and maybe masks, as batches of `image`, `label`, `mask`, `id`, and `affine` of volumes.

    A subclass sets `where` (its source, for messages) and writes `items`, which also sets `class_names`; it sets
    `multilabel` where labels are tuples. Images are float32 in natural units, not normalised.

    Args:
        size: Side, or spatial size, in pixels that every image is resized to; None keeps the sizes, which must agree.
        batch_size: Images a batch.
        splits: Shares of train, val and test where the source gives no split; they sum to 1.
        seed: Seed of the splits, of the order of training images and of the augmentation.
        cache: Whether to keep all images in memory after the first reading.
        num_workers: Worker processes a loader; None chooses for the cores at hand.
        on_bad_image: Whether an image or mask that cannot be used stops the run, or is skipped and listed.
        augment: MONAI dictionary transforms (keys image and mask) for training images, after the cache; those that give
            several patches an image, such as RandCropByPosNegLabeld, enlarge the batch.
        limit: Largest number of images a split, with the classes in proportion; None keeps all.
        channel_axis: Channel axis of arrays, npy, TIFF and NIfTI files, or "none" for volumes without channels; None
            takes it from the file or from the shape.
        mask_classes: Names of the values of the masks, background first: the data are for segmentation. Of two classes
            the second is every value above 0. None: masks only outline the evidence for a class of the image.
        prepare: MONAI dictionary transforms (keys image and mask) for every image, before resizing: crops,
            orientation and spacing of volumes, alignment such as `MirrorSided`. They may read label and laterality.

    Attributes:
        image_shape: Channels and spatial size (C, *S) of every image.
        channels: Channels an image.
        spatial_dims: 2 or 3.
        class_names: Name of each class.
        multilabel: Whether an image may have several labels.
        mean: Mean of each channel over the training images, after resizing.
        std: Standard deviation of each channel over the training images.
        split_items: The used items of each split, in the order of the loaders.
        skipped: Why each skipped image was skipped.
        has_masks: Whether batches carry masks.
    """

    where: str
    class_names: list[str]
    multilabel = False
    image_shape: tuple[int, ...]
    channels: int
    spatial_dims: int
    has_masks: bool
    mean: list[float]
    std: list[float]

    def __init__(
        self,
        size: int | Sequence[int] | None = None,
        batch_size: int = 32,
        splits: Sequence[float] = (0.7, 0.15, 0.15),
        seed: int = 0,
        cache: bool = True,
        num_workers: int | None = None,
        on_bad_image: Literal["raise", "skip"] = "raise",
        augment: Sequence[Callable[..., Any]] | None = None,
        limit: int | None = None,
        channel_axis: ChannelAxis = None,
        mask_classes: Sequence[str] | None = None,
        prepare: Sequence[Callable[..., Any]] | None = None,
    ) -> None:
        super().__init__()
        if len(splits) != 3 or min(splits) <= 0 or abs(sum(splits) - 1) > 1e-6:
            raise ValueError(f"data.splits is {list(splits)}; give three positive shares that sum to 1.")
        if mask_classes is not None and len(mask_classes) < 2:
            raise ValueError(f"data.mask_classes is {list(mask_classes)}; name the background and at least one class.")
        if on_bad_image not in ("raise", "skip"):
            raise ValueError(f"data.on_bad_image is {on_bad_image!r}; use raise or skip.")
        self.size = size if size is None or isinstance(size, int) else tuple(size)
        self.batch_size = batch_size
        self.splits = tuple(splits)
        self.seed = seed
        self.cache = cache
        self.num_workers = num_workers
        self.on_bad_image = on_bad_image
        self.augment = list(augment or [])
        self.limit = limit
        self.channel_axis = channel_axis
        self.mask_classes = None if mask_classes is None else [str(name) for name in mask_classes]
        self.prepare = list(prepare or [])
        self.skipped: list[str] = []
        self.split_items: dict[str, list[Item]] = {}
        self._datasets: dict[str, Dataset] = {}
        self._plain: dict[str, Dataset] = {}

    @abstractmethod
    def items(self) -> list[Item]:
        """List all images of the source without reading them, and set `class_names`.

        Returns:
            The items, in an order that is the same on every machine.
        """

    @property
    def num_classes(self) -> int:
        """Number of classes; 0 for unlabelled images."""
        return len(self.class_names)

    @property
    def split_counts(self) -> dict[str, dict[str, int]]:
        """Images of each class in each split; for unlabelled images their number under "unlabelled"."""
        if not self.class_names:
            return {split: {"unlabelled": len(items)} for split, items in self.split_items.items()}
        return {
            split: dict(zip(self.class_names, label_counts(items, self.num_classes).sum(0).tolist(), strict=True))
            for split, items in self.split_items.items()
        }

    def facts(self) -> dict[str, Any]:
        """Return what others need to know about the data, as plain values.

        Returns:
            channels, dims, classes (their number) and class_names of what the target tells apart, activation
            ("softmax", or "sigmoid" for several labels), mean, std, has_masks, and a fingerprint of ids, labels, splits
            and file sizes.
        """
        names = self.class_names if self.mask_classes is None else self.mask_classes
        return {
            "channels": self.channels,
            "dims": self.spatial_dims,
            "classes": len(names),
            "class_names": list(names),
            "activation": "sigmoid" if self.multilabel and self.mask_classes is None else "softmax",
            "mean": self.mean,
            "std": self.std,
            "has_masks": self.has_masks,
            "fingerprint": fingerprint(self.split_items),
        }

    def setup(self, stage: str | None = None) -> None:
        """Find, split, read and check all images; once, whatever the stage.

        Args:
            stage: Ignored: every stage needs the statistics of the training images.

        Raises:
            ValueError: Labels, ids, groups, channels or sizes are wrong, or a class or split is empty.
            BadImageError: An image or mask cannot be used, unless `on_bad_image` is "skip".
        """
        if self._datasets:
            return
        items = self.items()
        check_items(items, self.class_names, self.where)
        items = assign_splits(items, self.num_classes, self.splits, self.seed)
        if self.limit is not None:
            items = limit_splits(items, self.num_classes, self.limit, self.seed)
        self._read(items)
        self._report()

    def train_dataloader(self) -> DataLoader:
        """Return the training images, shuffled and augmented."""
        return self._loader("train")

    def val_dataloader(self) -> DataLoader:
        """Return the validation images in order."""
        return self._loader("val")

    def test_dataloader(self) -> DataLoader:
        """Return the test images in order."""
        return self._loader("test")

    def predict_dataloader(self) -> DataLoader:
        """Return the test images in order."""
        return self._loader("test")

    def plain_dataloader(self, split: str) -> DataLoader:
        """Return the images of a split in order, without augmentation."""
        return self._loader(split, plain=True)

    def _read(self, items: list[Item]) -> None:
        """Read every image once: check it, add it to the statistics, and keep it if there is a cache."""
        self.has_masks = any(item.mask is not None for item in items)
        if self.mask_classes is not None and not self.has_masks:
            raise ValueError(f"data.mask_classes is given, but {self.where} has no masks; say where they are.")
        load = LoadItem(self.size, self.channel_axis, self.has_masks, self.mask_classes, self.prepare)
        statistics = ChannelStatistics()
        kept: dict[str, list[Item]] = {split: [] for split in SPLITS}
        cached: dict[str, list[dict[str, Any]]] = defaultdict(list)
        first: tuple[Item, torch.Size] | None = None
        for item, sample in _read_all(load, items):
            if isinstance(sample, BadImageError):
                if self.on_bad_image == "raise":
                    raise sample
                self.skipped.append(str(sample))
                continue
            shape = sample["image"].shape
            first = first or (item, shape)
            check_agreement(*first, item, shape)
            split = item.split or ""
            kept[split].append(item)
            if split == "train":
                statistics.update(sample["image"])
            if self.cache:
                cached[split].append(sample)
        if self.skipped:
            log.warning("Skipped %d of %d images; the first: %s", len(self.skipped), len(items), self.skipped[0])
        for split in SPLITS:
            if not kept[split]:
                raise ValueError(f"The {split} split of {self.where} ends up empty; give it images.")
        assert first is not None
        self.image_shape = tuple(first[1])
        self.channels, self.spatial_dims = self.image_shape[0], len(self.image_shape) - 1
        self.mean, self.std = statistics.mean, statistics.std
        for split, rows in kept.items():
            # Sources list class after class: mixed, the first batches of a split are a fair sample of it.
            order = sorted(range(len(rows)), key=lambda row: zlib.crc32(rows[row].id.encode()))
            kept[split] = [rows[row] for row in order]
            cached[split] = [cached[split][row] for row in order] if self.cache else []
        self.split_items = kept
        self._plain = {split: self._dataset(split, load, cached[split], []) for split in SPLITS}
        self._datasets = self._plain | {"train": self._dataset("train", load, cached["train"], self.augment)}

    def _dataset(self, split: str, load: LoadItem, cached: list[dict[str, Any]], augment: list[Any]) -> Dataset:
        steps: list[Any] = [load]
        if augment:
            plain = EnsureTyped(
                ("image", "mask"), dtype=(torch.float32, torch.int64), track_meta=False, allow_missing_keys=True
            )
            # Nested, the augmentation counts as random as a whole: the cache holds what `load` gives, and no more.
            steps.append(Compose([*augment, plain]))
        items, transform = self.split_items[split], Compose(steps)
        if not self.cache:
            return Dataset(items, transform)
        return CacheDataset(items, transform, runtime_cache=cached, progress=False)

    def _loader(self, split: str, plain: bool = False) -> DataLoader:
        workers = self._workers()
        return DataLoader(
            (self._plain if plain else self._datasets)[split],
            batch_size=self.batch_size,
            shuffle=split == "train" and not plain,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
            collate_fn=collate,
            # Without a generator of its own, MONAI's loader would reset the global one.
            generator=torch.Generator().manual_seed(self.seed),
        )

    def _workers(self) -> int:
        """Choose the number of worker processes: none where they would cost more than they bring."""
        if self.num_workers is not None:
            return self.num_workers
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        # From the cache, only augmenting large images is work enough to pay for sending them between processes.
        light = self.cache and (not self.augment or math.prod(self.image_shape) <= 512 * 512)
        return 0 if light or cores <= 2 else min(8, cores - 1)

    def _report(self) -> None:
        """Log the splits, and warn of classes that a split lacks."""
        for split, counts in self.split_counts.items():
            classes = ", ".join(f"{name} {count}" for name, count in counts.items())
            log.info("Split %s (seed %d): %d images (%s)", split, self.seed, len(self.split_items[split]), classes)
            absent = [name for name, count in counts.items() if not count]
            if absent:
                log.warning("The %s split has no image of class %s", split, ", ".join(absent))


def collate(samples: list[Any]) -> Any:
    """A batch of samples, or of lists of patches."""
    return default_collate([part for each in samples for part in (each if isinstance(each, list) else [each])])


def _read_all(load: LoadItem, items: Sequence[Item]) -> Iterator[tuple[Item, Any]]:
    """Read in threads, few at a time, so that a data set that is not cached never sits in memory whole."""

    def attempt(item: Item) -> dict[str, Any] | BadImageError:
        try:
            return load(item)
        except BadImageError as error:
            return error

    queue = iter(items)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        while chunk := list(islice(queue, 64)):
            yield from zip(chunk, pool.map(attempt, chunk), strict=True)
