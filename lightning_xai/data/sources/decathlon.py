"""Data in the layout of the Medical Segmentation Decathlon: volumes listed in dataset.json, or their slices."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

from monai.apps.datasets import DecathlonDataset

from lightning_xai.data.items import Item, without_suffix
from lightning_xai.data.loaders import read_usable
from lightning_xai.data.loading import LoadItem
from lightning_xai.data.mask_rules import MaskRule
from lightning_xai.data.module import ImageDataModule
from lightning_xai.data.options import Options
from lightning_xai.data.sources.table import Inside


class DecathlonData(ImageDataModule):
    """Loads the training volumes of a Decathlon task, or their slices, with their masks, split by volume.

    The classes come from dataset.json; `mask_classes` with two names merges all labels into the second.

    Args:
        root: The task's folder, which holds dataset.json.
        axis: Axis along which volumes are cut into slices; None gives whole volumes. Slices are held in memory.
        slices: "foreground" keeps the slices that show a class besides the background, "all" every one.
        allow_outside: Whether dataset.json may name files that lie outside of `root`.
        download: Whether to fetch the task with MONAI's DecathlonDataset where dataset.json is missing; the folder must
            then be named as the task, such as data/Task04_Hippocampus.
        **options: As in `ImageDataModule`; `orientation` is "RAS" unless it is given.
    """

    def __init__(
        self,
        root: str | Path,
        axis: int | None = None,
        slices: str = "foreground",
        download: bool = False,
        allow_outside: bool = False,
        **options: Unpack[Options],
    ) -> None:
        options.setdefault("orientation", "RAS")
        super().__init__(**options)
        if axis not in (None, 0, 1, 2) or slices not in ("foreground", "all"):
            raise ValueError(
                f"data.axis is {axis!r}, data.slices {slices!r}; use 0, 1, 2 or null, and foreground or all."
            )
        self.root = Path(root)
        self.where = str(root)
        self.axis = axis
        self.slices = slices
        self.download = download
        self._inside = None if allow_outside is True else Inside(self.root)
        self.class_names = []
        self._of_volumes = (self.orientation, self.spacing)
        if axis is not None:
            self.orientation, self.spacing = None, None  # of the slices: the volumes are turned before they are cut

    def prepare_data(self) -> None:
        """Download the task if `download` is set and it is missing; once a machine."""
        if self.download and not (self.root / "dataset.json").is_file():
            DecathlonDataset(self.root.parent, self.root.name, "training", download=True, cache_num=0)

    def items(self) -> list[Item]:
        """List the training volumes, or their slices."""
        listed = self._listed()
        volumes = []
        for row in listed["training"]:
            image, mask = (self._file(row[key]) for key in ("image", "label"))
            name = without_suffix(Path(image.name))
            volumes.append(Item(name, image, None, mask, group=name))
        if self.axis is None:
            return volumes
        items = self._slices(volumes, with_mask=True)
        if not items:
            raise ValueError(f"No slice of {self.where} shows a class besides the background; set data.slices=all.")
        return items

    def predict_items(self) -> list[Item]:
        """List all volumes, those for testing included as far as they are there, or all their slices."""
        listed = self._listed()
        tests = [self._file(row["image"] if isinstance(row, dict) else row) for row in listed.get("test", [])]
        paths = [self._file(row["image"]) for row in listed["training"]] + [path for path in tests if path.is_file()]
        volumes = [Item(without_suffix(Path(path.name)), path) for path in paths]
        return volumes if self.axis is None else self._slices(volumes, with_mask=False)

    def _file(self, name: str) -> Path:
        """A file that dataset.json names."""
        path = self.root / name
        if self._inside is not None:
            self._inside.check(path, str(self.root / "dataset.json"))
        return path

    def _listed(self) -> dict[str, Any]:
        """The content of dataset.json, with what is needed in it; takes the classes from there."""
        if self.download:
            self.prepare_data()
        path = self.root / "dataset.json"
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist; correct data.root, or set data.download=true.")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is no valid JSON ({error}); replace the file.") from error
        whole = isinstance(content, dict) and content.get("labels") and content.get("training")
        if not whole or any(not {"image", "label"} <= set(row) for row in content["training"]):
            raise ValueError(f'{path} lacks "labels", or "training" with an image and a label each; replace the file.')
        listed: dict[str, Any] = content
        if self.mask_classes is None:
            self.mask_classes = [str(listed["labels"][key]) for key in sorted(listed["labels"], key=int)]
        return listed

    def _slices(self, volumes: Sequence[Item], with_mask: bool) -> list[Item]:
        """The slices of the volumes that can be read."""
        # Masks hold the labels of dataset.json: of two classes the second is all above 0.
        rule = MaskRule(0.0 if self.mask_classes is not None and len(self.mask_classes) == 2 else None)
        turned, spacing = self._of_volumes
        load = LoadItem(
            None, self.channel_axis, with_mask, self.mask_classes, rule=rule, orientation=turned, spacing=spacing
        )
        read = read_usable(load, volumes, self.on_bad_image == "raise", self.skipped)
        return [part for volume, sample in read for part in self._cut(volume, sample)]

    def _cut(self, volume: Item, sample: dict[str, Any]) -> list[Item]:
        """The slices of a volume, each an item of the volume's group."""
        assert self.axis is not None
        images = sample["image"].movedim(self.axis + 1, 0)
        masks = sample["mask"].movedim(self.axis + 1, 0) if "mask" in sample else [None] * len(images)
        digits = len(str(len(images)))
        return [
            Item(
                f"{volume.id}_{number:0{digits}d}",
                image.numpy(),
                mask=None if mask is None else mask[0].numpy(),
                group=volume.id,
            )
            for number, (image, mask) in enumerate(zip(images, masks, strict=True))
            if mask is None or self.slices == "all" or mask.any()
        ]
