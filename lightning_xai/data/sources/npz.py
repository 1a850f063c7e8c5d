"""Images from the arrays of one npz file."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

import numpy as np

from lightning_xai.data.arrays import memory, stored_arrays
from lightning_xai.data.items import Item, sorted_classes
from lightning_xai.data.module import ImageDataModule
from lightning_xai.data.options import Options, check_names
from lightning_xai.data.sources.labels import check_class_count, from_zero, warn_of_alike, whole_labels
from lightning_xai.data.splits import SPLITS


class NpzData(ImageDataModule):
    """Loads images from an npz file, in one of two layouts.

    MedMNIST: `train_images`, `train_labels`, the same for val and test, and maybe `train_masks`. Plain: `images` of
    shape (N, *S) or (N, *S, C) or (N, C, *S), `labels`, and where there are any `split`, `masks`, `ids` and a group.
    Labels are class indices (N,) or (N, 1), from 0 or from 1, class names (N,), or 0/1 for several labels (N, K); with
    `mask_classes` they may be left out. `classes` may hold the names. To `predict`, the images are enough.

    Args:
        path: The npz file.
        group: Key of an array (N,) of what must stay in one split, such as the imaging site.
        classes: Names of the classes, in the order of the indices; None takes them from the file.
        **options: As in `ImageDataModule`.
    """

    def __init__(
        self,
        path: str | Path,
        group: str | None = None,
        classes: Sequence[str] | None = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(**options)
        self.path = Path(path)
        self.where = str(path)
        if group is not None and not isinstance(group, str):
            raise ValueError(f"data.group is {group!r}; give the key of an array, or null.")
        check_names(classes, "classes")
        self.group = group
        self.classes = None if classes is None else [str(name) for name in classes]

    def items(self) -> list[Item]:
        """List the images of the arrays."""
        arrays = self._load()
        parts = self._parts(arrays)
        # A segmenter needs no labels besides its masks.
        self.labeled = self.mask_classes is None or any("labels" in part for part in parts.values())
        self.class_names = []
        if self.labeled:
            for prefix, part in parts.items():
                part["labels"] = whole_labels(self._labels(part), f"{prefix}labels of {self.path}")
            labels = np.concatenate([part["labels"] for part in parts.values()])
            self._set_classes(labels, arrays.get("classes"), parts)
        if self.group is not None:
            for part in parts.values():
                part["group"] = self._array(part, self.group)
        return self._items(parts)

    def predict_items(self) -> list[Item]:
        """List the images of the arrays; nothing else is needed."""
        parts = self._parts(self._load())
        self.labeled = False
        kept = ("images", "masks", "ids")
        return self._items({prefix: {key: part[key] for key in kept if key in part} for prefix, part in parts.items()})

    def _items(self, parts: dict[str, dict[str, np.ndarray]]) -> list[Item]:
        items = []
        for prefix, part in parts.items():
            count = len(self._array(part, "images"))
            for key, values in part.items():
                if len(values) != count and key in ("labels", "masks", "split", "ids", "group"):
                    raise ValueError(f"{prefix}{key} of {self.path} has {len(values)} entries for {count} images.")
            items += [self._item(prefix, i, part) for i in range(count)]
        return items

    def _load(self) -> dict[str, np.ndarray]:
        if not self.path.is_file():
            raise FileNotFoundError(f"The file {self.path} does not exist; set data.path to the npz file.")
        try:
            claimed = sum(math.prod(shape) * dtype.itemsize for shape, dtype in stored_arrays(self.path).values())
            if claimed > memory():
                raise ValueError(f"its arrays claim {claimed / 2**30:,.0f} GiB, more than the memory of this machine")
            file = np.load(self.path)
            if isinstance(file, np.ndarray):
                raise ValueError("it holds one array without a name")
            with file:
                return {key: np.atleast_1d(file[key]) for key in file.files}
        except Exception as error:  # a damaged archive raises errors of zipfile, zlib or numpy
            raise ValueError(f"The file {self.path} cannot be read as npz ({error}); replace it.") from error

    def _parts(self, arrays: dict[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
        """Return prefix -> arrays without that prefix; one part with an empty prefix in the plain layout."""
        if "images" in arrays:
            return {"": dict(arrays)}
        parts = {}
        for split in SPLITS:
            part = {k.removeprefix(f"{split}_"): v for k, v in arrays.items() if k.startswith(f"{split}_")}
            if part:
                parts[f"{split}_"] = part | {"split": np.full(len(self._array(part, "images")), split)}
        if not parts:
            raise ValueError(f"{self.path} has neither images nor train_images; its keys are {', '.join(arrays)}.")
        return parts

    def _array(self, part: dict[str, np.ndarray], key: str) -> np.ndarray:
        if key not in part:
            raise ValueError(f"{self.path} has no array {key!r}; its keys are {', '.join(part)}.")
        return part[key]

    def _labels(self, part: dict[str, np.ndarray]) -> np.ndarray:
        labels = self._array(part, "labels")
        return labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels

    def _set_classes(
        self, labels: np.ndarray, stored: np.ndarray | None, parts: dict[str, dict[str, np.ndarray]]
    ) -> None:
        """Set `class_names`, and have the labels of all parts begin at 0."""
        if stored is not None and stored.ndim != 1:
            raise ValueError(f"classes of {self.path} has the shape {stored.shape}; give the name of each class.")
        self.multilabel = labels.ndim == 2
        names = self.classes if stored is None or self.classes is not None else [str(name) for name in stored]
        if labels.dtype.kind in "US":
            self.class_names = names or sorted_classes(labels.astype(str).tolist())
            check_class_count(len(self.class_names), f"The labels array of {self.path}")
            warn_of_alike(self.class_names, f"the labels of {self.path}")
        elif self.multilabel:
            check_class_count(labels.shape[1], f"The labels array of {self.path}")
            if labels.min(initial=0) < 0:
                raise ValueError(f"labels of {self.path} holds {labels.min()}, which has no meaning; give 0 or 1.")
            self.class_names = names or [str(index) for index in range(labels.shape[1])]
        else:
            shifted, self.class_names = from_zero(labels, names, f"labels of {self.path}")
            for part in parts.values():
                part["labels"], shifted = shifted[: len(part["labels"])], shifted[len(part["labels"]) :]

    def _item(self, prefix: str, i: int, part: dict[str, np.ndarray]) -> Item:
        return Item(
            id=str(part["ids"][i]) if "ids" in part else f"{prefix}{i:05d}",
            image=part["images"][i],
            label=self._label(part["labels"][i]) if self.labeled else None,
            mask=part["masks"][i] if "masks" in part else None,
            split=str(part["split"][i]) if "split" in part else None,
            group=str(part["group"][i]) if "group" in part else None,
        )

    def _label(self, value: np.ndarray) -> int | tuple[int, ...]:
        if self.multilabel:
            return tuple(int(entry) for entry in value)
        if value.dtype.kind in "US":
            return self.class_names.index(str(value)) if str(value) in self.class_names else -1
        return int(value)
