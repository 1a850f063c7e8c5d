"""Predicted maps on disk: formats, affines, names."""

from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from monai.data import MetaTensor
from PIL import Image

from lightning_xai.callbacks import SaveMaps
from lightning_xai.data import FolderData
from lightning_xai.functional.files import safe_name
from lightning_xai.structures import Explanation, Query


def save(tmp_path, maps, ids, image=None, callback=None, **extra):
    callback = callback or SaveMaps()
    trainer = SimpleNamespace(default_root_dir=tmp_path, predict_loop=SimpleNamespace(current_batch_indices=[]))
    callback.on_predict_start(trainer, None)
    batch = {"image": torch.rand(len(maps), 1, *maps.shape[2:]) if image is None else image, "id": ids, **extra}
    found = Explanation(maps, Query(torch.zeros(maps.shape[:2], dtype=torch.long)))
    callback.on_predict_batch_end(trainer, SimpleNamespace(title="GradCAM, layer 4"), found, batch, 0)
    return sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())


def test_2d_images_become_npy_and_png(tmp_path):
    maps = torch.randn(2, 1, 6, 8)
    assert save(tmp_path, maps, ["a", "b"]) == [f"predictions/{name}" for name in ("a.npy", "a.png", "b.npy", "b.png")]
    stored = np.load(tmp_path / "predictions" / "b.npy")
    assert stored.dtype == np.float32 and np.array_equal(stored, maps[1].numpy())
    assert Image.open(tmp_path / "predictions" / "a.png").size == (8, 6)
    assert Image.open(tmp_path / "predictions" / "a.png").text == {"Title": "GradCAM, layer 4"}


def test_one_png_a_query(tmp_path):
    callback = SaveMaps("png", tmp_path / "x")
    assert save(tmp_path, torch.randn(1, 2, 6, 8), ["a"], callback=callback) == ["x/a_0.png", "x/a_1.png"]


@pytest.mark.parametrize("given", ["metatensor", "affine", None])
@pytest.mark.parametrize("queries", [1, 3])
def test_volumes_become_nifti_with_the_affine(tmp_path, queries, given):
    affine = torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0])).double()
    affine[:3, 3] = torch.tensor([-5.0, 6.0, 7.0])
    affines, images = torch.stack([torch.eye(4).double(), affine]), torch.rand(2, 1, 4, 5, 6)
    extra = {"affine": affines} if given == "affine" else {}
    if given == "metatensor":
        images = MetaTensor(images, affine=affines)
        images.is_batch = True
    maps = torch.randn(2, queries, 4, 5, 6)
    figures = [
        f"predictions/{name}{end}.png" for name in "ab" for end in ([""] if queries == 1 else ["_0", "_1", "_2"])
    ]
    expected = sorted([*figures, "predictions/a.nii.gz", "predictions/b.nii.gz"])
    assert save(tmp_path, maps, ["a", "b"], images, **extra) == expected
    stored = nibabel.load(tmp_path / "predictions" / "b.nii.gz")
    assert np.allclose(stored.affine, affine if given else np.eye(4))
    data = torch.from_numpy(stored.get_fdata(dtype=np.float32))
    assert torch.equal(data, maps[1, 0] if queries == 1 else maps[1].movedim(0, -1))


def test_nifti_of_a_2d_image_is_refused(tmp_path):
    with pytest.raises(ValueError, match="a is a 2-D image .* use format npy or png"):
        save(tmp_path, torch.randn(1, 1, 6, 8), ["a"], callback=SaveMaps("nifti"))


@pytest.mark.parametrize("image_id", ["../../etc/passwd", "a/b c:d.png", ".hidden", "...", "Zelle_ä"])
def test_ids_stay_in_their_folder(image_id):
    name = safe_name(image_id)
    assert name and not name.startswith(".") and "/" not in name and " " not in name


def test_two_ids_with_one_name_are_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"'a b' and 'a/b' would both be written to 'a_b'"):
        save(tmp_path, torch.randn(2, 1, 4, 4), ["a b", "a/b"])


def test_the_same_image_twice_is_none(tmp_path):
    # A distributed sampler pads the last batch with images it has already shown.
    assert len(save(tmp_path, torch.randn(2, 1, 4, 4), ["a", "a"])) == 2


def test_unknown_format_is_named():
    with pytest.raises(ValueError, match="'tiff'; use one of auto, npy, png, nifti"):
        SaveMaps("tiff")


def test_it_writes_as_lightnings_prediction_writers_do():
    writer = SaveMaps()
    assert isinstance(writer, BasePredictionWriter) and writer.interval.on_batch and not writer.interval.on_epoch


class ImageAsMap(LightningModule):
    """Gives the first channel of every image as its map."""

    title = "the image"

    def predict_step(self, batch, _):
        maps = torch.as_tensor(batch["image"])[:, :1]
        return Explanation(maps, Query(torch.zeros(maps.shape[:2], dtype=torch.long)))


def predict(tmp_path, data):
    trainer = Trainer(
        accelerator="cpu", logger=False, callbacks=[SaveMaps(dirpath=tmp_path / "out")], default_root_dir=tmp_path,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    data.setup("predict")
    trainer.predict(ImageAsMap(), dataloaders=data.predict_dataloader(), return_predictions=False)


@pytest.mark.parametrize("options", [{}, {"size": 16}, {"size": 16, "resize": "stretch"}, {"size": "auto"}])
def test_maps_of_photos_have_the_size_of_their_files(tmp_path, options):
    sizes = {"a": (12, 20), "b": (31, 10), "c": (12, 20), "d": (16, 16)}
    (tmp_path / "in").mkdir()
    for name, size in sizes.items():
        values = np.add.outer(np.arange(size[0]), 2 * np.arange(size[1])).astype(np.uint8)
        Image.fromarray(values).save(tmp_path / "in" / f"{name}.png")
    predict(tmp_path, FolderData(tmp_path / "in", **options))
    for name, size in sizes.items():
        values = np.load(tmp_path / "out" / f"{name}.npy")
        assert values.shape == (1, *size)
        assert Image.open(tmp_path / "out" / f"{name}.png").size == size[::-1]
        stored = np.asarray(Image.open(tmp_path / "in" / f"{name}.png")) / 255
        assert np.allclose(values[0], stored, atol=0.02)


def test_maps_of_volumes_lie_on_the_voxels_of_their_files(tmp_path):
    affine = np.array([[0, 0, -2.0, 30], [1.5, 0, 0, -4], [0, 3, 0, 5], [0, 0, 0, 1]])
    (tmp_path / "in").mkdir()
    for name, size in {"a": (6, 7, 8), "b": (9, 5, 4)}.items():
        values = np.random.default_rng(0).random(size).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(values, affine), tmp_path / "in" / f"{name}.nii.gz")
    predict(tmp_path, FolderData(tmp_path / "in", size=(12, 12, 12), orientation="RAS"))
    for name in "ab":
        stored, written = (nibabel.load(tmp_path / folder / f"{name}.nii.gz") for folder in ("in", "out"))
        assert np.array_equal(written.get_fdata(), stored.get_fdata()) and np.allclose(written.affine, affine)


def test_what_cannot_be_taken_back_is_said_once(tmp_path, caplog):
    (tmp_path / "in").mkdir()
    for name in "ab":
        Image.fromarray(np.zeros((8, 6), np.uint8)).save(tmp_path / "in" / f"{name}.png")

    def halve(sample):
        return sample | {"image": sample["image"][:, ::2], "mask": sample["mask"][:, ::2]}

    predict(tmp_path, FolderData(tmp_path / "in", prepare=[halve]))
    assert caplog.text.count("data.prepare cannot be taken back") == 1
    assert np.load(tmp_path / "out" / "a.npy").shape == (1, 4, 6)
