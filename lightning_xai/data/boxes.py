"""Boxes around the evidence, from COCO and VOC files or the columns of a table, as masks."""

import json
import logging
import math
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from lightning_xai.data.items import Box, Item, without_suffix

log = logging.getLogger(__name__)

#: The boxes of one image, each with the name of what it surrounds.
Named = list[tuple[str, Box]]


def draw_boxes(boxes: Sequence[Box], size: tuple[int, ...], name: str) -> np.ndarray:
    """Draw boxes as a mask.

    Args:
        boxes: Left, top, right and bottom edge of each, in pixels from the upper left corner of the image.
        size: (H, W).
        name: What error messages call the image.

    Returns:
        Array (1, H, W) of int64, 1 in every pixel that a box touches.

    Raises:
        ValueError: The image is no plane, or a box has no area or lies outside of it.

    Example:
        >>> draw_boxes([(1, 0, 2.5, 1)], (2, 4), "a").tolist()
        [[[0, 1, 1, 0], [0, 0, 0, 0]]]
    """
    if len(size) != 2:
        raise ValueError(f"{name} is a volume, but its evidence is given as boxes in a plane; give masks.")
    mask = np.zeros((1, *size), np.int64)
    for left, top, right, bottom in boxes:
        rows = slice(max(0, math.floor(top)), max(0, math.ceil(bottom)))
        columns = slice(max(0, math.floor(left)), max(0, math.ceil(right)))
        if not mask[0, rows, columns].size:
            raise ValueError(
                f"The box {left:g}, {top:g}, {right:g}, {bottom:g} (left, top, right, bottom) of {name} has no pixel "
                f"in the image of {size[1]} x {size[0]}; correct it."
            )
        mask[0, rows, columns] = 1
    return mask


def with_boxes(items: Sequence[Item], source: str | Path | None, class_names: Sequence[str]) -> list[Item]:
    """Give images the boxes that a file or folder has for them.

    Where boxes are named like the classes of the images, an image gets those of its own classes.

    Args:
        items: The images; their paths, or else their names alone, are those of the boxes.
        source: A COCO file (JSON), or a folder of VOC files (XML); None changes nothing.
        class_names: Name of each class.

    Returns:
        The items in the same order.

    Raises:
        ValueError: The source is no such file or folder, or names none of the images.
    """
    if source is None:
        return list(items)
    boxes = _read_coco(Path(source)) if Path(source).is_file() else _read_voc(Path(source))
    full = {_key(name): named for name, named in boxes.items()}
    short: dict[str, list[Named]] = defaultdict(list)
    for name, named in full.items():
        short[name.rpartition("/")[2]].append(named)
    found = [_find(item, full, short) for item in items]
    matched = sum(named is not None for named in found)
    if not matched:
        raise ValueError(f"{source} names none of the images, such as {items[0].name}; correct data.boxes.")
    log.info("Boxes of %s: for %d of %d images.", source, matched, len(items))
    by_class = bool(set(class_names) & {label for named in full.values() for label, _ in named})
    return [
        item if named is None else replace(item, boxes=_of_class(item, named, class_names if by_class else []))
        for item, named in zip(items, found, strict=True)
    ]


def parse_box(row: Mapping[str, str], columns: Sequence[str], where: str) -> Box | None:
    """Read a box from the cells of a table.

    Args:
        row: Column -> cell.
        columns: The four columns: left, top, right and bottom, or where the last two are named width and height (or w
            and h), left, top and these.
        where: What messages call the row.

    Returns:
        Left, top, right and bottom; None where all cells are empty.

    Raises:
        ValueError: A cell is no number, or the box has no area.
    """
    cells = [row[name] for name in columns]
    if not any(cells):
        return None
    try:
        left, top, right, bottom = map(float, cells)
    except ValueError as error:
        raise ValueError(f"{where} has {', '.join(cells)} as a box; give four numbers, or leave all empty.") from error
    if _word(columns[2]).startswith("w") and _word(columns[3]).startswith("h"):
        right, bottom = left + right, top + bottom
    if not (right > left and bottom > top):
        raise ValueError(
            f"{where} has a box without area ({', '.join(cells)}); columns are left, top, right, bottom, or end in "
            "width and height."
        )
    return left, top, right, bottom


def _word(column: str) -> str:
    """Return the last word of a column's name, as in `bbox_width`."""
    return column.lower().replace("-", "_").rpartition("_")[2]


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", without_suffix(Path(name.replace("\\", "/")))).removeprefix("./")


def _find(item: Item, full: Mapping[str, Named], short: Mapping[str, list[Named]]) -> Named | None:
    """Return the boxes of an image, by as much of its path as the boxes state, else by its name if that is unique."""
    parts = _key(str(item.image) if isinstance(item.image, Path) else item.id).split("/")
    for start in range(len(parts)):
        if (named := full.get("/".join(parts[start:]))) is not None:
            return named
    alike = short.get(parts[-1], [])
    return alike[0] if len(alike) == 1 else None


def _of_class(item: Item, named: Named, class_names: Sequence[str]) -> tuple[Box, ...]:
    """Return the boxes of an image's classes, or all where they are not named like classes."""
    labels = item.label if isinstance(item.label, tuple) else [index == item.label for index in range(len(class_names))]
    own = {name for name, has in zip(class_names, labels, strict=False) if has == 1}
    return tuple(box for label, box in named if not class_names or not own or label in own)


def _read_coco(path: Path) -> dict[str, Named]:
    """Return the boxes of each file name in a COCO file."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        names = {image["id"]: str(image["file_name"]) for image in content["images"]}
        labels = {category["id"]: str(category["name"]) for category in content.get("categories", [])}
        boxes: dict[str, Named] = {name: [] for name in names.values()}
        for mark in content["annotations"]:
            left, top, width, height = map(float, mark["bbox"])
            label = labels.get(mark.get("category_id"), "")
            boxes[names[mark["image_id"]]].append((label, (left, top, left + width, top + height)))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is no COCO file with images, annotations and their bbox ({error!r}).") from error
    return boxes


def _read_voc(folder: Path) -> dict[str, Named]:
    """Return the boxes of each file name in a folder of VOC files, whose pixels are counted from 1."""
    paths = sorted(folder.rglob("*.xml"))
    if not paths:
        raise ValueError(f"{folder} is no COCO file and no folder with VOC files (XML); correct data.boxes.")
    boxes: dict[str, Named] = {}
    for path in paths:
        try:
            named = []
            for thing in ElementTree.parse(path).getroot().iter("object"):
                edges = {edge.tag: float(edge.text or "") for edge in thing.find("bndbox") or []}
                box = (edges["xmin"] - 1, edges["ymin"] - 1, edges["xmax"], edges["ymax"])
                named.append((thing.findtext("name") or "", box))
        except (ElementTree.ParseError, KeyError, ValueError) as error:
            raise ValueError(f"{path} is no VOC file with a bndbox for each object ({error!r}).") from error
        boxes[path.relative_to(folder).with_suffix("").as_posix()] = named
    return boxes
