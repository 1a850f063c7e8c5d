"""Files that claim absurd sizes, labels or classes are refused before any memory is taken for them."""

import gzip
import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile

from lightning_xai.data import FolderData, ManifestData, NpzData
from lightning_xai.data.arrays import BadImageError, memory
from lightning_xai.data.masks import read_mask
from lightning_xai.data.reading import read_image
from lightning_xai.data.sources import labels, table

SIDE = 32_000


def _nifti(path: Path) -> None:
    content = bytearray(nibabel.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4)).to_bytes())
    struct.pack_into("<8h", content, 40, 3, SIDE, SIDE, SIDE, 1, 1, 1, 1)
    path.write_bytes(gzip.compress(bytes(content)) if path.suffix == ".gz" else bytes(content))


def _npy(path: Path) -> None:
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (SIDE,) * 3})


def _png(path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def _tiff(path: Path) -> None:
    tifffile.imwrite(path, np.zeros((8, 8), np.uint8))
    with tifffile.TiffFile(path, mode="r+") as file:
        for name in ("ImageWidth", "ImageLength", "RowsPerStrip"):
            file.pages[0].tags[name].overwrite(60_000)


def _mha(path: Path) -> None:
    path.write_text(f"ObjectType = Image\nNDims = 3\nDimSize = {SIDE} {SIDE} {SIDE}\nElementDataFile = LOCAL\n")


def _nrrd(path: Path) -> None:
    path.write_text(f"NRRD0004\ntype: uchar\ndimension: 3\nsizes: {SIDE} {SIDE} {SIDE}\nencoding: raw\n\n")


WRITERS = {
    ".nii": _nifti,
    ".nii.gz": _nifti,
    ".npy": _npy,
    ".png": _png,
    ".tif": _tiff,
    ".mha": _mha,
    ".nrrd": _nrrd,
}


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize("read", [read_image, lambda path: read_mask(path, (SIDE, SIDE))])
def test_an_absurd_size_is_one_sentence_that_names_the_file(tmp_path, suffix, read):
    path = tmp_path / f"bomb{suffix}"
    WRITERS[suffix](path)
    tracemalloc.start()
    try:
        with pytest.raises(BadImageError, match=rf"bomb{suffix} (claims a size of|cannot be read \(Image size)"):
            read(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 26
    finally:
        tracemalloc.stop()


def test_a_file_that_unpacks_to_more_than_it_claims_takes_no_memory(tmp_path):
    """The head says 2 x 2 x 2: what follows is not unpacked."""
    content = nibabel.Nifti1Image(np.ones((2, 2, 2), np.uint8), np.eye(4)).to_bytes()
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(content + bytes(1 << 27), compresslevel=1))
    tracemalloc.start()
    assert read_image(tmp_path / "a.nii.gz").shape == (1, 2, 2, 2)
    assert tracemalloc.get_traced_memory()[1] < 1 << 26
    tracemalloc.stop()


def test_arrays_larger_than_the_memory_are_not_unpacked(tmp_path):
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("images", "labels"):
            with archive.open(f"{name}.npy", "w") as file:
                shape = (memory() // 100 + 1, 10, 10)
                np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    with pytest.raises(
        ValueError, match=r"bomb\.npz cannot be read as npz \(its arrays claim .* GiB, more than the mem"
    ):
        NpzData(path).setup()


@pytest.mark.parametrize("largest", [10**5, 10**8, 2**62])
def test_a_label_of_absurd_size_makes_no_list_of_names(tmp_path, largest):
    values = np.arange(12) % 2 * largest
    np.savez(tmp_path / "a.npz", images=np.zeros((12, 8, 8, 1), np.float32), labels=values)
    with pytest.raises(
        ValueError, match=rf"labels of .*a\.npz would make {largest + 1:,} classes, and at most 100,000"
    ):
        NpzData(tmp_path / "a.npz").setup()
    with pytest.raises(ValueError, match="out of range"):
        NpzData(tmp_path / "a.npz", classes=["no", "yes"]).setup()


def test_classes_without_end_are_ids(tmp_path, monkeypatch):
    monkeypatch.setattr(labels, "LARGEST_COUNT", 10)
    images = np.zeros((12, 8, 8, 1), np.float32)
    for name, values in (("names", [f"c{i}" for i in range(12)]), ("columns", np.zeros((12, 12), int))):
        np.savez(tmp_path / f"{name}.npz", images=images, labels=values)
        with pytest.raises(ValueError, match=rf"{name}\.npz would make 12 classes, and at most 10 are read"):
            NpzData(tmp_path / f"{name}.npz").setup()
    (tmp_path / "t.csv").write_text("image,label\n" + "".join(f"{i}.png,c{i}\n" for i in range(12)))
    with pytest.raises(ValueError, match=r"Column 'label' of .*t\.csv would make 12 classes"):
        ManifestData(tmp_path / "t.csv").setup()


def test_a_table_of_absurd_size_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(table, "LARGEST_TABLE", 1 << 20)
    (tmp_path / "t.csv").write_bytes(b"image,label\n" + b"a.png,b\n" * (1 << 18))
    with pytest.raises(ValueError, match=r"t\.csv has 2 MiB, and at most 1 are read"):
        ManifestData(tmp_path / "t.csv").setup()


@pytest.mark.parametrize("size", [0, -3, 200_000, [64, 0], [3000, 3000, 3000]])
def test_a_size_that_no_image_can_have_is_refused(tmp_path, size):
    with pytest.raises(ValueError, match=r"data\.size is .*; give sides of at least one pixel, and at most"):
        FolderData(tmp_path, size=size)


def _volumes(folder: Path, voxels: list[float]) -> Path:
    """Volumes of two classes, of which one states voxels of these sizes in mm."""
    for number in range(12):
        content = bytearray(nibabel.Nifti1Image(np.full((6, 7, 8), number, np.float32), np.eye(4)).to_bytes())
        sides = voxels if number == 3 else [1, 1, 1]
        struct.pack_into("<3f", content, 80, *sides)
        struct.pack_into("<hh", content, 252, 0, 1)
        struct.pack_into("<12f", content, 280, *np.diag([*sides, 1])[:3].ravel())
        path = folder / "ab"[number % 2] / f"{number}.nii"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    return folder


@pytest.mark.parametrize(
    ("voxels", "spacing", "size"),
    [
        ([1e5, 1e5, 1e5], [1, 1, 1], "600000 x 700000 x 800000"),
        ([1, 1, 1], [1e-4, 1, 1e-4], "60000 x 7 x 80000"),
        ([1e30, 1, 1], [1e-30, 1, 1], "1000000000000000000 x 7 x 8"),
    ],
)
def test_a_volume_is_not_resampled_to_an_absurd_size(tmp_path, voxels, spacing, size):
    folder = _volumes(tmp_path, voxels)
    with pytest.raises(BadImageError, match=rf"nii at data\.spacing=.* claims a size of {size}; the largest"):
        FolderData(folder, spacing=spacing).setup()
    if voxels != [1, 1, 1]:
        data = FolderData(folder, spacing=spacing if spacing[0] == 1 else [1, 1, 1], on_bad_image="skip")
        data.setup()
        assert len(data.skipped) == 1 and data.image_shape == (1, 6, 7, 8)


@pytest.mark.parametrize("options", [{"spacing": [1, 1, 1]}, {"orientation": "RAS"}])
def test_voxels_without_extent_are_a_sentence(tmp_path, options):
    folder = _volumes(tmp_path, [0, 1, 1])
    with pytest.raises(BadImageError, match=r"affine of .*3\.nii does not say how its voxels lie"):
        FolderData(folder, **options).setup()
