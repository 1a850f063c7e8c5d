"""TIFF files of every kind of color hold the pixels of the same picture as a PNG, or are refused."""

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from lightning_xai.data.masks import read_mask
from lightning_xai.data.notes import Notes
from lightning_xai.data.reading import BadImageError, read_image, read_located, read_shape

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (24, 31, 3), np.uint8)
GRAY, DEEP = RGB[..., 0], RNG.integers(0, 65536, (24, 31), np.uint16)
ALPHA = RNG.integers(64, 256, (24, 31), np.uint8)
BIT = GRAY > 127
INKS = RNG.integers(0, 256, (24, 31, 4), np.uint8)
INDEXED = Image.fromarray(RGB).quantize(16)
FLAT = np.full((24, 31, 3), (200, 100, 50), np.uint8)
Save = Callable[[Path], object]


def as_png(pixels: np.ndarray) -> np.ndarray:
    """What reading a PNG of the pixels gives."""
    if pixels.dtype == bool:
        return pixels[None].astype(np.float32)
    return pixels.reshape(*pixels.shape[:2], -1).transpose(2, 0, 1).astype(np.float32) / np.iinfo(pixels.dtype).max


def by_tifffile(pixels: np.ndarray, **options: object) -> Save:
    return lambda path: tifffile.imwrite(path, pixels, **options)


def by_pillow(picture: Image.Image, **options: object) -> Save:
    return lambda path: picture.save(path, **options)


KINDS: dict[str, tuple[Save, np.ndarray]] = {
    "rgb": (by_tifffile(RGB, photometric="rgb"), RGB),
    "planar": (by_tifffile(RGB.transpose(2, 0, 1), photometric="rgb", planarconfig="separate"), RGB),
    "white is zero, 8 bits": (by_tifffile(255 - GRAY, photometric="miniswhite"), GRAY),
    "white is zero, 16 bits": (by_tifffile(65535 - DEEP, photometric="miniswhite"), DEEP),
    "white is zero, 1 bit": (by_tifffile(~BIT, photometric="miniswhite"), BIT),
    "black is zero, 1 bit": (by_tifffile(BIT, photometric="minisblack"), BIT),
    "fax": (by_pillow(Image.fromarray(BIT), compression="group4"), BIT),
    "palette": (by_pillow(INDEXED), np.asarray(INDEXED.convert("RGB"))),
    "palette, lzw": (by_pillow(INDEXED, compression="tiff_lzw"), np.asarray(INDEXED.convert("RGB"))),
    "inks": (by_pillow(Image.fromarray(INKS, "CMYK")), np.asarray(Image.fromarray(INKS, "CMYK").convert("RGB"))),
    "zstd": (by_pillow(Image.fromarray(RGB), compression="zstd"), RGB),
    "inks, lzw": (
        by_pillow(Image.fromarray(INKS, "CMYK"), compression="tiff_lzw"),
        np.asarray(Image.fromarray(INKS, "CMYK").convert("RGB")),
    ),
    "jpeg": (by_pillow(Image.fromarray(FLAT), compression="jpeg"), FLAT),
    "luminance": (
        by_pillow(Image.fromarray(RGB).convert("YCbCr")),
        np.asarray(Image.fromarray(RGB).convert("YCbCr").convert("RGB")),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_tiff_is_read_as_the_png_of_the_same_picture(tmp_path: Path, kind: str) -> None:
    save, pixels = KINDS[kind]
    save(tmp_path / "a.tif")
    notes = Notes()
    image = read_located(tmp_path / "a.tif", notes=notes).pixels
    np.testing.assert_allclose(image, as_png(pixels), atol=1e-6)
    assert read_shape(tmp_path / "a.tif") == image.shape and notes.sentences() == []


@pytest.mark.parametrize(("white", "expected"), [(1, [0, 5, 15]), (0, [15, 10, 0])])
def test_four_bits_are_spread_as_viewers_do(tmp_path: Path, white: int, expected: list[int]) -> None:
    row = bytes([0x05, 0xF0])  # 0, 5, 15 and padding
    tags = {256: 3, 257: 1, 258: 4, 259: 1, 262: white, 273: 8, 277: 1, 278: 1, 279: 2}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    head = struct.pack("<2sHI", b"II", 42, 10)
    (tmp_path / "a.tif").write_bytes(head + row + struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0))
    np.testing.assert_allclose(read_image(tmp_path / "a.tif")[0, 0], np.array(expected) / 15, rtol=1e-6)


@pytest.mark.parametrize("kind", ["unassalpha", "assocalpha"])
def test_alpha_is_dropped_with_a_word(tmp_path: Path, kind: str) -> None:
    stored = RGB if kind == "unassalpha" else np.rint(RGB * (ALPHA[..., None] / 255)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "rgba.tif", np.dstack([stored, ALPHA]), photometric="rgb", extrasamples=[kind])
    tifffile.imwrite(
        tmp_path / "la.tif", np.dstack([GRAY, ALPHA]), photometric="minisblack", extrasamples=["unassalpha"],
        planarconfig="contig",
    )  # fmt: skip
    opaque = np.dstack([RGB, np.full_like(ALPHA, 255)])
    tifffile.imwrite(tmp_path / "opaque.tif", opaque, photometric="rgb", extrasamples=[kind])
    notes = Notes()
    tolerance = 0 if kind == "unassalpha" else 3 / 255  # multiplying by a quarter loses two bits
    np.testing.assert_allclose(
        read_located(tmp_path / "rgba.tif", notes=notes).pixels, as_png(RGB), atol=tolerance + 1e-6
    )
    np.testing.assert_allclose(read_located(tmp_path / "la.tif", notes=notes).pixels, as_png(GRAY), atol=1e-6)
    np.testing.assert_allclose(read_located(tmp_path / "opaque.tif", notes=notes).pixels, as_png(RGB), atol=1e-6)
    assert notes.sentences() == [
        f"2 files have transparent places, which are taken in the color they hide, such as {tmp_path}/la.tif."
    ]


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize("code", range(1, 9))
def test_a_tiff_is_turned_as_its_tag_says(tmp_path: Path, code: int, compression: str | None) -> None:
    turned = {
        1: RGB, 2: RGB[:, ::-1], 3: RGB[::-1, ::-1], 4: RGB[::-1],
        5: RGB.swapaxes(0, 1), 6: np.rot90(RGB, -1), 7: RGB[::-1, ::-1].swapaxes(0, 1), 8: np.rot90(RGB),
    }  # fmt: skip
    picture = Image.fromarray(RGB)
    tags = picture.getexif()
    tags[0x0112] = code
    picture.save(tmp_path / "a.tif", exif=tags, compression=compression)
    np.testing.assert_allclose(read_image(tmp_path / "a.tif"), as_png(turned[code]), rtol=1e-6)
    assert read_shape(tmp_path / "a.tif")[1:] == turned[code].shape[:2]


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize("pixels", [GRAY, RGB], ids=["gray", "color"])
def test_pages_are_no_image_unless_they_are_given_a_meaning(
    tmp_path: Path, pixels: np.ndarray, compression: str | None
) -> None:
    pages = [Image.fromarray(pixels), Image.fromarray(255 - pixels)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:], compression=compression)
    with pytest.raises(BadImageError, match=r"a.tif holds several pages of axes I.*data.channel_axis=0 or none"):
        read_image(tmp_path / "a.tif")
    if pixels.ndim == 2:
        np.testing.assert_allclose(read_image(tmp_path / "a.tif", 0), np.stack([GRAY, 255 - GRAY]) / 255, rtol=1e-6)
        assert read_image(tmp_path / "a.tif", "none").shape == (1, 2, 24, 31)


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_pages_of_two_sizes_are_refused(tmp_path: Path, compression: str | None) -> None:
    pages = [Image.fromarray(RGB), Image.fromarray(RGB[:12])]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:], compression=compression)
    with pytest.raises(BadImageError, match=r"it holds 2 images \(24 x 31 x 3, 12 x 31 x 3\); save each as a file"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("as_levels", [True, False])
def test_smaller_copies_of_an_image_are_left_out(tmp_path: Path, as_levels: bool) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(RGB, photometric="rgb", subifds=1 if as_levels else 0)
        file.write(RGB[::2, ::2], photometric="rgb", subfiletype=1)
    np.testing.assert_allclose(read_image(tmp_path / "a.tif"), as_png(RGB), rtol=1e-6)


def test_channels_of_ome_files(tmp_path: Path) -> None:
    stain = RNG.integers(0, 65536, (5, 24, 31), np.uint16)
    tifffile.imwrite(tmp_path / "a.ome.tif", stain, ome=True, metadata={"axes": "CYX"})
    np.testing.assert_allclose(read_image(tmp_path / "a.ome.tif"), stain / 65535, rtol=1e-6)
    assert read_shape(tmp_path / "a.ome.tif") == (5, 24, 31)
    tifffile.imwrite(tmp_path / "film.ome.tif", stain[:, None].repeat(2, 1), ome=True, metadata={"axes": "TCYX"})
    with pytest.raises(BadImageError, match="several pages of axes TCYX"):
        read_image(tmp_path / "film.ome.tif")
    colors = RNG.integers(0, 256, (2, 24, 31, 3), np.uint8)
    tifffile.imwrite(tmp_path / "c.ome.tif", colors, ome=True, photometric="rgb", metadata={"axes": "CYXS"})
    with pytest.raises(BadImageError, match="channels of several colors each"):
        read_image(tmp_path / "c.ome.tif")


def test_colors_of_sensors_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", GRAY, photometric="cfa")
    with pytest.raises(BadImageError, match="its colors are stored as CFA; save it as gray or RGB"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_the_indices_of_a_palette_are_the_classes_of_a_mask(tmp_path: Path, compression: str | None) -> None:
    classes = (GRAY % 3).astype(np.uint8)
    picture = Image.fromarray(classes, mode="P")
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    picture.save(tmp_path / "m.tif", compression=compression)
    assert np.array_equal(read_mask(tmp_path / "m.tif", (24, 31))[0], classes)
