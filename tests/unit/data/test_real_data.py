from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch.nn import functional

from lightning_xai.data import EmbeddedDigits, ImageDataModule, ManifestData, NpzData
from lightning_xai.data.loading import LoadItem
from lightning_xai.data.survey import survey_masks
from tests.running import load_config


def configured(name: str, **changes: object) -> ImageDataModule:
    path = Path(__file__).parents[3] / "configs" / "data" / f"{name}.yaml"
    data = instantiate(OmegaConf.merge({"seed": 0}, {"data": load_config(path)}, {"data": changes}).data)
    data.setup()
    return data


def test_embedded_digits() -> None:
    data = EmbeddedDigits(limit=100)
    data.setup()
    assert data.image_shape == (1, 28, 28)
    assert data.split_counts["test"] == {str(digit): 10 for digit in range(10)}
    batch = next(iter(data.test_dataloader()))
    assert batch["image"].min() == 0 and batch["image"].max() == 1
    assert torch.equal(batch["mask"] > 0, batch["image"] > 0.3)
    assert batch["id"][0].startswith("digit_0")


def test_cells(data_root: Path) -> None:
    data = configured("cells")
    assert [len(items) for items in data.split_items.values()] == [2045, 612, 577]
    assert data.class_names == ["DMSO", "Protein synthesis"]
    assert data.image_shape == (3, 68, 68)
    sites = [{item.group for item in items} for items in data.split_items.values()]
    assert sum(map(len, sites)) == len(set.union(*sites)) == 34
    assert data.mean == pytest.approx([0.1454, 0.2191, 0.2310], abs=1e-3)


def test_blood(data_root: Path) -> None:
    data = configured("blood")
    assert data.class_names == ["neutrophil", "lymphocyte", "monocyte", "eosinophil"]
    totals = [sum(counts[name] for counts in data.split_counts.values()) for name in data.class_names]
    assert totals == [176, 53, 48, 22]
    assert all(min(counts.values()) >= 3 for counts in data.split_counts.values())
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape == (32, 3, 96, 96) and batch["mask"].shape == (32, 1, 96, 96)
    assert set(batch["mask"].unique().tolist()) == {0, 1, 2}
    nucleus = batch["image"][:, 0:1][batch["mask"] == 2]
    assert nucleus.mean() < data.mean[0] - 0.2  # the stain is dark in red: masks follow the augmented images


def test_retina_keeps_patients_and_sides(data_root: Path) -> None:
    data = ManifestData(
        data_root / "retina_dr" / "labels.csv",
        image_column="file",
        label_column="any_dr",
        image_root="images",
        group_column="patient",
        laterality_column="eye",
        size=32,
        limit=30,
    )
    data.setup()
    patients = [{item.group for item in items} for items in data.split_items.values()]
    assert sum(map(len, patients)) == len(set.union(*patients))
    assert set(next(iter(data.train_dataloader()))["laterality"]) == {"L", "R"}


@pytest.mark.parametrize(
    ("name", "counts", "shape"),
    [
        ("pneumoniamnist_balanced/pneumoniamnist.npz", [2428, 270, 468], (1, 28, 28)),
        ("cifar10_resnet/cifar10_test3000.npz", [2100, 450, 450], (3, 32, 32)),
    ],
)
def test_npz_files(data_root: Path, name: str, counts: list[int], shape: tuple[int, ...]) -> None:
    data = NpzData(data_root / name)
    data.setup()
    assert [len(items) for items in data.split_items.values()] == counts
    assert data.image_shape == shape


def test_vessels_are_found_by_the_published_network(data_root: Path) -> None:
    data = configured("vessels")
    assert [len(items) for items in data.split_items.values()] == [16, 4, 20] and data.image_shape == (3, 512, 512)
    config = load_config(Path(__file__).parents[3] / "configs" / "target" / "vessel_wnet.yaml")
    target = instantiate(OmegaConf.create({"target": config, "data_info": data.data_info()}).target)
    rule = survey_masks(data.split_items["test"], data.mask_classes, "vessels")
    unscaled = LoadItem(None, None, True, data.mask_classes, data.prepare, rule=rule)
    references = {item.id: unscaled(item)["mask"] > 0 for item in data.split_items["test"]}
    dice = []
    for batch in data.test_dataloader():
        with torch.no_grad():
            outputs = target.model(batch["image"]).sigmoid()
        for probabilities, name in zip(outputs, batch["id"], strict=True):
            # The published Dice is one of the original pixels, at a threshold of .4.
            reference = references[name]
            vessel = functional.interpolate(probabilities[None], reference.shape[1:], mode="bilinear")[0] > 0.4
            dice.append(2 * (vessel & reference).sum() / (vessel.sum() + reference.sum()))
    assert float(torch.stack(dice).mean()) == pytest.approx(0.824, abs=0.005)
