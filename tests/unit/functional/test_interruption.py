"""SIGTERM and SIGUSR1: who leaves when, with which status, and what SLURM is asked."""

import os
import signal

import pytest

from lightning_xai.functional.interruption import Interruption


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A job of SLURM, and a function that gives what its scontrol was asked."""
    asked = tmp_path / "asked"
    (tmp_path / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {asked}\n')
    (tmp_path / "scontrol").chmod(0o755)
    for name, value in {"SLURM_NTASKS": "2", "SLURM_JOB_ID": "77", "SLURM_JOB_NAME": "train"}.items():
        monkeypatch.setenv(name, value)
    for name in ("RANK", "SLURM_PROCID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return lambda: asked.read_text().splitlines() if asked.exists() else []


def left(number, **changes):
    """The status that a process leaves with which gets a signal."""
    interruption = Interruption()
    vars(interruption).update(changes)
    with pytest.raises(SystemExit) as end, interruption.listening():
        os.kill(os.getpid(), number)
        signal.raise_signal(number)
    return end.value.code


def test_it_leaves_at_once_with_the_status_of_a_shell():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)]
    assert (left(signal.SIGTERM), left(signal.SIGUSR1)) == (143, 138)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)] == before


def test_it_leaves_when_it_may_with_the_first_signal():
    interruption = Interruption()
    interruption.deferred = True
    with interruption.listening():
        signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGTERM)  # as a scheduler sends it some seconds later
    assert interruption.received == signal.SIGUSR1
    with pytest.raises(SystemExit) as end:
        interruption.leave()
    assert end.value.code == 138 and interruption.received is None and not interruption.deferred


def test_slurm_queues_the_job_again_when_it_said_that_time_is_up(slurm, monkeypatch):
    assert left(signal.SIGTERM) == 143 and slurm() == [], "that is an order to end"
    assert left(signal.SIGUSR1) == 138 and slurm() == ["requeue 77"]
    monkeypatch.setenv("SLURM_PROCID", "1")
    assert left(signal.SIGUSR1) == 138 and len(slurm()) == 1, "the first rank asks for all"
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "70")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert left(signal.SIGUSR1) == 138 and slurm()[1:] == ["requeue 70_3"]


def test_a_shell_of_slurm_is_not_queued_again(slurm, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_NAME", "bash")
    assert left(signal.SIGUSR1) == 138 and slurm() == []


def test_a_slurm_that_refuses_is_in_the_log(slurm, monkeypatch, tmp_path, caplog):
    (tmp_path / "scontrol").write_text("#!/bin/sh\nexit 1\n")
    assert left(signal.SIGUSR1) == 138
    assert "SLURM does not queue job 77 again" in caplog.text and "submit it once more" in caplog.text
