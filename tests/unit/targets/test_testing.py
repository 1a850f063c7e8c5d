"""A frozen target on the test set: the numbers of its own training, from any kind of target."""

import pytest
import torch
from lightning import LightningDataModule, Trainer
from torch import nn
from torch.utils.data import DataLoader

from lightning_xai import ClassifierTarget, SegmenterTarget
from lightning_xai.functional.segmentation import IGNORED
from lightning_xai.targets.testing import auc_fault, measure
from lightning_xai.targets.training.classifier import ClassifierTask
from lightning_xai.targets.training.segmenter import SegmenterTask
from tests.helpers import cnn, segmenter

NAMES = ["a", "b", "c"]


class Images(LightningDataModule):
    def __init__(self, **entries):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        images = torch.rand(30, 1, 16, 16, generator=generator)
        self.rows = [{"image": image, "id": str(n)} for n, image in enumerate(images)]
        for name, make in entries.items():
            for n, row in enumerate(self.rows):
                row[name] = make(n, generator)

    def test_dataloader(self):
        return DataLoader(self.rows, batch_size=7)


KINDS = {
    "softmax": (3, "softmax", lambda n, _: n % 3),
    "sigmoid of exclusive classes": (3, "sigmoid", lambda n, _: n % 3),
    "several labels": (3, "sigmoid", lambda n, g: (torch.rand(3, generator=g) > 0.5).long()),
    "one logit": (1, "sigmoid", lambda n, _: n % 2),
}


def trainer(path):
    options = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return Trainer(default_root_dir=path, logger=False, enable_checkpointing=False, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_of_a_classifier_are_those_of_its_training(kind, tmp_path):
    outputs, activation, label = KINDS[kind]
    net, data = cnn(classes=outputs), Images(label=label)
    names = NAMES[: max(outputs, 2)]
    module = ClassifierTask(net.eval(), len(names), activation)
    expected = trainer(tmp_path).test(module, datamodule=data, verbose=False)[0]
    found, _ = measure(ClassifierTarget(net, activation), trainer(tmp_path), data, names)
    assert set(found) == {name.removeprefix("target/test_") for name in expected}
    for name, value in found.items():
        if kind != "one logit" or name in ("accuracy", "balanced_accuracy", "auc"):
            assert value == pytest.approx(expected[f"target/test_{name}"], abs=1e-5), name


@pytest.mark.parametrize(("activation", "outputs"), [("softmax", 3), ("sigmoid", 1)])
def test_dice_of_a_segmenter_is_that_of_its_training(activation, outputs, tmp_path):
    names = NAMES[: max(outputs, 2)]
    net = segmenter(classes=outputs)
    data = Images(mask=lambda n, g: torch.randint(0, len(names), (1, 16, 16), generator=g))
    module = SegmenterTask(net, len(names), activation, class_names=names)
    expected = trainer(tmp_path).test(module, datamodule=data, verbose=False)[0]
    found, _ = measure(SegmenterTarget(net, activation), trainer(tmp_path), data, names)
    for name in ("dice", "dice_b"):
        assert found[name] == pytest.approx(expected[f"target/test_{name}"], abs=1e-5)


def test_probabilities_and_script_files_are_measured_too(tmp_path):
    data = Images(label=lambda n, _: n % 3)
    plain, _ = measure(ClassifierTarget(cnn()), trainer(tmp_path), data, NAMES)
    whole = nn.Sequential(cnn(), nn.Softmax(1))
    for model in (whole, torch.jit.trace(whole.eval(), torch.rand(1, 1, 16, 16))):
        found, _ = measure(ClassifierTarget(model, activation="none"), trainer(tmp_path), data, NAMES)
        assert found == pytest.approx(plain, abs=1e-5)


@pytest.mark.parametrize("ignored", [255, IGNORED])
def test_pixels_to_ignore_do_not_count(tmp_path, ignored):
    def perfect(images):
        return nn.functional.one_hot((images[:, 0] > 0.5).long(), 2).movedim(-1, 1) * 10.0

    data = Images()
    for row in data.rows:
        row["mask"] = (row["image"] > 0.5).long()
        row["mask"][:, :4] = ignored
    found, fault = measure(SegmenterTarget(perfect), trainer(tmp_path), data, ["no", "yes"])
    assert found["dice"] == pytest.approx(1.0) and fault is None


def test_classes_in_another_order_are_named(tmp_path):
    data = Images(label=lambda n, _: n % 3)
    order = {float(row["image"].sum()): row["label"] for row in data.rows}

    def shifted(images):
        labels = torch.tensor([(order[float(image.sum())] + 1) % 3 for image in images])
        return nn.functional.one_hot(labels, 3) * 9.0

    found, fault = measure(ClassifierTarget(shifted), trainer(tmp_path), data, NAMES)
    assert found["accuracy"] == 0 and fault is not None and "a is predicted as b" in fault


@pytest.mark.parametrize(
    ("auc", "said"), [(0.9, None), (float("nan"), None), (None, None), (0.5, "no better than"), (0.1, "far below")]
)
def test_an_auc_at_or_below_chance_is_said(auc, said):
    found = auc_fault(auc)
    assert (found is None) if said is None else said in found
