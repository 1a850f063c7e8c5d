"""Transforms that align images, so that a position means the same in all of them, or plant a shortcut."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from monai.config.type_definitions import KeysCollection
from monai.transforms.inverse import InvertibleTransform
from monai.transforms.spatial.array import Flip
from monai.transforms.transform import MapTransform

Sample = dict[Hashable, Any]


class MirrorSided(MapTransform, InvertibleTransform):
    """Mirrors images of one side of the body, such as right eyes, so that all look like the other side.

    A transform for `data.prepare`. It is its own inverse: with a map as the image and the image's laterality it turns
    the map, so that it can be shown over the image as it was.

    Args:
        keys: What is mirrored where the sample has it, such as image and mask.
        side: The laterality that is mirrored, as the data set writes it.
        spatial_axis: The axis that is mirrored, counted from the first spatial one; 1 is left-right of a 2-D image.

    Raises:
        ValueError: When called with a sample without a side.

    Example:
        >>> import torch
        >>> mirror = MirrorSided(["image"], side="R", spatial_axis=1)
        >>> mirror({"image": torch.tensor([[[1, 2]]]), "laterality": "R"})["image"].tolist()
        [[[2, 1]]]
    """

    def __init__(self, keys: KeysCollection, side: str = "R", spatial_axis: int = 1) -> None:
        super().__init__(keys, allow_missing_keys=True)
        self.side = side
        self.flip = Flip(spatial_axis)  # moves the affine of a volume along

    def __call__(self, data: Mapping[Hashable, Any]) -> Sample:
        """Mirror the sample's arrays (C, *S) if it is of the side."""
        sample: Sample = dict(data)
        if not sample.get("laterality"):
            raise ValueError(
                "MirrorSided was given an image without a side of the body; name its column with "
                "data.laterality_column, or take the transform out of data.prepare."
            )
        if sample["laterality"] == self.side:
            for key in self.key_iterator(sample):
                sample[key] = self.flip(sample[key])
        return sample

    def inverse(self, data: Mapping[Hashable, Any]) -> Sample:
        """Mirror the arrays of a mirrored sample back."""
        sample: Sample = dict(data)
        if sample["laterality"] == self.side:
            for key in self.key_iterator(sample):
                traced = getattr(sample[key], "applied_operations", None)
                sample[key] = self.flip.inverse(sample[key]) if traced else self.flip(sample[key])
        return sample


class CornerTag(MapTransform):
    """Plants a bright square in the upper left corner of every image of one class: a shortcut that a test can look for.

    A transform for `data.prepare`.

    Args:
        keys: What is tagged, usually the image alone.
        label: Class index of the tagged images.
        size: Side of the square, in pixels.
        value: Its brightness.

    Example:
        >>> import torch
        >>> tag = CornerTag(["image"], label=1, size=1)
        >>> tag({"image": torch.zeros(1, 2, 2), "label": 1})["image"].tolist()
        [[[1.0, 0.0], [0.0, 0.0]]]
    """

    def __init__(self, keys: KeysCollection, label: int, size: int, value: float = 1.0) -> None:
        super().__init__(keys)
        self.label = label
        self.size = size
        self.value = value

    def __call__(self, data: Mapping[Hashable, Any]) -> Sample:
        """Tag the sample's arrays (C, *S) if it is of the class."""
        sample: Sample = dict(data)
        if sample["label"] == self.label:
            for key in self.key_iterator(sample):
                corner: Sequence[slice] = [slice(None), *[slice(self.size)] * (sample[key].ndim - 1)]
                sample[key] = sample[key].clone()
                sample[key][tuple(corner)] = self.value
        return sample
