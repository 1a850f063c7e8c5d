"""Images listed in a CSV table with one row an image."""

import csv
from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Unpack

from lightning_xai.data.items import Item, index_masks, sorted_classes, without_suffix
from lightning_xai.data.module import ImageDataModule
from lightning_xai.data.options import Options

_TRUTH = {"0": 0, "0.0": 0, "false": 0, "1": 1, "1.0": 1, "true": 1}


class ManifestData(ImageDataModule):
    """Loads images that are listed in a CSV table.

    A column that is None is taken under its usual name (mask, split, group, laterality, id) where the table has it. To
    `predict`, a table needs the column of the images alone.

    Args:
        csv: Path of the table; separated by commas, semicolons or tabs, with a header.
        image_column: Column of the image files, relative to `image_root`.
        label_column: Column of the class names; a list of columns of 0/1 for several labels; None for no labels.
        root: The folder that the other folders are relative to; None takes the folder of the table.
        image_root: The folder of the images; None takes `root`.
        mask_root: The folder of the masks; without a mask column they are named as the images.
        mask_column: Column of the mask files; an empty cell is an empty mask.
        split_column: Column of train, val and test.
        group_column: Column of what must stay in one split, such as the patient; an image with an empty cell is a group
            by itself.
        laterality_column: Column of the side of the body, passed on in batches.
        id_column: Column of the image ids; else the image file without suffix.
        classes: The classes to keep, in this order; None keeps all, sorted.
        **options: As in `ImageDataModule`.
    """

    def __init__(
        self,
        csv: str | Path,
        image_column: str = "image",
        label_column: str | Sequence[str] | None = "label",
        root: str | Path | None = None,
        image_root: str | Path | None = None,
        mask_root: str | Path | None = None,
        mask_column: str | None = None,
        split_column: str | None = None,
        group_column: str | None = None,
        laterality_column: str | None = None,
        id_column: str | None = None,
        classes: Sequence[str] | None = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(**options)
        self.csv = Path(csv)
        self.where = str(csv)
        self.root = self.csv.parent if root is None else Path(root)
        self.image_root = self.root / (image_root or "")
        self.mask_root = None if mask_root is None else self.root / mask_root
        self.image_column = image_column
        self.label_columns = [label_column] if isinstance(label_column, str) else list(label_column or [])
        self.columns = {
            "mask": mask_column,
            "split": split_column,
            "group": group_column,
            "laterality": laterality_column,
            "id": id_column,
        }
        self.classes = None if classes is None else [str(name) for name in classes]
        self.multilabel = label_column is not None and not isinstance(label_column, str)
        if self.multilabel and classes is not None:
            raise ValueError("data.classes needs a single label column; list the columns to keep in data.label_column.")

    def items(self) -> list[Item]:
        """List the rows of the table."""
        header, rows = _read_table(self.csv)
        named = [self.image_column, *self.label_columns, *filter(None, self.columns.values())]
        for name in named:
            _check_column(name, header, self.csv)
        columns = {role: name or (role if role in header else None) for role, name in self.columns.items()}
        self._check_image_root()
        if self.label_columns and not self.multilabel:
            rows = self._keep_classes(rows, self.label_columns[0])
        else:
            self.class_names = self.label_columns
        masks = {} if self.mask_root is None or columns["mask"] else index_masks(self.mask_root)
        return [
            replace(self._item(number, row, columns, masks), label=self._label(number, row)) for number, row in rows
        ]

    def predict_items(self) -> list[Item]:
        """List the rows of the table, of which only the image is needed."""
        header, rows = _read_table(self.csv)
        _check_column(self.image_column, header, self.csv)
        self._check_image_root()
        named = {role: self.columns[role] or role for role in ("mask", "laterality", "id")}
        columns = {role: named[role] if named.get(role) in header else None for role in self.columns}
        indexed = self.mask_root is not None and columns["mask"] is None and self.mask_root.is_dir()
        masks = index_masks(self.mask_root) if indexed and self.mask_root is not None else {}
        items = [self._item(number, row, columns, masks) for number, row in rows]
        return [
            replace(item, mask=item.mask if isinstance(item.mask, Path) and item.mask.is_file() else None)
            for item in items
        ]

    def _check_image_root(self) -> None:
        if not self.image_root.is_dir():
            raise NotADirectoryError(f"The image folder {self.image_root} does not exist; correct data.image_root.")

    def _keep_classes(self, rows: "list[_Row]", column: str) -> "list[_Row]":
        """Set `class_names` from the labels in the table, and drop the rows of other classes."""
        labels = {row[column] for _, row in rows}
        if self.classes is None:
            self.class_names = sorted_classes(labels - {""})  # an empty label is reported with its row
            return rows
        for name in self.classes:
            if name not in labels:
                hint = _nearest(name, labels)
                raise ValueError(f"Class {name!r} is not in column {column!r} of {self.csv}{hint}; correct it.")
        self.class_names = self.classes
        return [(number, row) for number, row in rows if row[column] in self.classes]

    def _item(self, number: int, row: dict[str, str], columns: dict[str, str | None], masks: dict[str, Path]) -> Item:
        def cell(role: str) -> str | None:
            name = columns[role]
            return None if name is None else row[name]

        image = Path(row[self.image_column])
        if not row[self.image_column]:
            raise ValueError(f"Row {number} of {self.csv} has no {self.image_column!r}; fill it in or delete the row.")
        return Item(
            id=cell("id") or without_suffix(image),
            image=self.image_root / image,
            mask=self._mask(image, cell("mask"), masks),
            split=cell("split") or None,
            group=cell("group") or None,
            laterality=cell("laterality"),
        )

    def _label(self, number: int, row: dict[str, str]) -> int | tuple[int, ...] | None:
        values = [row[name] for name in self.label_columns]
        for name, value in zip(self.label_columns, values, strict=True):
            if not value or (self.multilabel and value.lower() not in _TRUTH):
                expected = "0 or 1" if self.multilabel else "a class"
                raise ValueError(f"Row {number} of {self.csv} has {value!r} in column {name!r}; give it {expected}.")
        if self.multilabel:
            return tuple(_TRUTH[value.lower()] for value in values)
        return self.class_names.index(values[0]) if values else None

    def _mask(self, image: Path, cell: str | None, masks: dict[str, Path]) -> Path | None:
        if cell is not None:
            return (self.mask_root or self.root) / cell if cell else None
        if self.mask_root is None:
            return None
        relative = Path(image.name) if image.is_absolute() else image
        return masks.get(without_suffix(relative), self.mask_root / relative)


_Row = tuple[int, dict[str, str]]  # line number in a plain table, and column -> stripped cell


def _read_table(path: Path) -> tuple[list[str], list[_Row]]:
    if not path.is_file():
        raise FileNotFoundError(f"The table {path} does not exist; set data.csv to the CSV file.")
    with path.open(newline="", encoding="utf-8-sig") as file:
        header = file.readline()
        file.seek(0)
        delimiter = max(",;\t", key=header.count)
        reader = csv.DictReader(file, delimiter=delimiter, restval="", restkey="", skipinitialspace=True)
        rows = [(number, {k: v.strip() for k, v in row.items() if k}) for number, row in enumerate(reader, start=2)]
    return list(reader.fieldnames or []), rows


def _check_column(name: str, header: list[str], path: Path) -> None:
    if name not in header:
        raise ValueError(f"{path} has no column {name!r}{_nearest(name, header)}; its columns are {', '.join(header)}.")


def _nearest(name: str, names: "set[str] | list[str]") -> str:
    close = get_close_matches(name, sorted(names), n=1)
    return f", did you mean {close[0]!r}" if close else ""
