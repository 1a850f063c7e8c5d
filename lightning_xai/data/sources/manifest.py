"""Images listed in a CSV table with one row an image."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Unpack

from lightning_xai.data.boxes import parse_box
from lightning_xai.data.items import Box, Item, index_masks, sorted_classes, without_suffix
from lightning_xai.data.module import ImageDataModule
from lightning_xai.data.options import Options, check_names
from lightning_xai.data.sources.labels import check_class_count, check_uncertain, finding, warn_of_labels
from lightning_xai.data.sources.table import FileFinder, Inside, Row, check_column, nearest, read_table
from lightning_xai.functional.segmentation import IGNORED

log = logging.getLogger(__name__)


class ManifestData(ImageDataModule):
    """Loads images that are listed in a CSV table.

    A column that is None is taken under its usual name (mask, split, group, laterality, id) where the table has it. To
    `predict`, a table needs the column of the images alone.

    Args:
        csv: Path of the table; see `read_table`.
        image_column: Column of the image files, relative to `image_root`; see `FileFinder`.
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
        label_separator: What joins several labels in a cell of the label column, such as "|"; None: each cell is one.
        uncertain: What -1 counts as in columns of findings, where blank is 0 then: "zero", "one", or "ignore": such a
            label counts in no loss and no metric, and of a single column the image is left out. None refuses both.
        allow_outside: Whether the table may name files that lie outside of `root`, `image_root` and `mask_root`.
        box_columns: Columns of boxes, which serve as masks of the evidence, as in `parse_box`; an image may have
            several rows then, one for each box.
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
        label_separator: str | None = None,
        uncertain: str | None = None,
        box_columns: Sequence[str] | None = None,
        allow_outside: bool = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(**options)
        self.csv = Path(csv)
        self.where = str(csv)
        self.root = self.csv.parent if root is None else Path(root)
        self.image_root = self.root / (image_root or "")
        self.mask_root = None if mask_root is None else self.root / mask_root
        self._inside = None if allow_outside is True else Inside(self.root, self.image_root, self.mask_root)
        self._images, self._mask_files = FileFinder(self.image_root), FileFinder(self.mask_root or self.root)
        self.image_column = image_column
        self.label_column = label_column
        self.label_columns = [label_column] if isinstance(label_column, str) else list(label_column or [])
        self.columns = {
            "mask": mask_column,
            "split": split_column,
            "group": group_column,
            "laterality": laterality_column,
            "id": id_column,
        }
        self.classes = None if classes is None else [str(name) for name in classes]
        check_names(classes, "classes")
        check_uncertain(uncertain)
        if label_separator is not None and not (isinstance(label_separator, str) and label_separator):
            raise ValueError(
                f"data.label_separator is {label_separator!r}; give what joins labels, such as '|', or null."
            )
        self.label_separator = label_separator
        self.uncertain = uncertain
        self.box_columns = list(box_columns or [])
        if len(self.box_columns) not in (0, 4):
            raise ValueError(f"data.box_columns names {len(self.box_columns)} columns; name left, top, right, bottom.")
        several = label_column is not None and not isinstance(label_column, str)
        if several and (classes is not None or label_separator is not None):
            raise ValueError(
                f"data.{'label_separator' if classes is None else 'classes'} needs a single label column; list the "
                "columns to keep in data.label_column."
            )
        self.multilabel = several or label_separator is not None

    def items(self) -> list[Item]:
        """List the rows of the table."""
        header, rows = read_table(self.csv)
        named = [self.image_column, *self.label_columns, *self.box_columns, *filter(None, self.columns.values())]
        for name in named:
            check_column(name, header, self.csv)
        columns = {role: name or (role if role in header else None) for role, name in self.columns.items()}
        self._check_image_root()
        if len(self.label_columns) == 1 and isinstance(self.label_column, str):
            rows = self._keep_classes(self._certain(rows, self.label_column), self.label_column)
        else:
            self.class_names = self.label_columns
        masks = {} if self.mask_root is None or columns["mask"] else index_masks(self.mask_root)
        boxes: dict[int, tuple[Box, ...]] = {}
        if self.box_columns:
            rows, boxes = self._with_boxes(rows)
        items = [
            replace(self._item(number, row, columns, masks), label=self._label(number, row), boxes=boxes.get(number))
            for number, row in rows
        ]
        ignored = sum(item.label.count(IGNORED) for item in items if isinstance(item.label, tuple))
        if ignored:
            log.info("Of the labels of %s, %d are uncertain and count in no loss and no metric.", self.csv, ignored)
        return items

    def predict_items(self) -> list[Item]:
        """List the rows of the table, of which only the image is needed."""
        header, rows = read_table(self.csv)
        check_column(self.image_column, header, self.csv)
        self._check_image_root()
        named = {role: self.columns[role] or role for role in ("mask", "laterality", "id")}
        columns = {role: named[role] if named.get(role) in header else None for role in self.columns}
        indexed = self.mask_root is not None and columns["mask"] is None and self.mask_root.is_dir()
        masks = index_masks(self.mask_root) if indexed and self.mask_root is not None else {}
        if self.box_columns:  # a row for each box
            rows = list({row[self.image_column]: (number, row) for number, row in reversed(rows)}.values())[::-1]
        items = [self._item(number, row, columns, masks) for number, row in rows]
        return [
            replace(item, mask=item.mask if isinstance(item.mask, Path) and item.mask.is_file() else None)
            for item in items
        ]

    def _check_image_root(self) -> None:
        if not self.image_root.is_dir():
            raise NotADirectoryError(f"The image folder {self.image_root} does not exist; correct data.image_root.")

    def _certain(self, rows: list[Row], column: str) -> list[Row]:
        """The rows with uncertain findings of a single column read as `uncertain` says, or left out."""
        if self.uncertain is None:
            return rows
        found = [finding(row[column], self.uncertain) for _, row in rows]
        if left_out := found.count(IGNORED):
            log.warning("Left out %d images of %s with an uncertain finding (data.uncertain).", left_out, self.csv)
        return [
            (number, row if value is None else row | {column: str(value)})
            for (number, row), value in zip(rows, found, strict=True)
            if value != IGNORED
        ]

    def _parts(self, cell: str) -> list[str]:
        """The class names in a cell."""
        if self.label_separator is None:
            return [cell] if cell else []
        return [part.strip() for part in cell.split(self.label_separator) if part.strip()]

    def _keep_classes(self, rows: list[Row], column: str) -> list[Row]:
        """Set `class_names` from the labels in the table, and drop the rows of other classes."""
        labels = {part for _, row in rows for part in self._parts(row[column])}
        if self.classes is None:
            check_class_count(len(labels), f"Column {column!r} of {self.csv}")
            self.class_names = sorted_classes(labels)  # an empty label is reported with its row
            warn_of_labels(labels, f"column {column!r} of {self.csv}")
            return rows
        for name in self.classes:
            if name not in labels:
                hint = nearest(name, labels)
                raise ValueError(f"Class {name!r} is not in column {column!r} of {self.csv}{hint}; correct it.")
        self.class_names = self.classes
        return [(number, row) for number, row in rows if set(self._parts(row[column])) & set(self.classes)]

    def _item(self, number: int, row: dict[str, str], columns: dict[str, str | None], masks: dict[str, Path]) -> Item:
        def cell(role: str) -> str | None:
            name = columns[role]
            return None if name is None else row[name]

        written = row[self.image_column]
        if not written:
            raise ValueError(f"Row {number} of {self.csv} has no {self.image_column!r}; fill it in or delete the row.")
        image, relative = self._find(self._images, written, number), Path(written)
        if image != self.image_root / written:  # found under the name that was meant
            relative = image.relative_to(self.image_root)
        return Item(
            id=cell("id") or without_suffix(relative),
            image=image,
            mask=self._mask(relative, cell("mask"), masks, number),
            split=cell("split") or None,
            group=cell("group") or None,
            laterality=cell("laterality"),
        )

    def _label(self, number: int, row: dict[str, str]) -> int | tuple[int, ...] | None:
        if self.multilabel and self.label_separator is None:
            return tuple(self._finding(number, row, name) for name in self.label_columns)
        if not self.label_columns:
            return None
        column = self.label_columns[0]
        parts = self._parts(row[column])
        if not parts:
            raise ValueError(f"Row {number} of {self.csv} has {row[column]!r} in column {column!r}; give it a class.")
        if self.multilabel:
            return tuple(int(name in parts) for name in self.class_names)
        return self.class_names.index(parts[0])

    def _finding(self, number: int, row: dict[str, str], column: str) -> int:
        found = finding(row[column], self.uncertain)
        if found is None:
            remedy = ", or set data.uncertain=ignore, zero or one" if row[column] in ("", "-1", "-1.0") else ""
            raise ValueError(
                f"Row {number} of {self.csv} has {row[column]!r} in column {column!r}; give it 0 or 1{remedy}."
            )
        return found

    def _find(self, files: FileFinder, cell: str, number: int) -> Path:
        """The file of a cell, which lies inside of the folders of the data."""
        where = f"Row {number} of {self.csv}"
        try:
            path = files.find(cell)
            if self._inside is not None:
                self._inside.check(path, where)
        except OSError as error:  # such as a name that is too long
            raise ValueError(f"{where} names a file that no system has ({error.strerror}); correct it.") from error
        return path

    def _mask(self, image: Path, cell: str | None, masks: dict[str, Path], number: int) -> Path | None:
        if cell is not None:
            return self._find(self._mask_files, cell, number) if cell else None
        if self.mask_root is None:
            return None
        relative = Path(image.name) if image.is_absolute() else image
        return masks.get(without_suffix(relative), self.mask_root / relative)

    def _with_boxes(self, rows: list[Row]) -> tuple[list[Row], dict[int, tuple[Box, ...]]]:
        """One row an image, the first, and the boxes of all its rows by that row's number."""
        first: dict[str, Row] = {}
        boxes: dict[int, list[Box]] = {}
        for number, row in rows:
            start, same = first.setdefault(row[self.image_column], (number, row))
            if any(same[name] != row[name] for name in self.label_columns):
                raise ValueError(
                    f"Rows {start} and {number} of {self.csv} give {row[self.image_column]!r} different labels; give "
                    "all boxes of an image its label."
                )
            box = parse_box(row, self.box_columns, f"Row {number} of {self.csv}")
            boxes.setdefault(start, []).extend([] if box is None else [box])
        return list(first.values()), {number: tuple(found) for number, found in boxes.items()}
