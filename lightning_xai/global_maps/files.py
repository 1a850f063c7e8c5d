"""Write global maps to disk: arrays, a figure, and volumes as NIfTI."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lightning_xai.functional.files import atomic_write, write_nifti
from lightning_xai.global_maps.maps_result import GlobalMapsResult
from lightning_xai.visualization.global_maps import global_figure
from lightning_xai.visualization.grid import save_png


def write_maps(
    folder: Path,
    result: GlobalMapsResult,
    affine: NDArray[Any],
    normalization: str,
    region: Tensor | None = None,
    about: str = "",
) -> NDArray[np.uint8]:
    """Write ``maps.npz`` and ``maps.png``, and of volumes ``maps.nii.gz``: the overall map, then those of the labels.

    The npz holds ``labels`` (the names of those that have a map), ``label_wise (L, *S)``, ``overall (*S)``,
    ``standard_error (L, *S)`` (NaN where one group or image gave the map), ``mean_image (C, *S)``, and of all labels
    ``all_labels``, ``count`` and ``skipped``.

    Args:
        folder: Where to.
        result: The maps; there must be one.
        affine: Voxel-to-world matrix ``(4, 4)`` of volumes.
        normalization: That of the maps, for the unit of the figure.
        region: Bool ``(*S)``, outlined in the figure.
        about: The explainer of the maps and their data: above the figure, and in its file.

    Returns:
        The figure.
    """
    label_wise, overall = result.found(), result.overall
    assert overall is not None
    errors = {
        name: error for name, error in zip(result.labels, result.standard_error, strict=True) if name in label_wise
    }
    arrays: dict[str, Any] = {
        "labels": np.array(list(label_wise)),
        "label_wise": np.stack([as_array(values) for values in label_wise.values()]),
        "overall": as_array(overall),
        "standard_error": np.stack(
            [as_array(overall * float("nan") if error is None else error) for error in errors.values()]
        ),
        "all_labels": np.array(result.labels),
        "count": np.array(result.count),
        "skipped": np.array(result.skipped),
    }
    if result.mean_image is not None:
        arrays["mean_image"] = as_array(result.mean_image)
    with atomic_write(folder / "maps.npz", "wb") as file:
        np.savez_compressed(file, **arrays)
    figure = maps_figure(result, normalization, region, about)
    save_png(folder / "maps.png", figure, about)
    if overall.ndim == 3:
        data = np.stack([arrays["overall"], *arrays["label_wise"]], axis=-1)
        write_nifti(folder / "maps.nii.gz", data, affine)
    return figure


def maps_figure(
    result: GlobalMapsResult, normalization: str, region: Tensor | None = None, heading: str = ""
) -> NDArray[np.uint8]:
    """Draw the overall map and those of the labels over the mean image."""
    assert result.overall is not None
    count = dict(zip(result.labels, result.count, strict=True))
    maps = {"overall": result.overall}
    maps |= {f"{name}, {count[name]} images": values for name, values in result.found().items()}
    unit = normalization if normalization != "none" else "raw map"
    if normalization == "mass":
        maps, unit = {name: values * values.numel() for name, values in maps.items()}, "times a uniform map"
    return global_figure(result.mean_image, maps, unit, region, heading=heading)


def as_array(values: Tensor) -> NDArray[np.float32]:
    """Convert a tensor to a float32 array."""
    array: NDArray[np.float32] = values.float().cpu().numpy()
    return array
