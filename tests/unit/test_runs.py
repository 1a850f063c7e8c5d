"""What a run does around the training: its folder, its target's key, its report."""

import json
import logging
import os
import threading
import time
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from lightning_xai import runs
from lightning_xai.files import atomic_write
from lightning_xai.metrics import InsertionDeletionGap, MetricSuite


def cfg_of(folder, **changes):
    return OmegaConf.create({"task": "explain", "run_dir": str(folder), "ckpt_path": None, "seed": 0} | changes)


@pytest.fixture
def used(tmp_path):
    """A run folder with results, and things that are not results."""
    folder = tmp_path / "run"
    for name in ("metrics.csv", "summary.json", "maps/test.png", "checkpoints/last.ckpt", "notes.txt", ".hydra/config"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"old {name}")
    return folder


def files_of(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


# ------------------------------------------------------------------ the folder


def test_a_fresh_folder_is_made(tmp_path):
    assert runs.prepare(cfg_of(tmp_path / "a" / "b")) is None
    assert (tmp_path / "a" / "b").is_dir() and not files_of(tmp_path)


def test_results_are_moved_aside_and_nothing_else(used, caplog):
    for path in used.rglob("*"):
        os.utime(path, (0, 1_700_000_000))
    with caplog.at_level(logging.INFO, "lightning_xai"):
        assert runs.prepare(cfg_of(used)) is None
    (aside,) = (used / "earlier").iterdir()
    assert aside.name == time.strftime("%Y-%m-%d_%H-%M-%S", time.localtime(1_700_000_000))
    assert files_of(aside) == {"metrics.csv", "summary.json", "maps/test.png", "checkpoints/last.ckpt"}
    assert (aside / "maps" / "test.png").read_text() == "old maps/test.png"
    assert files_of(used) - {f"earlier/{aside.name}/{name}" for name in files_of(aside)} == {
        "notes.txt",
        ".hydra/config",
    }
    assert str(aside) in caplog.text


def test_two_earlier_runs_are_both_kept(used):
    runs.prepare(cfg_of(used))
    (used / "metrics.csv").write_text("newer")
    os.utime(used / "metrics.csv", (0, 1_800_000_000))
    runs.prepare(cfg_of(used))
    kept = {path.read_text() for path in (used / "earlier").glob("*/metrics.csv")}
    assert kept == {"old metrics.csv", "newer"}


def test_two_runs_of_the_same_second_are_both_kept(used):
    for text in ("first", "second", "third"):
        for name in ("metrics.csv", "maps/test.png"):
            (used / name).parent.mkdir(exist_ok=True)
            (used / name).write_text(text)
            os.utime(used / name, (0, 1_900_000_000))
        os.utime(used / "maps", (0, 1_900_000_000))
        runs.prepare(cfg_of(used))
    for name in ("metrics.csv", "maps/test.png"):
        assert {path.read_text() for path in (used / "earlier").glob(f"*/{name}")} == {"first", "second", "third"}


def test_other_ranks_move_nothing(used, monkeypatch):
    monkeypatch.setattr(runs.rank_zero_only, "rank", 1)
    before = files_of(used)
    runs.prepare(cfg_of(used))
    assert files_of(used) == before


@pytest.mark.parametrize("given", ["last", "path", "relative"])
def test_a_checkpoint_of_the_folder_goes_on_with_its_results(used, given, monkeypatch):
    monkeypatch.chdir(used.parent)
    before, path = files_of(used), used / "checkpoints" / "last.ckpt"
    word = {"last": "last", "path": str(path), "relative": "run/checkpoints/last.ckpt"}[given]
    resumed = runs.prepare(cfg_of(used, ckpt_path=word))
    assert (used.parent / resumed).samefile(path)
    assert files_of(used) == before


def test_a_checkpoint_from_elsewhere_starts_a_run_of_its_own(used, tmp_path):
    other = tmp_path / "other.ckpt"
    other.write_text("weights")
    assert runs.prepare(cfg_of(used, ckpt_path=str(other))) == str(other)
    assert (used / "earlier").is_dir() and not (used / "metrics.csv").exists()


def test_last_of_nothing_is_a_new_start(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "lightning_xai"):
        assert runs.prepare(cfg_of(tmp_path, ckpt_path="last")) is None
    assert "starting from scratch" in caplog.text


@pytest.mark.parametrize("task", ["test", "predict"])
def test_last_of_nothing_cannot_be_applied(tmp_path, task):
    with pytest.raises(FileNotFoundError, match=r"ckpt_path=last finds no .*last\.ckpt; give another run_dir"):
        runs.prepare(cfg_of(tmp_path, task=task, ckpt_path="last"))


def test_the_folder_is_said_first(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "lightning_xai"):
        runs.prepare(cfg_of(tmp_path / "run"))
    assert caplog.messages[0] == f"Run folder: {tmp_path / 'run'}"


def test_unknown_tasks_and_missing_checkpoints(tmp_path):
    with pytest.raises(ValueError, match="task is 'fit'; use one of explain, test, predict, target"):
        runs.prepare(cfg_of(tmp_path, task="fit"))
    with pytest.raises(FileNotFoundError, match=r"ckpt_path=none\.ckpt does not exist; .* or 'last'"):
        runs.prepare(cfg_of(tmp_path, ckpt_path="none.ckpt"))


# ------------------------------------------------------------------ the target


RECIPE = {
    "target": {"_target_": "a.ClassifierTarget", "model": {"widths": [4]}, "weights": None},
    "target_trainer": {
        "min_accuracy": 0.9,
        "patience": 5,
        "module": {"lr": 0.1},
        "trainer": {"max_epochs": 2, "default_root_dir": "${run_dir}/target"},
    },
    "data": {"path": "x.npz"},
    "facts": {"fingerprint": "abc"},
    "explainer": {"lr": 1},
}


def key_of(change="", run="here"):
    cfg = cfg_of(run, **RECIPE)
    if change:
        cfg.merge_with_dotlist([change])
    return runs.target_key(cfg)


def test_the_key_of_a_target_is_short_and_stable():
    assert key_of() == key_of() and len(key_of()) == 16
    cfg = cfg_of("here", **RECIPE)
    runs.target_key(cfg)
    assert cfg.run_dir == "here" and cfg == cfg_of("here", **RECIPE), "asking for the key changed the config"


@pytest.mark.parametrize(
    "change",
    [
        "seed=1",
        "facts.fingerprint=other",
        "data.path=y.npz",
        "target.model.widths=[8]",
        "target_trainer.patience=6",
        "target_trainer.module.lr=0.2",
        "target_trainer.trainer.max_epochs=3",
        "target_trainer.trainer.limit_train_batches=1",
    ],
)
def test_what_decides_the_training_is_in_the_key(change):
    assert key_of(change) != key_of()


def test_where_and_what_else_is_not_in_the_key():
    assert key_of(run="elsewhere") == key_of()
    for change in ("task=test", "explainer.lr=2", "target_trainer.min_accuracy=0.5"):
        assert key_of(change) == key_of(), change


def weights_of(folder, **changes):
    cfg = cfg_of(folder / "run", target_dir=str(folder / "targets"), **(RECIPE | changes))
    return cfg, runs.trained_weights(cfg, None)


@pytest.fixture
def trainings(monkeypatch):
    """The paths of the targets that were trained."""
    made = []

    def train(cfg, data, weights):
        made.append(weights)
        weights.write_text("weights")

    monkeypatch.setattr(runs, "train_target", train)
    return made


def test_a_target_is_trained_once_and_recorded(tmp_path, trainings):
    cfg, weights = weights_of(tmp_path)
    assert trainings == [weights] == [tmp_path / "targets" / f"{key_of()}.ckpt"]
    assert cfg.target_weights == str(weights.resolve()) and weights_of(tmp_path)[1] == weights and len(trainings) == 1


def test_the_recorded_weights_are_taken_whatever_the_data(tmp_path, trainings):
    _, weights = weights_of(tmp_path)
    other = {"data": {"path": "other"}, "facts": {}, "seed": 9}
    assert weights_of(tmp_path, target_weights=str(weights), **other)[1] == weights
    (tmp_path / "targets").rename(tmp_path / "moved")
    moved = {"target_weights": str(weights), "target_dir": str(tmp_path / "moved"), **other}
    assert runs.trained_weights(cfg_of("run", **(RECIPE | moved)), None) == tmp_path / "moved" / weights.name
    assert len(trainings) == 1


def test_recorded_weights_that_are_gone_are_trained_again_only_where_no_checkpoint_needs_them(tmp_path, trainings):
    gone = str(tmp_path / "targets" / "gone.ckpt")
    with pytest.raises(
        FileNotFoundError, match=r"The target of best\.ckpt was kept in .*gone\.ckpt, which is gone; put"
    ):
        weights_of(tmp_path, target_weights=gone, ckpt_path="best.ckpt")
    assert str(weights_of(tmp_path, target_weights=gone, ckpt_path="last")[1]) == gone and len(trainings) == 1


def test_a_target_dir_that_cannot_be_made_is_told_before_the_training(tmp_path, trainings):
    (tmp_path / "targets").write_text("")
    with pytest.raises(ValueError, match=r"target_dir=.*targets cannot be made \(File exists\)"):
        weights_of(tmp_path)
    assert not trainings


def test_other_ranks_wait_for_the_file(tmp_path, monkeypatch):
    path = tmp_path / "target.ckpt"
    writer = threading.Timer(0.2, path.write_text, ["weights"])
    writer.start()
    runs.wait_for(path)
    assert path.read_text() == "weights"
    writer.join()
    monkeypatch.setattr(runs, "WAIT_FOR_TARGET", 0.0)
    with pytest.raises(TimeoutError, match=r"Rank zero did not write .*none.ckpt .* train it first with task=target"):
        runs.wait_for(tmp_path / "none.ckpt")


# ------------------------------------------------------------------ the report


class Scored:
    """What the report reads of the Faithfulness callback."""

    results = {
        "PCIM": {"gap": [("a", 0, 0.5), ("b", 0, 0.7)]},
        "random": {"gap": [("a", 0, 0.1), ("b", 0, 0.1)]},
    }
    beside = {"PCIM": {"gap": {"blank": 0.25}}}
    suite = MetricSuite({"gap": InsertionDeletionGap(fill="median")})


def test_the_summary_is_written_and_the_places_are_printed(tmp_path, capsys):
    runs.report(cfg_of(tmp_path, seed=3), Scored(), {"target/accuracy": 0.9}, "best.ckpt", {"agreement": 0.954})
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["seed"], summary["checkpoint"], summary["target"]) == (3, "best.ckpt", {"target/accuracy": 0.9})
    assert summary["explainers"]["PCIM"]["gap"]["mean"] == pytest.approx(0.6)
    assert summary["differences"]["random"]["gap"]["mean"] == pytest.approx(0.5)
    assert summary["beside"]["PCIM"]["gap"]["blank"] == 0.25 and summary["borda"] == {"PCIM": 1, "random": 0}
    assert summary["metrics"]["gap"]["options"]["fill"] == "median", "what changes a value is recorded with it"
    assert summary["logged"] == {"agreement": 0.954}
    lines = capsys.readouterr().out.splitlines()
    assert "PCIM on the test images: agreement 0.954" in lines
    assert lines[1].split() == ["explainer", "gap", "(high)"] and lines[2].split() == ["PCIM", "0.600"]
    assert [line.split()[0] for line in lines[-4:]] == ["Pictures", "Per", "Summary", "Checkpoint"]


def test_without_a_checkpoint_none_is_shown(tmp_path, capsys):
    runs.report(cfg_of(tmp_path), Scored(), {}, None, {})
    assert "Checkpoint" not in capsys.readouterr().out
    assert json.loads((tmp_path / "summary.json").read_text())["checkpoint"] is None


def test_the_config_is_written_and_sent_resolved_to_every_logger(tmp_path):
    sent = []
    logger = SimpleNamespace(log_hyperparams=sent.append)
    runs.log_config(cfg_of(tmp_path, name="${task}_${seed}"), SimpleNamespace(loggers=[logger, logger]))
    assert OmegaConf.load(tmp_path / "config.yaml").name == "explain_0"
    assert len(sent) == 2 and all(type(values) is dict and values["name"] == "explain_0" for values in sent)


def test_a_summary_is_whole_or_absent(tmp_path, monkeypatch):
    """A run that is killed while it writes leaves the old file."""
    with atomic_write(tmp_path / "summary.json") as file:
        file.write("old")
    monkeypatch.setattr(runs.json, "dump", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        runs.report(cfg_of(tmp_path), Scored(), {}, None, {})
    assert (tmp_path / "summary.json").read_text() == "old"


@pytest.mark.parametrize(("target", "trainer"), [("Segmenter", "Target"), ("Classifier", "Segmenter")])
def test_a_trainer_of_another_kind_of_target_is_refused(target, trainer, tmp_path):
    module = "training" if trainer == "Target" else "segmenter_training"
    parts = {
        "target": {"_target_": f"lightning_xai.targets.{target}Target"},
        "target_trainer": {"module": {"_target_": f"lightning_xai.{module}.{trainer}Trainer"}},
    }
    with pytest.raises(ValueError, match=f"{target}Target has no weights, and .*{trainer}Trainer does not train it"):
        runs.train_target(cfg_of(tmp_path, **parts), None, tmp_path / "none.ckpt")
