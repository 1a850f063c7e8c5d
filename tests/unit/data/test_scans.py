"""DICOM files and series, and volumes that ITK reads."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lightning_xai.data import FolderData, Item
from lightning_xai.data.loading import LoadItem
from lightning_xai.data.reading import BadImageError, read_image, read_located, read_shape

RNG = np.random.default_rng(0)
PLANE = RNG.integers(0, 4096, (12, 9), np.uint16)
VOLUME = RNG.integers(0, 4096, (12, 9, 5), np.uint16)  # rows, columns, slices


def write_dicom(path: Path, pixels: np.ndarray, **tags: Any) -> Path:
    pydicom = pytest.importorskip("pydicom")
    head = pydicom.dataset.FileMetaDataset()
    head.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    head.MediaStorageSOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    head.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    data = pydicom.Dataset()
    data.file_meta = head
    data.SOPClassUID, data.SOPInstanceUID = head.MediaStorageSOPClassUID, head.MediaStorageSOPInstanceUID
    data.Rows, data.Columns = pixels.shape[:2]
    color = pixels.ndim == 3
    data.SamplesPerPixel = 3 if color else 1
    data.PhotometricInterpretation = "RGB" if color else "MONOCHROME2"
    if color:
        data.PlanarConfiguration = 0
    data.BitsAllocated = 8 * pixels.itemsize
    data.BitsStored = 8 if pixels.itemsize == 1 else 12
    data.HighBit, data.PixelRepresentation = data.BitsStored - 1, 0
    data.PixelData = pixels.tobytes()
    for name, value in tags.items():
        setattr(data, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return path


def write_series(folder: Path, volume: np.ndarray = VOLUME, series: str = "1.2.3", **tags: Any) -> Path:
    """Slices 2.5 mm apart, stored in another order than they lie in."""
    count = volume.shape[2]
    for number in range(count):
        write_dicom(
            folder / f"{count - 1 - number:03d}.dcm", np.ascontiguousarray(volume[..., number]),
            SeriesInstanceUID=series, InstanceNumber=count - number, PixelSpacing=[0.5, 0.75],
            ImageOrientationPatient=[1, 0, 0, 0, 1, 0], ImagePositionPatient=[10, 20, 30 + 2.5 * number], **tags,
        )  # fmt: skip
    return folder


def test_a_single_file_has_its_rows_first_and_its_own_unit(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", PLANE, RescaleSlope=2, RescaleIntercept=-1024)
    image = read_image(path)
    assert image.dtype == np.float32 and read_shape(path) == image.shape
    np.testing.assert_array_equal(image[0], PLANE * 2.0 - 1024)


@pytest.mark.parametrize(("scale", "offset"), [(1, 0), (2, -1024)])
def test_monochrome1_is_inverted(tmp_path: Path, scale: float, offset: float) -> None:
    path = write_dicom(
        tmp_path / "a.dcm", 4095 - PLANE, PhotometricInterpretation="MONOCHROME1", RescaleSlope=scale,
        RescaleIntercept=offset,
    )  # fmt: skip
    np.testing.assert_array_equal(read_image(path)[0], PLANE.astype(float) * scale + offset)


def test_a_color_picture_is_read_as_a_png(tmp_path: Path) -> None:
    pixels = RNG.integers(0, 256, (12, 9, 3), np.uint8)
    np.testing.assert_allclose(
        read_image(write_dicom(tmp_path / "a.dcm", pixels)), pixels.transpose(2, 0, 1) / 255, rtol=1e-6
    )


def test_a_series_is_a_volume_in_the_order_of_its_positions(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "ct", RescaleIntercept=-1024, RescaleSlope=1)
    volume = read_image(folder)
    np.testing.assert_array_equal(volume[0], VOLUME.swapaxes(0, 1) - 1024.0)
    # From DICOM's left-posterior-superior to right-anterior-superior, as NIfTI has it.
    np.testing.assert_allclose(
        read_located(folder).affine, [[-0.75, 0, 0, -10], [0, -0.5, 0, -20], [0, 0, 2.5, 30], [0, 0, 0, 1]]
    )
    assert read_shape(folder) == (1, 9, 12, 5)
    sample = LoadItem(None, None, False)(Item("a", folder))
    assert sample["image"].shape == (1, 9, 12, 5) and sample["affine"].shape == (4, 4)


def test_a_series_that_is_no_even_stack_is_refused(tmp_path: Path) -> None:
    gap = write_series(tmp_path / "gap")
    (gap / "003.dcm").unlink()
    with pytest.raises(BadImageError, match=r"its slices lie 2.5 to 5 mm apart; add the missing ones"):
        read_image(gap)
    mixed = write_series(tmp_path / "mixed")
    write_series(tmp_path / "other", series="4.5.6")
    (tmp_path / "other" / "000.dcm").rename(mixed / "x.dcm")
    with pytest.raises(BadImageError, match="holds slices of 2 series; give each a folder of its own"):
        read_image(mixed)


def groups(**values: Any) -> Any:
    """A sequence of one data set, which may hold further ones."""
    data_set = pytest.importorskip("pydicom").Dataset()
    for name, value in values.items():
        setattr(data_set, name, value)
    return [data_set]


def write_frames(path: Path, heights: Sequence[float] = (), **tags: Any) -> Path:
    """All slices in one file, stored in another order than they lie in; at stated heights, or as the tags say."""
    order = [3, 0, 4, 1, 2] if heights else range(5)
    if heights:
        shared = {
            "PlaneOrientationSequence": groups(ImageOrientationPatient=[1, 0, 0, 0, 1, 0]),
            "PixelMeasuresSequence": groups(PixelSpacing=[0.5, 0.75]),
            "PixelValueTransformationSequence": groups(RescaleSlope=1, RescaleIntercept=-1024),
        }
        frames = [
            groups(PlanePositionSequence=groups(ImagePositionPatient=[10, 20, heights[number]]))[0] for number in order
        ]
        tags |= {"SharedFunctionalGroupsSequence": groups(**shared), "PerFrameFunctionalGroupsSequence": frames}
    pixels = np.concatenate([VOLUME[..., number] for number in order])
    return write_dicom(path, pixels, Rows=12, NumberOfFrames=5, **tags)


def test_frames_at_stated_places_are_the_slices_of_a_volume(tmp_path: Path) -> None:
    path = write_frames(tmp_path / "ct.dcm", [30, 32.5, 35, 37.5, 40])
    volume = read_located(path)
    np.testing.assert_array_equal(volume.pixels[0], VOLUME.swapaxes(0, 1) - 1024.0)
    np.testing.assert_allclose(volume.affine, [[-0.75, 0, 0, -10], [0, -0.5, 0, -20], [0, 0, 2.5, 30], [0, 0, 0, 1]])
    assert read_shape(path) == (1, 9, 12, 5)
    for number in range(4):
        write_frames(tmp_path / "all" / f"{number}.dcm", [30, 32.5, 35, 37.5, 40], SeriesInstanceUID="1.2")
    data = FolderData(tmp_path / "all")
    data.setup()
    assert data.image_shape == (1, 9, 12, 5), "files of one series stay volumes of their own"


def test_frames_at_even_distances_are_slices_in_their_order(tmp_path: Path) -> None:
    volume = read_located(write_frames(tmp_path / "a.dcm", SpacingBetweenSlices=2.5, PixelSpacing=[0.5, 0.75]))
    np.testing.assert_array_equal(volume.pixels[0], VOLUME.swapaxes(0, 1))
    np.testing.assert_allclose(np.abs(np.diag(volume.affine)), [0.75, 0.5, 2.5, 1])


@pytest.mark.parametrize(
    ("heights", "tags", "message"),
    [
        ((), {"FrameTime": 33, "FrameIncrementPointer": 0x00181063}, "it holds 5 frames of a film; save each as"),
        ((), {}, "it holds 5 frames and does not say how they lie; save it as NIfTI"),
        ([30, 30, 35, 35, 40], {}, "several of its 5 frames lie in one place; save each volume as a file of its own"),
        ([30, 32.5, 35, 40, 42.5], {}, "its slices lie 2.5 to 5 mm apart"),
    ],
)
def test_other_frames_are_refused(tmp_path: Path, heights: Sequence[float], tags: dict[str, Any], message: str) -> None:
    with pytest.raises(BadImageError, match=message):
        read_image(write_frames(tmp_path / "a.dcm", heights, **tags))


@pytest.mark.parametrize("suffix", [".dcm", "", ".17"])
def test_folders_of_series_are_images_split_by_patient(tmp_path: Path, suffix: str) -> None:
    for number in range(16):
        folder = tmp_path / ("ill" if number % 2 else "well") / f"scan{number}"
        write_series(folder, VOLUME[..., :3], series=f"1.{number}", PatientID=f"P{number // 2}")
        for path in folder.iterdir():
            path.rename(path.with_suffix(suffix))
    data = FolderData(tmp_path, splits=(0.5, 0.25, 0.25))
    data.setup()
    assert data.image_shape == (1, 9, 12, 3) and data.class_names == ["ill", "well"]
    patients = [{item.group for item in items} for items in data.split_items.values()]
    assert sum(map(len, data.split_items.values())) == 16 and sum(map(len, patients)) == 8
    alone = FolderData(tmp_path / "ill" / "scan1")
    alone.setup("predict")
    assert [item.id for item in alone.split_items["predict"]] == ["scan1"]


def test_single_files_of_one_folder_stay_single(tmp_path: Path) -> None:
    for number in range(20):
        write_dicom(
            tmp_path / "ab"[number % 2] / f"{number}.dcm", np.roll(PLANE, number), SeriesInstanceUID=f"1.{number}",
            PatientID="anonymous", StudyInstanceUID=f"2.{number // 2}",
        )  # fmt: skip
    data = FolderData(tmp_path)
    data.setup()
    assert data.image_shape == (1, 12, 9) and sum(map(len, data.split_items.values())) == 20
    studies = [{item.group for item in items} for items in data.split_items.values()]
    assert sum(map(len, studies)) == 10, "of anonymous patients, no study is in two splits"


@pytest.mark.parametrize("suffix", ["mha", "mhd", "nrrd"])
def test_volumes_of_itk(tmp_path: Path, suffix: str) -> None:
    itk = pytest.importorskip("itk")
    image = itk.image_from_array(np.ascontiguousarray(VOLUME.transpose(2, 1, 0)).astype(np.int16))
    image.SetSpacing([0.5, 0.75, 2.5])
    image.SetOrigin([10, 20, 30])
    itk.imwrite(image, str(tmp_path / f"a.{suffix}"))
    path = tmp_path / f"a.{suffix}"
    np.testing.assert_array_equal(read_image(path)[0], VOLUME)
    np.testing.assert_allclose(
        read_located(path).affine, [[-0.5, 0, 0, -10], [0, -0.75, 0, -20], [0, 0, 2.5, 30], [0, 0, 0, 1]]
    )
    assert read_shape(path) == (1, *VOLUME.shape)
    itk.imwrite(itk.image_from_array(PLANE), str(path))
    np.testing.assert_array_equal(read_image(path)[0], PLANE)


@pytest.mark.parametrize(("suffix", "extra"), [("dcm", "dicom"), ("mha", "itk")])
def test_a_missing_package_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, extra: str
) -> None:
    monkeypatch.setattr("lightning_xai.data.scans.find_spec", lambda name: None)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.fromarray(PLANE).save(tmp_path / name / "0.png")
    (tmp_path / "a" / f"1.{suffix}").write_bytes(b"x")
    with pytest.raises(BadImageError, match=rf"pip install 'lightning-xai\[{extra}\]'"):
        FolderData(tmp_path).setup()
