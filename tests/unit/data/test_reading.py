from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile
from PIL import Image

from lightning_xai.data.masks import read_mask
from lightning_xai.data.reading import BadImageError, read_image

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (9, 7, 3), np.uint8)
GRAY = RGB[..., 0]
DEEP = RNG.integers(0, 65536, (9, 7), np.uint16)


def test_png_gray_keeps_height_before_width(tmp_path: Path) -> None:
    Image.fromarray(GRAY).save(tmp_path / "a.png")
    np.testing.assert_allclose(read_image(tmp_path / "a.png"), GRAY[None] / 255, rtol=1e-6)


def test_png_rgb_is_channel_first_float32(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.PNG")
    image = read_image(tmp_path / "a.PNG")
    assert image.dtype == np.float32
    np.testing.assert_allclose(image, RGB.transpose(2, 0, 1) / 255, rtol=1e-6)


def test_png_of_16_bits_is_divided_by_65535(tmp_path: Path) -> None:
    Image.fromarray(DEEP).save(tmp_path / "a.png")
    np.testing.assert_allclose(read_image(tmp_path / "a.png"), DEEP[None] / 65535, rtol=1e-6)


def test_png_alpha_is_dropped(tmp_path: Path) -> None:
    Image.fromarray(np.dstack([RGB, GRAY])).save(tmp_path / "rgba.png")
    Image.fromarray(np.dstack([GRAY, GRAY])).save(tmp_path / "la.png")
    np.testing.assert_allclose(read_image(tmp_path / "rgba.png"), RGB.transpose(2, 0, 1) / 255, rtol=1e-6)
    np.testing.assert_allclose(read_image(tmp_path / "la.png"), GRAY[None] / 255, rtol=1e-6)


def test_palette_is_color_in_an_image_and_classes_in_a_mask(tmp_path: Path) -> None:
    indices = (GRAY % 3).astype(np.uint8)
    picture = Image.fromarray(indices, mode="P")
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    picture.save(tmp_path / "p.png")
    image = read_image(tmp_path / "p.png")
    assert image.shape == (3, 9, 7)
    np.testing.assert_array_equal(image[0] == 1, indices == 1)
    np.testing.assert_array_equal(read_mask(tmp_path / "p.png", (9, 7))[0], indices)


def test_jpeg(tmp_path: Path) -> None:
    Image.fromarray(np.full((9, 7, 3), (200, 100, 50), np.uint8)).save(tmp_path / "a.jpg")
    image = read_image(tmp_path / "a.jpg")
    np.testing.assert_allclose(image.mean((1, 2)) * 255, (200, 100, 50), atol=2)


@pytest.mark.parametrize("axis", [0, -1])
def test_tiff_of_16_bits_and_5_channels(tmp_path: Path, axis: int) -> None:
    pixels = RNG.integers(0, 65536, (5, 30, 40), np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", pixels if axis == 0 else np.moveaxis(pixels, 0, -1))
    np.testing.assert_allclose(read_image(tmp_path / "a.tif"), pixels / 65535, rtol=1e-6)


def test_tiff_that_names_its_axes_needs_no_guess(tmp_path: Path) -> None:
    pixels = RNG.integers(0, 65536, (8, 9, 10), np.uint16)
    tifffile.imwrite(tmp_path / "channels.tif", pixels, imagej=True, metadata={"axes": "CYX"})
    tifffile.imwrite(tmp_path / "volume.tif", pixels, imagej=True, metadata={"axes": "ZYX"})
    tifffile.imwrite(tmp_path / "both.tif", pixels[:, None].repeat(2, 1), imagej=True, metadata={"axes": "ZCYX"})
    assert read_image(tmp_path / "channels.tif").shape == (8, 9, 10)
    assert read_image(tmp_path / "volume.tif").shape == (1, 8, 9, 10)
    assert read_image(tmp_path / "both.tif").shape == (2, 8, 9, 10)


@pytest.mark.parametrize("pixels", [GRAY, RGB, DEEP], ids=["gray", "rgb", "16 bits"])
def test_tiff_with_lzw_compression(tmp_path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(tmp_path / "a.tif", compression="tiff_lzw")
    expected = pixels.reshape(9, 7, -1).transpose(2, 0, 1) / np.iinfo(pixels.dtype).max
    np.testing.assert_allclose(read_image(tmp_path / "a.tif"), expected, rtol=1e-6)


def test_npy_floats_stay_as_they_are(tmp_path: Path) -> None:
    pixels = RNG.normal(size=(20, 24, 3)) * 1000
    np.save(tmp_path / "a.npy", pixels)
    np.testing.assert_allclose(read_image(tmp_path / "a.npy"), pixels.transpose(2, 0, 1), rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_nifti_volume_stays_in_its_units(tmp_path: Path, dtype: type) -> None:
    volume = RNG.integers(0, 100, (6, 7, 8)).astype(dtype)
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / "a.nii.gz")
    image = read_image(tmp_path / "a.nii.gz")
    assert image.dtype == np.float32
    np.testing.assert_array_equal(image, volume[None])


def test_nifti_slice_and_channels(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(np.zeros((6, 7, 1), np.float32), np.eye(4)), tmp_path / "slice.nii")
    nibabel.save(nibabel.Nifti1Image(np.zeros((6, 7, 8, 2), np.float32), np.eye(4)), tmp_path / "channels.nii")
    assert read_image(tmp_path / "slice.nii").shape == (1, 6, 7)
    assert read_image(tmp_path / "channels.nii").shape == (2, 6, 7, 8)


@pytest.mark.parametrize("channels", [1, 3, 5, 17])
def test_array_of_any_number_of_channels(channels: int) -> None:
    pixels = RNG.integers(0, 256, (60, 64, channels), np.uint8)
    np.testing.assert_allclose(read_image(pixels), pixels.transpose(2, 0, 1) / 255, rtol=1e-6)
    assert read_image(pixels.transpose(2, 0, 1)).shape == (channels, 60, 64)


def test_ambiguous_channel_axis_asks_for_the_option() -> None:
    cube = np.zeros((8, 8, 8), np.uint8)
    with pytest.raises(ValueError, match=r"cells_7 with shape \(8, 8, 8\) is ambiguous; set data.channel_axis"):
        read_image(cube, name="cells_7")
    assert read_image(cube, channel_axis="none").shape == (1, 8, 8, 8)
    assert read_image(np.zeros((8, 9, 10)), channel_axis=-1).shape == (10, 8, 9)


def test_channel_axis_overrules_tiff_but_not_png(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((8, 9, 10), np.uint8), imagej=True, metadata={"axes": "ZYX"})
    Image.fromarray(RGB).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.tif", channel_axis=0).shape == (8, 9, 10)
    assert read_image(tmp_path / "a.png", channel_axis=0).shape == (3, 9, 7)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".npy", ".nii.gz"])
def test_truncated_file_is_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"half{suffix}"
    noise = RNG.integers(0, 256, (50, 60), np.uint8)
    if suffix == ".npy":
        np.save(path, noise)
    elif suffix == ".tif":
        tifffile.imwrite(path, noise)
    elif suffix == ".nii.gz":
        nibabel.save(nibabel.Nifti1Image(noise[..., None], np.eye(4)), path)
    else:
        Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(BadImageError, match=rf"{path} cannot be read \(.+\); replace the file") as caught:
        read_image(path)
    assert "pickle" not in str(caught.value)


def test_missing_and_unknown_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadImageError, match="nothing.png does not exist"):
        read_image(tmp_path / "nothing.png")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(BadImageError, match="notes.txt has an unknown format '.txt'; use PNG"):
        read_image(tmp_path / "notes.txt")


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_values_that_are_not_finite_floats(tmp_path: Path, value: float) -> None:
    pixels = np.zeros((5, 6))
    pixels[2, 3] = value
    np.save(tmp_path / "a.npy", pixels)
    with pytest.raises(BadImageError, match="a.npy has NaN or infinite pixels; repair"):
        read_image(tmp_path / "a.npy")


def test_values_that_are_not_numbers() -> None:
    with pytest.raises(BadImageError, match="x holds complex128 instead of numbers"):
        read_image(np.zeros((5, 6), complex), name="x")
    with pytest.raises(BadImageError, match=r"x has shape \(5,\)"):
        read_image(np.zeros(5), name="x")


def test_mask_of_gray_rgb_and_volume(tmp_path: Path) -> None:
    classes = (GRAY % 4).astype(np.uint8)
    Image.fromarray(np.dstack([classes] * 3)).save(tmp_path / "rgb.png")
    mask = read_mask(tmp_path / "rgb.png", (9, 7))
    assert mask.dtype == np.int64
    np.testing.assert_array_equal(mask[0], classes)
    nibabel.save(nibabel.Nifti1Image(np.ones((6, 7, 8), np.float32), np.eye(4)), tmp_path / "a.nii")
    assert read_mask(tmp_path / "a.nii", (6, 7, 8)).shape == (1, 6, 7, 8)


def test_mask_of_another_size_is_named(tmp_path: Path) -> None:
    Image.fromarray(GRAY).save(tmp_path / "m.png")
    with pytest.raises(BadImageError, match=r"m.png has size \(9, 7\) where its image has \(9, 8\)"):
        read_mask(tmp_path / "m.png", (9, 8))


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.full((4, 4), 0.5), "not whole numbers"),
        (np.full((4, 4), np.nan), "not whole numbers"),
        (np.full((4, 4), -1), "negative"),
        (RGB[:4, :4], "3 different channels"),
    ],
)
def test_mask_that_holds_no_classes(mask: np.ndarray, message: str) -> None:
    with pytest.raises(BadImageError, match=f"The mask m .*{message}"):
        read_mask(mask, (4, 4), name="m")


def test_numbers_that_are_no_intensities_are_refused(tmp_path: Path) -> None:
    for name, kind in {"complex": np.complex64, "records": [("R", "u1"), ("G", "u1"), ("B", "u1")]}.items():
        nibabel.save(nibabel.Nifti1Image(np.zeros((4, 5, 6), kind), np.eye(4)), tmp_path / f"{name}.nii")
        with pytest.raises(BadImageError, match=rf"{name}.nii holds .* instead of numbers"):
            read_image(tmp_path / f"{name}.nii")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".npy", ".nii.gz", ".dcm", ".mha"])
def test_an_empty_file_is_called_one(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"a{suffix}").touch()
    with pytest.raises(BadImageError, match=rf"The image .*a{suffix} is an empty file; replace it"):
        read_image(tmp_path / f"a{suffix}")
