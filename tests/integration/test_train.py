"""Runs of train.main: what they leave behind, what they use again, what they say."""

import json
import logging

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

import train
from lightning_xai.cli import target_cache
from tests.running import bars_npz, configure, rows, without_validation


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def bars(shared):
    """The overrides that load a data set of 16 + 8 + 9 small images with masks."""
    return bars_npz(shared / "bars.npz").split()


def forbid_target_training(monkeypatch):
    def refuse(*_):
        raise AssertionError("the target was trained again")

    monkeypatch.setattr(target_cache, "train_target", refuse)


# ------------------------------------------------------------------ a run on the default data


@pytest.fixture(scope="module")
def digits(shared):
    """A run with the default data and explainer: its folder, what main returned, and what it printed."""
    folder = shared / "digits"
    with pytest.MonkeyPatch.context() as patch:
        lines = []
        patch.setattr("builtins.print", lambda *words, **_: lines.extend(" ".join(map(str, words)).splitlines()))
        limits = ("data.limit=24", "target_trainer.trainer.max_epochs=2", "trainer.limit_test_batches=2")
        result = train.main(configure(folder, "data=digits", *limits))
    return folder, result, lines


METRICS = {"deletion_auc", "insertion_auc", "gap", "gap_blur", "p_blank", "pointing_game", "relevance_mass"}


def test_main_returns_the_numbers_of_target_and_explainer(digits):
    result = digits[1]
    assert {name for name in result if name.startswith("test/")} == {f"test/{name}" for name in METRICS}
    assert {"target/accuracy", "target/auc", "target/ece"} <= set(result)
    assert all(type(value) is float and np.isfinite(value) for value in result.values())


def test_summary_is_what_main_returned(digits):
    folder, result, _ = digits
    summary = json.loads((folder / "summary.json").read_text())
    own = summary["explainers"]["AmortizedPCIM"]
    assert {f"test/{name}": interval["mean"] for name, interval in own.items()} == pytest.approx(
        {name: value for name, value in result.items() if name.startswith("test/")}, abs=1e-6
    )
    assert summary["target"] == {name: value for name, value in result.items() if name.startswith("target/")}
    assert set(summary["differences"]) == {"random", "center", "edge"} == set(summary["controls"])
    assert (summary["seed"], summary["checkpoint"]) == (0, str(folder / "checkpoints" / "best.ckpt"))


def test_per_image_values_are_those_behind_the_means(digits):
    folder, result, _ = digits
    table = rows(folder / "per_image.csv")
    assert list(table[0]) == ["id", "group", "target", "class", "metric", "value"]
    for metric in METRICS:
        values = {row["id"]: float(row["value"]) for row in table if row["metric"] == metric}
        assert len(values) == 16, f"{metric}: two batches of eight test images were asked for"
        assert np.mean(list(values.values())) == pytest.approx(result[f"test/{metric}"], abs=1e-6)
    assert {row["group"] for row in table} == {""}, "digits have no patients"
    assert {row["explainer"] for row in rows(folder / "controls.csv")} == {"random", "center", "edge"}


def test_the_composed_config_is_kept(digits):
    folder = digits[0]
    kept = (folder / "config.yaml").read_text()
    assert "_target_: lightning_xai.data.EmbeddedDigits" in kept and "limit: 24" in kept
    assert "???" not in kept, "something is left open"
    resolved = OmegaConf.to_container(OmegaConf.create(kept), resolve=True)
    assert resolved["data"]["seed"] == resolved["seed"] == 0, "references stay, so that words on top reach everything"
    assert "classes: 10" in kept, "what the data module found belongs to the config"


def test_checkpoints_hold_the_explainers_weights_only(digits):
    for name in ("best", "last"):
        kept = torch.load(digits[0] / "checkpoints" / f"{name}.ckpt", weights_only=True)
        assert kept["state_dict"] and all(key.startswith("net.") for key in kept["state_dict"])
        assert len(kept["target_fingerprint"]) == 16


def test_pictures_open(digits):
    folder = digits[0]
    assert {path.name for path in (folder / "maps").iterdir()} == {"val_epoch000.png", "test.png"}
    for path in (folder / "maps").iterdir():
        picture = np.asarray(Image.open(path).convert("RGB"))
        assert min(picture.shape[:2]) > 100 and picture.std() > 10, f"{path.name} shows nothing"


def test_metrics_csv_has_training_validation_and_test(digits):
    table = rows(digits[0] / "metrics.csv")
    assert sum(bool(row["train/loss"]) for row in table) == 3, "24 images in batches of 8 are three steps"
    for name in ("val/loss", "val/gap", "test/gap"):
        assert sum(bool(row[name]) for row in table) == 1, name


def test_the_last_lines_are_the_table_and_where_things_are(digits):
    folder, result, lines = digits
    start = next(number for number, line in enumerate(lines) if line.startswith("explainer "))
    assert set(METRICS) <= set(lines[start].split())
    assert [line.split()[0] for line in lines[start + 1 : start + 5]] == ["AmortizedPCIM", "random", "center", "edge"]
    shown = lines[start + 1].split()[1:]
    assert shown == [f"{result[f'test/{name}']:.3f}" for name in sorted(METRICS)]
    assert any(line.startswith("AmortizedPCIM - random") for line in lines[start + 5 :])
    places = dict(line.rsplit(maxsplit=1) for line in lines[-4:])
    assert places == {
        "Figures": str(folder / "maps"),
        "Per image": str(folder / "per_image.csv"),
        "Summary": str(folder / "summary.json"),
        "Checkpoint": str(folder / "checkpoints" / "best.ckpt"),
    }


# ------------------------------------------------------------------ other metrics


def test_the_paper_set_is_recorded_with_its_options(tmp_path, bars, capsys):
    explainer = ("explainer=captum_input_x_gradient", "metrics=paper", "callbacks.faithfulness.chunk_size=auto")
    result = train.main(configure(tmp_path / "run", *bars, *explainer))
    shown = capsys.readouterr().out
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    names = {name.removeprefix("test/") for name in result if name.startswith("test/")}
    assert {"road", "adcc", "top2_iou", "pixel_auc"} <= names and "visibility" not in names, "this is no segmenter"
    assert summary["metrics"]["average_drop"]["options"] == {"head": "target", "scaled": "after", "fill": "input_zero"}
    assert summary["metrics"]["road"]["options"]["fractions"] == [0.2, 0.4, 0.6, 0.8]
    assert set(summary["borda"]) == {"CaptumExplainer"}, "controls are not ranked"
    assert 0 < summary["references"]["CaptumExplainer"]["pointing_game"]["random"] < 0.5
    assert any(line.startswith("adcc (high)") for line in shown.splitlines()), "many metrics have a row each"


# ------------------------------------------------------------------ used again, kept, resumed


def test_the_same_target_is_used_again_and_gives_the_same_run(tmp_path, bars, monkeypatch):
    first = train.main(configure(tmp_path / "first", *bars))
    forbid_target_training(monkeypatch)
    again = train.main(configure(tmp_path / "again", *bars))
    assert again == first, "a run with a cached target must equal the run that trained it"
    assert (tmp_path / "first" / "per_image.csv").read_text() == (tmp_path / "again" / "per_image.csv").read_text()


@pytest.mark.parametrize(
    "change",
    [
        "target.model.widths=[4,4]",
        "target_trainer.trainer.max_epochs=2",
        "target_trainer.module.lr=0.1",
        "target_trainer.patience=1",
        "+target_trainer.trainer.limit_train_batches=1",
        "seed=1",
        "data.limit=8",
    ],
)
def test_another_target_is_trained_anew(shared, bars, change):
    train.main(configure(shared / "plain", *bars, "task=target"))
    before = set((shared / "targets").iterdir())
    train.main(configure(shared / "changed", *bars, "task=target", change))
    assert len(set((shared / "targets").iterdir()) - before) == 2, "no new checkpoint with its quality"


@pytest.mark.parametrize(
    "change", ["explainer=random_map", "trainer.max_epochs=3", "target_trainer.min_accuracy=0.1", "ask=all"]
)
def test_what_does_not_make_the_target_does_not_train_it_again(shared, bars, change, monkeypatch):
    train.main(configure(shared / "plain", *bars, "task=target"))
    forbid_target_training(monkeypatch)
    quality = train.main(configure(shared / "elsewhere", *bars, "task=target", change))
    assert "target/accuracy" in quality


def test_earlier_results_are_moved_aside(tmp_path, bars):
    quick = (*bars, "explainer=random_map", "trainer.limit_test_batches=1")
    train.main(configure(tmp_path / "run", *quick))
    kept = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}
    train.main(configure(tmp_path / "run", *quick, "explainer.seed=5"))
    (aside,) = (tmp_path / "run" / "earlier").iterdir()
    assert {path.name: path.read_bytes() for path in aside.iterdir() if path.is_file()} == kept
    assert (aside / "maps" / "test.png").is_file() and (tmp_path / "run" / "maps" / "test.png").is_file()
    assert (tmp_path / "run" / "per_image.csv").read_bytes() != kept["per_image.csv"]
    assert {row["step"] for row in rows(tmp_path / "run" / "metrics.csv")} == {"0"}, "rows of the earlier run"


def epochs(folder):
    return [int(row["epoch"]) for row in rows(folder / "metrics.csv") if row["val/loss"]]


def last_of(folder):
    kept = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    return kept["epoch"], kept["global_step"]


STOP = "+callbacks.stop={_target_: tests.running.StopAfterFirstEpoch}"


def test_an_interrupted_run_is_resumed(tmp_path, bars):
    plan = (*bars, "trainer.max_epochs=2")
    train.main(configure(tmp_path / "run", *plan, STOP))
    assert (epochs(tmp_path / "run"), last_of(tmp_path / "run")) == ([0], (0, 2))
    train.main(configure(tmp_path / "run", *plan, "ckpt_path=last"))
    assert (epochs(tmp_path / "run"), last_of(tmp_path / "run")) == ([0, 1], (1, 4))
    assert not (tmp_path / "run" / "earlier").exists(), "a resumed run goes on with what is there"


def test_resuming_from_another_folder_leaves_that_folder_alone(tmp_path, bars):
    plan = (*bars, "trainer.max_epochs=2")
    train.main(configure(tmp_path / "run", *plan, STOP))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    train.main(configure(tmp_path / "next", *plan, f"ckpt_path={tmp_path}/run/checkpoints/last.ckpt"))
    assert (epochs(tmp_path / "next"), last_of(tmp_path / "next")) == ([1], (1, 4))
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before


def test_a_finished_run_is_trained_longer(tmp_path, bars):
    train.main(configure(tmp_path / "run", *bars, "trainer.max_epochs=1"))
    train.main(configure(tmp_path / "run", *bars, "trainer.max_epochs=3", "ckpt_path=last"))
    assert (epochs(tmp_path / "run"), last_of(tmp_path / "run")) == ([0, 1, 2], (2, 6))


def test_nothing_to_resume_starts_from_scratch(tmp_path, bars, caplog):
    with caplog.at_level(logging.INFO, "lightning_xai"):
        train.main(configure(tmp_path / "run", *bars, "ckpt_path=last"))
    assert "last.ckpt yet: starting from scratch" in caplog.text
    assert epochs(tmp_path / "run") == [0]


# ------------------------------------------------------------------ other tasks


def test_task_target_trains_the_target_and_stops(tmp_path, bars):
    quality = train.main(configure(tmp_path / "run", *bars, "task=target"))
    assert all(name.startswith("target/") for name in quality) and 0 <= quality["target/accuracy"] <= 1
    assert {path.suffix for path in (tmp_path / "targets").iterdir()} == {".ckpt", ".json"}
    assert not (tmp_path / "run" / "checkpoints").exists() and not (tmp_path / "run" / "per_image.csv").exists()


def test_task_test_and_predict_take_the_checkpoint(shared, bars, tmp_path):
    trained = train.main(configure(shared / "trained", *bars))
    given = f"ckpt_path={shared}/trained/checkpoints/best.ckpt"
    assert train.main(configure(shared / "tested", *bars, "task=test", given)) == without_validation(trained)
    assert not (shared / "tested" / "checkpoints").exists()
    quality = train.main(configure(shared / "predicted", *bars, "task=predict", given))
    assert not any(name.startswith("test/") for name in quality)
    made = {path.name for path in (shared / "predicted" / "predictions").glob("[!.]*")}
    assert made == {f"test_{number:05d}.{suffix}" for number in range(9) for suffix in ("npy", "png")} | {
        "predictions.csv"
    }
    maps = [np.load(shared / "predicted" / "predictions" / f"test_{number:05d}.npy") for number in range(9)]
    assert {values.shape for values in maps} == {(1, 16, 16)} and all(values.std() > 0 for values in maps)
