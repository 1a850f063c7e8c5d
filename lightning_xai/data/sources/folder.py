"""Images in one folder a class, or in one folder of images to segment."""

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

from lightning_xai.data.items import Item, count_unread, index_masks, list_images, sorted_classes, without_suffix
from lightning_xai.data.module import ImageDataModule
from lightning_xai.data.options import Options
from lightning_xai.data.scans import patients_of
from lightning_xai.data.side_files import SideFiles, sort_files, unknown_endings
from lightning_xai.data.sources.image_list import is_image_list, listed_items
from lightning_xai.data.sources.labels import warn_of_alike
from lightning_xai.data.sources.layout import Layout, check_class_names, class_name, find_layout, images_in

log = logging.getLogger(__name__)

Masks = Path | tuple[Path, ...] | None
#: Of files that describe images: nobody expects them to be read as one.
_TEXTS = {
    *(".csv", ".tsv", ".xlsx", ".txt", ".md", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".html", ".pdf", ".log"),
    *(".py", ".ipynb", ".sh"),
}


def _rank(counted: tuple[str, int]) -> tuple[int, bool, str]:
    """The most common suffix first, and none last of equal ones."""
    return -counted[1], not counted[0], counted[0]


class FolderData(ImageDataModule):
    """Loads images from one folder a class: `root/cat/1.png`, or `root/train/cat/1.png` where folders give the splits.

    Masks may lie next to the images: `1_mask.png`, several of one image as `1_mask_1.png`, or `masks/1.png` next to
    `images/1.png` (see `sort_files`). With `mask_classes` the class folders may be left out: `root/1.png`, or
    `root/train/1.png`; without it, images in no folder have no label. Slices of one patient need split folders then,
    or `ManifestData` with a group column; DICOM files name their patient.

    Args:
        root: The folder that holds the class folders or the split folders. To `predict`, any folder of images, whatever
            is in it, one image, or a list of them (.txt or .csv).
        mask_root: A folder of masks with the same layout; the suffixes may differ. Masks next to the images are left
            out then.
        **options: As in `ImageDataModule`.
    """

    def __init__(self, root: str | Path, mask_root: str | Path | None = None, **options: Unpack[Options]) -> None:
        super().__init__(**options)
        self.root = Path(root)
        self.mask_root = None if mask_root is None else Path(mask_root)
        self.where = str(root)

    def items(self) -> list[Item]:
        """List the images of all class folders."""
        if self.root.is_file():
            raise NotADirectoryError(f"data.root={self.root} is a file; give the folder of the class folders.")
        self._check_root()
        layout = find_layout(self.root, self.mask_root, self.mask_classes is not None)
        self.class_names = sorted_classes(class_name(folder) for _, folder in layout.folders) if layout.labeled else []
        if self.mask_classes is None and not layout.labeled:
            log.warning("%s has no class folders: its images have no labels, and a target needs weights.", self.root)
        elif self.mask_classes is None:
            check_class_names(self.class_names, self.root)
            warn_of_alike(self.class_names, f"the folders of {self.root}")
        rows: list[tuple[str | None, Path, Path, Masks]] = []
        left_out: list[Path] = []
        for split, folder in layout.folders:
            files = self._files(folder)
            if not files.images:
                raise ValueError(f"The folder {folder} has no images; add some or remove the folder.")
            rows += [(split, folder, image, files.masks.get(image)) for image in files.images]
            left_out += files.left_out
        self._report_files(layout, sum(mask is not None for *_, mask in rows), left_out)
        self._report_endings([image for _, _, image, _ in rows])
        indexed = {} if self.mask_root is None else index_masks(self.mask_root)
        # Of images to segment each needs its mask; masks of evidence may be missing.
        needed = self.mask_classes is not None and any(mask is not None for *_, mask in rows)
        items, patients = [], patients_of([image for _, _, image, _ in rows])
        for split, folder, image, side in rows:
            relative, mask = image.relative_to(self.root), side
            name = without_suffix(relative)
            if self.mask_root is not None:
                mask = indexed.get(name, self.mask_root / relative)
            elif needed and side is None:
                mask = image.with_name(f"{without_suffix(Path(image.name))}_mask.png")
            label = self.class_names.index(class_name(folder)) if layout.labeled else None
            items.append(Item(name, image, label, mask, split, patients.get(image)))
        return items

    def predict_items(self) -> list[Item]:
        """List every image below the root, those that it lists, or the one image that it is."""
        if is_image_list(self.root):
            return listed_items(self.root)
        if self.root.is_file():
            return [Item(without_suffix(Path(self.root.name)), self.root)]
        self._check_root()
        files = self._files(self.root)
        if files.images == [self.root]:
            return [Item(self.root.resolve().name, self.root)]
        self._report_files(Layout([], False), len(files.masks), files.left_out)
        self._report_endings(files.images)
        indexed = {} if self.mask_root is None else index_masks(self.mask_root)
        names = [without_suffix(image.relative_to(self.root)) for image in files.images]
        count = Counter(names)
        return [
            # Images that differ in their suffix alone keep it.
            Item(
                name if count[name] == 1 else image.relative_to(self.root).as_posix(),
                image,
                mask=files.masks.get(image) if self.mask_root is None else indexed.get(name),
            )
            for name, image in zip(names, files.images, strict=True)
        ]

    def _check_root(self) -> None:
        if not self.root.is_dir():
            raise NotADirectoryError(f"The folder {self.root} does not exist; correct data.root.")

    def _files(self, folder: Path) -> SideFiles:
        """Images of a folder, and what lies next to them; not those below the folder of masks."""
        images = list_images(folder)
        if self.mask_root is not None:
            masks = self.mask_root.resolve()
            real = {parent: parent.resolve() for parent in {path.parent for path in images}}
            images = [path for path in images if masks not in (real[path.parent], *real[path.parent].parents)]
        return SideFiles([folder], {}, []) if images == [folder] else sort_files(images, folder)

    def _report_files(self, layout: Layout, masks: int, left_out: Sequence[Path]) -> None:
        """Log what lies next to the images, what is left out, and what is not read."""
        unread = count_unread(self.root)
        if unread:
            listed = ", ".join(
                f"{count} {suffix or 'without suffix'}" for suffix, count in sorted(unread.items(), key=_rank)
            )
            level = logging.INFO if set(unread) <= _TEXTS else logging.WARNING
            log.log(level, "Not read are these files of %s, by suffix: %s.", self.root, listed)
        if masks and self.mask_root is not None:
            log.warning("Left out the masks next to %d images of %s: data.mask_root is given.", masks, self.root)
        elif masks:
            log.info("Of the images of %s, %d have masks next to them.", self.root, masks)
        if left_out:
            log.warning(
                "Left out %d files of %s that are drawn from an image next to them or masks of a missing one, such as "
                "%s.", len(left_out), self.root, left_out[0],
            )  # fmt: skip
        if layout.left_out:
            names = ", ".join(folder.name for folder in layout.left_out)
            log.warning("Left out %s of %s: next to the split folders, and neither one.", names, self.root)
        parents = sorted({folder.parent for _, folder in layout.folders}) if layout.labeled else []
        loose = [path for parent in parents for path in images_in(parent)]
        if loose:
            log.warning("Left out %d images next to the class folders, such as %s.", len(loose), loose[0])

    def _report_endings(self, images: Sequence[Path]) -> None:
        """Log images that may be masks or drawings of the others, under a name that is not known."""
        for ending, paths in unknown_endings(images).items():
            log.warning(
                "%d images of %s are named as others with %r added, such as %s; if they are masks, name them x_mask, "
                "and if they are no images, move them away.", len(paths), self.root, ending, paths[0],
            )  # fmt: skip
