from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lightning_xai.data import ImageDataModule, Item


class ArrayData(ImageDataModule):
    """A data module over given items."""

    where = "the arrays"

    def __init__(self, items: list[Item], class_names: list[str], **options: object) -> None:
        super().__init__(**options)
        self._items = items
        self.class_names = class_names
        self.multilabel = any(isinstance(item.label, tuple) for item in items)

    def items(self) -> list[Item]:
        return self._items


@pytest.fixture
def array_data() -> Callable[..., ArrayData]:
    return ArrayData


@pytest.fixture
def digits_like() -> list[Item]:
    """40 random gray images of two classes, with masks."""
    rng = np.random.default_rng(0)
    return [
        Item(f"im{i:02d}", rng.integers(0, 256, (12, 10), np.uint8), i % 2, mask=rng.integers(0, 3, (12, 10), np.uint8))
        for i in range(40)
    ]


@pytest.fixture
def class_folders(tmp_path: Path) -> Path:
    """Two class folders of ten RGB PNG images each, and masks next to them in `masks`."""
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        for folder in (tmp_path / "images" / name, tmp_path / "masks" / name):
            folder.mkdir(parents=True)
        for i in range(10):
            pixels = rng.integers(0, 256, (14, 11, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{i}.png")
            Image.fromarray((pixels[..., 0] > 128).astype(np.uint8)).save(tmp_path / "masks" / name / f"{i}.png")
    return tmp_path / "images"
