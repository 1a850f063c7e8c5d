"""The first transform of every pipeline: it reads an `Item` into a sample of tensors."""

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any, Literal

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms.compose import Compose
from monai.transforms.intensity.array import NormalizeIntensity, ScaleIntensityRange
from monai.transforms.spatial.dictionary import Orientationd, Spacingd
from monai.transforms.transform import Transform

from lightning_xai.data.arrays import LARGEST_RESAMPLED, check_claim
from lightning_xai.data.boxes import draw_boxes
from lightning_xai.data.grids import Grid, Resize, Undo, scaled_size
from lightning_xai.data.items import Item
from lightning_xai.data.mask_rules import CLASS_INDICES, MaskRule
from lightning_xai.data.masks import read_mask
from lightning_xai.data.notes import Notes
from lightning_xai.data.reading import BadImageError, ChannelAxis, LocatedImage, read_located
from lightning_xai.functional.segmentation import IGNORED

BOTH = ("image", "mask")
#: What happens to intensities; a mapping holds mean and std of each channel.
Normalize = Literal["image", "dataset", "none"] | Mapping[str, Sequence[float]] | None
#: Size of a voxel in mm; "any": as stored, also where it differs from volume to volume.
Spacing = Sequence[float] | Literal["any"] | None


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


def as_transform(normalize: Normalize) -> Literal["image"] | NormalizeIntensity | None:
    """Return what `LoadItem` does to intensities, for an option of `ImageDataModule` other than "dataset"."""
    if isinstance(normalize, Mapping):
        return NormalizeIntensity(np.array(normalize["mean"]), np.array(normalize["std"]), channel_wise=True)
    return "image" if normalize == "image" else None


class LoadItem(Transform):
    """Reads, checks and resizes one item.

    Args:
        size: Side or spatial size in pixels; None keeps the size of the image.
        channel_axis: As in `read_located`.
        with_mask: Whether samples carry a mask; an item without one gets an empty mask.
        mask_classes: Names of the values of masks, as in `ImageDataModule`.
        prepare: Transforms before resizing, as in `ImageDataModule`; they may read the item's label and laterality.
            Without a mask they get an empty one, so that those that name it need not be changed.
        normalize: What happens to intensities after `prepare`: "image" gives each image mean 0 and standard deviation
            1; or a transform with the statistics of a data set; or None.
        rule: What the values of masks mean; by default they are class indices.
        resize: How images get the size, as in `scaled_size`.
        orientation: Axes that volumes are turned to before `prepare`, such as "RAS"; None leaves them as stored.
        spacing: Size of a voxel in mm that volumes are resampled to, next; None, or "any", leaves it.
        window: Lowest and highest value, which become 0 and 1 before `prepare`; None leaves the values.

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
        normalize: Literal["image"] | NormalizeIntensity | None = None,
        rule: MaskRule = CLASS_INDICES,
        resize: Resize = "stretch",
        orientation: str | None = None,
        spacing: Spacing = None,
        window: Sequence[float] | None = None,
    ) -> None:
        self.size = size
        self.channel_axis = channel_axis
        self.with_mask = with_mask
        self.mask_classes = mask_classes
        self.spacing = spacing
        self.of_volumes: dict[str, list[Callable[..., Any]]] = {"orientation": [], "spacing": []}
        if orientation is not None:
            self.of_volumes["orientation"] = [Orientationd(BOTH, axcodes=orientation, labels=None)]
        if spacing is not None and spacing != "any":
            self.of_volumes["spacing"] = [Spacingd(BOTH, tuple(spacing), mode=("bilinear", "nearest"))]
        steps = [*chain(*self.of_volumes.values()), *prepare]
        self.prepare = Compose(steps) if steps else None
        self.normalize = normalize
        self.rule = rule
        self.channels: int | None = None
        self.usual: tuple[int, str] | None = None
        self.notes = Notes()
        self.resize = resize
        self.window = None if window is None else ScaleIntensityRange(window[0], window[1], 0.0, 1.0, clip=True)

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
        return self.with_grid(item)[0]

    def with_grid(self, item: Item) -> tuple[dict[str, Any], Grid]:
        """Read an item as in a call, and tell where its pixels were in the file."""
        image, mask, affine, grid = self._read(item)
        if self.normalize is not None:
            image = standardize(image) if self.normalize == "image" else torch.as_tensor(self.normalize(image))
        sample: dict[str, Any] = {"image": grid.fit_image(image), "id": item.id}
        if len(grid.size) == 3:
            # The precision of NIfTI's own header.
            sample["affine"] = torch.from_numpy(grid.fit_affine(affine).astype(np.float32))
        if mask is not None:
            sample["mask"] = grid.fit_mask(mask)
        if isinstance(item.label, tuple):
            sample["label"] = torch.tensor(item.label, dtype=torch.float32)
        elif item.label is not None:
            sample["label"] = torch.tensor(item.label, dtype=torch.int64)
        if item.laterality is not None:
            sample["laterality"] = item.laterality
        if item.group is not None:
            sample["group"] = item.group
        return sample, grid

    def _read(self, item: Item) -> tuple[torch.Tensor, torch.Tensor | None, np.ndarray, Grid]:
        """Image, mask and affine of an item, prepared but not resized, and how they are to be resized."""
        located = self._image(item)
        image, mask, undo = torch.from_numpy(located.pixels), None, None
        stored, affine = tuple(image.shape[1:]), np.eye(4) if located.affine is None else located.affine
        placed = affine
        if self.with_mask:
            mask = torch.from_numpy(self._mask(item, stored, located.affine))
        if self.window is not None:
            image = torch.as_tensor(self.window(image))
        for option, steps in self.of_volumes.items():
            if steps and len(stored) != 3:
                raise ValueError(f"data.{option} is of volumes, but {item.name} is a plane; set it to null.")
        if any(self.of_volumes.values()):
            self._check_place(item, stored, affine)
        if self.prepare is not None:
            sample: dict[str, Any] = {"image": MetaTensor(image, affine=torch.from_numpy(affine))}
            sample |= {"label": item.label, "laterality": item.laterality}
            mask_or_empty = torch.zeros(1, *stored, dtype=torch.int64) if mask is None else mask
            sample["mask"] = MetaTensor(mask_or_empty, affine=torch.from_numpy(affine))
            sample = self.prepare(sample)
            if mask is not None:
                mask = sample["mask"].as_tensor().long()
            meta, image = sample["image"], sample["image"].as_tensor().contiguous()
            placed = meta.affine.numpy()
            if meta.applied_operations:
                undo = Undo(self.prepare, meta.applied_operations, meta.affine, item.laterality)
        old = tuple(image.shape[1:])
        size = self._new_size(old, item)
        scaled = scaled_size(old, size, self.resize)
        return image, mask, placed, Grid(stored, affine, old, scaled, size, undo)

    def _check_place(self, item: Item, size: tuple[int, ...], affine: np.ndarray) -> None:
        """Raise an error for a volume that cannot be turned, or becomes too large where it is resampled."""
        axes = affine[:3, :3]
        if not np.isfinite(affine).all() or np.linalg.matrix_rank(axes) < 3:
            raise BadImageError(
                f"The affine of {item.name} does not say how its voxels lie ({axes.tolist()}); correct it, or set "
                "data.on_bad_image=skip."
            )
        if self.of_volumes["spacing"]:
            sides = np.array(size) * np.linalg.norm(axes, axis=0) / np.array(self.spacing, float)
            # Rounded as MONAI does; floats end before sides do.
            resampled = tuple(int(side) for side in np.clip(sides.round(), 1, 1e18))
            check_claim(resampled, f"image {item.name} at data.spacing={self.spacing}", LARGEST_RESAMPLED)

    def _image(self, item: Item) -> LocatedImage:
        image = read_located(item.image, self.channel_axis, item.id, self.channels, self.notes)
        found = len(image.pixels)
        if self.usual is not None and found != self.usual[0]:
            channels, images = self.usual
            convert = "set data.channels=1 or 3 to convert all, or " if {found, channels} == {1, 3} else "set "
            raise BadImageError(
                f"The image {item.name} has {found} channels where {images} have {channels}; {convert}"
                "data.on_bad_image=skip."
            )
        return image

    def _mask(self, item: Item, size: tuple[int, ...], affine: np.ndarray | None) -> np.ndarray:
        if item.mask is None:
            return draw_boxes(item.boxes, size, item.name) if item.boxes else np.zeros((1, *size), np.int64)
        mask = read_mask(item.mask, size, f"of {item.id}", self.rule.ignored, affine, self.rule.soft)
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
