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
    """The whole page; all text is escaped.

    Args:
        title: Its heading.
        parts: From the functions below.

    Returns:
        HTML with everything in it.

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
    """A heading."""
    return {"kind": "heading", "text": text}


def paragraph(text: str) -> Part:
    """A paragraph."""
    return {"kind": "paragraph", "text": text}


def bullets(lines: Sequence[str]) -> Part:
    """A list of sentences."""
    return {"kind": "bullets", "lines": lines}


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> Part:
    """A table; every cell is shown as text."""
    return {"kind": "table", "head": head, "rows": rows}


def figure(pixels: NDArray[np.uint8], caption: str) -> Part:
    """A figure ``(H, W, 3)`` in the page itself, with its caption."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return {"kind": "figure", "data": base64.b64encode(file.getvalue()).decode(), "caption": caption}
