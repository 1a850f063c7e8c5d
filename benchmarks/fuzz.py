"""Feed what strangers may send into every reader: a right result or one sentence comes out, no traceback and no hang.

python benchmarks/fuzz.py                          2,000 examples of each kind
python benchmarks/fuzz.py --kinds weights --examples 200
"""

import argparse
import io
import json
import logging
import os
import signal
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hypothesis.extra.numpy as arrays
import nibabel
import numpy as np
import tifffile
import torch
from hydra import compose, initialize_config_dir
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import save_file

from lightning_xai.cli import components, run_folder  # noqa: F401  # they register the resolvers that configs use
from lightning_xai.cli.errors import sentence_of
from lightning_xai.cli.overrides import check_overrides
from lightning_xai.cli.trust import ALLOW, check_command_line
from lightning_xai.data import ManifestData, NpzData
from lightning_xai.data.module import ImageDataModule
from lightning_xai.data.reading import read_image
from lightning_xai.networks.mask_net import SmallCNN
from lightning_xai.targets.weights import load_model

CONFIGS = Path(__file__).parents[1] / "configs"
#: Seconds after which an example counts as a hang.
LIMIT = 60
#: How many examples ended in which way.
OUTCOMES: Counter[str] = Counter()

# ------------------------------------------------------------------ the promise


@contextmanager
def promised(*named: str) -> Iterator[None]:
    """Check that a block ends well, or with an error that is one sentence of ours, within the limit.

    Args:
        named: Words of which the sentence must have one, such as the name of the file.
    """

    def hangs(*_: Any) -> None:
        raise AssertionError(f"no end within {LIMIT} s")

    before = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(LIMIT)
    outcome = "right"
    try:
        yield
    except Exception as error:
        outcome = "sentence"
        sentence = sentence_of(error) or ""
        assert isinstance(error, ValueError | OSError), f"{type(error).__name__} reaches the user: {error}"
        assert sentence.startswith("train.py: ") and "may be a bug" not in sentence, sentence
        assert "\n" not in sentence and len(sentence) < 2000, sentence
        assert not named or any(word in sentence for word in named), f"does not name {named}: {sentence}"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    OUTCOMES[outcome] += 1


def check_batches(data: ImageDataModule) -> None:
    """What a data module that was set up must give: finite images, and labels of its classes."""
    for batch in data.train_dataloader() if data.split_items.get("train") else data.test_dataloader():
        assert torch.isfinite(batch["image"]).all() and batch["image"].dtype == torch.float32
        assert len(batch["id"]) == len(batch["image"])
        if "label" in batch and not data.multilabel:
            assert 0 <= int(batch["label"].min()) <= int(batch["label"].max()) < data.num_classes


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """A file as it is, cut off, with other bytes in it, or nothing but noise."""
    content = bytearray(whole)
    kind = draw(st.sampled_from(["cut", "bytes", "bytes", "bytes", "insert", "noise"]))
    if kind == "noise":
        return draw(st.binary(max_size=200))
    if kind == "cut":
        return bytes(content[: draw(st.integers(0, len(content)))])
    if kind == "insert":
        place = draw(st.integers(0, len(content)))
        return bytes(content[:place]) + draw(st.binary(max_size=40)) + bytes(content[place:])
    head = draw(st.booleans())  # where most of what a file claims stands
    for _ in range(draw(st.integers(1, 6))):
        place = draw(st.integers(0, min(len(content), 400 if head else len(content)) - 1))
        content[place] = draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]) | st.integers(0, 255))
    return bytes(content)


# ------------------------------------------------------------------ manifests

CELLS = st.sampled_from(
    ["0.png", "1.png", "2", "./3.png", "../0.png", "/etc/passwd", "", " ", "a", "b", "-1", "1e9", "nan"]
)
CELL = CELLS | st.text(max_size=12) | st.just("x" * 300)
COLUMNS = ["image", "label", "mask", "split", "group", "id", "laterality", "x"]


@st.composite
def tables(draw: st.DrawFn) -> bytes:
    header = draw(st.lists(st.sampled_from(COLUMNS), min_size=1, max_size=5) | st.just(["image", "label"]))
    rows = [[f"{number % 8}.png", "ab"[number % 2]] for number in range(8)] if header == ["image", "label"] else []
    rows += draw(st.lists(st.lists(CELL, min_size=1, max_size=6), max_size=4))
    joint = draw(st.sampled_from([",", ";", "\t"]))
    text = "\n".join(joint.join(row) for row in [header, *rows])
    encoded = text.encode(draw(st.sampled_from(["utf-8", "utf-16", "utf-8-sig", "cp1252"])), "replace")
    return draw(st.just(encoded) | damaged(encoded)) if encoded else b""


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

    @given(tables(), MANIFEST_OPTIONS)
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
        with promised("data.npz", "data.", "image", "images", "train_", "Class"):
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
            data = NpzData(folder / "data.npz", num_workers=0, **options)
            data.setup()
            check_batches(data)

    return run


# ------------------------------------------------------------------ weight files


def weight_files() -> dict[str, bytes]:
    """A file of each format, of a small network."""
    torch.manual_seed(0)
    model = SmallCNN(1, 2, 2, (2, 4)).eval()
    state = model.state_dict()
    files = {}
    for name, content in {
        "state.pt": state,
        "last.ckpt": {"state_dict": {f"model.{k}": v for k, v in state.items()}},
    }.items():
        file = io.BytesIO()
        torch.save(content, file)
        files[name] = file.getvalue()
    old = io.BytesIO()
    torch.save(state, old, _use_new_zipfile_serialization=False)
    files["old.pth"] = old.getvalue()
    with tempfile.TemporaryDirectory() as folder:
        save_file(state, Path(folder) / "a.safetensors")
        files["a.safetensors"] = (Path(folder) / "a.safetensors").read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        script = io.BytesIO()
        torch.jit.save(torch.jit.trace(model, torch.rand(1, 1, 16, 16), check_trace=False), script)
    return files | {"net.pt": script.getvalue(), "x.pt2": script.getvalue()}


VALUES = st.none() | st.integers() | st.text(max_size=5) | st.lists(st.integers(), max_size=3)
TENSORS = arrays.arrays(st.sampled_from(["f4", "i8", "?", "f8"]), SHAPES).map(torch.from_numpy)
TREES = st.recursive(
    VALUES | TENSORS,
    lambda inner: st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=4),
    max_leaves=6,
)


def fuzz_weights(folder: Path) -> Callable[[], None]:
    """Damaged files of every format under every name, and trees of other things."""
    files = weight_files()

    @st.composite
    def content(draw: st.DrawFn) -> tuple[str, bytes]:
        name = draw(st.sampled_from(sorted(files)))
        shown = draw(st.sampled_from(sorted(files)) | st.just(name) | st.just(name))
        if draw(st.booleans()):
            return shown, draw(damaged(files[name]))
        file = io.BytesIO()
        torch.save(draw(TREES), file)
        return shown, file.getvalue()

    @given(content())
    def run(drawn: tuple[str, bytes]) -> None:
        name, whole = drawn
        (folder / name).write_bytes(whole)
        with promised(name):
            model, info = load_model(SmallCNN(1, 2, 2, (2, 4)), folder / name)
            assert info.format in ("state dict", "safetensors"), "code was loaded without leave"
            assert all(torch.isfinite(value).all() for value in model.state_dict().values())

    return run


# ------------------------------------------------------------------ overrides

GROUPS = sorted(path.name for path in CONFIGS.iterdir() if path.is_dir())
KEYS = st.sampled_from(
    ["seed", "data.size", "explainer.lr", "trainer.max_epochs", "name", "allow", "hydra.run.dir", *GROUPS]
)
ODD_VALUE = st.text(st.sampled_from("ab1.,:=[]{}()$'\"\\ \n-~+*|é\0"), max_size=12)
KNOWN_VALUE = st.sampled_from(
    [
        "1",
        "null",
        "[1,2]",
        "{a: 1}",
        "${seed}",
        "${nonsense}",
        "${oc.env:NO_SUCH}",
        "${oc.decode:x}",
        "???",
        "1,2",
        "x" * 5000,
    ]
)
CHOICE = st.sampled_from(["pcim", "digits", "default", "none", "fast_dev_run", "demo", "_base", "../train", "glob(*)"])


def fuzz_overrides(folder: Path) -> Callable[[], None]:
    """Command lines of odd words."""
    word = st.builds(
        "{}{}{}{}".format,
        st.sampled_from(["", "", "", "+", "++", "~", "-"]),
        KEYS | st.text(st.sampled_from("abc./@_-=é"), max_size=8),
        st.sampled_from(["=", "=", "=", "", "==", ":"]),
        KNOWN_VALUE | CHOICE | ODD_VALUE,
    )

    @given(
        st.lists(
            word | st.sampled_from(["-m", "--cfg=job", "-cn=x", "--multirun", "--nonsense"]), min_size=1, max_size=3
        )
    )
    def run(words: list[str]) -> None:
        os.environ[ALLOW] = ""
        with promised():
            try:
                check_overrides(words, CONFIGS)
                check_command_line(words, CONFIGS, "train")
                with initialize_config_dir(str(CONFIGS), version_base="1.3"):
                    OmegaConf.to_yaml(compose("train", words))
            except SystemExit as stop:  # of the parser of flags, which has its own words
                assert stop.code != 0
            except Exception as error:
                # Hydra's own errors: the gate makes a sentence of them.
                raise ValueError((sentence_of(error) or "").removeprefix("train.py: ")) from error

    return run


# ------------------------------------------------------------------ image bytes


def image_files(folder: Path) -> dict[str, bytes]:
    """A small image of each format."""
    pixels = (np.arange(8 * 9 * 3) % 255).astype(np.uint8).reshape(8, 9, 3)
    for suffix in ("png", "jpg", "gif", "bmp", "webp", "ppm"):
        Image.fromarray(pixels).save(folder / f"whole.{suffix}")
    Image.fromarray(pixels[..., 0]).convert("P").save(folder / "palette.png")
    tifffile.imwrite(folder / "whole.tif", pixels[..., 0].astype(np.uint16))
    tifffile.imwrite(folder / "packed.tiff", pixels, photometric="rgb", compression="zlib")
    np.save(folder / "whole.npy", pixels)
    volume = nibabel.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.eye(4))
    nibabel.save(volume, folder / "whole.nii")
    nibabel.save(volume, folder / "whole.nii.gz")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def fuzz_images(folder: Path) -> Callable[[], None]:
    """Damaged images of every format."""
    (folder / "whole").mkdir()
    files = image_files(folder / "whole")
    contents = st.sampled_from(sorted(files)).flatmap(lambda name: st.tuples(st.just(name), damaged(files[name])))

    @given(contents)
    def run(drawn: tuple[str, bytes]) -> None:
        name, content = drawn
        (folder / name).write_bytes(content)
        with promised(name):
            image = read_image(folder / name)
            assert image.dtype == np.float32 and np.isfinite(image).all() and image.ndim in (3, 4)

    return run


# ------------------------------------------------------------------ run

KINDS: dict[str, Callable[[Path], Callable[[], None]]] = {
    "manifest": fuzz_manifest,
    "npz": fuzz_npz,
    "options": fuzz_options,
    "weights": fuzz_weights,
    "overrides": fuzz_overrides,
    "images": fuzz_images,
}


def fuzz(kind: str, examples: int, folder: Path, seed: int | None = None) -> dict[str, int]:
    """Run examples of a kind.

    Args:
        kind: A key of :data:`KINDS`.
        examples: How many.
        folder: An empty folder for their files.
        seed: Of hypothesis; ``None``: the same examples each time.

    Returns:
        How many ended with a right result and how many with a sentence.

    Raises:
        AssertionError: If one ended otherwise; hypothesis prints the smallest such example.
    """
    OUTCOMES.clear()
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            checks = settings(
                max_examples=examples,
                deadline=None,
                database=None,
                derandomize=seed is None,
                phases=(Phase.generate, Phase.shrink),
                suppress_health_check=list(HealthCheck),
            )
            test = checks(KINDS[kind](folder))
            if seed is not None:
                from hypothesis import seed as seeded

                test = seeded(seed)(test)
            test()
    finally:
        logging.disable(logging.NOTSET)
    return dict(OUTCOMES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=2000)
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--seed", type=int, default=None, help="other examples; without it they are the same each time")
    args = parser.parse_args()
    for kind in args.kinds:
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            found = fuzz(kind, args.examples, Path(folder), args.seed)
        print(json.dumps({"kind": kind, **found, "seconds": round(time.monotonic() - start)}), flush=True)


if __name__ == "__main__":
    main()
