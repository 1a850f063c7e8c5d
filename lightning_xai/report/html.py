"""A page of HTML that needs no other file: text, tables and figures."""

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray
from PIL import Image

#: A part of a page as the template takes it: its kind, and what that kind shows.
Part = dict[str, Any]


def page(title: str, parts: Sequence[Part]) -> str:
    """Render a page of HTML from its parts; all text is escaped.

    Args:
        title: Heading of the page.
        parts: From :func:`heading`, :func:`paragraph`, :func:`bullets`, :func:`table` and :func:`figure`.

    Returns:
        HTML, with the figures in it.

    Example:
        >>> "<h1>Maps &amp; more</h1>" in page("Maps & more", [paragraph("Hello")])
        True
    """
    templates = Environment(
        loader=PackageLoader("lightning_xai.report"),
        autoescape=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    return templates.get_template("page.html").render(title=title, parts=parts)


def heading(text: str) -> Part:
    """Make a heading for :func:`page`."""
    return {"kind": "heading", "text": text}


def paragraph(text: str) -> Part:
    """Make a paragraph for :func:`page`."""
    return {"kind": "paragraph", "text": text}


def bullets(lines: Sequence[str]) -> Part:
    """Make a list of sentences for :func:`page`."""
    return {"kind": "bullets", "lines": lines}


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> Part:
    """Make a table for :func:`page`; every cell is shown as text."""
    return {"kind": "table", "head": head, "rows": rows}


def figure(pixels: NDArray[np.uint8], caption: str) -> Part:
    """Make a figure for :func:`page` from pixels ``(H, W, 3)``, with its caption."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return {"kind": "figure", "data": base64.b64encode(file.getvalue()).decode(), "caption": caption}
