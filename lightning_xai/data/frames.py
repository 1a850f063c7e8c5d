"""Sort the slices of a DICOM volume, which are files of their own or the frames of one file."""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

#: What says that the frames of a file are moments: FrameTime and FrameTimeVector.
_TIMES = (0x00181063, 0x00181065)
#: Where a file with functional groups states what slices of their own state directly.
_GROUPS = (
    ("PlanePositionSequence", "ImagePositionPatient"),
    ("PlaneOrientationSequence", "ImageOrientationPatient"),
    ("PixelMeasuresSequence", "PixelSpacing"),
    ("PixelValueTransformationSequence", "RescaleSlope"),
    ("PixelValueTransformationSequence", "RescaleIntercept"),
)
#: What the slices of a file do not inherit from it.
_OF_ALL_FRAMES = (
    *("PixelData", "NumberOfFrames", "FrameIncrementPointer"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
)


def number_of_frames(image: Any) -> int:
    """Return the number of frames of a DICOM file, 1 where it states none."""
    return int(image.get("NumberOfFrames") or 1)


def frames_as_slices(image: Any) -> list[Any]:
    """Turn the frames of one DICOM file into the slices of a series, sorted by their position.

    Args:
        image: The file, which states the place of each frame, or the distance between frames.

    Returns:
        A slice for each frame, with its own place, spacing and scale.

    Raises:
        ValueError: The frames are moments, colored, or nothing says how they lie.
    """
    count = number_of_frames(image)
    if int(image.get("SamplesPerPixel", 1)) > 1:
        raise ValueError(f"it holds {count} frames in color, as a film does; save each as a picture of its own")
    slices = list(_with_own_heads(image))
    if any(part.get("ImagePositionPatient") is None or part.get("ImageOrientationPatient") is None for part in slices):
        _stack(slices, image)
    elif len({tuple(part.ImagePositionPatient) for part in slices}) < count:
        raise ValueError(f"several of its {count} frames lie in one place; save each volume as a file of its own")
    for part, pixels in zip(slices, image.pixel_array, strict=True):
        part.set_pixel_data(pixels, image.PhotometricInterpretation, min(image.BitsStored, 8 * pixels.itemsize))
    return sorted_slices(slices)


def sorted_slices(slices: Sequence[Any]) -> list[Any]:
    """Sort slices by their position along their normal, and number them in this order.

    Args:
        slices: They state their positions and orientations.

    Returns:
        The sorted slices.

    Raises:
        ValueError: They are no evenly spaced stack.
    """
    across, down = np.reshape(np.array(slices[0].ImageOrientationPatient, float), (2, 3))
    normal = np.cross(across, down)
    heights = np.array([float(np.dot(normal, np.array(part.ImagePositionPatient, float))) for part in slices])
    order = np.argsort(heights)
    steps = np.diff(heights[order])
    if steps.min() < 1e-3 or steps.max() > 1.1 * steps.min():
        raise ValueError(
            f"its slices lie {steps.min():.3g} to {steps.max():.3g} mm apart; add the missing ones or remove the double"
        )
    ordered = [slices[number] for number in order]
    for number, part in enumerate(ordered, start=1):
        part.InstanceNumber = number  # what the reader of MONAI stacks them by
    return ordered


def _with_own_heads(image: Any) -> Iterator[Any]:
    """The head of each frame, with what the file states for all frames and for this one."""
    import pydicom

    shared = image.get("SharedFunctionalGroupsSequence") or [{}]
    own = image.get("PerFrameFunctionalGroupsSequence") or [{}] * number_of_frames(image)
    plain = pydicom.Dataset({element.tag: element for element in image if element.keyword not in _OF_ALL_FRAMES})
    for frame in own:
        part = copy.deepcopy(plain)
        for sequence, name in _GROUPS:
            for groups in (shared[0], frame):
                if groups.get(sequence) and groups.get(sequence)[0].get(name) is not None:
                    setattr(part, name, groups.get(sequence)[0].get(name))
        yield part


def _stack(slices: Sequence[Any], image: Any) -> None:
    """Give slices without places those that follow from the distance between them."""
    count, distance = len(slices), image.get("SpacingBetweenSlices")
    if image.get("FrameIncrementPointer") in _TIMES:
        raise ValueError(f"it holds {count} frames of a film; save each as a picture of its own")
    if distance is None:
        raise ValueError(f"it holds {count} frames and does not say how they lie; save it as NIfTI, or as a series")
    orientation = [float(value) for value in image.get("ImageOrientationPatient") or (1, 0, 0, 0, 1, 0)]
    start = np.array(image.get("ImagePositionPatient") or (0, 0, 0), float)
    normal = np.cross(orientation[:3], orientation[3:])
    for number, part in enumerate(slices):
        part.ImageOrientationPatient = orientation
        part.ImagePositionPatient = list(start + number * float(distance) * normal)
