"""Strangers' files of weights and of images."""

import io
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import hypothesis.extra.numpy as arrays
import nibabel
import numpy as np
import tifffile
import torch
from _fuzz_outcomes import damaged, promised
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

from lightning_xai.data.reading import read_image
from lightning_xai.networks.mask_net import SmallCNN
from lightning_xai.targets.weights import load_model

# ------------------------------------------------------------------ weight files

SHAPES = arrays.array_shapes(min_dims=1, max_dims=5, min_side=0, max_side=9)


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
            return shown, draw(st.just(files[name]) | damaged(files[name]))
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
