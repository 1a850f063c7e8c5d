"""Find out what the folders of a data set are: splits, classes, images next to masks, or something else."""

import logging
import os
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lightning_xai.data.items import is_hidden, is_image
from lightning_xai.data.splits import split_name

log = logging.getLogger(__name__)

IMAGE_WORDS = {"image", "images", "img", "imgs", "picture", "pictures", "photo", "photos"}
MASK_WORDS = {
    *("mask", "masks", "seg", "segmentation", "segmentations", "label", "labels", "gt", "groundtruth"),
    *("annotation", "annotations"),
}
#: Words next to the name of a split that say nothing about its content.
_NEUTRAL_WORDS = IMAGE_WORDS | {"set", "sets", "data", "dataset", "split", "folder", "files", "samples"}

Folders = list[tuple[str | None, Path]]


@dataclass(frozen=True)
class Layout:
    """The folders that hold the images of a data set.

    Attributes:
        folders: Split, or None where there is none, and folder of images.
        labeled: Whether the folders are classes.
        left_out: Folders that are neither.
    """

    folders: Folders
    labeled: bool
    left_out: list[Path] = field(default_factory=list)


def find_layout(root: Path, mask_root: Path | None, segmentation: bool) -> Layout:
    """Find out what the folders below a root are.

    Split folders are those named as a split (`train`, `Validation`), and those that name one (`seg_train`,
    `train_images`, `train2017`), if a training folder and another one are named alike but for the split and hold
    classes of the same name. What else lies next to them is left out. A folder of images alone has no labels.

    Args:
        root: The root.
        mask_root: The folder of masks, which is no class; or None.
        segmentation: Whether images may lie in no class folder.

    Returns:
        The layout.

    Raises:
        ValueError: The folders are not what they should be: no class, one class alone, splits without classes, or a
            level too much.
    """
    folders = subfolders(root, mask_root)
    splits = _class_splits(root, folders)
    if splits:
        classes = [(split, part) for split, folder in splits for part in _classes(_inner(folder))]
        return Layout(classes, True, _left_out(folders, splits))
    splits = _image_splits(folders, segmentation)
    if splits and segmentation:
        return Layout(splits, False, _left_out(folders, splits))
    if splits:
        raise ValueError(
            f"The split folders {_listed([folder for _, folder in splits])} of {root} hold images but no class "
            "folders; put each class into a folder of its own below each split."
        )
    if segmentation and (not folders or _parallel(folders)):
        if any(subfolders(folder) for folder in folders):
            _check_parallel(root, folders)
        return Layout([(None, root)], False)
    if not segmentation and not folders and images_in(root):
        return Layout([(None, root)], False)
    if not segmentation:
        _check_classes(root, folders)
        _check_inner(root, folders)
    return Layout([(None, folder) for folder in folders], True)


def subfolders(folder: Path, ignored: Path | None = None) -> list[Path]:
    """Return the visible folders in a folder, sorted.

    Args:
        folder: Where to look.
        ignored: A folder to leave out, or None.

    Returns:
        The paths.
    """
    with os.scandir(folder) as entries:
        # Most entries know their kind without a look at the file; a link may lead nowhere, or to itself.
        visible = sorted(
            folder / entry.name
            for entry in entries
            if not is_hidden(entry.name) and (os.path.isdir(entry) if entry.is_symlink() else entry.is_dir())
        )
    return [path for path in visible if ignored is None or path.resolve() != ignored.resolve()]


def class_name(folder: Path) -> str:
    """Return the class that a folder is named after, in the one Unicode form that all splits have in common."""
    return unicodedata.normalize("NFC", folder.name)


def images_in(folder: Path) -> list[Path]:
    """Return the images that lie in a folder itself, sorted.

    Args:
        folder: Where to look.

    Returns:
        The paths.
    """
    return sorted(
        path for path in folder.iterdir() if not is_hidden(path.name) and is_image(path) and not path.is_dir()
    )


def _words(name: str) -> list[str]:
    """The words of a name, in small letters: those of "chestXray_train2017" are chest, xray and train."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]


def split_in_name(name: str) -> tuple[str, str] | None:
    """Find the one split that a folder's name contains as a word.

    Args:
        name: The name.

    Returns:
        The split and the other words of the name, or None: also for folders of masks.

    Example:
        >>> split_in_name("seg_train"), split_in_name("Training Images"), split_in_name("contest")
        (('train', 'seg'), ('train', ''), None)
    """
    words = _words(name)
    split_words = [word for word in words if split_name(word) is not None]
    if len({split_name(word) for word in split_words}) != 1:
        return None
    rest = [word for word in words if word not in split_words and word not in _NEUTRAL_WORDS]
    split = split_name(split_words[0])
    return None if split is None or (MASK_WORDS - {"seg"}) & set(rest) else (split, " ".join(rest))


def _class_splits(root: Path, folders: Sequence[Path]) -> Folders:
    """Return the split folders that hold class folders."""
    holds = {folder: {class_name(path) for path in _classes(_inner(folder))} for folder in folders}
    named = [
        (*named_split, folder) for folder in folders if (named_split := split_in_name(folder.name)) and holds[folder]
    ]
    splits: Folders = []
    for rest in sorted({rest for _, rest, _ in named}):
        alike = [(split, folder) for split, other, folder in named if other == rest]
        classes = {name for split, folder in alike if split == "train" for name in holds[folder]}
        agreeing = [
            (split, folder)
            for split, folder in alike
            # Images next to the folders make a class of it, unless it holds the same classes as the training folder.
            if classes & holds[folder] or (split_name(folder.name) is not None and not images_in(folder))
        ]
        if classes and len({split for split, _ in agreeing}) > 1:
            splits += agreeing
    if splits:
        return splits
    exact: Folders = [
        (split, path) for split, _, path in named if split_name(path.name) is not None and not images_in(path)
    ]
    classes = {name for _, folder in exact for name in holds[folder]}
    if any(classes & holds[folder] for folder in _left_out(folders, exact)):
        raise ValueError(
            f"{root} holds the folders {_listed(folders)}, of which {exact[0][1].name} alone is named as a split, but "
            "others hold folders of the same name; name the splits train, val and test, and move other folders away."
        )
    return exact


def _image_splits(folders: Sequence[Path], segmentation: bool) -> Folders:
    """Return the split folders that hold images, not class folders."""
    named = [
        (*named_split, folder)
        for folder in folders
        if (named_split := split_in_name(folder.name)) and (images_in(folder) or _parallel(subfolders(folder)))
    ]
    splits: Folders = []
    for rest in sorted({rest for _, rest, _ in named}):
        alike: Folders = [(split, folder) for split, other, folder in named if other == rest]
        if {"train"} < {split for split, _ in alike}:
            splits += alike
    if not splits and segmentation and all(split_name(folder.name) for folder in folders):
        return [(split, folder) for split, _, folder in named]
    return splits


def _left_out(folders: Sequence[Path], splits: Folders) -> list[Path]:
    chosen = {folder for _, folder in splits}
    return [folder for folder in folders if folder not in chosen]


def _inner(folder: Path) -> Path:
    """The folder itself, or the only one in it where an archive repeats its name: `seg_train/seg_train`."""
    inside = subfolders(folder)
    return inside[0] if len(inside) == 1 and inside[0].name == folder.name and not images_in(folder) else folder


def _classes(folder: Path) -> list[Path]:
    """Return the folders in a split folder that can be classes: not those of images next to masks."""
    inside = subfolders(folder)
    return [] if _parallel(inside) else inside


def _parallel(folders: Sequence[Path]) -> bool:
    """Tell whether folders are images, and maybe masks next to them, instead of classes."""
    words = [set(_words(folder.name)) for folder in folders]
    return all(word and word <= _NEUTRAL_WORDS | MASK_WORDS for word in words) and any(w & IMAGE_WORDS for w in words)


def _check_parallel(root: Path, folders: Sequence[Path]) -> None:
    """Raise an error for folders of images and of masks, of which only the first holds data."""
    if len(folders) > 1 and _parallel(folders):
        images = next(folder for folder in folders if set(_words(folder.name)) & IMAGE_WORDS)
        masks = next((folder for folder in folders if set(_words(folder.name)) & MASK_WORDS), None)
        also = "" if masks is None else f" and data.mask_root={masks}"
        raise ValueError(
            f"The folders {_listed(folders)} of {root} are no classes; set data.root={images}{also}, with the class "
            "or split folders below."
        )


def _check_classes(root: Path, folders: Sequence[Path]) -> None:
    """Raise an error for what cannot be the class folders of a classifier."""
    if not folders:
        raise ValueError(f"{root} has no class folders; put each class into a folder of its own.")
    _check_parallel(root, folders)
    if len(folders) > 1:
        return
    inner = folders[0]
    while not images_in(inner) and len(deeper := subfolders(inner)) == 1:
        inner = deeper[0]
    if not images_in(inner) and subfolders(inner):
        raise ValueError(
            f"{root} holds the one folder {folders[0].name}, but a classifier needs two classes or more; set "
            f"data.root={inner} if the class or split folders are in there."
        )


def _check_inner(root: Path, folders: Sequence[Path]) -> None:
    """Raise an error for splits below classes, and warn of folders that look like classes below other folders."""
    inside = [subfolders(folder) for folder in folders]
    common = sorted(set.intersection(*({class_name(path) for path in paths} for paths in inside)))
    if len(folders) < 2 or len(common) < 2 or any(_parallel(paths) for paths in inside):
        return
    if len({split_name(name) for name in common} - {None}) > 1:
        raise ValueError(
            f"The folders {_listed(folders)} of {root} hold the split folders {', '.join(common)}; put the splits "
            f"above the classes, as in {common[0]}/{folders[0].name}."
        )
    log.warning(
        "The folders %s of %s count as classes, but all hold the folders %s: if those are the classes, set data.root "
        "to one of the first, or list the images in a table (data=manifest).", _listed(folders), root,
        ", ".join(common),
    )  # fmt: skip


def check_class_names(names: Sequence[str], root: Path) -> None:
    """Raise an error for a single class, of which a classifier learns nothing.

    Args:
        names: Names of the class folders.
        root: The root.

    Raises:
        ValueError: There is one.
    """
    if len(names) == 1:
        raise ValueError(
            f"{root} holds the one class folder {names[0]}, but a classifier needs two classes or more; put each class "
            "into a folder of its own, directly below data.root or below its split folders."
        )


def _listed(folders: Sequence[Path]) -> str:
    names = [folder.name for folder in folders]
    return ", ".join(names if len(names) <= 8 else [*names[:7], f"and {len(names) - 7} more"])
