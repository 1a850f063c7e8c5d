"""What becomes of errors: a sentence, a status, or the error itself."""

import json
import re
import sys
from types import SimpleNamespace

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException
from hydra.types import RunMode
from hydra.utils import instantiate
from lightning.pytorch.utilities.exceptions import SIGTERMException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lightning_xai.cli.errors import exit_with_sentence, one_gate, one_sentence, optimized_value, sentence_of
from lightning_xai.data.arrays import with_channels
from tests.running import CONFIGS


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
    assert sentence_of(wrap(RuntimeError("a\n  bug"))).startswith(
        "train.py: RuntimeError: a bug; this may be a bug of "
    )
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


def test_what_nobody_foresaw_is_a_sentence_with_its_place_and_its_traceback_is_kept(monkeypatch, tmp_path):
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    hydra = SimpleNamespace(mode=RunMode.RUN, runtime=SimpleNamespace(output_dir=str(tmp_path)))
    monkeypatch.setattr(HydraConfig, "get", staticmethod(lambda: hydra))
    with pytest.raises(SystemExit) as stop:
        one_sentence(lambda cfg: with_channels(None, 3, "a"), [])(None)
    said = str(stop.value.code)
    assert said.startswith("train.py: TypeError: object of type 'NoneType' has no len()") and "\n" not in said
    assert "(lightning_xai/data/arrays.py, line " in said and "this may be a bug of lightning_xai" in said
    assert f"the traceback is in {tmp_path}/train.log" in said and "HYDRA_FULL_ERROR=1" in said
    assert "Traceback (most recent call last)" in (tmp_path / "train.log").read_text()


def test_a_librarys_words_are_not_taken_for_ours(monkeypatch):
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    with pytest.raises(ValueError) as error:
        json.loads("{")
    assert sentence_of(error.value).startswith("train.py: JSONDecodeError: Expecting property name")


def test_what_hydra_reads_is_the_users_word(monkeypatch):
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    with initialize_config_dir(str(CONFIGS), version_base="1.3"), pytest.raises(ValueError) as error:
        compose("train", ["~callbacks=1"])
    assert re.match("train.py: Config group override deletion value must be a string", sentence_of(error.value))
    assert "bug" not in sentence_of(error.value)
    with initialize_config_dir(str(CONFIGS), version_base="1.3"), pytest.raises(AssertionError) as silent:
        compose("train", ["+=train"])
    assert sentence_of(silent.value) == "train.py: Hydra cannot read the command line, or a config; check its words"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), MemoryError()])
def test_what_the_machine_lacks_is_no_bug(error, monkeypatch):
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    assert "bug" not in sentence_of(error) and type(error).__name__ in sentence_of(error)


def test_what_the_config_makes_wrongly_names_its_key(monkeypatch):
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    cfg = OmegaConf.create({"data": {"net": {"_target_": "torch.nn.Linear", "colour": 3}}})
    with pytest.raises(InstantiationException) as error:
        instantiate(cfg)
    assert re.match(
        r"train.py: data.net cannot be made: .*argument 'colour'; check its keys.$", sentence_of(error.value)
    )


def test_the_gate_lets_nothing_out(monkeypatch, capsys):
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    for raised in (ValueError("wrong"), RuntimeError("odd"), HydraException("bad\nmore")):
        with pytest.raises(SystemExit, match="^train.py: "), one_gate():
            raise raised
    with pytest.raises(SystemExit) as stop, one_gate():
        raise KeyboardInterrupt
    assert stop.value.code == 130 and capsys.readouterr().err == "train.py: interrupted.\n"
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(RuntimeError, match="odd"), one_gate():
        raise RuntimeError("odd")


def test_an_interruption_that_lightning_turned_into_an_exit_has_its_own_status(mode):
    def interrupted(cfg):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            sys.exit(1)

    with pytest.raises(SystemExit) as stop:
        one_sentence(interrupted, [])(None)
    assert stop.value.code == 130


def test_a_terminated_job_does_not_end_well(mode):
    """And the sweep ends with it."""
    with pytest.raises(SystemExit) as end:
        one_sentence(raising(SIGTERMException()), [])(None)
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
