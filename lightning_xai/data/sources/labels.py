"""What the cells of a table and the arrays of a file mean as labels."""

import logging
import math
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Literal, get_args

import numpy as np

from lightning_xai.functional.segmentation import IGNORED

log = logging.getLogger(__name__)

#: What an uncertain finding counts as; "ignore" leaves it out of losses and metrics.
Uncertain = Literal["ignore", "zero", "one"]
_TRUTH = {"0": 0, "0.0": 0, "false": 0, "no": 0, "1": 1, "1.0": 1, "true": 1, "yes": 1}
_UNCERTAIN = ("-1", "-1.0")
#: How programs write that there is no value.
_MISSING = ("nan", "na", "n/a", "null", "<na>", "none")
#: So many numbers that are not whole are hardly classes, such as doses, any more.
_MANY = 10
#: What joins several findings in one cell.
JOINTS = ("|", ";", ",", "+", "/", "&")


#: Classes that a data set may have; the largest that people train on have some 20,000.
LARGEST_COUNT = 100_000


def check_class_count(count: int, where: str) -> None:
    """Raise an error for more classes than a data set can have, as where labels are ids or measurements.

    Args:
        count: The classes that there would be.
        where: What messages call the labels.

    Raises:
        ValueError: There are too many.
    """
    if count > LARGEST_COUNT:
        raise ValueError(
            f"{where} would make {count:,} classes, and at most {LARGEST_COUNT:,} are read; give labels that are class "
            "indices or names, counted from 0."
        )


def check_uncertain(value: str | None) -> None:
    """Raise an error for an unknown way to treat uncertain findings."""
    if value is not None and value not in get_args(Uncertain):
        raise ValueError(f"data.uncertain is {value!r}; use ignore, zero or one, or null to refuse such rows.")


def finding(cell: str, uncertain: str | None) -> int | None:
    """Read a cell of 0 and 1 as radiologists' tables have them, where -1 is uncertain and blank not mentioned.

    Args:
        cell: The text.
        uncertain: What -1 counts as; blank counts as 0 then. Without it both are no finding.

    Returns:
        0 or 1, `IGNORED` (-1) for a finding to ignore, or None for any other text.

    Example:
        >>> [finding(cell, "ignore") for cell in ("1.0", "-1.0", "", "x")]
        [1, -1, 0, None]
    """
    if uncertain is not None:
        if cell in _UNCERTAIN:
            return {"ignore": IGNORED, "zero": 0, "one": 1}[uncertain]
        cell = cell or "0"
    return _TRUTH.get(cell.lower())


def warn_of_alike(labels: Iterable[str], where: str) -> None:
    """Warn of class names that look alike.

    Args:
        labels: All class names.
        where: What messages call their source.
    """
    groups: dict[str, set[str]] = defaultdict(set)
    for name in labels:
        groups[_look(name)].add(name)
    for alike in groups.values():
        if len(alike) > 1:
            log.warning(
                "The labels %s of %s look alike, but count as %d classes; write each class in one way.",
                " and ".join(map(repr, sorted(alike))), where, len(alike),
            )  # fmt: skip


def warn_of_labels(labels: Iterable[str], where: str) -> None:
    """Warn of the cells of a table that are hardly meant as classes, and of those that hold several findings.

    Args:
        labels: All class names.
        where: What messages call the column.
    """
    names = set(labels)
    warn_of_alike(names, where)
    if names & set(_UNCERTAIN) and names <= {*_UNCERTAIN, "0", "0.0", "1", "1.0"}:
        log.warning(
            "The label -1 of %s counts as a class; if it marks an uncertain finding, set data.uncertain=ignore, zero "
            "or one.", where,
        )  # fmt: skip
    if missing := sorted(name for name in names if name.lower() in _MISSING):
        log.warning("The label %r of %s counts as a class; delete its rows if it marks no label.", missing[0], where)
    if len(measured := sorted(name for name in names if _is_fraction(name))) >= _MANY:
        log.warning(
            "The label %r of %s counts as a class of its own, as each of %d labels does; if they are measurements, "
            "write classes instead.", measured[0], where, len(names),
        )  # fmt: skip
    for joint in JOINTS:
        joined = sorted(name for name in names if joint in name and {p.strip() for p in name.split(joint)} & names)
        if joined:
            log.warning(
                "The label %r of %s looks like several findings in one cell, but counts as a class of its own; "
                "data.label_separator='%s' makes it several labels.", joined[0], where, joint,
            )  # fmt: skip


def _is_fraction(name: str) -> bool:
    """Tell whether a class name is a number that is not whole."""
    try:
        return not float(name).is_integer() and math.isfinite(float(name))
    except ValueError:
        return False


def _look(name: str) -> str:
    """Return what a class name looks like to a reader: numbers by value, words without case and spacing."""
    try:
        return str(float(name))
    except ValueError:
        return "".join(unicodedata.normalize("NFKC", name).casefold().replace("_", " ").replace("-", " ").split())


def whole_labels(labels: np.ndarray, where: str) -> np.ndarray:
    """Return numeric labels as whole numbers.

    Args:
        labels: (N,) or (N, K) of numbers or names.
        where: What messages call the array.

    Returns:
        The labels as int64, or names as they are.

    Raises:
        ValueError: They are no whole numbers, such as fractions of raters or the values of a regression, or are NaN.
    """
    if labels.dtype.kind == "S":
        try:
            labels = np.char.decode(labels, "utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{where} holds bytes that are no text ({error.reason}); save names as text.") from error
    if labels.dtype.kind == "U":
        if labels.ndim != 1:
            raise ValueError(f"{where} holds names in the shape {labels.shape}; give one name for each image.")
        return labels
    if labels.dtype.kind not in "biuf":
        raise ValueError(f"{where} holds {labels.dtype} instead of class indices or names; save them as integers.")
    if labels.ndim > 2:
        raise ValueError(f"{where} has shape {labels.shape}; give one label, or K of 0 and 1, for each image.")
    if labels.dtype.kind == "f":
        if np.isnan(labels).any():
            raise ValueError(f"{where} holds NaN, as for images without a label; leave these images out.")
        if not np.array_equal(labels, np.rint(labels)):
            value = float(labels[labels != np.rint(labels)].flat[0])
            raise ValueError(
                f"{where} holds {value:.4g}, which is no class; save whole class indices, such as the largest of "
                "several fractions, or whether a number is above a threshold."
            )
        if np.abs(labels).max(initial=0) > 2**53:
            raise ValueError(f"{where} holds numbers too large for class indices; save them as integers.")
    return labels.astype(np.int64)


def from_zero(labels: np.ndarray, names: Sequence[str] | None, where: str) -> tuple[np.ndarray, list[str]]:
    """Return class indices that begin at 0, and the names of the classes.

    Args:
        labels: (N,) int64 as stored; where every number from 1 to K occurs and no 0, they begin at 1.
        names: Names of the classes, in order; None takes the numbers as they are stored.
        where: What messages call the array.

    Returns:
        The indices, and a name for each class.

    Example:
        >>> from_zero(np.array([1, 3, 2]), None, "labels")
        (array([0, 2, 1]), ['1', '2', '3'])
    """
    largest = int(labels.max(initial=-1))
    if names is None:
        check_class_count(largest + 1, where)
    stored = np.unique(labels)
    from_one = len(stored) == largest and stored[0] == 1  # every number up to the largest
    if from_one and largest > 1 and (names is None or len(names) == largest):
        log.info("%s begins with 1: class 1 is %s.", where, "'1'" if names is None else repr(names[0]))
        return labels - 1, list(names or map(str, range(1, largest + 1)))
    return labels, list(names) if names is not None else [str(index) for index in range(largest + 1)]
