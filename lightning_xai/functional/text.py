"""Values in configurations, and text of errors."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any


def leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Find every value in mappings and lists that lie inside each other, with its key.

    Example:
        >>> list(leaves({"a": ["x", 1], "b": {"c": None}}))
        [('a', 'x'), ('a', 1), ('c', None)]
    """
    if isinstance(value, dict):
        for name, each in value.items():
            yield from leaves(each, str(name))
    elif isinstance(value, list):
        for each in value:
            yield from leaves(each, key)
    else:
        yield key, value


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type where it has none.

    Example:
        >>> first_line(ValueError("wrong size" + chr(10) + "at layer 3")), first_line(KeyError())
        ('wrong size', 'KeyError')
    """
    return str(error).strip().partition("\n")[0] or type(error).__name__


def one_line(error: BaseException, limit: int = 1000) -> str:
    """An error's message in one line, cut where it is longer than ``limit``, or its type where it has none.

    Example:
        >>> one_line(ValueError("wrong size" + chr(10) + "  at layer 3")), one_line(KeyError())
        ('wrong size at layer 3', 'KeyError')
    """
    text = " ".join(str(error).split())
    return (text if len(text) <= limit else f"{text[:limit]} ...") or type(error).__name__


def first_few(names: Sequence[str], most: int = 5) -> str:
    """The first names of a list, and how many others there are.

    Example:
        >>> first_few(["a", "b", "c"], 2), first_few(["a", "b"], 2)
        ('a, b and 1 more', 'a, b')
    """
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def title_on(title: str, data: Any) -> str:
    """The title of an explainer, with the end of the path that its data module reads, if there is one.

    Example:
        >>> from types import SimpleNamespace
        >>> title_on("GradCAM, layer 4", SimpleNamespace(where="/data/cells/labels.csv"))
        'GradCAM, layer 4, on cells/labels.csv'
    """
    where = getattr(data, "where", None)
    return title if where is None else f"{title}, on {'/'.join(Path(where).parts[-2:])}"
