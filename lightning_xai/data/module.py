"""The base class of all data modules: splits, checks, statistics, caching and loaders."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from monai.data.dataset import Dataset

from lightning_xai.data.batches import augmented_sizes, batched, random_patches
from lightning_xai.data.boxes import with_boxes
from lightning_xai.data.cache import SampleCache
from lightning_xai.data.checks import check_ids, check_items, fingerprint
from lightning_xai.data.geometry import Geometry
from lightning_xai.data.grids import Resize
from lightning_xai.data.items import Item
from lightning_xai.data.loaders import make_dataset
from lightning_xai.data.loading import LoadItem, Normalize, Spacing, as_transform
from lightning_xai.data.options import Options, Size, check_options
from lightning_xai.data.reading import ChannelAxis
from lightning_xai.data.split_loaders import SplitLoaders
from lightning_xai.data.splits import (
    SPLITS,
    choose_splits,
    class_counts,
    limit_splits,
    log_splits,
    mixed_order,
)
from lightning_xai.data.statistics import ChannelStatistics, IntensityRange
from lightning_xai.data.survey import chosen_size, survey_masks, usual_channels, with_statistics

log = logging.getLogger(__name__)


class ImageDataModule(SplitLoaders, ABC):
    """Loads images with labels, and maybe masks, as batches of `image`, `label`, `mask`, `id`, and `affine` of volumes.

    A subclass sets `where` (its source, for messages) and writes `items`, which also sets `class_names`; it sets
    `multilabel` where labels are tuples. Images are float32 in natural units, not normalized.

    Args:
        size: Side, or spatial size, in pixels that every image gets; None keeps the sizes, and where they differ each
            batch holds images of one size; "auto" keeps them where they agree, and else chooses (see `common_size`).
        batch_size: Images a batch.
        splits: Fractions of train, val and test where the source gives no split; they sum to 1.
        seed: Seed of the splits, of the order of training images and of the augmentation.
        cache: Whether to keep all images after the first reading, see `SampleCache`.
        cache_limit: Gigabytes that may take; None: half of what is free. More than that is read each time.
        num_workers: Worker processes a loader; None chooses for the cores at hand and the ranks that share them.
        on_bad_image: Whether an image or mask that cannot be used stops the run, or is skipped and listed.
        augment: MONAI dictionary transforms (keys image and mask) for training images, after the cache; those that give
            several patches an image enlarge the batch.
        limit: Largest number of images a split, with the classes in proportion; None keeps all.
        channel_axis: As in `read_located`.
        mask_classes: Names of the values of the masks, background first: the data are for segmentation. Of two classes
            the second is the larger one of two values, such as 0 and 255, or all above 0 (see `mask_rule`). None: masks
            only outline the evidence for a class of the image.
        prepare: MONAI dictionary transforms (keys image and mask) for every image, before resizing: crops,
            orientation and spacing of volumes, alignment such as `MirrorSided`. They may read label and laterality.
        normalize: "image" gives every image mean 0 and standard deviation 1, channel by channel, after `prepare`: for
            files whose units differ, such as MRI. "dataset" does so with the statistics of the training images, or with
            given ones, `{"mean": ..., "std": ...}`. None, or "none", keeps the units of the files.
        channels: 1 turns color images into gray, 3 gray ones into color. None: all must have the same channels.
        ignore_index: Value of pixels that masks say nothing about. None: 255 next to small values.
        resize: How images get `size`: "pad" adds margins of their lowest value, "crop" cuts off their borders (volumes
            keep their spacing with both, and only their middle if they are larger), "stretch" distorts them.
        orientation: Axes that volumes are turned to before `prepare`, such as "RAS"; None: they must agree.
        spacing: Size of a voxel in mm that volumes are resampled to, next, such as [1, 1, 1]; None: they must agree,
            unless `resize` is "stretch"; "any": they may differ.
        window_hu: Lowest and highest value, which become 0 and 1 before `prepare`; [-150, 250] shows soft tissue in CT.
        patch: Side or sides of random patches of training images that are larger; None takes them whole.
        boxes: A COCO file or a folder of VOC files with boxes, which serve as masks of the evidence.

    Attributes:
        channels: Channels an image.
        spatial_dims: 2 or 3.
        class_names: Name of each class.
        multilabel: Whether an image may have several labels.
        mean: Mean of each channel over the training images, or all where none are to train on, after resizing; None
            after `setup("predict")` alone.
        std: Standard deviation of each channel over the same images, or None.
        split_items: The used items of each split in the order of the loaders; of "predict" alone if that came first.
        skipped: Why each skipped image was skipped.
        has_masks: Whether batches carry masks.
    """

    where: str
    class_names: list[str]
    multilabel = False
    channels: int
    spatial_dims: int
    has_masks: bool
    mean: list[float] | None
    std: list[float] | None

    def __init__(
        self,
        size: Size = None,
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
        normalize: Normalize = None,
        channels: Literal[1, 3] | None = None,
        ignore_index: int | None = None,
        resize: Resize = "pad",
        orientation: str | None = None,
        spacing: Spacing = None,
        window_hu: Sequence[float] | None = None,
        patch: Sequence[int] | int | None = None,
        boxes: str | Path | None = None,
        cache_limit: float | None = None,
    ) -> None:
        super().__init__()
        options: Options = {"size": size, "splits": splits, "mask_classes": mask_classes, "on_bad_image": on_bad_image}
        options |= {"batch_size": batch_size, "seed": seed, "cache": cache, "num_workers": num_workers, "limit": limit}
        options |= {"normalize": normalize, "channels": channels, "channel_axis": channel_axis, "resize": resize}
        options |= {"orientation": orientation, "spacing": spacing, "window_hu": window_hu, "patch": patch}
        check_options(options | {"boxes": boxes, "ignore_index": ignore_index, "cache_limit": cache_limit})
        self.size: int | tuple[int, ...] | Literal["auto"] | None
        self.size = size if size is None or isinstance(size, int | str) else tuple(size)
        self.batch_size = batch_size
        self.splits = tuple(splits)
        self.seed = seed
        self.cache, self.cache_limit = cache, cache_limit
        self.num_workers = num_workers
        self.on_bad_image = on_bad_image
        self.augment = list(augment or [])
        self.limit = limit
        self.channel_axis = channel_axis
        self.mask_classes = None if mask_classes is None else [str(name) for name in mask_classes]
        self.prepare = list(prepare or [])
        self.normalize: Normalize = None if normalize == "none" else normalize
        self.wanted_channels, self.ignore_index = channels, ignore_index
        self.resize, self.window_hu = resize, window_hu
        self.orientation, self.spacing = orientation, spacing
        self.patch, self.boxes = patch, boxes
        self.geometry = Geometry()
        self.skipped: list[str] = []
        self.split_items: dict[str, list[Item]] = {}
        self._datasets, self._plain, self._cache = {}, {}, None

    @abstractmethod
    def items(self) -> list[Item]:
        """List all images of the source without reading them, and set `class_names`.

        Returns:
            The items, in an order that is the same on every machine.
        """

    def predict_items(self) -> list[Item]:
        """List all images of the source for `predict`, in an order as in `items`: no label, split or mask is needed."""
        return [replace(item, label=None, split=None) for item in self.items()]

    @property
    def num_classes(self) -> int:
        """Number of classes; 0 for unlabeled images."""
        return len(self.class_names)

    @property
    def split_counts(self) -> dict[str, dict[str, int]]:
        """Images of each class in each split; for unlabeled images their number under "unlabeled"."""
        return class_counts(self.split_items, self.class_names)

    def data_info(self) -> dict[str, Any]:
        """Return what target, explainer and run need to know about the data, as plain values.

        Returns:
            channels, dims, size (*S, in pixels; None where sizes differ), classes (their number) and class_names that
            the target predicts, activation ("softmax", or "sigmoid" for several labels), mean, std, has_masks, and a
            fingerprint of ids, labels, splits and file sizes. After `setup("predict")` alone there are no class names
            of images, and mean and std are None.
        """
        names = self.class_names if self.mask_classes is None else self.mask_classes
        units = {"normalize": self.normalize} if isinstance(self.normalize, Mapping) else {}
        return {
            "channels": self.channels,
            "dims": self.spatial_dims,
            "size": None if self.geometry.mixed else list(self.image_shape[1:]),
            "classes": len(names),
            "class_names": list(names),
            "activation": "sigmoid" if self.multilabel and self.mask_classes is None else "softmax",
            "mean": self.mean,
            "std": self.std,
            "has_masks": self.has_masks,
            "fingerprint": fingerprint(self.split_items),
        } | units

    def setup(self, stage: str | None = None) -> None:
        """Find, read and check all images, at the first call only.

        Args:
            stage: "predict", if that comes first, takes every image of the source and needs no label, split or mask,
                and no second image. All other stages split the images, and need the statistics of the training images.

        Raises:
            ValueError: Labels, ids, groups or channels are wrong, or a class or split is empty.
            BadImageError: An image or mask cannot be used, unless `on_bad_image` is "skip".
        """
        if "train" in self._datasets or (stage == "predict" and self._datasets):
            return
        self.skipped = []
        if stage == "predict":
            self._set_up_prediction()
        else:
            self._set_up_splits()

    def _set_up_prediction(self) -> None:
        """Check every image, and keep none: each is explained once."""
        items = self.predict_items()
        check_ids(items, self.where)
        if self.mask_classes is None:  # a query to a classifier has no region: nothing here needs a mask
            items = [replace(item, mask=None, boxes=None) for item in items]
        items = items[: self.limit]
        self.class_names, self.mean, self.std = [], None, None
        load = self._transform(items)
        used = [item for item, _ in self._usable(load, items)]
        self.split_items = {"predict": used}
        self._datasets["predict"] = batched(Dataset(used, load), self.geometry.sizes_of(used), self.batch_size)
        log.info("Images to explain: %d of %s", len(used), self.where)

    def _set_up_splits(self) -> None:
        """Split and read all images, and log the splits."""
        items = with_boxes(self.items(), self.boxes, self.class_names)
        check_items(items, self.class_names, self.where)
        items = choose_splits(items, self.num_classes, self.splits, self.seed, self.where)
        if self.limit is not None:
            items = limit_splits(items, self.num_classes, self.limit, self.seed)
        self._read(items)
        log_splits(self.split_items, self.split_counts, self.seed)

    def _read(self, items: list[Item]) -> None:
        """Read every image once: check it, add it to the statistics, and keep it if there is a cache."""
        load = self._transform(items)
        if self.mask_classes is not None and not self.has_masks:
            raise ValueError(f"data.mask_classes is given, but {self.where} has no masks; say where they are.")
        statistics, intensities = ChannelStatistics(), IntensityRange()
        trained = any(item.split == "train" for item in items)  # else the target needs statistics all the same
        kept: dict[str, list[Item]] = {split: [] for split in SPLITS}
        cache = self._cache = SampleCache(len(items), self.cache_limit) if self.cache else None
        for item, sample in self._usable(load, items):
            split = item.split or ""
            kept[split].append(item)
            if split == "train" or not trained:
                statistics.update(sample["image"])
            if split == "train":
                intensities.update(sample["image"], item.name)
            if cache is not None:
                cache.add(sample)
        self.mean, self.std = statistics.mean, statistics.std
        if (warning := intensities.sentence()) is not None:
            log.warning(warning)
        for split, rows in kept.items():
            if not rows and any(item.split == split for item in items):
                raise ValueError(f"The {split} split of {self.where} ends up empty; give it images.")
            order = mixed_order(rows)
            kept[split] = [rows[row] for row in order]
            samples = None if cache is None else cache.rows([item.id for item in kept[split]])
            sizes = self.geometry.sizes_of(kept[split])
            plain = make_dataset(kept[split], load, samples, [])
            self._plain[split] = self._datasets[split] = batched(plain, sizes, self.batch_size)
            augment = [*random_patches(self.patch, sizes, self.mask_classes is not None), *self.augment]
            if split == "train" and rows and augment:
                train = make_dataset(kept[split], load, samples, augment)
                self._datasets[split] = batched(train, augmented_sizes(augment, plain, sizes), self.batch_size)
        self.split_items = kept

    def _transform(self, items: Sequence[Item]) -> LoadItem:
        """The transform from items to samples; what masks mean, and the size, depend on all items."""
        self.has_masks = any(item.has_mask for item in items)
        rule = survey_masks(items, self.mask_classes, self.where, self.ignore_index)
        size = None if self.size == "auto" else self.size
        kept = (self.channel_axis, self.has_masks, self.mask_classes, self.prepare)
        load = LoadItem(size, *kept, None, rule, self.resize, self.orientation, self.spacing, self.window_hu)
        load.channels = self.wanted_channels
        load.usual = usual_channels(items, load)
        if self.size == "auto":
            load.size = chosen_size(items, load)
        self.normalize = with_statistics(items, load, self.normalize, self.where)
        load.normalize = as_transform(self.normalize)
        return load

    def _usable(self, load: LoadItem, items: Sequence[Item]) -> Iterator[tuple[Item, dict[str, Any]]]:
        """Read every image once; check that they agree, and note their shape."""
        self.geometry = Geometry()
        yield from self.geometry.read(load, items, self.on_bad_image == "raise", self.skipped, self.where)
        load.notes.report()
        self.image_shape = self.geometry.shape
        self.channels, self.spatial_dims = self.image_shape[0], len(self.image_shape) - 1
