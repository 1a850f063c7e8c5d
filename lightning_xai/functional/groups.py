"""The groups of images: their patients, wells or sites, the units that statistics resample."""

from collections.abc import Mapping
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
