"""A page of HTML that needs no other file: text, tables and pictures."""

import base64
import io
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 1000px; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.6em; } h2 { font-size: 1.2em; margin-top: 2em; }
img { max-width: 100%; height: auto; } figure { margin: 1em 0; } figcaption { color: #666; font-size: .9em; }
table { border-collapse: collapse; font-size: .9em; margin: 1em 0; }
th, td { padding: .3em .9em .3em 0; text-align: left; border-bottom: 1px solid #ddd; vertical-align: top; }
""".strip()


def page(title: str, parts: Sequence[str]) -> str:
    """The whole page.

    Args:
        title: Its heading.
        parts: From the functions below.

    Returns:
        HTML with everything in it.

    Example:
        >>> "<h1>Maps &amp; more</h1>" in page("Maps & more", [paragraph("Hello")])
        True
    """
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style>'
    body = "\n".join([f"<h1>{escape(title)}</h1>", *parts])
    return f'<!doctype html>\n<html lang="en">\n<head>{head}</head>\n<body>\n{body}\n</body>\n</html>\n'


def heading(text: str) -> str:
    """A heading."""
    return f"<h2>{escape(text)}</h2>"


def paragraph(text: str) -> str:
    """A paragraph."""
    return f"<p>{escape(text)}</p>"


def bullets(lines: Sequence[str]) -> str:
    """A list of sentences."""
    return "<ul>\n" + "\n".join(f"<li>{escape(line)}</li>" for line in lines) + "\n</ul>"


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table; every cell is shown as text."""
    lines = ["<tr>" + "".join(f"<th>{escape(str(cell))}</th>" for cell in head) + "</tr>"]
    lines += ["<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows]
    return "<table>\n" + "\n".join(lines) + "\n</table>"


def picture(pixels: NDArray[np.uint8], caption: str) -> str:
    """A picture ``(H, W, 3)`` in the page itself, with its caption."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    data = base64.b64encode(file.getvalue()).decode()
    text = escape(caption)
    return f'<figure><img alt="{text}" src="data:image/png;base64,{data}"><figcaption>{text}</figcaption></figure>'
