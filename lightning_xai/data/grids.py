"""Bring images to one size without distorting them, and bring maps back to the pixels of the file."""

import copy
import logging
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms.compose import Compose
from monai.transforms.utils import allow_missing_keys_mode
from torch.nn import functional

log = logging.getLogger(__name__)

#: How an image gets another size: with margins, without its borders, or distorted.
Resize = Literal["pad", "crop", "stretch"]


def resize_image(image: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    """Resize an image linearly, averaging where it shrinks so that nothing aliases.

    Args:
        image: (C, *S) float32.
        size: New spatial size, in pixels.

    Returns:
        (C, *size) float32.
    """
    old = tuple(image.shape[1:])
    if old == size:
        return image
    if len(size) == 2:
        resized = functional.interpolate(image[None], size, mode="bilinear", antialias=True)[0]
        return resized.clamp(image.min(), image.max())  # rounding must not leave the range, such as [0, 1]
    # torch has no antialiased trilinear mode: shrinking axes are averaged first, then growing ones interpolated.
    shrunk = tuple(min(pair) for pair in zip(old, size, strict=True))
    image = functional.interpolate(image[None], shrunk, mode="area")
    return functional.interpolate(image, size, mode="trilinear")[0]


def resize_mask(mask: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    """Resize a mask to the nearest pixel, so that no new class index appears.

    Args:
        mask: (1, *S) int64.
        size: New spatial size, in pixels.

    Returns:
        (1, *size) int64.
    """
    if tuple(mask.shape[1:]) == size:
        return mask
    return functional.interpolate(mask[None].double(), size, mode="nearest-exact")[0].long()


def resize_affine(affine: np.ndarray, old: tuple[int, ...], new: tuple[int, ...]) -> np.ndarray:
    """Compute the voxel-to-world matrix of a resized volume, whose corners stay where they are.

    Args:
        affine: (4, 4), of the volume as it was.
        old: Its spatial size, in voxels.
        new: The spatial size that it was resized to.

    Returns:
        (4, 4).
    """
    step = np.divide(old, new)
    scale = np.diag([*step, 1.0])
    scale[:3, 3] = (step - 1) / 2  # voxel centers, not corners, have whole coordinates
    moved: np.ndarray = affine @ scale
    return moved


def scaled_size(old: tuple[int, ...], size: tuple[int, ...], resize: Resize) -> tuple[int, ...]:
    """Choose the size that an image is scaled to before margins are added or borders cut off.

    Args:
        old: Its spatial size, in pixels.
        size: The size that it is to get.
        resize: "stretch" scales each axis for itself. Images keep their proportions otherwise: with "pad" the whole
            image fits in, with "crop" it fills everything. Volumes keep their spacing, and are not scaled.

    Returns:
        The size; that of "pad" and "crop" may be smaller or larger than wanted.

    Example:
        >>> scaled_size((100, 200), (64, 64), "pad"), scaled_size((100, 200), (64, 64), "crop")
        ((32, 64), (64, 128))
    """
    if resize == "stretch":
        return size
    if len(old) == 3:
        return old
    ratios = [new / side for side, new in zip(old, size, strict=True)]
    factor = min(ratios) if resize == "pad" else max(ratios)
    return tuple(max(1, round(side * factor)) for side in old)


@dataclass(frozen=True, eq=False)
class Undo:
    """What takes back the transforms of `data.prepare` that moved the pixels of one image.

    Attributes:
        prepare: The transforms.
        trace: What they noted at the image when they were applied.
        affine: (4, 4), of the prepared image.
        laterality: Side of the body of the image, or None.
    """

    prepare: Compose
    trace: list[Any]
    affine: torch.Tensor
    laterality: str | None

    def __call__(self, maps: torch.Tensor) -> torch.Tensor:
        """Bring maps (T, *S) on the grid of the prepared image to that of the file."""
        meta = MetaTensor(maps, affine=self.affine, applied_operations=copy.deepcopy(self.trace))
        with allow_missing_keys_mode(self.prepare):
            sample: Any = self.prepare.inverse({"image": meta, "laterality": self.laterality})  # type: ignore[no-untyped-call]
        return torch.as_tensor(sample["image"].as_tensor())


@dataclass(frozen=True, eq=False)
class Grid:
    """Where the pixels of a sample were in its file.

    Attributes:
        stored: Spatial size of the image as it was read.
        affine: (4, 4), of the image as it was read.
        prepared: Spatial size after the transforms of `data.prepare`.
        scaled: Spatial size before margins.
        size: Spatial size of the sample.
        undo: Takes the transforms back; None where there are none.
    """

    stored: tuple[int, ...]
    affine: np.ndarray
    prepared: tuple[int, ...]
    scaled: tuple[int, ...]
    size: tuple[int, ...]
    undo: Undo | None = None

    @property
    def margins(self) -> list[tuple[int, int]]:
        """Pixels added before and after each axis; negative numbers were cut off."""
        before = [(new - old) // 2 for new, old in zip(self.size, self.scaled, strict=True)]
        return [(b, new - old - b) for b, new, old in zip(before, self.size, self.scaled, strict=True)]

    @property
    def cut(self) -> bool:
        """Whether part of the image was cut off."""
        return any(min(pair) < 0 for pair in self.margins)

    @property
    def moved(self) -> bool:
        """Whether a pixel of the sample is elsewhere in the file."""
        return self.undo is not None or not self.stored == self.scaled == self.size

    def fit_image(self, image: torch.Tensor) -> torch.Tensor:
        """Bring a prepared image (C, *prepared) to (C, *size); margins get the lowest value of the image."""
        image = resize_image(image, self.scaled)
        return image if self.size == self.scaled else functional.pad(image, self._pads(), value=float(image.min()))

    def fit_mask(self, mask: torch.Tensor) -> torch.Tensor:
        """Bring a prepared mask (1, *prepared) to (1, *size); margins are background."""
        mask = resize_mask(mask, self.scaled)
        return mask if self.size == self.scaled else functional.pad(mask, self._pads())

    def fit_affine(self, affine: np.ndarray) -> np.ndarray:
        """Compute the voxel-to-world matrix (4, 4) of the sample from that of the prepared image."""
        shift = np.eye(4)
        shift[:3, 3] = [-before for before, _ in self.margins]
        moved: np.ndarray = resize_affine(affine, self.prepared, self.scaled) @ shift
        return moved

    def restore(self, maps: torch.Tensor) -> torch.Tensor | None:
        """Bring maps of a sample back to the pixels of its file; 0 where the sample did not reach.

        Args:
            maps: (T, *size) float32.

        Returns:
            (T, *stored) float32, or None where a transform of `data.prepare` cannot be taken back.
        """
        cropped = functional.pad(maps, [-pad for pad in self._pads()])
        maps = resize_image(cropped, self.prepared)
        if self.undo is not None:
            try:
                maps = self.undo(maps)
            except Exception as error:  # each transform has its own ways to fail
                log.debug("data.prepare cannot be taken back: %s", error)
                return None
        return maps if tuple(maps.shape[1:]) == self.stored else None

    def _pads(self) -> list[int]:
        """The margins as torch takes them: of the last axis first."""
        return [part for pair in reversed(self.margins) for part in pair]
