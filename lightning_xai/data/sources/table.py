"""Read CSV tables as spreadsheets write them, and find the files that their cells name."""

import codecs
import csv
import logging
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

from lightning_xai.data.items import list_images, without_suffix

log = logging.getLogger(__name__)

#: Line number in a plain table, and column -> stripped cell.
Row = tuple[int, dict[str, str]]
#: Bytes that a table may have: some ten million rows.
LARGEST_TABLE = 1 << 30
#: What text begins with in an encoding; a longer mark before a shorter one that it begins with.
_ENCODINGS = (
    *((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32")),
    *((codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16")),
)
#: What workbooks and compressed files begin with.
_ARCHIVES = (b"PK", b"\x1f\x8b", b"\xd0\xcf\x11\xe0")


def read_table(path: Path) -> tuple[list[str], list[Row]]:
    """Read a table that is separated by commas, semicolons, tabs or bars.

    Args:
        path: The file, in UTF-8, UTF-16 or Windows-1252. A first line `sep=;` names the separator.

    Returns:
        The columns, and the rows. All text is in Unicode's composed form.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no text, or has no header, a column twice or a quote that is not closed.
    """
    if not path.is_file():
        raise FileNotFoundError(f"The table {path} does not exist; set data.csv to the CSV file.")
    text = read_text(path)
    if "\0" in text:  # no file can be named with it
        raise ValueError(f"The table {path} holds the character NUL, which no text has; save it as CSV UTF-8.")
    lines = unicodedata.normalize("NFC", text).splitlines(keepends=True)
    first, delimiter = 0, ""
    while first < len(lines) and not lines[first].strip():
        first += 1
    if first < len(lines) and (stated := _stated_delimiter(lines[first])):
        first, delimiter = first + 1, stated
    header = lines[first] if first < len(lines) else ""
    if not header.strip():
        raise ValueError(f"The table {path} is empty; give it a header and a row for each image.")
    reader = csv.DictReader(
        lines[first:], delimiter=delimiter or max(",;\t|", key=header.count), restval="", restkey="",
        skipinitialspace=True, strict=True,
    )  # fmt: skip
    try:
        names = [name.strip() for name in reader.fieldnames or []]
        reader.fieldnames = names
        rows = [
            (number, {key: value.strip() for key, value in row.items() if key})
            for number, row in enumerate(reader, start=first + 2)
            if any(value.strip() for key, value in row.items() if key)  # spreadsheets write empty rows at the end
        ]
    except csv.Error as error:
        raise ValueError(
            f"The table {path} cannot be read as CSV ({error} after line {reader.line_num + first}); look for a quote "
            "that is not closed."
        ) from error
    twice = [name for name in names if name and names.count(name) > 1]
    if twice:
        raise ValueError(f"{path} has the column {twice[0]!r} twice; rename one of them.")
    return names, rows


def read_text(path: Path) -> str:
    """Read the text of a file, whose encoding shows in its first bytes and in what can be decoded."""
    if (size := path.stat().st_size) > LARGEST_TABLE:
        raise ValueError(
            f"The table {path} has {size >> 20:,} MiB, and at most {LARGEST_TABLE >> 20} are read; split it."
        )
    raw = path.read_bytes()
    if raw.startswith(_ARCHIVES):
        raise ValueError(f"The table {path} is a workbook or compressed, not text; save it as CSV UTF-8.")
    encoding = next((name for mark, name in _ENCODINGS if raw.startswith(mark)), None)
    if encoding is None:
        head = raw[:2000]
        encoding = "utf-8" if b"\0" not in head else "utf-16-le" if b"\0" in head[1::2] else "utf-16-be"
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError:
        if encoding == "utf-8":
            try:
                text = raw.decode("cp1252")
            except UnicodeDecodeError:
                pass
            else:
                log.warning("The table %s is not UTF-8; it was read as Windows-1252. Check its accented names.", path)
                return text
    raise ValueError(f"The encoding of the table {path} is unknown; save it as CSV UTF-8.")


def _stated_delimiter(line: str) -> str | None:
    """Return the separator of a line such as `sep=;`, as spreadsheets write it."""
    text = line.strip("\r\n").strip(' "')
    return text[4] if text.lower().startswith("sep=") and len(text) == 5 else "\t" if text.lower() == "sep=" else None


def check_column(name: str, header: list[str], path: Path) -> None:
    """Raise an error that names the nearest column where a table lacks one."""
    if name not in header:
        raise ValueError(f"{path} has no column {name!r}{nearest(name, header)}; its columns are {', '.join(header)}.")


def nearest(name: str, names: Iterable[str]) -> str:
    """Return a clause with the name that is nearest to another, or nothing."""
    close = get_close_matches(name, sorted(names), n=1)
    return f", did you mean {close[0]!r}" if close else ""


class Inside:
    """Refuses files outside of some folders, also where a link inside of them leads out.

    Args:
        folders: The folders; None is left out.
    """

    def __init__(self, *folders: Path | None) -> None:
        self.folders = [folder.resolve() for folder in folders if folder is not None]

    def check(self, path: Path, where: str) -> None:
        """Raise an error for a file that lies outside.

        Args:
            path: The file.
            where: What messages call the place that names it.

        Raises:
            ValueError: It does.
        """
        if not any(path.resolve().is_relative_to(folder) for folder in self.folders):
            raise ValueError(
                f"{where} names {path}, which lies outside of {self.folders[0]}; if you trust the list, allow it with "
                "data.allow_outside=true."
            )


class FileFinder:
    """Finds the files that the cells of a table name: as they are written, else as they are meant.

    Paths may have Windows separators, another Unicode form than on disk (as archives from a Mac have), no suffix, or
    small letters for capital ones.

    Args:
        root: The folder that cells are relative to.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._names: dict[str, list[Path]] | None = None

    def find(self, cell: str) -> Path:
        """Return the file of a cell; where there is none, the path as it is written.

        Raises:
            ValueError: Two files differ from the cell in their suffix or in capital letters alone.
        """
        path = self.root / cell
        if path.is_file():
            return path
        forward = cell.replace("\\", "/")
        if (self.root / forward).is_file():
            return self.root / forward
        if self._names is None:
            self._names = self._index()
        name = unicodedata.normalize("NFC", forward.removeprefix("./"))
        found = self._names.get(name) or self._names.get(name.casefold(), [])
        if len(found) > 1:
            raise ValueError(f"{cell!r} may mean {found[0]} or {found[1]}; write the whole name into the table.")
        return found[0] if found else path

    def _index(self) -> dict[str, list[Path]]:
        """The images below the root by their path, with and without suffix, as on disk and in small letters."""
        names = defaultdict(list)
        for image in list_images(self.root) if self.root.is_dir() else []:
            relative = image.relative_to(self.root)
            written = [unicodedata.normalize("NFC", name) for name in (relative.as_posix(), without_suffix(relative))]
            for name in {*written, *map(str.casefold, written)}:
                names[name].append(image)
        return names
