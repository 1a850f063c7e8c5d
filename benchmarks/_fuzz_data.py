"""Strangers' tables and arrays, and data options of every type."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.extra.numpy as arrays
import numpy as np
from _fuzz_outcomes import check_batches, damaged, promised
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lightning_xai.data import ManifestData, NpzData

# ------------------------------------------------------------------ manifests

CELLS = st.sampled_from(
    ["0.png", "1.png", "2", "./3.png", "../0.png", "/etc/passwd", "", " ", "a", "b", "-1", "1e9", "nan"]
)
CELL = CELLS | st.text(max_size=12) | st.just("x" * 300)
COLUMNS = ["image", "label", "mask", "split", "group", "id", "laterality", "x"]


@st.composite
def tables(draw: st.DrawFn) -> bytes:
    header = draw(st.just(["image", "label"]) | st.lists(st.sampled_from(COLUMNS), min_size=1, max_size=5))
    rows = [[f"{number % 8}.png", "ab"[number % 2]] for number in range(8)] if header == ["image", "label"] else []
    rows += draw(st.just([]) | st.lists(st.lists(CELL, min_size=1, max_size=6), max_size=4))
    joint = draw(st.sampled_from([",", ";", "\t"]))
    text = "\n".join(joint.join(row) for row in [header, *rows])
    encoded = text.encode(draw(st.sampled_from(["utf-8", "utf-16", "utf-8-sig", "cp1252"])), "replace")
    return draw(st.just(encoded) | st.just(encoded) | damaged(encoded)) if encoded else b""


MANIFEST_OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "label_column": st.sampled_from([None, "x", "mask", ["x", "group"]]),
        "label_separator": st.sampled_from(["|", ""]),
        "uncertain": st.sampled_from(["ignore", "zero", "maybe"]),
        "classes": st.lists(st.sampled_from(["a", "b", ""]), max_size=2),
        "box_columns": st.just(["x", "x", "group", "id"]),
        "mask_classes": st.just(["background", "a"]),
    },
)


def fuzz_manifest(folder: Path) -> Callable[[], None]:
    """Tables of all kinds next to eight images."""
    for number in range(8):
        Image.fromarray(np.full((8, 8), 30 * number, np.uint8)).save(folder / f"{number}.png")

    @given(tables(), st.just({}) | MANIFEST_OPTIONS)
    def run(content: bytes, options: dict[str, Any]) -> None:
        (folder / "table.csv").write_bytes(content)
        with promised("table.csv", "data.", "image"):
            data = ManifestData(folder / "table.csv", num_workers=0, **options)
            data.setup()
            assert all(Path(item.image).is_relative_to(folder) for items in data.split_items.values() for item in items)
            check_batches(data)

    return run


# ------------------------------------------------------------------ npz arrays

SHAPES = arrays.array_shapes(min_dims=1, max_dims=5, min_side=0, max_side=9)
TYPES = arrays.scalar_dtypes() | st.sampled_from(["U3", "S2", "?", "f2", "c8"])
ARRAY = arrays.arrays(TYPES, SHAPES)
IMAGES = arrays.arrays(
    st.sampled_from(["u1", "u2", "f4", "i2"]), st.sampled_from([(12, 8, 8, 1), (12, 8, 8), (12, 3, 9, 9)])
)
LABELS = arrays.arrays(st.sampled_from(["i8", "u1", "f8", "U1", "?"]), st.sampled_from([(12,), (12, 1), (12, 3), (3,)]))
NPZ_KEYS = ("images", "labels", "train_images", "train_labels", "masks", "split", "ids", "classes", "group")


@st.composite
def npz_files(draw: st.DrawFn) -> bytes:
    content = {"images": draw(IMAGES), "labels": draw(st.just(np.arange(12) % 2) | LABELS)}
    content |= draw(st.dictionaries(st.sampled_from(NPZ_KEYS), ARRAY, max_size=2))
    for key in draw(st.sets(st.sampled_from(["images", "labels"]), max_size=1)):
        del content[key]
    file = io.BytesIO()
    np.savez(file, **content)
    whole = file.getvalue()
    return draw(st.just(whole) | st.just(whole) | damaged(whole))


def fuzz_npz(folder: Path) -> Callable[[], None]:
    """Arrays of any type and shape, and damaged files."""

    @given(
        npz_files(), st.sampled_from([{}, {"group": "group"}, {"mask_classes": ["a", "b"]}, {"classes": ["a", "b"]}])
    )
    def run(content: bytes, options: dict[str, Any]) -> None:
        (folder / "data.npz").write_bytes(content)
        with promised("data.npz", "data.", "image", "images", "train_", "Class", "splits"):
            data = NpzData(folder / "data.npz", num_workers=0, **options)
            data.setup()
            check_batches(data)

    return run


# ------------------------------------------------------------------ data options

NUMBER = st.integers(-3, 40) | st.sampled_from([0, 1, 10**9, -(10**9), 0.5, -1.0, float("nan"), float("inf")])
ODD = st.none() | st.booleans() | NUMBER | st.text(max_size=4) | st.lists(NUMBER, max_size=4)
DATA_OPTIONS: dict[str, st.SearchStrategy[Any]] = {
    "size": ODD | st.sampled_from(["auto", [8, 8], [8, 8, 8]]),
    "batch_size": ODD,
    "splits": ODD | st.lists(st.floats(0, 1), min_size=3, max_size=3),
    "seed": ODD,
    "cache": ODD,
    "on_bad_image": ODD | st.just("skip"),
    "limit": ODD,
    "channel_axis": ODD | st.sampled_from(["none", -1]),
    "mask_classes": ODD | st.lists(st.text(max_size=3), max_size=3),
    "normalize": ODD | st.sampled_from(["image", "dataset", {"mean": [0], "std": [0]}, {"mean": "a", "std": None}]),
    "channels": ODD,
    "ignore_index": ODD,
    "resize": ODD | st.sampled_from(["crop", "stretch"]),
    "orientation": ODD | st.sampled_from(["RAS", "XYZ"]),
    "window_hu": ODD,
    "patch": ODD,
    "boxes": ODD,
    "group": ODD,
    "num_workers": st.none() | st.booleans() | st.just(-1) | st.text(max_size=2),
    "classes": ODD | st.lists(st.text(max_size=3), max_size=3),
}


def fuzz_options(folder: Path) -> Callable[[], None]:
    """Options of every type for a small set that is right."""
    images = np.random.default_rng(0).random((12, 8, 8, 1), np.float32)
    np.savez(folder / "data.npz", images=images, labels=np.arange(12) % 2, masks=(images[..., 0] > 0.5).astype("u1"))
    choices = st.dictionaries(st.sampled_from(sorted(DATA_OPTIONS)), st.none(), min_size=1, max_size=3)

    @given(choices.flatmap(lambda chosen: st.fixed_dictionaries({name: DATA_OPTIONS[name] for name in chosen})))
    def run(options: dict[str, Any]) -> None:
        with promised("data.", "data.npz", "axes", "test_", "image"):
            data = NpzData(folder / "data.npz", **({"num_workers": 0} | options))
            data.setup()
            check_batches(data)

    return run
