"""Read all images once before the first is used, to decide what their masks mean and the size they get."""

import logging
from collections import Counter
from collections.abc import Sequence

from lightning_xai.data.items import Item
from lightning_xai.data.loaders import read_all
from lightning_xai.data.loading import LoadItem, Normalize
from lightning_xai.data.mask_rules import MaskRule, mask_rule
from lightning_xai.data.masks import MaskValues
from lightning_xai.data.reading import BadImageError, read_shape
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


def usual_channels(items: Sequence[Item], load: LoadItem) -> tuple[int, str] | None:
    """Find the channels that most images have, where some have others.

    Args:
        items: The images.
        load: Reads them.

    Returns:
        The number, and how many images have it, in words; None where all agree, or where the transforms of `load` may
        change channels.
    """
    if load.channels is not None or load.prepare is not None:
        return None
    shapes = read_all(lambda item: read_shape(item.image, load.channel_axis, item.id), items)
    counts = Counter(shape[0] for _, shape in shapes if not isinstance(shape, BadImageError))
    if len(counts) < 2:
        return None
    usual = max(counts, key=lambda channels: (counts[channels], channels))
    return usual, f"{counts[usual]} of {counts.total()} images"


def chosen_size(items: Sequence[Item], load: LoadItem) -> tuple[int, ...] | None:
    """Choose the size of all images, and log it; see `common_size`.

    Args:
        items: The images.
        load: Reads them without resizing: what its transforms make of an image is known only once it is done.

    Returns:
        The size, or None where all agree.
    """

    def size_of(item: Item) -> tuple[int, ...]:
        if load.prepare is not None:
            return load.with_grid(item)[1].size
        return read_shape(item.image, load.channel_axis, item.id)[1:]

    sizes = [size for _, size in read_all(size_of, items) if not isinstance(size, BadImageError)]
    # Volumes keep their spacing, and are not scaled: the largest must find room.
    size = common_size(sizes, whole=load.resize != "stretch" and all(len(size) == 3 for size in sizes))
    if size is not None:
        log.info(describe_sizes(sizes, size))
    return size


def with_statistics(items: Sequence[Item], load: LoadItem, normalize: Normalize, where: str) -> Normalize:
    """Put the statistics of the training images in place of the option "dataset".

    Args:
        items: The images.
        load: Reads them.
        normalize: As in `ImageDataModule`.
        where: What messages call the data set.

    Returns:
        The option.

    Raises:
        ValueError: There is no training image to take statistics from.
    """
    if normalize != "dataset":
        return normalize
    statistics = ChannelStatistics()
    for _, sample in read_all(load, [item for item in items if item.split == "train"]):
        if not isinstance(sample, BadImageError):
            statistics.update(sample["image"])
    if not statistics.pixels:
        raise ValueError(
            f"data.normalize=dataset needs training images, and {where} has none or is read to predict; start from a "
            "run, or give data.normalize={mean: [...], std: [...]}."
        )
    return {"mean": statistics.mean, "std": statistics.std}
