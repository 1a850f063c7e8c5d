"""The summary of a run: what is written, what is printed."""

import json

import pytest

from lightning_xai.cli import summary as module
from lightning_xai.functional.files import atomic_write
from lightning_xai.metrics import InsertionDeletionGap, MetricSuite
from tests.running import cfg_of


class Scored:
    """What the report reads of the Faithfulness callback."""

    results = {
        "PCIM": {"gap": [("a", 0, 0.5), ("b", 0, 0.7)]},
        "random": {"gap": [("a", 0, 0.1), ("b", 0, 0.1)]},
    }
    references = {"PCIM": {"gap": {"blank": 0.25}}}
    groups = {}
    without_method = ["random"]
    rank_controls = False
    suite = MetricSuite({"gap": InsertionDeletionGap(fill="median")})


def test_the_summary_is_written_and_the_places_are_printed(tmp_path, capsys):
    module.report(
        cfg_of(tmp_path, seed=3),
        Scored(),
        {"target/accuracy": 0.9},
        "best.ckpt",
        {"agreement": 0.954},
        {"layer": "head"},
    )
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["seed"], summary["checkpoint"], summary["target"]) == (3, "best.ckpt", {"target/accuracy": 0.9})
    assert summary["explainers"]["PCIM"]["gap"]["mean"] == pytest.approx(0.6)
    assert summary["differences"]["random"]["gap"]["mean"] == pytest.approx(0.5)
    assert summary["references"]["PCIM"]["gap"]["blank"] == 0.25 and summary["borda"] == {"PCIM": 0}
    assert list(summary["explainers"]) == ["PCIM"] and list(summary["controls"]) == ["random"]
    assert summary["borda_metrics"] == ["gap"] and summary["resampling"]["unit"] == "images"
    assert summary["metrics"]["gap"]["options"]["fill"] == "median", "what changes a value is recorded with it"
    assert summary["logged"] == {"agreement": 0.954} and summary["settings"] == {"layer": "head"}
    lines = capsys.readouterr().out.splitlines()
    assert "PCIM on the test images: agreement 0.954" in lines
    assert lines[1].split() == ["explainer", "gap", "(high)"] and lines[2].split() == ["PCIM", "0.600"]
    assert "Intervals: Student's t over 2 images, which are too few for a bootstrap." in lines
    assert [line.split()[0] for line in lines[-4:]] == ["Figures", "Per", "Summary", "Checkpoint"]


def test_without_a_checkpoint_none_is_shown(tmp_path, capsys):
    module.report(cfg_of(tmp_path), Scored(), {}, None, {}, {})
    assert "Checkpoint" not in capsys.readouterr().out
    assert json.loads((tmp_path / "summary.json").read_text())["checkpoint"] is None


def test_a_summary_is_whole_or_absent(tmp_path, monkeypatch):
    """A run that is killed while it writes leaves the old file."""
    with atomic_write(tmp_path / "summary.json") as file:
        file.write("old")
    monkeypatch.setattr(module.json, "dump", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        module.report(cfg_of(tmp_path), Scored(), {}, None, {}, {})
    assert (tmp_path / "summary.json").read_text() == "old"


@pytest.mark.parametrize("asked", [False, True])
def test_controls_are_ranked_where_they_are_asked_for(tmp_path, capsys, asked):
    scored = Scored()
    scored.results = {**Scored.results, "RISE": {"gap": [("a", 0, 0.4), ("b", 0, 0.4)]}}
    scored.rank_controls = asked
    module.report(cfg_of(tmp_path), scored, {}, None, {}, {})
    points = {"PCIM": 2, "RISE": 1, "random": 0} if asked else {"PCIM": 1, "RISE": 0}
    assert json.loads((tmp_path / "summary.json").read_text())["borda"] == points
    line = ", ".join(f"{name} {value}" for name, value in points.items())
    assert f"Borda count over gap: {line}" in capsys.readouterr().out
