"""Decide what the values of the masks of a data set mean."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from lightning_xai.data.masks import HALF, LARGEST_LABEL, WHITE, MaskValues
from lightning_xai.functional.segmentation import IGNORED


@dataclass(frozen=True)
class MaskRule:
    """A rule that turns the values of masks into class indices.

    Attributes:
        threshold: Values above it are 1 and all others 0; None keeps the values, which are class indices.
        ignored: The value of pixels that masks say nothing about, or None; they become `IGNORED`.
        note: What a user should know about it, or None where there is nothing to say.
    """

    threshold: float | None = None
    note: str | None = None
    ignored: int | None = None
    soft: bool = False

    def __call__(self, mask: np.ndarray) -> np.ndarray:
        """Apply the rule to a mask of any shape."""
        classes = mask if self.threshold is None else (mask > self.threshold).astype(np.int64)
        return classes if self.ignored is None else np.where(mask == self.ignored, IGNORED, classes)


#: Values stay as they are.
CLASS_INDICES = MaskRule()


def mask_rule(mask_values: MaskValues, classes: Sequence[str] | None, where: str) -> MaskRule:
    """Decide what the values of the masks of a data set mean.

    * More than two classes: values are class indices, and stay.
    * Two values: the larger one is the class, whatever the two are (0 and 1, 0 and 255, 1 and 2).
    * Small values (up to 31): class indices, or numbers of objects. Of two classes the second is every one above 0.
    * 255 next to small values: pixels that a mask says nothing about, as in the public sets that draw such borders.
    * Many values up to a brightest one (soft edges after resizing, noise of JPEG): the class begins halfway.
    * Fractions from 0 to 1 (soft edges of floats): the class begins at 0.5.
    * Many values that few pixels have each: numbers of objects; all above 0 are the second class.

    Masks that only outline evidence (no classes) keep their values where 0 is the background, unless they have soft
    edges.

    Args:
        mask_values: The values of all masks.
        classes: Names of the values, background first; None for masks of evidence.
        where: What messages call the data set.

    Returns:
        The rule.

    Raises:
        ValueError: The values have no clear meaning: masks drawn with 1 next to masks drawn with 255, three or four
            brightnesses for two classes, or no background.
    """
    ignored = mask_values.ignored
    if classes is not None and len(classes) > 2:
        # Of class indices 255 is none unless so many are named.
        return MaskRule(ignored=255 if ignored is None and len(classes) <= 255 else ignored)
    rule = _rule_of_counts(mask_values, classes, where)
    if mask_values.fractions is None:
        return rule
    thing = "evidence" if classes is None else repr(classes[1])
    note = (
        f"The masks of {where} hold fractions from 0 to 1 (such as {mask_values.fractions}), as soft edges do: all "
        f"above {HALF} are {thing}."
    )
    return replace(rule, soft=True, note=" ".join(filter(None, (note, rule.note))))


def _rule_of_counts(mask_values: MaskValues, classes: Sequence[str] | None, where: str) -> MaskRule:
    """The rule for the whole numbers in masks, of at most two classes."""
    ignored, values = mask_values.ignored, sorted(mask_values.counts)
    if ignored is None and (white := _ignored_label(mask_values, values)) is not None:
        values.remove(white)
        rule = _meaning(mask_values, values, classes, where)
        note = (
            f"The masks of {where} hold {white} next to the small values {_listed(values)}: such pixels are left out "
            f"of losses and metrics (data.ignore_index={white})."
        )
        return replace(rule, ignored=white, note=note if rule.note is None else f"{note} {rule.note}")
    return replace(_meaning(mask_values, values, classes, where), ignored=ignored)


def _meaning(mask_values: MaskValues, values: list[int], classes: Sequence[str] | None, where: str) -> MaskRule:
    """The rule for sorted values, none of which is ignored, of at most two classes."""
    if not values:
        return MaskRule()
    low, high = values[0], values[-1]
    above_zero = MaskRule(None if classes is None else 0.0)
    if len(values) == 1 or (classes is None and low == 0 and len(values) == 2):
        return above_zero
    if len(values) == 2:
        return MaskRule((low + high) / 2)
    _check_values(mask_values, values, classes, where)
    if high > LARGEST_LABEL and not _between(mask_values, values) and _is_soft(mask_values, high):
        middle = (low + high) / 2
        thing = "evidence" if classes is None else repr(classes[1])
        return MaskRule(
            middle,
            f"The masks of {where} have {len(values)} values from {low} to {high}, as soft edges and lossy files do: "
            f"all above {middle:g} are {thing}.",
        )
    if classes is None or high == 1:
        return above_zero
    listed = _listed(values)
    return MaskRule(0.0, f"The masks of {where} hold the values {listed}: all above 0 are {classes[1]!r}.")


def _ignored_label(mask_values: MaskValues, values: list[int]) -> int | None:
    """The brightest value, where it stands for pixels that masks say nothing about: next to small labels alone.

    Some mask must hold it along with a label, and not ten times as much of it: else masks are drawn in two ways.
    """
    if mask_values.lossy or len(values) < 2 or values[-1] not in mask_values.white or values[-2] > LARGEST_LABEL:
        return None
    labeled = sum(mask_values.counts[value] for value in values[:-1] if value > 0)
    return values[-1] if mask_values.counts[values[-1]] <= 10 * labeled else None


def _check_values(mask_values: MaskValues, values: list[int], classes: Sequence[str] | None, where: str) -> None:
    """Raise an error for three values or more that could mean several things."""
    if mask_values.lossy:
        return
    large = [value for value in values if value > LARGEST_LABEL]
    small = values[: len(values) - len(large)]
    if len(small) > 1 and len(large) == 1 and large[0] > 2 * small[-1]:
        raise ValueError(
            f"The masks of {where} hold {large[0]} (such as {mask_values.first[large[0]]}) next to the small values "
            f"{_listed(small)}: set data.ignore_index={large[0]} if masks say nothing about these pixels, and where "
            f"some masks are drawn with 1 and others with {large[0]}, draw all alike."
        )
    middle = _between(mask_values, values)
    if classes is not None and large and middle:
        raise ValueError(
            f"The masks of {where} hold the {len(values)} values {_listed(values)} (such as "
            f"{mask_values.first[middle[0]]}), but data.mask_classes names 2 ({', '.join(classes)}); save class "
            "indices 0, 1, 2, ... and name them all, or two values alone."
        )
    if values[0] > 0 and not large:
        raise ValueError(
            f"The masks of {where} hold the values {_listed(values)} and no 0 for the background; save class indices "
            "with 0 for background."
        )


def _between(mask_values: MaskValues, values: list[int]) -> list[int]:
    """Return the one or two brightnesses between dark and bright that are drawn on purpose: edges have more."""
    if mask_values.lossy or len(values) > 4:
        return []
    return [value for value in values if 0.1 * values[-1] <= value <= 0.9 * values[-1]]


def _is_soft(mask_values: MaskValues, high: int) -> bool:
    """Tell brightnesses from numbers of objects: of a drawn shape most pixels are about as bright as the brightest."""
    if mask_values.lossy:
        return True
    shape = sum(count for value, count in mask_values.counts.items() if value > 0)
    bright = sum(count for value, count in mask_values.counts.items() if value >= 0.9 * high)
    return bright > shape * (0.05 if high in WHITE else 0.25)


def _listed(values: Sequence[int]) -> str:
    """Return at most five values as text."""
    shown = [str(value) for value in values]
    return ", ".join(shown if len(shown) <= 5 else [*shown[:3], "...", shown[-1]])
