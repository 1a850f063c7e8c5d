"""What becomes of errors: a sentence, a status, or the error itself."""

import errno
from types import SimpleNamespace

import pytest
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lightning_xai.cli.errors import exit_with_sentence, one_sentence, optimized_value, sentence_of


def raising(error):
    def job(cfg):
        raise error

    return job


@pytest.fixture(params=[RunMode.RUN, RunMode.MULTIRUN])
def mode(request, monkeypatch):
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    hydra = SimpleNamespace(mode=request.param, job=SimpleNamespace(num=4))
    monkeypatch.setattr(HydraConfig, "get", staticmethod(lambda: hydra))
    return request.param


def made_by_the_config(cause):
    error = InstantiationException("Error in call to target")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize("wrap", [lambda error: error, made_by_the_config])
def test_bad_input_is_its_sentence(wrap, monkeypatch):
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    assert sentence_of(wrap(FileNotFoundError("x is not there."))) == "train.py: x is not there."
    assert sentence_of(wrap(RuntimeError("a bug"))) is None
    with pytest.raises(SystemExit, match="^train.py: wrong$"):
        exit_with_sentence(raising(wrap(ValueError("wrong"))))(None)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    assert sentence_of(wrap(ValueError("wrong"))) is None


@pytest.mark.parametrize("read", [lambda cfg: cfg.target.name, lambda cfg: cfg.target.model.net])
def test_a_key_that_is_not_given_is_named(read, monkeypatch):
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    cfg = OmegaConf.create({"target": {"name": "???", "model": {"net": "${target.name}"}}})
    with pytest.raises(OmegaConfBaseException) as error:
        read(cfg)
    expected = "train.py: target.name is needed and is not given; add target.name=... to the command line."
    assert sentence_of(error.value) == expected


def test_bad_input_ends_a_job_and_a_sweep_goes_on(mode, capsys):
    failed = []
    job = one_sentence(raising(ValueError("wrong")), failed)
    if mode == RunMode.MULTIRUN:
        assert job(None) is None, "a sweeper must not take it for a result"
        assert capsys.readouterr().err == "train.py: wrong (job 4 of the sweep)\n"
    else:
        with pytest.raises(SystemExit, match="^train.py: wrong$"):
            job(None)
    assert failed == [True]


def test_other_errors_pass_and_count_as_failed(mode):
    failed = []
    with pytest.raises(RuntimeError, match="a bug"):
        one_sentence(raising(RuntimeError("a bug")), failed)(None)
    assert failed == [True]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "runs/x/checkpoints/last.ckpt"),
            "runs/x/checkpoints/last.ckpt",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "runs/x/metrics.csv"), "Permission denied"),
        (OSError(errno.EROFS, "Read-only file system"), "A file cannot be written"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore"), "lower data.batch_size"),
        (MemoryError(), "lower data.batch_size"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 9"), "Out of memory"),
        (RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly"), "lower data.num_workers"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), "lower data.num_workers"),
    ],
)
def test_what_the_machine_lacks_is_a_sentence(error, said, monkeypatch):
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    sentence = sentence_of(error)
    assert said in sentence and sentence.endswith("ckpt_path=last goes on in a run_dir.") and "\n" not in sentence
    assert sentence_of(OSError(errno.EBADF, "Bad file descriptor")) is None, "that is a bug"


def test_a_job_that_was_told_to_end_keeps_its_status_and_ends_a_sweep(mode):
    with pytest.raises(SystemExit) as end:
        one_sentence(raising(SystemExit(143)), [])(None)
    assert end.value.code == 143


@pytest.mark.parametrize(
    ("results", "bad"), [({}, False), ({"sanity/passed": 1.0}, False), ({"sanity/passed": 0.0}, True)]
)
def test_a_failed_sanity_check_counts_as_failed(mode, results, bad):
    failed = []
    assert one_sentence(lambda cfg: results, failed)(SimpleNamespace(optimized_metric=None)) is None
    assert failed == [bad]


def test_hydra_gets_the_number_that_is_optimized():
    failed = []
    job = one_sentence(lambda cfg: {"val/gap": 0.5, "test/gap": 0.25}, failed)
    assert job(SimpleNamespace(optimized_metric="test/gap")) == 0.25 and failed == [False]
    assert optimized_value({"val/gap": 1}, "val/gap") == 1.0 and optimized_value({}, None) is None


def test_a_number_that_is_not_there_is_one_sentence_with_those_that_are(mode, capsys):
    failed, sentence = [], "train.py: optimized_metric=val/gpa is none of the numbers of this run: test/gap, val/gap."
    job = one_sentence(lambda cfg: {"val/gap": 0.5, "test/gap": 0.25}, failed)
    if mode == RunMode.MULTIRUN:
        assert job(SimpleNamespace(optimized_metric="val/gpa")) is None
        assert capsys.readouterr().err == f"{sentence} (job 4 of the sweep)\n"
    else:
        with pytest.raises(SystemExit) as stop:
            job(SimpleNamespace(optimized_metric="val/gpa"))
        assert stop.value.code == sentence
    assert failed == [True]
