"""The table over the jobs of a sweep, and what a job leaves for it."""

import json
import math
from types import SimpleNamespace

import pytest
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf
from scipy import stats

from lightning_xai.cli.sweep_table import (
    NO_RECORD,
    SweepTable,
    interval,
    read_jobs,
    recorded,
    report,
    sweep_reported,
)
from tests.running import rows


def leave(folder, number, words, results=None, error=None):
    """What Hydra and a job leave in the folder of a job; no record where there are neither results nor an error."""
    hydra = folder / str(number) / ".hydra"
    hydra.mkdir(parents=True)
    (hydra / "overrides.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(words)))
    if results is not None or error is not None:
        record = {"results": results or {}, "error": error}
        (folder / str(number) / "job.json").write_text(json.dumps(record))


def test_an_interval_is_students_over_the_runs_that_are_defined():
    values = [0.2, 0.5, 0.3, 0.7]
    mean, low, high = interval([*values, math.nan])
    expected = stats.t.interval(0.95, 3, loc=0.425, scale=stats.sem(values))
    assert mean == pytest.approx(0.425) and (low, high) == pytest.approx(expected)
    assert interval([0.4])[0] == 0.4 and all(map(math.isnan, interval([0.4])[1:]))
    assert all(map(math.isnan, interval([])))


def test_a_row_for_each_setting_with_the_seeds_together_and_the_failed_jobs_named(tmp_path, capsys):
    leave(tmp_path, 0, ["explainer=pcim", "seed=0", "+note=a"], {"test/gap": 0.2, "target/accuracy": 0.9})
    leave(tmp_path, 1, ["explainer=pcim", "seed=1", "+note=a"], {"test/gap": 0.4, "target/accuracy": 0.7})
    leave(tmp_path, 2, ["explainer=rise", "seed=0", "+note=a"], {"test/gap": 0.9})
    leave(tmp_path, 3, ["explainer=rise", "seed=1", "+note=a"], error="the disk is full.")
    leave(tmp_path, 10, ["explainer=cam", "seed=0", "+note=a"])
    report(tmp_path, jobs := read_jobs(tmp_path))
    assert [job.number for job in jobs] == ["0", "1", "2", "3", "10"], "by number, not by letter"
    pcim, rise, cam = rows(tmp_path / "sweep.csv")
    assert (pcim["explainer"], pcim["runs"], pcim["failed jobs"]) == ("pcim", "2", "") and "+note" not in pcim
    assert float(pcim["test/gap"]) == pytest.approx(0.3)
    assert float(pcim["test/gap high"]) == pytest.approx(0.3 + stats.t.ppf(0.975, 1) * 0.1)
    assert (rise["runs"], rise["failed jobs"], rise["test/gap"], rise["test/gap low"]) == ("1", "3", "0.9", "")
    assert rise["target/accuracy"] == "" and (cam["runs"], cam["failed jobs"]) == ("0", "10")
    said = capsys.readouterr().out.splitlines()
    assert "Job 3 failed (explainer=rise seed=1): the disk is full." in said
    assert f"Job 10 failed (explainer=cam seed=0): {NO_RECORD}" in said
    assert any(line.split()[:2] == ["pcim", "2"] and "0.300 [" in line for line in said)


@pytest.fixture(params=[RunMode.RUN, RunMode.MULTIRUN])
def mode(request, monkeypatch, tmp_path):
    hydra = SimpleNamespace(mode=request.param, runtime=SimpleNamespace(output_dir=str(tmp_path)))
    monkeypatch.setattr(HydraConfig, "get", staticmethod(lambda: hydra))
    return request.param


@pytest.mark.parametrize(
    ("results", "optimized", "error"),
    [
        ({"test/gap": 0.5}, None, None),
        ({"test/gap": 0.5}, "test/gap", None),
        ({"test/gap": 0.5}, "val/gap", "optimized_metric=val/gap is none of the numbers"),
        ({"sanity/passed": 0.0}, None, "sanity"),
        (ValueError("wrong size."), None, "wrong size."),
        (SystemExit(143), None, NO_RECORD),
    ],
)
def test_a_job_of_a_sweep_leaves_its_numbers_or_why_it_failed(mode, tmp_path, results, optimized, error):
    def job(cfg):
        if isinstance(results, BaseException):
            raise results
        return results

    cfg = SimpleNamespace(optimized_metric=optimized)
    try:
        assert recorded(job)(cfg) == results
    except (ValueError, SystemExit):
        assert error is not None
    assert (tmp_path / "job.json").is_file() == (mode == RunMode.MULTIRUN)
    if mode == RunMode.MULTIRUN:
        record = json.loads((tmp_path / "job.json").read_text())
        assert record["error"] is None if error is None else error in record["error"]
        assert isinstance(results, BaseException) or error in (None, "sanity") or "results" not in record


def test_a_sweep_that_breaks_ends_with_its_table_too(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    leave(tmp_path, 0, ["seed=0"], {"test/gap": 0.2})
    config = OmegaConf.create({"hydra": {"sweep": {"dir": "${where}"}}, "where": str(tmp_path)})
    with pytest.raises(SystemExit, match="^train.py: 1 of 2 jobs failed.$"), sweep_reported():
        SweepTable().on_multirun_start(config)
        assert not (tmp_path / "0" / "job.json").exists(), "an earlier sweep's"
        leave(tmp_path, 1, ["seed=1"], {"test/gap": 0.4})
        raise RuntimeError("the launcher lost a job")
    assert OmegaConf.to_container(config)["hydra"]["sweep"]["dir"] == str(tmp_path), "the same in every process"
    assert [row["failed jobs"] for row in rows(tmp_path / "sweep.csv")] == ["0"]
    assert "Job 0 failed (seed=0)" in capsys.readouterr().out


def test_without_a_sweep_nothing_is_reported(capsys):
    with sweep_reported():
        pass
    assert capsys.readouterr().out == ""
