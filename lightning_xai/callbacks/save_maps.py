"""Predicted maps on disk, in the format of the input."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor
from typing_extensions import override

from lightning_xai.callbacks.titles import figure_title
from lightning_xai.data.grids import Grid
from lightning_xai.functional.files import atomic_write, safe_name, write_nifti
from lightning_xai.visualization.grid import overlay, save_png

log = logging.getLogger(__name__)

FORMATS = ("auto", "npy", "png", "nifti")


class SaveMaps(BasePredictionWriter):
    """Writes the maps of ``predict`` to disk batch by batch, each rank those of its own images.

    Maps lie on the pixels of the image's file: resizing, margins and the transforms of ``data.prepare`` are taken back
    for the images of a data module, and what the sample did not reach is 0. Where a transform cannot be taken back, the
    maps stay on the grid that the target saw, with a warning.

    ``npy`` holds the raw maps ``(T, *S)`` as float32, ``png`` an overlay a query (of a volume the slice with most of
    the map), ``nifti`` the raw maps of a volume, ``(X, Y, Z)`` or ``(X, Y, Z, T)``, with the image's affine.

    Args:
        format: ``"npy"``, ``"png"``, ``"nifti"``, or ``"auto"``: NIfTI for volumes, npy for 2-D images, PNG for both.
        dirpath: Folder; ``<run>/predictions`` if ``None``.
    """

    def __init__(self, format: str = "auto", dirpath: str | Path | None = None) -> None:
        if format not in FORMATS:
            raise ValueError(f"SaveMaps has format {format!r}; use one of {', '.join(FORMATS)}.")
        super().__init__(write_interval="batch")
        self.format = format
        self.dirpath = dirpath
        self._names: dict[str, str] = {}
        self._warned = False

    @override
    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the names of an earlier run."""
        self._names = {}

    @override
    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: Any,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Write the batch's maps.

        Raises:
            ValueError: If two ids become the same file name, or 2-D images are to be written as NIfTI.
        """
        folder = self.folder(trainer)
        grids = getattr(getattr(getattr(trainer, "predict_dataloaders", None), "dataset", None), "grids", {})
        for i, image_id in enumerate(batch["id"]):
            image, maps = torch.as_tensor(batch["image"][i]), prediction.maps[i].detach().float().cpu()
            affine, grid = affine_of(batch, i), grids.get(image_id)
            if grid is not None and grid.moved:
                image, maps, affine = self._restored(grid, image.float().cpu(), maps, affine)
            self._write(folder / self._file_name(image_id), image, maps, affine, figure_title(trainer, pl_module))

    def folder(self, trainer: Trainer) -> Path:
        """The folder of the maps."""
        return Path(self.dirpath or Path(trainer.default_root_dir) / "predictions")

    def map_file(self, image_id: str, query: int, queries: int, is_volume: bool) -> str:
        """Name the file in the folder that holds the map of a query: raw where there is one, else the overlay.

        Args:
            image_id: Of the image.
            query: Number of the query about it.
            queries: How many there are.
            is_volume: Whether the image is a volume.
        """
        formats = self._formats(is_volume)
        if "nifti" in formats:
            return f"{safe_name(image_id)}.nii.gz"
        return f"{safe_name(image_id)}.npy" if "npy" in formats else _figure(safe_name(image_id), query, queries)

    def _formats(self, is_volume: bool) -> set[str]:
        return {self.format} if self.format != "auto" else {"nifti" if is_volume else "npy", "png"}

    def _restored(
        self, grid: Grid, image: Tensor, maps: Tensor, affine: np.ndarray[Any, Any]
    ) -> tuple[Tensor, Tensor, np.ndarray[Any, Any]]:
        """Image, maps and affine on the grid of the file; as they are where that cannot be reached."""
        stored = grid.restore(torch.cat([maps, image]))
        if stored is not None:
            return stored[len(maps) :], stored[: len(maps)], grid.affine
        if not self._warned:
            log.warning("Maps are written as the target saw the images: data.prepare cannot be taken back.")
            self._warned = True
        return image, maps, affine

    def _write(self, stem: Path, image: Tensor, maps: Tensor, affine: np.ndarray[Any, Any], about: str) -> None:
        values = maps.numpy()
        is_volume = values.ndim == 4
        formats = self._formats(is_volume)
        if "nifti" in formats:
            if not is_volume:
                raise ValueError(
                    f"{stem.name} is a 2-D image with maps of shape {values.shape[1:]}; "
                    "NIfTI takes volumes, so use format npy or png."
                )
            data = values[0] if len(values) == 1 else np.moveaxis(values, 0, -1)
            write_nifti(Path(f"{stem}.nii.gz"), data, affine)
        if "npy" in formats:
            with atomic_write(Path(f"{stem}.npy"), "wb") as file:
                np.save(file, values)
        if "png" in formats:
            for query, value in enumerate(maps):
                save_png(_figure(str(stem), query, len(maps)), overlay(image.cpu(), value), about)

    def _file_name(self, image_id: str) -> str:
        name = safe_name(image_id)
        if self._names.setdefault(name, image_id) != image_id:
            raise ValueError(
                f"The ids {self._names[name]!r} and {image_id!r} would both be written to {name!r}; "
                "make the ids differ in letters or digits."
            )
        return name


def _figure(stem: str, query: int, queries: int) -> str:
    return f"{stem}.png" if queries == 1 else f"{stem}_{query}.png"


def affine_of(batch: Any, index: int) -> np.ndarray[Any, Any]:
    """The voxel-to-world matrix ``(4, 4)`` of an image, from ``batch["affine"]`` or its MetaTensor, or the identity."""
    affine = batch.get("affine", getattr(batch["image"], "affine", None))
    if affine is None:
        return np.eye(4)
    affine = torch.as_tensor(affine).double().cpu().numpy()
    matrix: np.ndarray[Any, Any] = affine[index] if affine.ndim == 3 else affine
    return matrix
