"""Read DICOM files and series, and the volumes that ITK reads (MHA, MHD, NRRD); each needs its extra."""

import re
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from monai.data.image_reader import ImageReader, ITKReader, PydicomReader
from monai.utils.enums import MetaKeys

from lightning_xai.data.frames import frames_as_slices, number_of_frames, sorted_slices

DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
#: What says whose a DICOM image is, and where it lies.
_PLACE = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "ImagePositionPatient")
ITK_SUFFIXES = (".mha", ".mhd", ".nrrd", ".nhdr")


class DicomReader(ImageReader):
    """Reads a DICOM file, or a folder of the slices of one series, in the units that it is rescaled to.

    A series becomes a volume whose axes are those of `NibabelReader`; its slices are sorted by their position. So does
    a file whose frames are slices (see `frames_as_slices`). Of any other file the rows come first, as in a picture.
    MONOCHROME1, in which the largest value is black, is inverted.
    """

    def verify_suffix(self, filename: Sequence[Any] | Any) -> bool:
        """Tell whether this is a DICOM file or a folder."""
        return is_dicom(Path(str(filename))) or Path(str(filename)).is_dir()

    def read(self, data: Sequence[Any] | Any, **kwargs: Any) -> list[Any]:
        """Read the file, or the slices in the folder `data`."""
        _require("pydicom", "dicom")
        import pydicom

        path = Path(str(data))
        if path.is_file():
            image = pydicom.dcmread(path, **kwargs)
            return frames_as_slices(image) if number_of_frames(image) > 1 else [image]
        files = [file for file in sorted(path.iterdir()) if file.is_file() and pydicom.misc.is_dicom(file)]
        slices = [part for part in (pydicom.dcmread(file, **kwargs) for file in files) if "PixelData" in part]
        if not slices:
            raise ValueError("it is a folder without DICOM slices")
        return _in_order(slices) if len(slices) > 1 else slices

    def get_data(self, img: list[Any]) -> tuple[np.ndarray, dict[str, Any]]:
        """Return the array (H, W), (H, W, 3) or (*S), and the metadata."""
        first = img[0]
        reader = PydicomReader(swap_ij=len(img) > 1)  # keeps what it read: one for each file, as threads share readers
        reader.has_series = len(img) > 1
        reader.filenames = [[""] * len(img)] if reader.has_series else [""]  # type: ignore[list-item]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "PydicomReader: ImageOrientationPatient", UserWarning)
            array, meta = reader.get_data(img)
        if first.get("PhotometricInterpretation") == "MONOCHROME1":
            array = _inverted(array, first)
        meta["color"] = int(first.get("SamplesPerPixel", 1)) > 1
        meta[MetaKeys.ORIGINAL_CHANNEL_DIM] = -1 if meta["color"] else float("nan")
        return array, meta


class ItkReader(ImageReader):
    """Reads an MHA, MHD or NRRD file: a volume with the axes of `NibabelReader`, or a slice whose rows come first."""

    def verify_suffix(self, filename: Sequence[Any] | Any) -> bool:
        """Tell whether the name is that of such a file."""
        return str(filename).lower().endswith(ITK_SUFFIXES)

    def read(self, data: Sequence[Any] | Any, **kwargs: Any) -> Any:
        """Read the file `data`; pixels in a file of their own must lie next to it."""
        _check_pixel_file(Path(str(data)))
        _require("itk", "itk")
        return ITKReader(**kwargs).read(str(data))

    def get_data(self, img: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """Return the array (H, W) or (*S), with channels last, and the metadata."""
        array, meta = ITKReader().get_data(img)
        planar = int(img.GetImageDimension()) == 2
        meta["color"] = planar and int(img.GetNumberOfComponentsPerPixel()) in (3, 4) and array.dtype == np.uint8
        return np.swapaxes(array, 0, 1) if planar else array, dict(meta)


def claimed_shape(path: Path) -> tuple[int, ...]:
    """Read the shape that the head of an MHA, MHD or NRRD file claims; empty where it claims none."""
    head = _text_head(path)
    return tuple(map(int, (head.get("dimsize") or head.get("sizes") or "").split()))


def _check_pixel_file(path: Path) -> None:
    """Raise an error where a head names a file elsewhere as its pixels: it could be any file of this machine.

    Raises:
        ValueError: If it does.
    """
    head = _text_head(path)
    named = head.get("elementdatafile") or head.get("data file") or head.get("datafile") or ""
    first = named.split()[0] if named.split() else ""
    if "/" in first or "\\" in first or first.upper() == "LIST":
        raise ValueError(f"its pixels are said to be in {named}; put them into one file next to it")


def _text_head(path: Path) -> dict[str, str]:
    """The fields of the text that an MHA, MHD or NRRD file begins with, by their names in small letters."""
    with path.open("rb") as file:
        text = file.read(1 << 16).decode("latin-1")
    fields: dict[str, str] = {}
    for line in text.splitlines():
        name, *value = re.split(r"\s*[:=]+\s*", line.strip(), maxsplit=1)
        if value and len(name) < 64:
            fields.setdefault(name.lower(), value[0])
        if not line.strip() or fields.get("elementdatafile"):
            break  # pixels begin
    return fields


def stored_shape(path: Path) -> tuple[int, ...]:
    """Read the shape of a DICOM file from its head.

    Args:
        path: The file.

    Returns:
        (C, H, W), or (1, W, H, N) of N frames.

    Raises:
        ValueError: It is damaged.
    """
    head = _head(path, ["Rows", "Columns", "SamplesPerPixel", "NumberOfFrames"])
    rows, columns, frames = int(head.Rows), int(head.Columns), number_of_frames(head)
    return (1, columns, rows, frames) if frames > 1 else (int(head.get("SamplesPerPixel", 1)), rows, columns)


def is_dicom(path: Path) -> bool:
    """Tell whether a file is DICOM: by its suffix, or where it has none but a number, as in exports, by its head.

    Args:
        path: The file.

    Returns:
        Whether it is.
    """
    if path.name.lower().endswith(DICOM_SUFFIXES):
        return True
    if path.suffix.strip(".0123456789") or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def patients_of(files: Sequence[Path]) -> dict[Path, str]:
    """Read which patient each DICOM file or series shows, so that none is in two splits.

    Args:
        files: Image files, and folders of series.

    Returns:
        File -> patient, or study where all have the same patient, as after anonymization; empty without DICOM.
    """
    scans = [file for file in files if file.is_dir() or is_dicom(file)]
    if not scans or find_spec("pydicom") is None:
        return {}
    heads = {}
    for scan in scans:
        try:
            heads[scan] = _head(next(filter(is_dicom, sorted(scan.iterdir()))) if scan.is_dir() else scan)
        except ValueError:
            continue  # reading it says what is wrong
    for name in ("PatientID", "StudyInstanceUID"):
        found = {scan: str(head.get(name) or "") for scan, head in heads.items()}
        if len(set(found.values())) > 1:
            return {scan: value for scan, value in found.items() if value}
    return {}


def series_of(files: Sequence[Path]) -> dict[Path, list[Path]]:
    """Find the folders whose DICOM files are the slices of one volume.

    Args:
        files: Image files.

    Returns:
        Folder -> its slices. A folder whose files belong to several series, or are no slices, is none.
    """
    folders: dict[Path, list[Path]] = {}
    for file in files:
        if is_dicom(file):
            folders.setdefault(file.parent, []).append(file)
    if not folders or find_spec("pydicom") is None:
        return {}
    return {folder: parts for folder, parts in folders.items() if len(parts) > 1 and _is_series(parts)}


def _is_series(files: Sequence[Path]) -> bool:
    """Tell whether DICOM files are the slices of one volume: of one series, each at a place of its own."""
    series, places = set(), set()
    for file in files:
        try:
            head = _head(file)
        except ValueError:
            return False
        series.add(head.get("SeriesInstanceUID"))
        if len(series) > 1 or head.get("ImagePositionPatient") is None:
            return False
        places.add(tuple(head.ImagePositionPatient))
    return len(places) > 1


def _head(file: Path, names: Sequence[str] = _PLACE) -> Any:
    """What a DICOM file says under some names, without its pixels.

    Raises:
        ValueError: It is damaged.
    """
    import pydicom

    try:
        return pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(names))
    except (pydicom.errors.InvalidDicomError, OSError, EOFError) as error:
        raise ValueError(str(error)) from error


def _in_order(slices: list[Any]) -> list[Any]:
    """Slices by their position, numbered in this order; they must be one evenly spaced stack."""
    names = {part.get("SeriesInstanceUID") for part in slices}
    if len(names) > 1:
        raise ValueError(f"the folder holds slices of {len(names)} series; give each a folder of its own")
    if any(part.get("ImagePositionPatient") is None or part.get("ImageOrientationPatient") is None for part in slices):
        raise ValueError("the slices do not say where they lie; give each image a folder of its own")
    return sorted_slices(slices)


def _inverted(array: np.ndarray, head: Any) -> np.ndarray:
    """Rescaled values of a file whose largest stored value is black, with the smallest as black."""
    bits, signed = int(head.BitsStored), int(head.PixelRepresentation)
    ends = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    factor, intercept = float(head.get("RescaleSlope", 1) or 1), float(head.get("RescaleIntercept", 0) or 0)
    inverted: np.ndarray = factor * sum(ends) + 2 * intercept - np.asarray(array, np.float64)
    return inverted


def _require(package: str, extra: str) -> None:
    if find_spec(package) is None:
        raise ValueError(f"it needs the package {package}: pip install 'lightning-xai[{extra}]'")
