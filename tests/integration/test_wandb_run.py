"""Runs with each logger; what an offline W&B run holds is read back from its files."""

import json

import numpy as np
import pytest
from PIL import Image

import train
from tests.running import bars_npz, configure, rows
from tests.wandb_files import read_wandb


@pytest.fixture(scope="module")
def bars(tmp_path_factory):
    return bars_npz(tmp_path_factory.mktemp("bars") / "bars.npz").split()


@pytest.fixture(scope="module")
def offline(bars, tmp_path_factory):
    """The folder of an offline run, what it returned, and what it printed."""
    folder = tmp_path_factory.mktemp("wandb") / "run"
    with pytest.MonkeyPatch.context() as patch:
        for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
            patch.delenv(name, raising=False)
        patch.setenv("NETRC", str(folder / "no_netrc"))
        lines = []
        patch.setattr("builtins.print", lambda *words, **_: lines.append(" ".join(map(str, words))))
        result = train.main(configure(folder, *bars, "logger=wandb"))
    return folder, result, lines


def test_it_holds_the_config(offline):
    config, _ = read_wandb(offline[0])
    explainer, data_info = json.loads(config["explainer"]), json.loads(config["data_info"])
    assert explainer["_target_"] == "lightning_xai.explainers.AmortizedPCIM"
    assert (data_info["classes"], data_info["channels"], json.loads(config["seed"])) == (2, 1, 0)


def test_it_holds_the_metrics_of_training_validation_and_test(offline):
    folder, result, _ = offline
    _, history = read_wandb(folder)
    table = rows(folder / "metrics.csv")
    for name in ("train/loss", "val/loss", "val/gap"):
        last = [float(row[name]) for row in table if row[name]][-1]
        assert float(history[name]) == pytest.approx(last, rel=1e-4), name
    for name, value in result.items():
        if name.startswith("test/"):
            assert float(history[name]) == pytest.approx(value, rel=1e-4, abs=1e-6), name


def test_it_holds_the_pictures(offline):
    folder = offline[0]
    _, history = read_wandb(folder)
    files = next(folder.glob("wandb/offline-run-*/files"))
    for stage, name in (("val", "val_epoch000.png"), ("test", "test.png")):
        (path,) = json.loads(history[f"maps/{stage}/filenames"])
        logged, written = (
            np.asarray(Image.open(place).convert("RGB")) for place in (files / path, folder / "maps" / name)
        )
        assert logged.std() > 10 and np.array_equal(logged, written), stage


def test_it_holds_the_values_of_each_image(offline):
    folder = offline[0]
    _, history = read_wandb(folder)
    files = next(folder.glob("wandb/offline-run-*/files"))
    table = json.loads((files / json.loads(history["test/per_image/path"])).read_text())
    assert table["columns"] == ["explainer", "id", "group", "target", "class", "metric", "value"]
    own = {(row[1], str(row[3]), row[5]): row[6] for row in table["data"] if row[0] == "AmortizedPCIM"}
    written = {(row["id"], row["target"], row["metric"]): float(row["value"]) for row in rows(folder / "per_image.csv")}
    assert own == pytest.approx(written) and len({name for name, *_ in own}) == 9
    assert {row[0] for row in table["data"]} == {"AmortizedPCIM", "random", "center", "edge"}


def test_it_holds_the_files_of_all_rows(offline):
    folder = offline[0]
    kept = next(folder.glob("wandb/offline-run-*/files"))
    for name in ("per_image.csv", "controls.csv"):
        assert not (kept / name).is_symlink() and (kept / name).read_text() == (folder / name).read_text(), name


def test_it_says_how_to_upload(offline):
    folder, _, lines = offline
    assert lines[-1].startswith(f"This run's W&B files are offline; upload them with: wandb sync {folder}/wandb/")


def test_the_environment_is_in_no_file(bars, tmp_path, monkeypatch):
    monkeypatch.setenv("XAI_TOKEN", "s3cr3t-t0ken")
    words = ("+note=${oc.env:XAI_TOKEN}", "+url=https://${oc.env:XAI_TOKEN}@host", "+again=[${url},{deep:${note}}]")
    train.main(configure(tmp_path / "run", *bars, "logger=many", *words, "+trainer.profiler=null"))
    found = [path for path in tmp_path.rglob("*") if path.is_file() and b"s3cr3t-t0ken" in path.read_bytes()]
    assert not found
    config, _ = read_wandb(tmp_path / "run")
    assert json.loads(config["url"]) == "https://${oc.env:XAI_TOKEN}@host" and json.loads(config["seed"]) == 0


MADE = {
    "csv": set(),
    "none": set(),
    "tensorboard": {"tensorboard"},
    "many": {"tensorboard", "wandb"},
}


@pytest.mark.parametrize("logger", MADE)
def test_every_choice_of_loggers_runs(logger, bars, tmp_path):
    if "tensorboard" in MADE[logger]:
        pytest.importorskip("tensorboard")
    quick = ("explainer=center_prior", "trainer.limit_test_batches=1", f"logger={logger}")
    result = train.main(configure(tmp_path / "run", *bars, *quick))
    assert {path.name for path in (tmp_path / "run").iterdir() if path.name in ("tensorboard", "wandb")} == MADE[logger]
    (row,) = rows(tmp_path / "run" / "metrics.csv")
    assert float(row["test/gap"]) == pytest.approx(result["test/gap"])
    if "tensorboard" in MADE[logger]:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
        assert events.Scalars("test/gap")[0].value == pytest.approx(result["test/gap"])
        assert "maps/test" in events.Tags()["images"]


def test_a_wandb_that_fails_does_not_stop_a_run(bars, tmp_path, monkeypatch):
    import wandb

    def init(**_):
        raise RuntimeError("no room on the disk")

    monkeypatch.setattr(wandb, "init", init)
    with pytest.warns(UserWarning, match=r"no room on the disk.*the run goes on without W&B"):
        result = train.main(configure(tmp_path / "run", *bars, "logger=wandb", "explainer=center_prior"))
    assert "test/gap" in result and (tmp_path / "run" / "summary.json").is_file()
