"""Read all images once before the first is used, to decide what their masks mean and the size they get."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from monai.transforms.intensity.array import NormalizeIntensity

from lightning_xai.data.items import Item
from lightning_xai.data.loaders import read_all
from lightning_xai.data.loading import LoadItem
from lightning_xai.data.mask_rules import MaskRule, mask_rule
from lightning_xai.data.masks import MaskValues
from lightning_xai.data.options import Normalize
from lightning_xai.data.reading import BadImageError, read_shape, read_size
from lightning_xai.data.sizes import common_size, describe_sizes
from lightning_xai.data.statistics import ChannelStatistics

log = logging.getLogger(__name__)


def survey_masks(
    items: Sequence[Item], classes: Sequence[str] | None, where: str, ignored: int | None = None
) -> MaskRule:
    """Decide from all masks of a data set what their values mean, and log it where that is not plain.

    Args:
        items: The images.
        classes: Names of the values, background first; None for masks of evidence.
        where: What messages call the data set.
        ignored: The value of pixels that masks say nothing about; None: found where it is plain.

    Returns:
        The rule.

    Raises:
        ValueError: The values have no clear meaning.
    """

    def values_of(item: Item) -> MaskValues:
        values = MaskValues(ignored)
        if item.mask is not None:
            values.add_source(item.mask, f"that of {item.id}")
        return values

    all_values = MaskValues(ignored)
    if classes is None or len(classes) == 2:  # else values are class indices, whatever they are
        for _, values in read_all(values_of, items):
            assert isinstance(values, MaskValues)
            all_values.merge(values)
    rule = mask_rule(all_values, classes, where)
    if rule.note is not None:
        log.warning(rule.note)
    return rule


def survey_channels(items: Sequence[Item], load: LoadItem, channels: int | None) -> None:
    """Have images turned into gray or color, or refuse those whose channels are not those of most images.

    Args:
        items: The images.
        load: Reads them; its `usual` channels are set. Where its transforms may change channels, nothing is surveyed.
        channels: 1 or 3 channels that all get; None keeps those of the files.
    """
    load.channels = channels
    if channels is not None or load.prepare is not None:
        return
    shapes = read_all(lambda item: read_shape(item.image, load.channel_axis, item.id), items)
    counts = Counter(shape[0] for _, shape in shapes if not isinstance(shape, BadImageError))
    if len(counts) > 1:
        usual = max(counts, key=lambda channels: (counts[channels], channels))
        load.usual = usual, f"{counts[usual]} of {counts.total()} images"


def survey_sizes(items: Sequence[Item], load: LoadItem) -> None:
    """Choose the size of all images, log it, and have it applied.

    Args:
        items: The images.
        load: Reads them, without resizing until here: what its transforms make of an image is known only once it is
            done. Its size becomes the chosen one; see `common_size`.
    """

    def size_of(item: Item) -> tuple[int, ...]:
        if load.prepare is not None:
            return load.with_grid(item)[1].size
        return read_size(item.image, load.channel_axis, item.id)

    sizes = [size for _, size in read_all(size_of, items) if not isinstance(size, BadImageError)]
    # Volumes keep their spacing, and are not scaled: the largest must find room.
    load.size = common_size(sizes, whole=load.resize != "stretch" and all(len(size) == 3 for size in sizes))
    if load.size is not None:
        log.info(describe_sizes(sizes, load.size))


def survey_intensities(items: Sequence[Item], load: LoadItem, normalize: Normalize, where: str) -> Normalize:
    """Have intensities brought to a common unit.

    Args:
        items: The images.
        load: Reads them; its `normalize` is set.
        normalize: As in `ImageDataModule`.
        where: What messages call the data set.

    Returns:
        The option, with the statistics of the training images in place of "dataset".

    Raises:
        ValueError: There is no training image to take statistics from.
    """
    if normalize == "dataset":
        statistics = ChannelStatistics()
        for _, sample in read_all(load, [item for item in items if item.split == "train"]):
            if not isinstance(sample, BadImageError):
                statistics.update(sample["image"])
        if not statistics.pixels:
            raise ValueError(
                f"data.normalize=dataset needs training images, and {where} has none or is read to predict; "
                "start from a run, or give data.normalize={mean: [...], std: [...]}."
            )
        normalize = {"mean": statistics.mean, "std": statistics.std}
    if isinstance(normalize, Mapping):
        load.normalize = NormalizeIntensity(np.array(normalize["mean"]), np.array(normalize["std"]), channel_wise=True)
    elif normalize == "image":
        load.normalize = "image"
    return normalize
