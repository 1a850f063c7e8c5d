"""Find masks and other files that lie next to the images they belong to."""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning_xai.data.items import without_suffix
from lightning_xai.data.sources.layout import IMAGE_WORDS, MASK_WORDS

_MASK = "|".join(sorted((*MASK_WORDS, "ground[ _-]truth"), key=len, reverse=True))
_SIDE = (
    "overlay|overlaid|thumb|thumbnail|preview|annotated|marked|heatmap|contours?|outlines?|boundary|boundaries|"
    "boxes|bbox|visuali[sz]ation|vis|superpixels?"
)
_GAP = r"[\s_.\-]+"
_NUMBER = r"(?P<number>[\s_.\-]*\(?\d+\)?)?"
#: Names of masks: x_mask, x-seg, x_mask_1, x mask (2); and mask_x.
_MASK_NAMES = (
    re.compile(rf"(?P<image>.+?){_GAP}(?:{_MASK}){_NUMBER}", re.I),
    re.compile(rf"(?:{_MASK}){_GAP}(?P<image>.+)", re.I),
)
#: Names of masks that are nothing but this word, next to an image whose name is such a word too: case_1/mask.png.
_MASK_ALONE = re.compile(rf"(?:{_MASK}){_NUMBER}", re.I)
#: Names of images that are made for people to look at: x_overlay, x_thumb_2, x_mask_color.
_SIDE_NAME = re.compile(rf"(?P<image>.+?){_GAP}(?:{_SIDE}|(?:{_MASK}){_GAP}[a-z]+){_NUMBER}", re.I)
#: Names of images with a word at the end that is not one of these.
_ENDING = re.compile(rf"(?P<image>.+?){_GAP}(?P<ending>[^\W\d_]+\d*)")
#: Names that mark a file as an image: x_image, x_img; and image_x.
_IMAGE = "|".join((*sorted(IMAGE_WORDS, key=len, reverse=True), "original", "orig", "raw"))
_IMAGE_ALONE = re.compile(_IMAGE, re.I)
_IMAGE_NAMES = (re.compile(rf"(?P<image>.+?){_GAP}(?:{_IMAGE})", re.I), re.compile(rf"(?:{_IMAGE}){_GAP}(.+)", re.I))


@dataclass(frozen=True)
class SideFiles:
    """The image files of a folder, sorted into images, masks and the rest.

    Attributes:
        images: The images, in the order of the files.
        masks: The masks of an image that has some.
        left_out: Files that are neither: overlays, thumbnails, masks whose image is missing.
    """

    images: list[Path]
    masks: dict[Path, tuple[Path, ...]]
    left_out: list[Path]


def sort_files(paths: Sequence[Path], folder: Path) -> SideFiles:
    """Sort image files into images, masks, and side files such as overlays.

    A file is the mask of an image if its name is that of the image and a word such as mask, seg or label, with a number
    where there are several (`x_mask_1.png`, `mask_x.png`), or if it has the name of the image in a folder of such a
    name next to the images or their folder (`masks/x.png`). It is a side file if the word is another, such as overlay
    or thumb. Without its image a file is an image, whatever its name, unless other images of the folder have masks.

    Args:
        paths: Image files below the folder.
        folder: The folder.

    Returns:
        Images, masks and the rest.
    """
    files = {path: _parts(path, folder) for path in paths}
    images = _index(files)
    belongs = {path: _owner(name, path, images) for path, name in files.items()}
    masks: dict[Path, list[Path]] = defaultdict(list)
    left_out = []
    for path, (image, is_mask) in belongs.items():
        if image is not None and is_mask:
            masks[image].append(path)
        elif image is not None:
            left_out.append(path)
    if masks:  # then what is named as a mask is one, though its image is missing
        left_out += [path for path, (image, is_mask) in belongs.items() if image is None and is_mask]
    taken = {*left_out, *(mask for parts in masks.values() for mask in parts)}
    return SideFiles(
        [path for path in paths if path not in taken],
        {image: tuple(sorted(parts)) for image, parts in masks.items() if image not in taken},
        sorted(left_out),
    )


def unknown_endings(images: Sequence[Path]) -> dict[str, list[Path]]:
    """Find images that are named as others with a word added, such as `x_binary.png` next to `x.png`.

    Args:
        images: Files that count as images.

    Returns:
        Ending -> the images that have it, where they are two or more and a tenth of all.
    """
    stems = {(path.parent, without_suffix(Path(path.name))) for path in images}
    found: dict[str, list[Path]] = defaultdict(list)
    for path in images:
        match = _ENDING.fullmatch(without_suffix(Path(path.name)))
        if match and (path.parent, match["image"]) in stems:
            found[match["ending"].lower()].append(path)
    return {ending: paths for ending, paths in found.items() if len(paths) >= max(2, len(images) / 10)}


def _parts(path: Path, folder: Path) -> tuple[str, str, bool]:
    """Folder without parts named images or masks, name without suffix, and whether a folder is named masks."""
    *parents, name = path.relative_to(folder).parts
    words = [parent.lower() for parent in parents]
    folders = "/".join(word for word in words if word not in IMAGE_WORDS | MASK_WORDS)
    return folders, without_suffix(Path(name)).lower(), any(word in MASK_WORDS for word in words)


def _index(files: dict[Path, tuple[str, str, bool]]) -> dict[tuple[str, str], Path]:
    """Images by folder and name; those named x_image also as x, and those named image alone also by their folder."""
    images: dict[tuple[str, str], Path] = {}
    for path, (folder, stem, in_masks) in files.items():
        if not in_masks:
            images.setdefault((folder, stem), path)
    for (folder, stem), path in list(images.items()):
        for pattern in _IMAGE_NAMES:
            if match := pattern.fullmatch(stem):
                images.setdefault((folder, match[1]), path)
        if _IMAGE_ALONE.fullmatch(stem):
            images.setdefault((folder, ""), path)
    return images


def _owner(name: tuple[str, str, bool], path: Path, images: dict[tuple[str, str], Path]) -> tuple[Path | None, bool]:
    """The image that a file belongs to, or None; and whether its name says mask."""
    folder, stem, says_mask = name
    named = [stem] if says_mask else []
    for pattern in _MASK_NAMES:
        if match := pattern.fullmatch(stem):
            says_mask = True
            # The number is that of the mask (x_mask_1), or that of the image (case_mask_1 next to case_1).
            numbered = match["image"] + (match.groupdict().get("number") or "")
            named += [match["image"], numbered, without_suffix(Path(match["image"]))]
    if _MASK_ALONE.fullmatch(stem):
        says_mask = True
        named.append("")
    for image_name in named:
        if (image := images.get((folder, image_name), path)) != path:
            return image, True
    if not says_mask and (match := _SIDE_NAME.fullmatch(stem)):
        image = images.get((folder, match["image"]), path)
        return (None if image == path else image), False
    return None, says_mask
