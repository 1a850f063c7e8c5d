"""A list of images to explain: a text file of a path a line, or a table."""

from collections import Counter
from pathlib import Path

from lightning_xai.data.items import Item, without_suffix
from lightning_xai.data.sources.table import FileFinder, check_column, read_table, read_text

SUFFIXES = (".txt", ".csv", ".tsv")


def is_image_list(path: Path) -> bool:
    """Tell whether a path is a file that lists images, by its name."""
    return path.suffix.lower() in SUFFIXES and path.is_file()


def listed_items(path: Path) -> list[Item]:
    """List the images that a file names, in its order.

    Args:
        path: A text file with a path a line (`#` begins a comment), or a table with a column `image`, or with one
            column. Paths are relative to its folder.

    Returns:
        The images, named as in the list without their suffixes; those that would have one name keep them.

    Raises:
        ValueError: The list is empty, has no such column, or names an image twice.
        FileNotFoundError: An image does not exist.
    """
    listed = text_cells(path) if path.suffix.lower() == ".txt" else table_cells(path)
    cells = [(number, cell.replace("\\", "/")) for number, cell in listed]
    if not cells:
        raise ValueError(f"{path} lists no images; give it a path a line.")
    finder = FileFinder(path.parent)
    images = {number: finder.find(cell) for number, cell in cells}
    seen: dict[Path, int] = {}
    for number, image in images.items():
        if not image.is_file():
            raise FileNotFoundError(f"{path}, line {number}: {image} does not exist; correct the path.")
        if (first := seen.setdefault(image.resolve(), number)) != number:
            raise ValueError(f"{path} names {image} in the lines {first} and {number}; remove one.")
    names = {number: without_suffix(Path(cell)) for number, cell in cells}
    uses = Counter(names.values())
    return [
        Item(Path(cell).as_posix() if uses[names[number]] > 1 else names[number], images[number])
        for number, cell in cells
    ]


def text_cells(path: Path) -> list[tuple[int, str]]:
    """The paths of a text file with their line numbers."""
    lines = read_text(path).splitlines()
    cells = [(number, line.strip()) for number, line in enumerate(lines, start=1)]
    return [(number, cell) for number, cell in cells if cell and not cell.startswith("#")]


def table_cells(path: Path) -> list[tuple[int, str]]:
    """The paths of a table with their line numbers."""
    header, rows = read_table(path)
    column = header[0] if len(header) == 1 else "image"
    check_column(column, header, path)
    return [(number, row[column]) for number, row in rows if row[column]]
