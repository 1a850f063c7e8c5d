"""Maps scored during validation and test, beside the controls, and written per image."""

import csv
import math

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.loggers import CSVLogger
from monai.data import MetaTensor

from lightning_xai import ClassifierTarget, SegmenterTarget
from lightning_xai.callbacks import Faithfulness
from lightning_xai.explainers import CenterPrior, RandomMap
from lightning_xai.explainers.query_policy import QueryPolicy
from lightning_xai.metrics import (
    Coherency,
    DeletionAUC,
    InsertionDeletionGap,
    MaxSensitivity,
    PointingGame,
    RelevanceMass,
    VisibilityCurve,
)
from lightning_xai.targets import regions as pixel_sets
from tests.helpers import Blobs, CountingTarget, GradientMap, LearnedMap, cnn, segmenter


def metrics():
    return {"gap": InsertionDeletionGap(steps=6), "deletion": DeletionAUC(steps=6), "pointing": PointingGame()}


def run(tmp_path, callback, **kwargs):
    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    options = quiet | {"max_epochs": 2, "num_sanity_val_steps": 2} | kwargs
    return Trainer(accelerator="cpu", devices=1, default_root_dir=tmp_path, callbacks=[callback], **options)


def table(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_each_explainer_is_explained_again_by_itself(tmp_path):
    """Noise does not move the control's map, whatever the explainer's own does."""
    kinds = {"sensitivity": MaxSensitivity(samples=2, radius=0.2), "coherency": Coherency(), "mass": RelevanceMass()}
    callback = Faithfulness(kinds, {"center": CenterPrior})
    run(tmp_path, callback).test(GradientMap(ClassifierTarget(cnn())), Blobs())
    own, control = callback.results["GradientMap"], callback.results["center"]
    assert all(value > 1e-3 for _, _, value in own["sensitivity"])
    assert {value for _, _, value in control["sensitivity"]} == {0}
    assert [value for _, _, value in control["coherency"]] == pytest.approx([1] * 6)
    references = callback.references["GradientMap"]["mass"]
    masses = [value for _, _, value in control["mass"]]
    assert references["center"] == pytest.approx(sum(masses) / 6), "the center prior with every localization"
    assert references["random"] == pytest.approx(9 / 64), "the area fraction of a 3 x 3 blob"


def test_a_test_writes_every_image_query_and_metric(tmp_path):
    callback = Faithfulness(metrics(), {"random": RandomMap, "center": CenterPrior})
    explainer, data = GradientMap(ClassifierTarget(cnn())), Blobs()
    (logged,) = run(tmp_path, callback).test(explainer, data)
    head, *rows = table(tmp_path / "per_image.csv")
    assert head == ["id", "group", "target", "class", "metric", "value"]
    assert len(rows) == 6 * 3 and {row[0] for row in rows} == {item["id"] for item in data.items}
    expected = {name: metric.clone() for name, metric in metrics().items()}
    for batch in data.loader():
        asked = explainer.target.query(batch["image"], None, None).targets
        maps = explainer.explain(batch["image"], asked)
        for metric in expected.values():
            metric.update(
                target=explainer.target,
                images=batch["image"],
                maps=maps,
                targets=asked,
                masks=batch["mask"],
                ids=batch["id"],
            )
    for name, metric in expected.items():
        written = {(row[0], int(row[2])): float(row[5]) for row in rows if row[4] == name}
        for image, query, value in metric.rows():
            assert written[image, query] == pytest.approx(value, abs=1e-6), (name, image)
        assert logged[f"test/{name}"] == pytest.approx(metric.compute().item(), abs=1e-6)
        mean = sum(written.values()) / len(written)
        assert logged[f"test/{name}"] == pytest.approx(mean, abs=1e-6)


def test_controls_are_scored_on_the_same_queries(tmp_path):
    callback = Faithfulness(metrics(), {"random": RandomMap, "center": CenterPrior})
    run(tmp_path, callback).test(GradientMap(ClassifierTarget(cnn())), Blobs())
    head, *rows = table(tmp_path / "controls.csv")
    assert head == ["explainer", "id", "group", "target", "class", "metric", "value"]
    own = {tuple(row[:5]) for row in table(tmp_path / "per_image.csv")[1:]}
    for name in ("random", "center"):
        assert {tuple(row[1:6]) for row in rows if row[0] == name} == own
    assert list(callback.results) == ["GradientMap", "random", "center"]
    for name, results in callback.results.items():
        assert sorted(results) == ["deletion", "gap", "pointing"] and {len(rows) for rows in results.values()} == {6}, (
            name
        )
    assert callback.results["random"]["gap"] != callback.results["center"]["gap"]


def test_without_controls_there_is_no_control_table(tmp_path):
    callback = Faithfulness(metrics())
    run(tmp_path, callback).test(GradientMap(ClassifierTarget(cnn())), Blobs())
    assert not (tmp_path / "controls.csv").exists() and list(callback.results) == ["GradientMap"]


def test_a_control_under_test_keeps_its_own_values(tmp_path):
    """With one name for both, the control's values would stand where the explainer's belong."""
    callback = Faithfulness(metrics(), {"random": RandomMap, "center": CenterPrior})
    explainer, data = RandomMap(ClassifierTarget(cnn()), seed=5), Blobs(batch_size=6)
    run(tmp_path, callback).test(explainer, data)
    (batch,) = data.loader()
    alone = DeletionAUC(steps=6)
    asked = explainer.target.query(batch["image"], None, None).targets
    maps = explainer.explain(batch["image"], asked)
    alone.update(target=explainer.target, images=batch["image"], maps=maps, targets=asked, ids=batch["id"])
    assert list(callback.results) == ["RandomMap", "center"]
    values = [row[2] for row in callback.results["RandomMap"]["deletion"]]
    assert values == pytest.approx([row[2] for row in alone.rows()], abs=1e-6)


class Flat(GradientMap):
    """Says nothing about the first image of every batch."""

    def attribute(self, images, query):
        maps = super().attribute(images, query)
        maps[0] = 0.25
        return maps


def test_undefined_is_an_empty_cell_and_stays_out_of_the_mean(tmp_path):
    callback = Faithfulness(metrics())
    (logged,) = run(tmp_path, callback).test(Flat(ClassifierTarget(cnn())), Blobs())
    rows = [row for row in table(tmp_path / "per_image.csv")[1:] if row[4] == "gap"]
    assert [row[5] == "" for row in rows] == [True, False] * 3
    assert logged["test/gap"] == pytest.approx(sum(float(row[5]) for row in rows if row[5]) / 3, abs=1e-6)
    assert [math.isnan(row[2]) for row in callback.results["Flat"]["gap"]] == [True, False] * 3


def test_a_metric_without_any_value_is_not_logged(tmp_path):
    class Silent(GradientMap):
        def attribute(self, images, query):
            targets = query.targets
            return torch.zeros(*targets.shape, *images.shape[2:])

    (logged,) = run(tmp_path, Faithfulness(metrics())).test(Silent(ClassifierTarget(cnn())), Blobs())
    assert logged == {}
    assert {row[5] for row in table(tmp_path / "per_image.csv")[1:]} == {""}


@pytest.mark.filterwarnings("error:The ``compute`` method")
def test_without_masks_localization_sits_out(tmp_path):
    callback = Faithfulness(metrics())
    (logged,) = run(tmp_path, callback).test(GradientMap(ClassifierTarget(cnn())), Blobs(masks=False))
    assert set(logged) == {"test/gap", "test/deletion"}
    assert {row[4] for row in table(tmp_path / "per_image.csv")[1:]} == {"gap", "deletion"}


@pytest.mark.parametrize(
    ("limits", "images"), [((None, None), (6, 6)), ((1, 2), (2, 4)), ((0, 1), (0, 2)), ((9, 9), (6, 6))]
)
def test_limits_count_batches(tmp_path, limits, images):
    callback = Faithfulness({"gap": InsertionDeletionGap(steps=2)}, val_batches=limits[0], test_batches=limits[1])
    explainer = GradientMap(ClassifierTarget(cnn()))
    trainer = run(tmp_path, callback)
    (logged,) = trainer.validate(explainer, Blobs())
    assert callback.suites["GradientMap"]["gap"].counts()[0] == images[0]
    assert set(logged) == ({"val/gap"} if images[0] else set())
    trainer.test(explainer, Blobs())
    assert len(callback.results["GradientMap"]["gap"]) == images[1]


def test_fit_scores_every_validation_epoch_but_not_the_sanity_check(tmp_path):
    """The sanity check runs first: a value from it would be logged at step 0."""

    class Watching(Faithfulness):
        scored = []

        def _score(self, explainer, *args):
            assert not explainer.trainer.sanity_checking
            super()._score(explainer, *args)

        def on_validation_epoch_end(self, trainer, pl_module):
            super().on_validation_epoch_end(trainer, pl_module)
            self.scored.append((trainer.sanity_checking, self.suites["LearnedMap"]["gap"].counts()[0]))

    callback = Watching({"gap": InsertionDeletionGap(steps=2)}, {"random": RandomMap}, val_batches=2)
    logger = CSVLogger(tmp_path)
    explainer = LearnedMap(ClassifierTarget(cnn()))
    trainer = run(tmp_path, callback, logger=logger, log_every_n_steps=1)
    trainer.fit(explainer, Blobs())
    assert callback.scored == [(True, 0), (False, 4), (False, 4)]
    assert "val/gap" in trainer.callback_metrics and not (tmp_path / "per_image.csv").exists()
    with open(f"{logger.log_dir}/metrics.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len([row for row in rows if row.get("val/gap")]) == 2


def test_a_second_test_starts_from_nothing(tmp_path):
    callback = Faithfulness({"gap": InsertionDeletionGap(steps=2)})
    trainer, explainer = run(tmp_path, callback), GradientMap(ClassifierTarget(cnn()))
    trainer.test(explainer, Blobs(6))
    trainer.test(explainer, Blobs(4))
    assert len(callback.results["GradientMap"]["gap"]) == 4 == len(table(tmp_path / "per_image.csv")) - 1


def test_all_queries_of_a_step_are_scored(tmp_path):
    callback, explainer = (
        Faithfulness(metrics(), {"random": RandomMap}),
        GradientMap(ClassifierTarget(cnn()), QueryPolicy("all")),
    )
    run(tmp_path, callback).test(explainer, Blobs(2))
    rows = [row[0:3:2] for row in table(tmp_path / "per_image.csv")[1:] if row[4] == "gap"]
    assert rows == [[f"blob_{image}", str(query)] for image in range(2) for query in range(3)]


def test_segmenters_are_scored_over_the_sets_of_the_step(tmp_path):
    target = SegmenterTarget(segmenter())
    callback, explainer = (
        Faithfulness({"gap": InsertionDeletionGap(steps=4)}, {"random": RandomMap}),
        GradientMap(target, QueryPolicy(region=pixel_sets.whole)),
    )
    data = Blobs(2)
    run(tmp_path, callback).test(explainer, data)
    (batch,) = data.loader()
    targets, sets = torch.tensor([[1, 2]] * 2), torch.ones(2, 2, 8, 8, dtype=torch.bool)
    alone = InsertionDeletionGap(steps=4)
    maps = explainer.explain(batch["image"], targets, sets)
    alone.update(target=target, images=batch["image"], maps=maps, targets=targets, pixels=sets, ids=batch["id"])
    values = [row[2] for row in callback.results["GradientMap"]["gap"]]
    assert values == pytest.approx([row[2] for row in alone.rows()], abs=1e-6)


def test_metadata_tensors(tmp_path):
    data = Blobs()
    for item in data.items:
        item["image"], item["mask"] = MetaTensor(item["image"]), MetaTensor(item["mask"])
    callback, expected = Faithfulness({"mass": RelevanceMass()}), Faithfulness({"mass": RelevanceMass()})
    for scorer, batches in ((callback, data), (expected, Blobs())):
        run(tmp_path, scorer).test(GradientMap(ClassifierTarget(cnn())), batches)
    assert callback.results == expected.results


def test_cost_of_a_test_is_the_queries_and_the_distinct_images(tmp_path):
    target = CountingTarget(cnn())
    callback = Faithfulness(metrics(), {"random": RandomMap}, chunk_size=16)
    run(tmp_path, callback).test(GradientMap(target), Blobs(2))
    hidden = 2 * 2 * 5  # two images, two curves of five steps between their ends
    # The explainer's own passes; then whole images come from its logits, and the blank ones serve the control too.
    assert target.chunks[:2] == [2, 2]
    assert target.chunks[2:] == [16, 2 + hidden - 16, 16, hidden - 16]


def test_values_reach_the_loggers_as_a_table(tmp_path, monkeypatch):
    sent = []
    monkeypatch.setattr("lightning_xai.callbacks.faithfulness.log_table", lambda *args: sent.append(args))
    run(tmp_path, Faithfulness(metrics(), {"random": RandomMap})).test(GradientMap(ClassifierTarget(cnn())), Blobs())
    ((_, key, columns, rows, files),) = sent
    assert key == "test/per_image" and columns == ["explainer", "id", "group", "target", "class", "metric", "value"]
    assert files == [tmp_path / "per_image.csv", tmp_path / "controls.csv"] and all(path.is_file() for path in files)
    assert len(rows) == 2 * 6 * 3 and {row[0] for row in rows} == {"GradientMap", "random"}


@pytest.mark.parametrize("groups", [["ann", "bob"], ["ann", None], [7, 8]], ids=str)
def test_groups_reach_every_row(tmp_path, groups):
    data = Blobs()
    for number, item in enumerate(data.items):
        item["group"] = "" if groups[number % 2] is None else groups[number % 2]
    callback = Faithfulness(metrics(), {"random": RandomMap})
    run(tmp_path, callback).test(GradientMap(ClassifierTarget(cnn())), data)
    expected = {item["id"]: str(item["group"]) for item in data.items}
    for name, column in (("per_image.csv", 0), ("controls.csv", 1)):
        head, *rows = table(tmp_path / name)
        assert head[column : column + 2] == ["id", "group"]
        assert {row[column]: row[column + 1] for row in rows} == expected
    assert callback.groups == {name: group for name, group in expected.items() if group}


def test_methods_are_told_from_controls(tmp_path):
    """An explainer given as a control is a method; what knows nothing is none, also where it bounds a curve."""
    target = SegmenterTarget(segmenter())
    callback = Faithfulness(
        {"curve": VisibilityCurve(steps=2)}, {"random": RandomMap, "other": GradientMap, "center": CenterPrior}
    )
    run(tmp_path, callback).test(GradientMap(target), Blobs(2))
    assert set(callback.results) == {"GradientMap", "other", "random", "center", "reversed", "oracle"}
    assert set(callback.without_method) == {"random", "center", "reversed", "oracle"}


def test_images_without_masks_keep_their_groups_too(tmp_path):
    """The metric that is measured first sits out where there are no masks."""
    data = Blobs(batch_size=1)
    for number, item in enumerate(data.items):
        item["group"] = "ann"
        if number % 2:
            del item["mask"]
    callback = Faithfulness({"area": RelevanceMass(), "deletion": DeletionAUC(steps=2)})
    run(tmp_path, callback).test(GradientMap(ClassifierTarget(cnn())), data)
    assert len(callback.results["GradientMap"]["area"]) == 3 and len(callback.groups) == 6
