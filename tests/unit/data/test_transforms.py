"""Aligned images: mirrored sides, and back; a planted tag."""

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor
from PIL import Image

from lightning_xai import ClassifierTarget
from lightning_xai.data import CornerTag, ManifestData, MirrorSided, NpzData
from lightning_xai.global_maps import GlobalMaps, peppr
from tests.helpers import GradientMap, cnn


def eyes(folder: Path, mirrored: bool, count: int = 24) -> ManifestData:
    """Noise with a bright left edge; if `mirrored`, every second is a right eye, taken the other way round."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    lines = ["image,label,side,mask"]
    for number in range(count):
        pixels = rng.integers(0, 100, (10, 12), np.uint8)
        pixels[:, :3] += np.uint8(60 + 40 * (number % 3))
        mask = np.zeros((10, 12), np.uint8)
        mask[2:5, :4] = 1
        right = mirrored and number % 2
        for name, values in ((f"{number}.png", pixels), (f"{number}_mask.png", mask)):
            Image.fromarray(values[:, ::-1] if right else values).save(folder / name)
        lines.append(f"{number}.png,{number % 3},{'R' if right else 'L'},{number}_mask.png")
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    align = [MirrorSided(["image", "mask"], side="R", spatial_axis=1)]
    data = ManifestData(folder / "table.csv", laterality_column="side", prepare=align, batch_size=5)
    data.setup()
    return data


def test_flipping_half_of_the_images_and_telling_the_aligner_changes_nothing(tmp_path: Path) -> None:
    target = ClassifierTarget(cnn())
    explainer, results, curves = GradientMap(target), [], []
    for mirrored in (False, True):
        data = eyes(tmp_path / str(mirrored), mirrored)
        metric = GlobalMaps(3)
        for batch in data.plain_dataloader("train"):
            maps = explainer.explain(batch["image"], batch["label"])
            metric.update(maps=maps, labels=batch["label"], images=batch["image"], ids=batch["id"])
        results.append(metric.compute())
        assert mirrored == ("R" in next(iter(data.plain_dataloader("train")))["laterality"])
        loader = data.plain_dataloader("train")
        curves.append(peppr(target, loader, results[-1].overall, (0, 0.5, 1), random_orders=1))
    assert results[0].count == results[1].count
    assert torch.equal(results[0].overall, results[1].overall)
    assert torch.equal(results[0].mean_image, results[1].mean_image)
    assert torch.equal(curves[0].erase, curves[1].erase)


def test_masks_follow_and_a_map_is_turned_back_onto_its_image(tmp_path: Path) -> None:
    data = eyes(tmp_path / "eyes", mirrored=True)
    mirror = data.prepare[0]
    for batch in data.plain_dataloader("train"):
        assert batch["mask"][:, 0, 2:5, :4].all() and not batch["mask"][:, 0, :, 4:].any()
        for name, side, image in zip(batch["id"], batch["laterality"], batch["image"], strict=True):
            taken = torch.from_numpy(np.asarray(Image.open(tmp_path / "eyes" / f"{name}.png")) / 255).float()
            back = mirror.inverse({"image": image, "laterality": side})["image"]
            assert torch.allclose(back[0], taken), name


def test_a_mirrored_volume_stays_where_it_was() -> None:
    image = MetaTensor(torch.arange(24.0).view(1, 2, 3, 4), affine=torch.diag(torch.tensor([1.0, 2.0, 3.0, 1.0])))
    moved = MirrorSided(["image"], side="R", spatial_axis=0)({"image": image, "laterality": "R"})["image"]
    assert torch.equal(moved.as_tensor(), image.as_tensor().flip(1))
    position = moved.affine @ torch.tensor([1.0, 0, 0, 1]).to(moved.affine)
    assert position[:3].tolist() == [0, 0, 0], "the first voxel is the last one now"


def test_an_image_without_a_side_is_an_error() -> None:
    with pytest.raises(ValueError, match="without a side of the body; name its column"):
        MirrorSided(["image"])({"image": torch.rand(1, 2, 2), "laterality": None})


def test_the_images_of_one_class_are_tagged(tmp_path: Path) -> None:
    images, labels = np.full((20, 8, 8), 50, np.uint8), np.arange(20) % 2
    np.savez(tmp_path / "arrays.npz", images=images, labels=labels)
    data = NpzData(tmp_path / "arrays.npz", prepare=[CornerTag(["image"], label=1, size=2)])
    data.setup()
    for batch in data.plain_dataloader("train"):
        tagged = batch["image"][:, 0, :2, :2] == 1
        assert torch.equal(tagged.flatten(1).all(dim=1), batch["label"] == 1)
        assert (batch["image"][:, 0, 2:] == 50 / 255).all() and (batch["image"][:, 0, :, 2:] == 50 / 255).all()
