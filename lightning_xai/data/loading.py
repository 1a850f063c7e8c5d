"""The first transform of every pipeline: it reads an `Item` into a sample of tensors."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms.compose import Compose
from monai.transforms.transform import Transform
from torch.nn import functional

from lightning_xai.data.items import Item
from lightning_xai.data.mask_rules import CLASS_INDICES, MaskRule
from lightning_xai.data.masks import read_mask
from lightning_xai.data.notes import Notes
from lightning_xai.data.reading import BadImageError, ChannelAxis, read_affine, read_image, stated_affine
from lightning_xai.functional.segmentation import IGNORED


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


def standardize(image: torch.Tensor) -> torch.Tensor:
    """Give each channel of an image mean 0 and standard deviation 1; a constant channel becomes 0.

    Args:
        image: (C, *S) float32.

    Returns:
        (C, *S) float32.

    Example:
        >>> standardize(torch.tensor([[[100.0, 300.0]], [[5.0, 5.0]]])).tolist()
        [[[-1.0, 1.0]], [[0.0, 0.0]]]
    """
    values = image.flatten(1).double()
    mean, std = values.mean(1, keepdim=True), values.std(1, correction=0, keepdim=True)
    # What rounding leaves of a constant channel must not be blown up.
    scaled = torch.where(std > 1e-7 * mean.abs(), (values - mean) / std.clamp_min(torch.finfo(std.dtype).tiny), 0.0)
    return scaled.view(image.shape).float()


class LoadItem(Transform):
    """Reads, checks and resizes one item.

    Args:
        size: Side or spatial size in pixels; None keeps the size of the image.
        channel_axis: As in `read_image`.
        with_mask: Whether samples carry a mask; an item without one gets an empty mask.
        mask_classes: Names of the values of masks, as in `ImageDataModule`.
        prepare: Transforms before resizing, as in `ImageDataModule`; they may read the item's label and laterality.
            Without a mask they get an empty one, so that those that name it need not be changed.
        normalize: "image" to give each image mean 0 and standard deviation 1 after `prepare`, or None.
        rule: What the values of masks mean; by default they are class indices.
        channels: 1 or 3 channels that gray and color images are turned into; None keeps those of the file.

    Attributes:
        channels: 1 or 3 channels that gray and color images are turned into; None keeps those of the files.
        usual: Channels that an image must have, and how many images have them, in words; None takes all.
        notes: What a user should know about the files that were read.
    """

    def __init__(
        self,
        size: int | tuple[int, ...] | None,
        channel_axis: ChannelAxis,
        with_mask: bool,
        mask_classes: Sequence[str] | None = None,
        prepare: Sequence[Callable[..., Any]] = (),
        normalize: Literal["image"] | None = None,
        rule: MaskRule = CLASS_INDICES,
    ) -> None:
        self.size = size
        self.channel_axis = channel_axis
        self.with_mask = with_mask
        self.mask_classes = mask_classes
        self.prepare = Compose(list(prepare)) if prepare else None
        self.normalize = normalize
        self.rule = rule
        self.channels: int | None = None
        self.usual: tuple[int, str] | None = None
        self.notes = Notes()

    def __call__(self, item: Item) -> dict[str, Any]:
        """Read an item.

        Args:
            item: What to read.

        Returns:
            `image` (C, *S) float32, `label` scalar int64 or (K,) float32, `mask` (1, *S) int64, `id`, `laterality`,
            `group`, `affine` (4, 4) float32 of a volume; without the keys that the item has no value for.

        Raises:
            BadImageError: The image or mask cannot be used.
            ValueError: `size` does not have one entry an axis of the image.
        """
        image, mask, affine = self._read(item)
        if self.normalize == "image":
            image = standardize(image)
        old = tuple(image.shape[1:])
        size = self._new_size(old, item)
        sample: dict[str, Any] = {"image": resize_image(image, size), "id": item.id}
        if len(size) == 3:
            affine = resize_affine(affine, old, size)
            sample["affine"] = torch.from_numpy(affine.astype(np.float32))  # the precision of NIfTI's own header
        if mask is not None:
            sample["mask"] = resize_mask(mask, size)
        if isinstance(item.label, tuple):
            sample["label"] = torch.tensor(item.label, dtype=torch.float32)
        elif item.label is not None:
            sample["label"] = torch.tensor(item.label, dtype=torch.int64)
        if item.laterality is not None:
            sample["laterality"] = item.laterality
        if item.group is not None:
            sample["group"] = item.group
        return sample

    def _read(self, item: Item) -> tuple[torch.Tensor, torch.Tensor | None, np.ndarray]:
        """Image, mask and affine of an item, prepared but not resized."""
        image = torch.from_numpy(self._image(item))
        affine, mask = read_affine(item.image), None
        if self.with_mask:
            mask = torch.from_numpy(self._mask(item, tuple(image.shape[1:]), affine))
        if self.prepare is None:
            return image, mask, affine
        sample: dict[str, Any] = {"image": MetaTensor(image, affine=torch.from_numpy(affine))}
        sample |= {"label": item.label, "laterality": item.laterality}
        mask_or_empty = torch.zeros(1, *image.shape[1:], dtype=torch.int64) if mask is None else mask
        sample["mask"] = MetaTensor(mask_or_empty, affine=torch.from_numpy(affine))
        sample = self.prepare(sample)
        if mask is not None:
            mask = sample["mask"].as_tensor().long()
        return sample["image"].as_tensor().contiguous(), mask, sample["image"].affine.numpy()

    def _image(self, item: Item) -> np.ndarray:
        image = read_image(item.image, self.channel_axis, item.id, self.channels, self.notes)
        if self.usual is not None and len(image) != self.usual[0]:
            channels, images = self.usual
            convert = "set data.channels=1 or 3 to convert all, or " if {len(image), channels} == {1, 3} else "set "
            raise BadImageError(
                f"The image {item.name} has {len(image)} channels where {images} have {channels}; {convert}"
                "data.on_bad_image=skip."
            )
        return image

    def _mask(self, item: Item, size: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
        if item.mask is None:
            return np.zeros((1, *size), np.int64)
        mask = read_mask(item.mask, size, f"of {item.id}", self.rule.ignored)
        for part in item.mask if isinstance(item.mask, tuple) else (item.mask,):
            placed = stated_affine(part) if isinstance(part, Path) else None
            elsewhere = placed is not None and not np.allclose(placed, affine, atol=1e-2)
            if elsewhere and stated_affine(item.image) is not None:
                raise BadImageError(
                    f"The mask {part} lies elsewhere in the world than its image {item.name} (their affines differ); "
                    "resample it to the image or set data.on_bad_image=skip."
                )
        mask = self.rule(mask)
        if (mask == IGNORED).any():
            self.notes.add(f"pixels of the value {self.rule.ignored} in the mask, which are ignored", item.name)
        if self.mask_classes is not None and mask.max() >= len(self.mask_classes):
            raise BadImageError(
                f"The mask of {item.name} holds the value {mask.max()}, but data.mask_classes names "
                f"{len(self.mask_classes)} ({', '.join(self.mask_classes)}); name all values, or correct the mask."
            )
        return mask

    def _new_size(self, old: tuple[int, ...], item: Item) -> tuple[int, ...]:
        if self.size is None:
            return old
        size = (self.size,) * len(old) if isinstance(self.size, int) else self.size
        if len(size) != len(old):
            raise ValueError(f"data.size is {size}, but {item.name} has {len(old)} spatial axes; give a size for each.")
        return size
