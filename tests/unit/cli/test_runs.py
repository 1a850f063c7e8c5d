"""What a run does before the training: its folder, its config."""

import logging
import os
import time
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from lightning_xai.cli import runs
from tests.running import cfg_of


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


# ------------------------------------------------------------------ the config


def test_the_config_is_written_and_sent_resolved_to_every_logger(tmp_path):
    sent = []
    logger = SimpleNamespace(log_hyperparams=sent.append)
    runs.log_config(cfg_of(tmp_path, name="${task}_${seed}"), SimpleNamespace(loggers=[logger, logger]))
    assert OmegaConf.load(tmp_path / "config.yaml").name == "explain_0"
    assert len(sent) == 2 and all(type(values) is dict and values["name"] == "explain_0" for values in sent)
