"""Other ranks wait for rank zero as long as it works, and no longer."""

import multiprocessing
import os
import signal
import socket
import threading
import time

import pytest

from lightning_xai.cli import rank_zero


@pytest.fixture(autouse=True)
def two_tasks(monkeypatch):
    """Two tasks of a SLURM job, with a port of their own."""
    for name in list(os.environ):
        if name.startswith(("SLURM_", "MASTER_", "TORCHELASTIC")) or name in ("NODE_RANK", "LOCAL_RANK", "WORLD_SIZE"):
            monkeypatch.delenv(name)
    with socket.create_server(("", 0)) as free:
        port = free.getsockname()[1] - 1
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    slurm = {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_JOB_ID": "77", "SLURM_NODELIST": "localhost"}
    for name, value in (slurm | place).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(rank_zero, "is_first", lambda: False)
    monkeypatch.setattr(rank_zero, "SHOWS", 1.0)


def work(path, begun, ends):
    rank_zero.is_first = lambda: True
    begun.set()
    with rank_zero.met():
        ends.wait(30)
        path.write_text("done")
        rank_zero.release()
        time.sleep(30)


@pytest.fixture
def first(tmp_path):
    """Another process that is rank zero: its file, the event that lets it finish, and itself."""
    context = multiprocessing.get_context("fork")
    begun, ends = context.Event(), context.Event()
    process = context.Process(target=work, args=(tmp_path / "target", begun, ends))
    process.start()
    assert begun.wait(30)
    yield tmp_path / "target", ends, process
    process.kill()
    process.join()


def test_it_waits_as_long_as_the_first_works(first):
    path, ends, _ = first
    start = time.monotonic()
    with rank_zero.met():
        threading.Timer(1.0, ends.set).start()
        rank_zero.wait(path.is_file, "a target")
    assert path.read_text() == "done" and 0.5 < time.monotonic() - start < 20


@pytest.mark.parametrize("late", [False, True])
def test_it_ends_in_seconds_when_the_first_is_killed(first, late):
    """Also where it is killed before this one begins to wait."""
    path, _, process = first
    with rank_zero.met(), pytest.raises(ValueError, match="Rank zero ended without a target; what it says itself"):
        killer = threading.Timer(0.5, os.kill, (process.pid, signal.SIGKILL))
        killer.start()
        if late:
            process.join()
        start = time.monotonic()
        rank_zero.wait(path.is_file, "a target")
    assert time.monotonic() - start < 10


def test_it_ends_when_the_first_never_comes(monkeypatch):
    monkeypatch.setattr(rank_zero, "COMES", 0.5)
    with pytest.raises(ValueError, match="Rank zero did not come to 127.0.0.1"), rank_zero.met():
        pass


def test_what_is_done_needs_no_waiting(first, tmp_path):
    start = time.monotonic()
    with rank_zero.met():
        rank_zero.wait(tmp_path.is_dir, "a folder")
    assert time.monotonic() - start < 5


def test_the_first_does_not_go_on_alone(monkeypatch):
    monkeypatch.setattr(rank_zero, "COMES", 0.5)
    monkeypatch.setattr(rank_zero, "is_first", lambda: True)
    with pytest.raises(ValueError, match="Of 1 other ranks, 1 did not come"), rank_zero.met():
        pass


def test_a_taken_port_is_a_sentence(monkeypatch):
    monkeypatch.setattr(rank_zero, "is_first", lambda: True)
    taken = socket.create_server(("", rank_zero.meeting()[1]))
    with taken, pytest.raises(ValueError, match="set MASTER_PORT to another one"), rank_zero.met():
        pass


def test_a_process_alone_opens_nothing(monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "1")
    assert rank_zero.meeting() is None
    with rank_zero.met():
        assert not rank_zero._lines
