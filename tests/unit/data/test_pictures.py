"""Pictures are read as a viewer shows them."""

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lightning_xai.data import FolderData
from lightning_xai.data.masks import read_mask
from lightning_xai.data.notes import Notes
from lightning_xai.data.reading import BadImageError, read_image, read_located, read_shape

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (24, 31, 3), np.uint8)
GRAY = RGB[..., 0]
FLAT = np.full((24, 31, 3), (200, 100, 50), np.uint8)


def channels_first(pixels: np.ndarray) -> np.ndarray:
    return pixels.reshape(*pixels.shape[:2], -1).transpose(2, 0, 1) / 255


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
@pytest.mark.parametrize("code", range(1, 9))
def test_a_photo_is_turned_as_its_tag_says(tmp_path: Path, suffix: str, code: int) -> None:
    stored = np.zeros((16, 24, 3), np.uint8)
    stored[:8] = 255  # white above in the file
    white = {1: "top", 2: "top", 3: "bottom", 4: "bottom", 5: "left", 6: "right", 7: "right", 8: "left"}[code]
    picture = Image.fromarray(stored)
    tags = picture.getexif()
    tags[0x0112] = code
    picture.save(tmp_path / f"a.{suffix}", exif=tags, quality=95)
    image = read_image(tmp_path / f"a.{suffix}")[0]
    halves = {"top": image[:8], "bottom": image[8:], "left": image[:, :8], "right": image[:, 8:]}
    assert image.shape == ((16, 24) if code < 5 else (24, 16))
    assert halves[white].mean() > 0.9 and image.mean() < 0.6
    assert read_shape(tmp_path / f"a.{suffix}") == (3, *image.shape)


def test_a_mask_is_turned_too(tmp_path: Path) -> None:
    mask = Image.fromarray((GRAY > 127) * np.uint8(255))
    tags = mask.getexif()
    tags[0x0112] = 6
    mask.save(tmp_path / "m.png", exif=tags)
    assert np.array_equal(read_mask(tmp_path / "m.png", (31, 24))[0] > 0, np.rot90(GRAY > 127, -1))


@pytest.mark.parametrize("suffix", ["jfif", "jpe", "JPEG", "webp", "gif", "jp2", "avif", "bmp", "ppm"])
def test_formats_of_pillow(tmp_path: Path, suffix: str) -> None:
    form = {"jfif": "JPEG", "jpe": "JPEG"}.get(suffix)
    Image.fromarray(FLAT).save(tmp_path / f"a.{suffix}", form)
    np.testing.assert_allclose(read_image(tmp_path / f"a.{suffix}"), channels_first(FLAT), atol=3 / 255)
    assert read_shape(tmp_path / f"a.{suffix}") == (3, 24, 31)


def test_lossless_formats_of_gray(tmp_path: Path) -> None:
    for suffix in ("png", "gif", "bmp", "pgm"):
        Image.fromarray(GRAY).save(tmp_path / f"a.{suffix}")
        image = read_image(tmp_path / f"a.{suffix}")
        np.testing.assert_allclose(image[0], GRAY / 255, rtol=1e-6)
        assert read_shape(tmp_path / f"a.{suffix}") == image.shape
    deep = RNG.integers(0, 65536, (24, 31), np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.pgm")
    np.testing.assert_allclose(read_image(tmp_path / "deep.pgm")[0], deep / 65535, rtol=1e-6)


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_animations_are_refused(tmp_path: Path, suffix: str) -> None:
    frames = [Image.fromarray(np.roll(RGB, 5 * k, 0)) for k in range(3)]
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:])
    with pytest.raises(
        BadImageError, match="it holds 3 frames, as an animation does; save each as a picture of its own"
    ):
        read_image(tmp_path / f"a.{suffix}")


def test_alpha_is_dropped_with_a_word_where_something_is_transparent(tmp_path: Path) -> None:
    for name, alpha in (("opaque", 255), ("clear", 0)):
        layer = np.full((24, 31), 255, np.uint8)
        layer[:5] = alpha
        Image.fromarray(np.dstack([RGB, layer])).save(tmp_path / f"{name}.png")
        Image.fromarray(np.dstack([GRAY, layer])).save(tmp_path / f"{name} gray.png")
    notes = Notes()
    for path in sorted(tmp_path.iterdir()):
        image = read_located(path, notes=notes).pixels
        np.testing.assert_allclose(image, channels_first(RGB if len(image) == 3 else GRAY), rtol=1e-6)
    assert len(notes.sentences()) == 1 and notes.sentences()[0].startswith("2 files have transparent places")


def mixed_folder(root: Path, gray: int = 4, color: int = 20) -> Path:
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for number in range(gray + color):
            picture = Image.fromarray(np.roll(RGB, number, 0))
            (picture.convert("L") if number < gray else picture).save(root / name / f"{number:02d}.png")
    return root


@pytest.mark.parametrize("channels", [1, 3])
def test_gray_and_color_in_one_folder_are_converted(tmp_path: Path, channels: int) -> None:
    data = FolderData(mixed_folder(tmp_path), channels=channels)
    data.setup()
    assert data.channels == channels and sum(map(len, data.split_items.values())) == 48
    for batch in data.plain_dataloader("test"):
        for name, image in zip(batch["id"], batch["image"], strict=True):
            expected = Image.open(tmp_path / f"{name}.png").convert("L" if channels == 1 else "RGB")
            # Pillow rounds the gray of a color to whole numbers.
            np.testing.assert_allclose(image, channels_first(np.asarray(expected)), atol=0.51 / 255)


def test_gray_and_color_in_one_folder_are_one_sentence_or_skipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = mixed_folder(tmp_path)
    with pytest.raises(BadImageError, match="cat/00.png has 1 channels where 40 of 48 images have 3; set data.chann"):
        FolderData(root).setup()
    data = FolderData(root, on_bad_image="skip")
    with caplog.at_level(logging.WARNING):
        data.setup()
    assert data.channels == 3 and len(data.skipped) == 8, "the few are skipped although one of them came first"
    assert "Skipped 8 of 48 images" in caplog.text


def test_only_gray_and_color_can_be_converted() -> None:
    gray, color = RNG.random((1, 9, 10), np.float32), RNG.random((3, 9, 10), np.float32)
    assert np.array_equal(read_image(gray, channels=3), np.repeat(gray, 3, 0))
    luma = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]
    np.testing.assert_allclose(read_image(color, 0, channels=1)[0], luma, rtol=1e-6)
    assert np.array_equal(read_image(np.repeat(gray, 3, 0), 0, channels=1), gray), "gray saved as color is gray again"
    with pytest.raises(BadImageError, match="x has 5 channels, of which data.channels=3 can make no picture"):
        read_image(np.zeros((5, 30, 30)), name="x", channels=3)
    with pytest.raises(ValueError, match="data.channels is 4; use 1 for gray"):
        FolderData("x", channels=4)
