"""Check a whole data set for mistakes, and compute its fingerprint."""

import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np

from lightning_xai.data.items import Item
from lightning_xai.data.splits import label_counts
from lightning_xai.functional.segmentation import IGNORED


def check_items(items: Sequence[Item], class_names: Sequence[str], where: str) -> None:
    """Check ids, labels and classes of all images, without reading an image.

    Args:
        items: All images of a data set.
        class_names: Name of each class.
        where: What messages call the source.

    Raises:
        ValueError: There is no image, an id occurs twice, a label is out of range, or a class is empty.
    """
    check_ids(items, where)
    for item in items:
        _check_label(item, len(class_names), where)
    for name, images in zip(class_names, label_counts(items, len(class_names)).sum(0), strict=True):
        if not images:
            raise ValueError(f"Class {name!r} has no image in {where}; add some or remove the class.")


def check_ids(items: Sequence[Item], where: str) -> None:
    """Check that there are images, and that each has a unique id.

    Args:
        items: All images of a data set.
        where: What messages call the source.

    Raises:
        ValueError: There is no image, or an id occurs twice.
    """
    if not items:
        raise ValueError(f"There is no image in {where}; check the path and the options of the data.")
    name, count = Counter(item.id for item in items).most_common(1)[0]
    if count > 1:
        raise ValueError(f"{count} images of {where} have the id {name!r}; give each image a different id.")


def _check_label(item: Item, classes: int, where: str) -> None:
    label = item.label
    if isinstance(label, tuple):
        valid = len(label) == classes and set(label) <= {0, 1, IGNORED}
        expected = f"{classes} values of 0 or 1"
    elif label is None:
        valid = classes == 0
        expected = "a label like the other images"
    else:
        valid = 0 <= label < classes
        expected = f"a class from 0 to {classes - 1}"
    if not valid:
        raise ValueError(f"The label {label} of {item.name} in {where} is out of range; give it {expected}.")


def fingerprint(split_items: Mapping[str, Sequence[Item]]) -> str:
    """Return a hash of ids, labels, splits and contents, the same on every machine.

    Args:
        split_items: Items of each split.

    Returns:
        16 hexadecimal digits.
    """
    lines = (
        f"{item.id}|{item.label}|{split}|{_content(item.image)}|{_content(item.mask)}{item.boxes or ''}"
        for split, items in split_items.items()
        for item in items
    )
    return sha256("\n".join(sorted(lines)).encode()).hexdigest()[:16]


def _content(source: Path | tuple[Path, ...] | np.ndarray | None) -> int | list[int] | None:
    """Return the size of a file, of several or of all in a folder, or a checksum of an array."""
    if isinstance(source, Path) and source.is_dir():
        return sum(path.stat().st_size for path in source.iterdir())
    if isinstance(source, Path):
        return source.stat().st_size
    if isinstance(source, tuple):
        return [path.stat().st_size for path in source]
    return None if source is None else zlib.crc32(np.ascontiguousarray(source).tobytes())
