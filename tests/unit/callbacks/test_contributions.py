"""The Contributions callback draws CAPE's first test images, and nothing for others."""

import pytest
import torch
from lightning import Trainer
from PIL import Image

from lightning_xai import ClassifierTarget
from lightning_xai.callbacks import Contributions
from lightning_xai.callbacks import contributions as module
from lightning_xai.explainers import CAPE, HiResCAM
from tests.helpers import Blobs, cnn


def run(explainer, folder, **options):
    quiet = {"logger": False, "enable_progress_bar": False, "accelerator": "cpu"}
    trainer = Trainer(default_root_dir=folder, callbacks=[Contributions(**options)], **quiet)
    trainer.test(explainer, Blobs(), verbose=False)
    return sorted(path.name for path in (folder / "maps").glob("*.png")) if (folder / "maps").is_dir() else []


def test_the_first_images_are_drawn(tmp_path):
    target = ClassifierTarget(cnn(), class_names=["a", "b", "c"])
    names = run(CAPE(target), tmp_path, num_images=3)
    assert names == ["contributions_0.png", "contributions_1.png", "contributions_2.png"]


def test_a_figure_names_explainer_layer_and_data(tmp_path, monkeypatch):
    quiet = {"logger": False, "enable_progress_bar": False, "accelerator": "cpu"}
    trainer = Trainer(default_root_dir=tmp_path, callbacks=[Contributions(num_images=1)], **quiet)
    cape, data, headings, draw = CAPE(ClassifierTarget(cnn())), Blobs(2), [], module.contribution_figure
    data.where = "/data/cells/labels.csv"
    monkeypatch.setattr(module, "contribution_figure", lambda *args, **kwargs: headings.append(kwargs) or draw(*args))
    trainer.test(cape, data, verbose=False)
    title = f"{cape.title}, on cells/labels.csv"
    assert headings == [{"heading": title}]
    assert Image.open(tmp_path / "maps" / "contributions_0.png").text == {"Title": title}


def test_other_explainers_draw_nothing(tmp_path):
    assert run(HiResCAM(ClassifierTarget(cnn())), tmp_path) == []


def test_the_two_most_probable_classes_are_shown_with_their_sums(monkeypatch):
    calls = []
    monkeypatch.setattr(module, "contribution_figure", lambda *args, heading: calls.append(args))
    cape, images = CAPE(ClassifierTarget(cnn(), class_names=["a", "b", "c"])), torch.rand(2, 1, 8, 8)
    assert len(module.figures(cape, cape.explanation(images), {"image": images}, 2)) == 2
    for (image, fractions, titles, versus), own, p in zip(calls, images, cape.probabilities(images), strict=True):
        first, second = p.topk(2).indices.tolist()
        assert torch.equal(image, own)
        assert fractions.flatten(1).sum(dim=1).tolist() == pytest.approx([float(p[first]), float(p[second])])
        assert titles == [f"{'abc'[k]}: {100 * p[k]:.1f} %" for k in (first, second)]
        assert versus == f"{'abc'[first]} - {'abc'[second]}: {100 * (p[first] - p[second]):+.1f} %"


def test_at_least_one_image():
    with pytest.raises(ValueError, match="num_images is 0; draw at least 1"):
        Contributions(0)
