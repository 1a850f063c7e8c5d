"""One writer a folder: who is refused, who is not, and what a process that was killed leaves."""

import json
import multiprocessing
import os
import socket
import subprocess
import sys
import time

import pytest

from lightning_xai.cli import run_lock

# The file alone: the package takes seconds to import.
SLEEP = "import pathlib, runpy, sys, time; runpy.run_path(sys.argv[1])['take'](pathlib.Path(sys.argv[2]))"
SLEEP += "; print('held', flush=True); time.sleep(60)"


@pytest.fixture
def other(tmp_path):
    """A process that holds the folder's lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", SLEEP, run_lock.__file__, tmp_path], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def lock(folder, **content):
    me = {"host": socket.gethostname(), "pid": os.getpid(), "started": "boot:1", "since": "yesterday"}
    (folder / run_lock.NAME).write_text(json.dumps(me | content))


def taken(folder):
    return json.loads((folder / run_lock.NAME).read_text())["pid"] == os.getpid()


def test_it_is_held_within_and_gone_afterwards(tmp_path):
    with run_lock.held(tmp_path):
        assert taken(tmp_path)
        run_lock.take(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_it_is_gone_after_an_error(tmp_path):
    with pytest.raises(KeyError), run_lock.held(tmp_path):
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_a_second_writer_is_refused_in_a_sentence(tmp_path, other):
    with pytest.raises(ValueError) as refused:
        run_lock.take(tmp_path)
    sentence = str(refused.value)
    assert str(tmp_path) in sentence and f"process {other.pid} on {socket.gethostname()}" in sentence
    assert sentence.endswith("wait until it ends, or give another run_dir.") and "\n" not in sentence


def test_the_name_by_which_a_folder_is_known_does_not_matter(tmp_path, other):
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="is being written"):
        run_lock.take(tmp_path / "link")


def test_a_killed_writer_leaves_the_folder_free(tmp_path, other):
    other.kill()
    other.wait()
    assert (tmp_path / run_lock.NAME).is_file(), "killed before it could clear up"
    with run_lock.held(tmp_path):
        assert taken(tmp_path) and len(list(tmp_path.iterdir())) == 1


def test_a_killed_writer_that_nobody_has_waited_for_is_gone_too(tmp_path, other):
    other.kill()
    end = time.monotonic() + 10
    while run_lock.started(other.pid) is not None and time.monotonic() < end:
        time.sleep(0.01)
    with run_lock.held(tmp_path):
        assert taken(tmp_path)


def test_another_process_of_the_same_number_does_not_count(tmp_path, other):
    lock(tmp_path, pid=other.pid, started="boot:1")
    with run_lock.held(tmp_path):
        assert taken(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"host": 1}', "{}"])
def test_a_lock_that_says_nothing_is_taken_over(tmp_path, content):
    (tmp_path / run_lock.NAME).write_text(content)
    with run_lock.held(tmp_path):
        assert taken(tmp_path)


def test_the_process_of_another_host_is_left_alone_and_the_way_on_is_named(tmp_path):
    lock(tmp_path, host="far-away", pid=2**22 + 1)
    path = tmp_path / run_lock.NAME
    with pytest.raises(
        ValueError,
        match=rf"on far-away since yesterday; whether it still runs cannot .* remove {path}",
    ):
        run_lock.take(tmp_path)
    path.unlink()
    with run_lock.held(tmp_path):
        pass


def test_a_job_that_slurm_starts_anew_elsewhere_takes_over_from_its_earlier_attempt(tmp_path, monkeypatch):
    for name, value in {"SLURM_NTASKS": "1", "SLURM_JOB_ID": "77", "SLURM_JOB_NAME": "train"}.items():
        monkeypatch.setenv(name, value)
    for other in ("", "77#0", "78#0"):  # no job, this attempt (another step of it), another job
        lock(tmp_path, host="far-away", attempt=other)
        with pytest.raises(ValueError, match="on far-away"):
            run_lock.take(tmp_path)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    lock(tmp_path, host="far-away", attempt="77#0")
    with run_lock.held(tmp_path):
        assert taken(tmp_path)


def test_a_lock_that_was_taken_in_between_is_left(tmp_path, other, monkeypatch):
    """Two find the lock of a dead process: the slower one must not remove the lock of the faster."""
    path, read, seen = tmp_path / run_lock.NAME, run_lock._read, []

    def stale_at_first(path):
        seen.append(path)
        return run_lock.Holder(socket.gethostname(), 2**22 + 1, "boot:1", "then") if len(seen) == 1 else read(path)

    monkeypatch.setattr(run_lock, "_read", stale_at_first)
    with pytest.raises(ValueError, match=f"process {other.pid}"):
        run_lock.take(tmp_path)
    assert json.loads(path.read_text())["pid"] == other.pid


def grab(folder, barrier, results):
    barrier.wait()
    try:
        run_lock.take(folder)
        results.put("took")
    except ValueError:
        results.put("refused")
    barrier.wait()


def test_of_many_at_once_one_gets_it(tmp_path):
    lock(tmp_path, pid=2**22 + 1)
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(6), context.Queue()
    many = [context.Process(target=grab, args=(tmp_path, barrier, results)) for _ in range(6)]
    for process in many:
        process.start()
    got = sorted(results.get(timeout=30) for _ in many)
    for process in many:
        process.join()
    assert got == ["refused"] * 5 + ["took"]


def test_a_folder_that_is_not_there_or_closed_is_a_sentence(tmp_path):
    with pytest.raises(ValueError, match="cannot be written"):
        run_lock.take(tmp_path / "none")


def test_this_process_runs_and_a_free_number_does_not():
    assert run_lock.started(os.getpid())
    assert run_lock.started(2**22 + 1) is None and run_lock.started(2**70) is None
