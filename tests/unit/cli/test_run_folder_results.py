"""A run folder before its run: what moves aside, what stays, and which checkpoint the run starts from."""

import logging
import os
import time

import pytest

from lightning_xai.cli import run_folder
from lightning_xai.cli.run_folder import prepare_folder
from lightning_xai.cli.start_checkpoint import start_checkpoint
from lightning_xai.cli.target_cache import MEASURED
from tests.running import cfg_of


@pytest.fixture
def used(tmp_path):
    """A run folder with results, and things that are not results."""
    folder = tmp_path / "run"
    for name in (
        "metrics.csv",
        "summary.json",
        "maps/test.png",
        "checkpoints/last.ckpt",
        MEASURED,
        "notes.txt",
        ".hydra/config",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"old {name}")
    return folder


def files_of(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_fresh_folder_is_made(tmp_path):
    prepare_folder(cfg_of(tmp_path / "a" / "b"))
    assert (tmp_path / "a" / "b").is_dir() and not files_of(tmp_path)


def test_results_are_moved_aside_and_nothing_else(used, caplog):
    for path in used.rglob("*"):
        os.utime(path, (0, 1_700_000_000))
    with caplog.at_level(logging.INFO, "lightning_xai"):
        prepare_folder(cfg_of(used))
    (aside,) = (used / "earlier").iterdir()
    assert aside.name == time.strftime("%Y-%m-%d_%H-%M-%S", time.localtime(1_700_000_000))
    assert files_of(aside) == {"metrics.csv", "summary.json", "maps/test.png", "checkpoints/last.ckpt", MEASURED}
    assert (aside / "maps" / "test.png").read_text() == "old maps/test.png"
    assert files_of(used) - {f"earlier/{aside.name}/{name}" for name in files_of(aside)} == {
        "notes.txt",
        ".hydra/config",
    }
    assert str(aside) in caplog.text


def test_two_earlier_runs_are_both_kept(used):
    prepare_folder(cfg_of(used))
    (used / "metrics.csv").write_text("newer")
    os.utime(used / "metrics.csv", (0, 1_800_000_000))
    prepare_folder(cfg_of(used))
    kept = {path.read_text() for path in (used / "earlier").glob("*/metrics.csv")}
    assert kept == {"old metrics.csv", "newer"}


def test_two_runs_of_the_same_second_are_both_kept(used):
    for text in ("first", "second", "third"):
        for name in ("metrics.csv", "maps/test.png"):
            (used / name).parent.mkdir(exist_ok=True)
            (used / name).write_text(text)
            os.utime(used / name, (0, 1_900_000_000))
        os.utime(used / "maps", (0, 1_900_000_000))
        prepare_folder(cfg_of(used))
    for name in ("metrics.csv", "maps/test.png"):
        assert {path.read_text() for path in (used / "earlier").glob(f"*/{name}")} == {"first", "second", "third"}


def test_other_ranks_move_nothing(used, monkeypatch):
    monkeypatch.setattr(run_folder.rank_zero_only, "rank", 1)
    before = files_of(used)
    prepare_folder(cfg_of(used))
    assert files_of(used) == before


@pytest.mark.parametrize("given", ["last", "path", "relative"])
def test_a_checkpoint_of_the_folder_goes_on_with_its_results(used, given, monkeypatch):
    monkeypatch.chdir(used.parent)
    before, path = files_of(used), used / "checkpoints" / "last.ckpt"
    word = {"last": "last", "path": str(path), "relative": "run/checkpoints/last.ckpt"}[given]
    cfg = cfg_of(used, ckpt_path=word)
    prepare_folder(cfg)
    assert (used.parent / start_checkpoint(cfg)).samefile(path)
    assert files_of(used) == before


def test_a_checkpoint_from_elsewhere_starts_a_run_of_its_own(used, tmp_path):
    other = tmp_path / "other.ckpt"
    other.write_text("weights")
    cfg = cfg_of(used, ckpt_path=str(other))
    prepare_folder(cfg)
    assert start_checkpoint(cfg) == str(other)
    assert (used / "earlier").is_dir() and not (used / "metrics.csv").exists()


def test_last_of_nothing_is_a_new_start(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "lightning_xai"):
        prepare_folder(cfg_of(tmp_path, ckpt_path="last"))
    assert start_checkpoint(cfg_of(tmp_path, ckpt_path="last")) is None
    assert "starting from scratch" in caplog.text


@pytest.mark.parametrize("task", ["test", "predict"])
def test_last_of_nothing_cannot_be_applied(tmp_path, task):
    with pytest.raises(FileNotFoundError, match=r"ckpt_path=last finds no .*last\.ckpt; give another run_dir"):
        prepare_folder(cfg_of(tmp_path, task=task, ckpt_path="last"))


def test_the_folder_is_logged_first(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "lightning_xai"):
        prepare_folder(cfg_of(tmp_path / "run"))
    assert caplog.messages[0] == f"Run folder: {tmp_path / 'run'}"


def test_a_missing_checkpoint_is_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"ckpt_path=none\.ckpt does not exist; .* or 'last'"):
        prepare_folder(cfg_of(tmp_path, ckpt_path="none.ckpt"))
