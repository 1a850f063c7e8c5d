"""A new folder for each run: its name, the link to it, and who agrees on it."""

import multiprocessing
import os
import re
import sys
import time
from pathlib import Path

import pytest
import torch
from torch.distributed import TCPStore

from lightning_xai.cli import run_folder, run_lock
from lightning_xai.cli.start_checkpoint import check_checkpoint
from tests.running import cfg_of

RANKS = (
    "WORLD_SIZE",
    "LOCAL_RANK",
    "RANK",
    "NODE_RANK",
    "GROUP_RANK",
    "SLURM_NTASKS",
    "SLURM_JOB_ID",
    "SLURM_JOB_NAME",
)


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """One process, in an empty folder, at a time that stands still."""
    monkeypatch.chdir(tmp_path)
    for name in (*RANKS, run_folder.SWEEP):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(run_folder.time, "strftime", lambda *_: "2031-02-03_04-05-06")
    yield
    run_lock._release_all()


def folder_of(run_dir=None, name="pcim_digits", seed=0, ckpt_path=None, root="runs"):
    return run_folder.run_folder(run_dir, name, seed, ckpt_path, root)


def test_a_new_run_gets_a_folder_named_after_the_time_and_seed(tmp_path):
    assert folder_of(seed=3) == "runs/pcim_digits/2031-02-03_04-05-06_3"
    assert (tmp_path / "runs/pcim_digits/2031-02-03_04-05-06_3/.lock").is_file(), "it is held from the start"


def test_runs_of_the_same_second_get_folders_of_their_own():
    made = [folder_of() for _ in range(3)]
    assert made == [f"runs/pcim_digits/2031-02-03_04-05-06_0{end}" for end in ("", "_2", "_3")]


def test_many_processes_at_once_get_folders_of_their_own(tmp_path):
    context = multiprocessing.get_context("fork")
    with context.Pool(4) as pool:
        made = pool.map(run_folder.new_folder, [tmp_path / "many"] * 12)
    assert len(set(made)) == 12 and all(folder.is_dir() for folder in made)


def test_latest_points_to_the_newest(tmp_path):
    first, second = folder_of(), folder_of()
    link = tmp_path / "runs" / "pcim_digits" / "latest"
    assert link.is_symlink() and link.resolve() == (tmp_path / second).resolve() and first != second
    assert os.readlink(link) == os.path.basename(second), "it stays right when runs/ is moved"


def test_what_starts_from_a_checkpoint_is_not_the_latest(tmp_path):
    first, _ = folder_of(), folder_of(ckpt_path="runs/x/checkpoints/best.ckpt")
    assert (tmp_path / "runs" / "pcim_digits" / "latest").resolve() == (tmp_path / first).resolve()


def test_a_file_system_without_links_does_without(tmp_path, monkeypatch):
    monkeypatch.setattr("pathlib.Path.symlink_to", lambda *_: (_ for _ in ()).throw(OSError("no links here")))
    folder = folder_of()
    assert [path.name for path in (tmp_path / folder).parent.iterdir()] == [os.path.basename(folder)]


def test_a_named_folder_is_taken_as_it_is(tmp_path):
    assert folder_of("mine/deep") == "mine/deep" and (tmp_path / "mine/deep/.lock").is_file()
    assert not (tmp_path / "runs").exists()


def test_a_name_becomes_one_short_folder():
    folder = folder_of(name="a/b [1,2] " + 300 * "x")
    assert re.fullmatch(r"runs/a_b_1_2_x+/2031-02-03_04-05-06_0", folder) and len(folder) < 120


def test_no_name_leads_out_of_the_folder_of_runs():
    assert Path(folder_of(name="..")).parts[:2] == ("runs", "_")


def test_only_the_first_process_moves_earlier_results(tmp_path, monkeypatch):
    (tmp_path / "summary.json").write_text("{}")
    monkeypatch.setenv("NODE_RANK", "1")
    run_folder.keep_earlier(tmp_path)
    assert (tmp_path / "summary.json").is_file(), "another node may have written it just now"
    monkeypatch.delenv("NODE_RANK")
    run_folder.keep_earlier(tmp_path)
    assert [path.name for path in tmp_path.glob("earlier/*/*")] == ["summary.json"]


def test_last_without_a_folder_is_a_sentence():
    with pytest.raises(SystemExit, match=r"^train.py: ckpt_path=last goes on in a run folder: name it with run_dir="):
        folder_of(ckpt_path="last")


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit, match=r"^train.py: run_dir=file/run cannot be made \(Not a directory\)"):
        folder_of("file/run")
    (tmp_path / "runs").write_text("")
    with pytest.raises(SystemExit, match=r"^train.py: run_dir=runs/pcim_digits cannot be made"):
        folder_of()


def test_a_folder_in_use_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    folder_of("mine")
    run_lock._held.clear()
    monkeypatch.setattr(run_lock.Holder, "is_me", lambda self: False)
    with pytest.raises(SystemExit, match=f"^train.py: run_dir=mine is being written by process {os.getpid()} "):
        folder_of("mine")
    with pytest.raises(ValueError, match="run_dir=mine is being written"), run_folder.writing("mine"):
        pass


def test_only_the_first_process_holds_the_lock_and_makes_the_link(tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder.rank_zero_only, "rank", 1)
    folder = folder_of()
    assert (tmp_path / folder).is_dir() and not (tmp_path / folder / ".lock").exists()
    with run_folder.writing(folder):
        assert not (tmp_path / folder / ".lock").exists()
    assert not (tmp_path / "runs" / "pcim_digits" / "latest").exists()
    monkeypatch.setattr(run_folder.rank_zero_only, "rank", 0)
    monkeypatch.setenv("NODE_RANK", "1")
    assert not run_folder.is_first(), "rank 0 of its node alone"


def test_a_sweep_has_a_folder_that_its_other_ranks_share(tmp_path, monkeypatch):
    first = run_folder.sweep_folder("runs")
    assert first == str(tmp_path / "runs" / "sweeps" / "2031-02-03_04-05-06")
    assert run_folder.sweep_folder("runs") != first, "another sweep of the same process"
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert run_folder.sweep_folder("runs") == os.environ[run_folder.SWEEP] != first


def test_processes_of_slurm_name_the_folder_after_the_job(monkeypatch):
    for name, value in {"SLURM_NTASKS": "2", "SLURM_JOB_ID": "77", "SLURM_JOB_NAME": "train"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["train.py", "seed=0"])
    monkeypatch.setattr(run_folder.rank_zero_only, "rank", 1)
    second = folder_of()
    monkeypatch.setattr(run_folder.rank_zero_only, "rank", 0)
    monkeypatch.setattr(run_folder.time, "strftime", lambda *_: "later")
    first = folder_of()
    assert first == second and re.fullmatch("runs/pcim_digits/slurm_77_[0-9a-f]{6}_0", first)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert folder_of() == first, "a job that is queued again goes on"
    monkeypatch.setattr(sys, "argv", ["train.py", "explainer.lr=1"])
    assert folder_of() != first, "another command of the same job is another run"
    monkeypatch.setenv("SLURM_JOB_NAME", "interactive")
    assert folder_of() == "runs/pcim_digits/later_0", "in a shell, each command is a run"


def test_processes_of_torchrun_agree_through_its_store(tmp_path, monkeypatch):
    store = TCPStore("127.0.0.1", 0, is_master=True)
    elastic = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)}
    for name, value in (elastic | {"TORCHELASTIC_USE_AGENT_STORE": "True", "RANK": "1", "LOCAL_RANK": "1"}).items():
        monkeypatch.setenv(name, value)
    context = multiprocessing.get_context("fork")
    parent, result = tmp_path / "runs" / "x", context.Queue()
    second = context.Process(target=lambda: result.put(run_folder.shared_folder(parent, "_0")))
    second.start()
    time.sleep(0.2)
    assert not parent.exists(), "the second waits for the first"
    monkeypatch.setenv("RANK", "0")
    assert run_folder.shared_folder(parent, "_0") == result.get(timeout=30) == parent / "2031-02-03_04-05-06_0"
    second.join()
    assert len(list(parent.iterdir())) == 1


def test_processes_that_cannot_agree_are_told_to_name_it(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit, match="Several processes need one folder: give all of them the same run_dir="):
        folder_of()
    assert folder_of("mine") == "mine"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "or it is damaged"),
        (b"half", "or it is damaged"),
        ({"weight": torch.ones(1)}, "is no checkpoint of an explainer"),
        ({"state_dict": {}}, "is no checkpoint of an explainer"),
        ([torch.ones(1)], "is no checkpoint of an explainer"),
        ({"state_dict": {}, "x": Path("pickled")}, "holds pickled Python objects"),
    ],
)
def test_what_is_no_checkpoint_is_refused_before_anything_is_moved(tmp_path, content, sentence):
    path = tmp_path / "checkpoints" / "last.ckpt"
    path.parent.mkdir()
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(ValueError, match=rf"last\.ckpt .*{sentence}"):
        check_checkpoint(cfg_of(tmp_path, ckpt_path="last"))
    torch.save({"state_dict": {}, "pytorch-lightning_version": "2.6.6"}, path)
    check_checkpoint(cfg_of(tmp_path, ckpt_path="last"))
    check_checkpoint(cfg_of(tmp_path / "other", ckpt_path="last"))
