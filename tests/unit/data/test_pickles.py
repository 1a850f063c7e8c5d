"""Data files that hold pickled objects are refused, and run nothing."""

import os
from pathlib import Path

import numpy as np
import pytest

from lightning_xai.data import NpzData
from lightning_xai.data.reading import read_image


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.mark),)


def hostile(mark: Path) -> np.ndarray:
    return np.array([Payload(mark), Payload(mark)], dtype=object)


@pytest.mark.parametrize("key", ["images", "labels", "ids", "classes"])
def test_npz(tmp_path: Path, key: str) -> None:
    arrays = {"images": np.zeros((2, 8, 8, 1), np.float32), "labels": np.arange(2)} | {key: hostile(tmp_path / "ran")}
    np.savez(tmp_path / "data.npz", **arrays)
    with pytest.raises(ValueError, match=r"data\.npz cannot be read as npz .*; replace it"):
        NpzData(tmp_path / "data.npz").setup("fit")
    assert not (tmp_path / "ran").exists()


def test_npy(tmp_path: Path) -> None:
    np.save(tmp_path / "image.npy", hostile(tmp_path / "ran"))
    with pytest.raises(ValueError, match=r"image\.npy cannot be read"):
        read_image(tmp_path / "image.npy")
    assert not (tmp_path / "ran").exists()


def test_they_would_run(tmp_path: Path) -> None:
    np.save(tmp_path / "image.npy", hostile(tmp_path / "ran")[:1])
    np.load(tmp_path / "image.npy", allow_pickle=True)
    assert (tmp_path / "ran").exists(), "the tests above prove nothing"
