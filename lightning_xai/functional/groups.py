"""The groups of images: their patients, wells or sites, the units that statistics resample."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor


def batch_groups(batch: Mapping[str, Any]) -> list[str] | None:
    """Read the group of each image of a batch.

    Args:
        batch: Holds ``group``, names or numbers, where there are groups.

    Returns:
        A name an image, ``""`` where it has none; ``None`` where the batch has no groups.

    Example:
        >>> batch_groups({"group": ["ann", None]}), batch_groups({})
        (['ann', ''], None)
    """
    groups = batch.get("group")
    if groups is None:
        return None
    values = groups.tolist() if isinstance(groups, Tensor) else groups
    return ["" if value is None else str(value) for value in values]


def units_of(ids: Sequence[str], groups: Sequence[str]) -> list[tuple[bool, str]]:
    """The unit of each image that statistics resample: its group, or the image itself where it has none.

    Args:
        ids: Of the images.
        groups: The group of each, ``""``: none.

    Returns:
        Whether the unit is a group, and its name: an image is not the group that is called like it.

    Raises:
        ValueError: If there are more or fewer groups than images.

    Example:
        >>> units_of(["a", "b"], ["b", ""])
        [(True, 'b'), (False, 'b')]
    """
    if len(groups) != len(ids):
        raise ValueError(f"{len(groups)} groups for {len(ids)} images; give one group an image.")
    return [(True, group) if group else (False, name) for name, group in zip(ids, groups, strict=True)]


def numbers_of(units: Iterable[Hashable]) -> list[int]:
    """Number units in the order of their first appearance.

    Example:
        >>> numbers_of(["ann", "bob", "ann"])
        [0, 1, 0]
    """
    numbers: dict[Hashable, int] = {}
    return [numbers.setdefault(unit, len(numbers)) for unit in units]
