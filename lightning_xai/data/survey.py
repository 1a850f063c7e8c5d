"""Read all images once before the first is used, to decide what their masks mean and the size they get."""

import logging
from collections import Counter
from collections.abc import Sequence

from lightning_xai.data.items import Item
from lightning_xai.data.loaders import read_all
from lightning_xai.data.loading import LoadItem
from lightning_xai.data.mask_rules import MaskRule, mask_rule
from lightning_xai.data.masks import MaskValues
from lightning_xai.data.reading import BadImageError, read_shape, read_size
from lightning_xai.data.sizes import common_size, describe_sizes

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


def survey_sizes(items: Sequence[Item], load: LoadItem) -> tuple[int, ...] | None:
    """Choose the size of all images, and log it.

    Args:
        items: The images.
        load: Reads them without resizing: what its transforms make of an image is known only once it is done.

    Returns:
        The spatial size, or None where all have the same; see `common_size`.
    """

    def size_of(item: Item) -> tuple[int, ...]:
        if load.prepare is not None:
            return tuple(load(item)["image"].shape[1:])
        return read_size(item.image, load.channel_axis, item.id)

    sizes = [size for _, size in read_all(size_of, items) if not isinstance(size, BadImageError)]
    chosen = common_size(sizes)
    if chosen is not None:
        log.info(describe_sizes(sizes, chosen))
    return chosen
