"""Images of a data set that are not read yet: one `Item` an image, and the files below a folder."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lightning_xai.data.pictures import PICTURE_SUFFIXES
from lightning_xai.data.scans import DICOM_SUFFIXES, ITK_SUFFIXES, is_dicom, series_of

IMAGE_SUFFIXES = (
    *PICTURE_SUFFIXES,
    *(".tif", ".tiff", ".ome.tif", ".ome.tiff", ".npy", ".nii", ".nii.gz"),
    *(*DICOM_SUFFIXES, *ITK_SUFFIXES),
)
#: Hold the pixels of an image whose head is in another file.
_OF_TWO_FILES = (".raw", ".zraw")

#: Left, top, right and bottom edge in pixels, from the upper left corner of the image.
Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """One image of a data set, not read yet.

    Args:
        id: Name of the image, unique in the data set.
        image: Path of the file, or the array itself.
        label: Class index, a tuple of 0/1 for several labels (`IGNORED`, -1: no loss or metric counts it), or None for
            an unlabeled image.
        mask: Path or array of the reference mask, several paths that are united, or None.
        split: "train", "val" or "test" where the source states it, else None.
        group: What must stay on one side of a split (patient, plate well), or None.
        laterality: Side of the body ("L", "R") where the source states it, else None.
        boxes: Boxes around the evidence, which serve as its mask, or None.
    """

    id: str
    image: Path | np.ndarray
    label: int | tuple[int, ...] | None = None
    mask: Path | tuple[Path, ...] | np.ndarray | None = None
    split: str | None = None
    group: str | None = None
    laterality: str | None = None
    boxes: tuple[Box, ...] | None = None

    @property
    def has_mask(self) -> bool:
        """Whether the image has a mask, or boxes in its place."""
        return self.mask is not None or self.boxes is not None

    @property
    def name(self) -> str:
        """The name of the image in error messages: its path, or its id when it is an array."""
        return str(self.image) if isinstance(self.image, Path) else self.id


def without_suffix(path: Path) -> str:
    """Return `path` with forward slashes and without its image suffix.

    Args:
        path: A file path; `.nii.gz` counts as one suffix.

    Returns:
        The path as text.

    Example:
        >>> without_suffix(Path("brain/case.01.nii.gz"))
        'brain/case.01'
    """
    text = path.as_posix()
    suffix = max((s for s in IMAGE_SUFFIXES if text.lower().endswith(s)), key=len, default="")
    return text[: len(text) - len(suffix)]


def list_images(folder: Path) -> list[Path]:
    """Return the image files below a folder, sorted, without hidden ones.

    Args:
        folder: Where to look, at any depth.

    Returns:
        The paths; instead of the slices of a DICOM series the folder that holds them.

    Raises:
        NotADirectoryError: The folder does not exist.
        ValueError: A folder cannot be read.
    """
    if not folder.is_dir():
        raise NotADirectoryError(f"The folder {folder} does not exist; check the path given in the data options.")
    files = [path for path in _files_below(folder) if is_image(path)]
    series = series_of(files)
    slices = {part for parts in series.values() for part in parts}
    return sorted([*(path for path in files if path not in slices), *series])


def is_image(path: Path) -> bool:
    """Tell whether a file is an image that can be read, by its name, or a DICOM file without suffix by its head."""
    return path.name.lower().endswith(IMAGE_SUFFIXES) or is_dicom(path)


def count_unread(folder: Path) -> Counter[str]:
    """Count the files below a folder that are no images by their suffix.

    Args:
        folder: Where to look, at any depth.

    Returns:
        Suffix in small letters, or "" -> files; without hidden ones, and the pixels of an image in two files.
    """
    suffixes = (path.suffix.lower() for path in _files_below(folder) if not is_image(path))
    return Counter(suffix for suffix in suffixes if suffix not in _OF_TWO_FILES)


def _files_below(folder: Path) -> Iterator[Path]:
    """The files at any depth, without hidden ones; folders that are linked are entered too, but no loops."""

    def refuse(error: OSError) -> None:
        raise ValueError(f"The folder {error.filename} cannot be read ({error.strerror}); make it readable or move it.")

    entered = set()
    for parent, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        here = os.path.realpath(parent)
        inside = [os.path.join(parent, name) for name in folders if not is_hidden(name)]
        folders.clear()
        for path in sorted(inside, key=lambda path: (os.path.islink(path), path)):
            real = os.path.realpath(path)
            if real not in entered and os.path.commonpath([real, here]) != real:
                entered.add(real)
                folders.append(os.path.basename(path))
        yield from (Path(parent, name) for name in files if not is_hidden(name))


def is_hidden(name: str) -> bool:
    """Tell whether a file or folder is hidden, or was left by an archive or a file manager.

    Args:
        name: Its name.

    Returns:
        Whether to leave it out without a word.

    Example:
        >>> is_hidden(".ipynb_checkpoints"), is_hidden("cat")
        (True, False)
    """
    return name.startswith(".") or name.lower() in ("__macosx", "@eadir", "thumbs.db", "desktop.ini")


def index_masks(mask_root: Path) -> dict[str, Path]:
    """Return the masks below a folder by their relative path without suffix.

    A mask may have another suffix than its image (a JPEG with a PNG mask).

    Args:
        mask_root: The folder parallel to the images.

    Returns:
        Relative path without suffix -> path of the mask.

    Raises:
        NotADirectoryError: The folder does not exist.
    """
    return {without_suffix(path.relative_to(mask_root)): path for path in list_images(mask_root)}


def sorted_classes(names: Iterable[str]) -> list[str]:
    """Return the distinct class names: by value when all are numbers, else by the alphabet.

    Args:
        names: Class names, repeated or not.

    Returns:
        The sorted names.

    Example:
        >>> sorted_classes(["10", "2", "2", "1"])
        ['1', '2', '10']
    """
    unique = sorted(set(names))
    try:
        return sorted(unique, key=float)
    except ValueError:
        return unique
