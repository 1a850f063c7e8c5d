"""One folder a class, or one folder of images to segment."""

from pathlib import Path
from typing import Unpack

from lightning_xai.data.base import ImageDataModule
from lightning_xai.data.items import Item, index_masks, list_images, sorted_classes, without_suffix
from lightning_xai.data.options import Options
from lightning_xai.data.splits import split_name


class FolderData(ImageDataModule):
    """Images in one folder a class: `root/cat/1.png`, or `root/train/cat/1.png` where the splits are given.

    With `mask_classes` the class folders may be left out: `root/1.png`, or `root/train/1.png`. Slices of one patient
    need given splits then, or `ManifestData` with a group column.

    Args:
        root: The folder that holds the class folders or the split folders.
        mask_root: A folder of masks with the same layout; the suffixes may differ.
        **options: As in `ImageDataModule`.
    """

    def __init__(self, root: str | Path, mask_root: str | Path | None = None, **options: Unpack[Options]) -> None:
        super().__init__(**options)
        self.root = Path(root)
        self.mask_root = None if mask_root is None else Path(mask_root)
        self.where = str(root)

    def items(self) -> list[Item]:
        """List the images of all class folders."""
        if not self.root.is_dir():
            raise NotADirectoryError(f"The folder {self.root} does not exist; correct data.root.")
        masks = {} if self.mask_root is None else index_masks(self.mask_root)
        folders = self._class_folders()
        self.class_names = sorted_classes(folder.name for _, folder in folders)
        labelled = bool(folders)
        if not labelled and self.mask_classes is not None:
            folders = self._image_folders()
        if not folders:
            raise ValueError(f"{self.root} has no class folders; put each class into a folder of its own.")
        items = []
        for split, folder in folders:
            images = [path for path in list_images(folder) if self.mask_root not in path.parents]
            if not images:
                raise ValueError(f"The folder {folder} has no images; add some or remove the folder.")
            for image in images:
                relative = image.relative_to(self.root)
                name = without_suffix(relative)
                mask = None if self.mask_root is None else masks.get(name, self.mask_root / relative)
                label = self.class_names.index(folder.name) if labelled else None
                items.append(Item(name, image, label, mask, split))
        return items

    def _class_folders(self) -> list[tuple[str | None, Path]]:
        """Return (split, class folder), the split being None where there is no such level."""
        folders = self._subfolders(self.root)
        if folders and all(split_name(folder.name) for folder in folders):
            return [(split.name, folder) for split in folders for folder in self._subfolders(split)]
        return [(None, folder) for folder in folders]

    def _image_folders(self) -> list[tuple[str | None, Path]]:
        """Return (split, folder of images without labels)."""
        splits = self._subfolders(self.root)
        return [(split.name, split) for split in splits] if splits else [(None, self.root)]

    def _subfolders(self, folder: Path) -> list[Path]:
        masks = None if self.mask_root is None else self.mask_root.resolve()
        return sorted(
            path
            for path in folder.iterdir()
            if path.is_dir() and not path.name.startswith(".") and path.resolve() != masks
        )
