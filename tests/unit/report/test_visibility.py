"""The comparison picture: every visibility curve of a test, with the bounds and the leak beside it."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_xai import ClassifierTarget, SegmenterTarget
from lightning_xai.callbacks import Faithfulness
from lightning_xai.explainers import CenterPrior
from lightning_xai.metrics import InsertionAUC, VisibilityCurve, VisibilityLeak
from lightning_xai.report.statistics import bootstrap
from lightning_xai.visualization.curves import visibility_figure
from tests.helpers import Blobs, GradientMap, cnn, pixel_segmenter
from tests.unit.callbacks.test_faithfulness import run

STEPS = 5


def lines(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def tested(tmp_path):
    """A segmenter that finds what is bright; the gradient of its score is 0 outside."""
    target = SegmenterTarget(pixel_segmenter(torch.tensor([[0.0], [9.0]]), torch.tensor([4.5, 0.0])))
    metrics = {
        "split": VisibilityCurve(steps=STEPS, fill="zero"),
        "image": VisibilityCurve(steps=STEPS, scope="image", fill="zero"),
        "leak": VisibilityLeak(steps=STEPS, scope="image", content="noise", fill="zero"),
    }
    scored = Faithfulness(metrics, {"center": CenterPrior})
    trainer = run(tmp_path, scored)
    trainer.test(GradientMap(target), Blobs(), verbose=False)
    return tmp_path, scored


def test_random_reversed_and_oracle_rows_are_always_there(tested):
    folder, scored = tested
    assert set(scored.results) == {"GradientMap", "center", "random", "reversed", "oracle"}
    fifth = {name: float(suite["image"].curve()["dice"][1]) for name, suite in scored.suites.items()}
    assert fifth["oracle"] > 0.95 and fifth["GradientMap"] > 0.95, "the blob is shown first: its gradient is not 0"
    assert fifth["reversed"] == 0 and 0 < fifth["random"] < 0.7
    for name in ("visibility_split.png", "visibility_image.png"):
        file = Image.open(folder / "maps" / name)
        picture = np.asarray(file)
        assert file.text == {"Title": "GradientMap"}
        assert picture.ndim == 3 and picture.std() > 10, f"{name} is blank"


def test_the_numbers_of_the_picture_are_written(tested):
    folder, scored = tested
    table = lines(folder / "visibility.csv")
    contents = {(row["scope"], row["content"]) for row in table}
    assert contents == {("split", "own"), ("image", "own"), ("image", "noise")}
    assert len(table) == 3 * 5 * (STEPS + 2), "the steps, and the fraction of the value"
    rows = scored.suites["center"]["image"].rows_at_fractions()[0.4]
    values = torch.tensor([value for _, _, value in rows], dtype=torch.float64)
    expected = bootstrap(values)
    (line,) = [
        row
        for row in table
        if (row["scope"], row["content"], row["explainer"], row["fraction"]) == ("image", "own", "center", "0.4")
    ]
    assert float(line["dice"]) == pytest.approx(float(scored.suites["center"]["image"].curve()["dice"][2]))
    assert [float(line[end]) for end in ("dice", "low", "high")] == pytest.approx(
        [expected.mean, expected.low, expected.high]
    )
    assert line["images"] == "6"


def test_nothing_is_drawn_without_such_a_metric(tmp_path):
    trainer = run(tmp_path, Faithfulness({"insertion": InsertionAUC(steps=3)}))
    trainer.test(GradientMap(ClassifierTarget(cnn())), Blobs(2), verbose=False)
    assert not (tmp_path / "visibility.csv").exists() and not (tmp_path / "maps").exists()


def test_a_leak_is_drawn_in_its_explainers_color_and_bounds_have_none():
    curve = {fraction: bootstrap(torch.rand(9)) for fraction in (0.0, 0.5, 1.0)}
    axes = visibility_figure({"own": curve, "oracle": curve}, {"own": curve, "oracle": curve}, "title").axes[0]
    dotted = [line for line in axes.lines if line.get_linestyle() == ":" and len(line.get_xdata())]
    (own,) = [line for line in axes.lines if line.get_label() == "own"]
    assert [line.get_color() for line in dotted] == [own.get_color()]
    assert [text.get_text() for text in axes.get_legend().get_texts()][:2] == ["own", "oracle"]


def test_a_control_of_that_name_is_the_users(tmp_path):
    """Random, reversed and oracle are added to the controls; they replace none."""
    target = SegmenterTarget(pixel_segmenter(torch.tensor([[0.0], [9.0]]), torch.tensor([4.5, 0.0])))
    scored = Faithfulness({"image": VisibilityCurve(steps=2, scope="image")}, {"random": CenterPrior})
    run(tmp_path, scored).test(GradientMap(target), Blobs(2), verbose=False)
    assert type(scored.controls["random"]) is CenterPrior
    assert set(scored.controls) == {"random", "reversed", "oracle"}
