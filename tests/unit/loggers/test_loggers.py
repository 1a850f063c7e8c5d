"""Loggers: W&B read back from disk, W&B that fails or hangs, a CSV that survives a resume, dispatch to TensorBoard."""

import csv
import json
import socket
import sys
import time

import numpy as np
import pytest
import torch
import wandb
from lightning import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from PIL import Image
from torch.utils.data import DataLoader

from lightning_xai.loggers import (
    ResilientWandbLogger,
    RunCSVLogger,
    finish_loggers,
    log_images,
)
from lightning_xai.loggers import wandb as loggers
from lightning_xai.loggers.media import log_table
from lightning_xai.loggers.wandb import has_wandb_key, is_reachable
from tests.wandb_files import read_wandb


@pytest.fixture(autouse=True)
def no_account(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no_netrc"))
    monkeypatch.setattr(loggers, "is_reachable", lambda url: True)


class Net(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def training_step(self, batch, batch_idx):
        loss = self.layer(batch).mean()
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def make_trainer(tmp_path, *run_loggers, **kwargs):
    return Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=list(run_loggers),
        log_every_n_steps=1,
        default_root_dir=tmp_path,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        **kwargs,
    )


def fit(tmp_path, *run_loggers):
    trainer = make_trainer(tmp_path, *run_loggers)
    trainer.fit(Net(), DataLoader(torch.rand(4, 2), batch_size=2))
    assert trainer.global_step == 2, "training stopped early"
    return trainer


def test_offline_run_read_back(tmp_path, capsys):
    logger = ResilientWandbLogger(tmp_path)
    logger.log_hyperparams({"explainer": {"steps": 300}})
    trainer = fit(tmp_path, logger)
    log_images(trainer, "maps/val", [np.full((8, 8, 3), 7, np.uint8)])
    log_table(trainer, "per_image", ["id", "value"], [["a", 0.5], ["b", float("nan")]])
    finish_loggers(trainer.loggers)
    config, history = read_wandb(tmp_path)
    assert config["explainer"] == '{"steps":300}'
    assert float(history["loss"]) == pytest.approx(float(trainer.callback_metrics["loss"]), abs=1e-5)
    files = next(tmp_path.glob("wandb/offline-run-*/files"))
    (picture,) = json.loads(history["maps/val/filenames"])
    assert (np.asarray(Image.open(files / picture)) == 7).all()
    table = json.loads((files / json.loads(history["per_image/path"])).read_text())
    assert table["columns"] == ["id", "value"] and table["data"][0] == ["a", 0.5]
    assert f"wandb sync {tmp_path}" in capsys.readouterr().out
    assert wandb.run is None, "a second run in this process would go on in the first"


def test_offline_without_a_key_says_so(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(loggers, "rank_zero_info", said.append)
    assert ResilientWandbLogger(tmp_path)._wandb_init["mode"] == "offline"
    assert len(said) == 1 and "no API key" in said[0]


def test_key_in_environment_or_netrc_means_online(tmp_path, monkeypatch):
    assert not has_wandb_key()
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert has_wandb_key()
    monkeypatch.setenv("NETRC", "nowhere")
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    assert has_wandb_key()
    assert ResilientWandbLogger(tmp_path)._wandb_init["mode"] is None
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert ResilientWandbLogger(tmp_path)._wandb_init["mode"] == "offline"


@pytest.mark.parametrize("gone", [False, True])
def test_anonymous_is_never_passed_to_wandb(tmp_path, monkeypatch, gone):
    """Lightning passes it always; the release that stops doing so must not break the logger."""
    original = WandbLogger.__init__

    def init(self, *args, **kwargs):
        original(self, *args, **kwargs)
        if gone:
            del self._wandb_init["anonymous"]

    monkeypatch.setattr(WandbLogger, "__init__", init)
    assert "anonymous" not in ResilientWandbLogger(tmp_path, mode="offline")._wandb_init


class FakeRun:
    """Stands for a W&B run; ``do`` is called by everything."""

    offline = False

    def __init__(self, do):
        self.do, self.calls = do, 0
        self.config = self

    def log(self, *args, **kwargs):
        self.calls += 1
        self.do()

    update = finish = define_metric = log


def explode():
    raise RuntimeError("the server says no\nand more")


def warnings_of(caught):
    return [str(each.message) for each in caught if str(each.message).startswith("W&B")]


def test_logging_that_raises_is_skipped_and_warned_about_once(tmp_path, monkeypatch):
    run = FakeRun(explode)
    monkeypatch.setattr(wandb, "init", lambda **kwargs: run)
    logger = ResilientWandbLogger(tmp_path)
    with pytest.warns(UserWarning) as caught:
        fit(tmp_path, logger)
        logger.finish()
    assert [message.split(";")[0] for message in warnings_of(caught)] == [
        f"W&B: {what} failed (RuntimeError: the server says no)" for what in ("log_metrics", "finishing")
    ]
    assert run.calls > 2, "one failed call must not turn W&B off"


def test_a_table_or_file_that_fails_leaves_logging_on(tmp_path, monkeypatch):
    run = FakeRun(lambda: None)
    monkeypatch.setattr(wandb, "init", lambda **kwargs: run)
    logger = ResilientWandbLogger(tmp_path)
    run.dir = str(tmp_path / "nowhere")
    with pytest.warns(UserWarning) as caught:
        for _ in range(2):
            logger.log_table("scores", columns=["id"], data=[["a", "b"]])
            logger.save_file(tmp_path / "rows.csv")
    assert [message.partition(" failed (")[0] for message in warnings_of(caught)] == [
        "W&B: log_table",
        "W&B: save_file",
    ]
    logger.log_metrics({"loss": 0.5})
    assert run.calls == 1, "the table turned W&B off"


def test_a_start_that_hangs_leaves_the_run_without_it(tmp_path, monkeypatch):
    modes = []

    def init(mode, **kwargs):
        modes.append(mode)
        time.sleep(5)

    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setattr(loggers, "MARGIN", 0.1)
    start = time.monotonic()
    with pytest.warns(UserWarning, match=r"the online start failed \(TimeoutError: no end within 0.1 s.*without W&B"):
        fit(tmp_path, ResilientWandbLogger(tmp_path, mode="online", init_timeout=0))
    assert modes == ["online"] and time.monotonic() - start < 4


def test_an_end_that_hangs_is_given_up(tmp_path, monkeypatch):
    run = FakeRun(lambda: None)
    monkeypatch.setattr(wandb, "init", lambda **kwargs: run)
    monkeypatch.setattr(loggers, "MARGIN", 0.1)
    logger = ResilientWandbLogger(tmp_path, finish_timeout=0)
    logger.log_metrics({"loss": 1.0})
    run.do = lambda: time.sleep(5)
    start = time.monotonic()
    with pytest.warns(UserWarning, match=r"finishing failed \(TimeoutError"):
        logger.finish()
    assert time.monotonic() - start < 4


def test_a_run_that_is_interrupted_while_it_logs_stops(tmp_path, monkeypatch):
    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr(wandb, "init", lambda **kwargs: FakeRun(interrupt))
    with pytest.raises(KeyboardInterrupt):
        ResilientWandbLogger(tmp_path).log_metrics({"loss": 1.0})


def test_start_that_fails_is_tried_offline(tmp_path, monkeypatch):
    modes = []

    def init(mode, **kwargs):
        modes.append(mode)
        explode()

    monkeypatch.setattr(wandb, "init", init)
    with pytest.warns(UserWarning, match="run goes on without W&B"):
        fit(tmp_path, ResilientWandbLogger(tmp_path, mode="online"))
    assert modes == ["online", "offline"]


def test_a_server_that_cannot_be_reached_costs_seconds(tmp_path, monkeypatch):
    monkeypatch.setattr(loggers, "is_reachable", is_reachable)
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, and says nothing
        places = ["http://nowhere.invalid", f"http://127.0.0.1:{silent.getsockname()[1]}"]
        for url in places:
            monkeypatch.setenv("WANDB_BASE_URL", url)
            start = time.monotonic()
            with pytest.warns(UserWarning, match=f"W&B: {url} cannot be reached, so this run is logged offline"):
                logger = ResilientWandbLogger(tmp_path)
            assert logger._wandb_init["mode"] == "offline" and time.monotonic() - start < 8


def test_a_server_that_is_gone_at_the_end_costs_seconds(tmp_path, monkeypatch):
    run = FakeRun(lambda: None)
    monkeypatch.setattr(wandb, "init", lambda **kwargs: run)
    logger = ResilientWandbLogger(tmp_path)
    logger.log_metrics({"loss": 1.0})
    run.do = lambda: time.sleep(30)
    monkeypatch.setattr(loggers, "is_reachable", lambda url: False)
    start = time.monotonic()
    with pytest.warns(UserWarning, match=r"finishing failed \(TimeoutError"):
        logger.finish()
    assert time.monotonic() - start < 8


def test_a_run_that_goes_on_keeps_its_id(tmp_path, monkeypatch):
    ids = []

    def init(id, resume, **kwargs):
        ids.append((id, resume))
        return FakeRun(lambda: None)

    monkeypatch.setattr(wandb, "init", init)
    for folder in ("one", "one", "two"):
        ResilientWandbLogger(tmp_path / folder).log_metrics({"loss": 1.0})
    assert ids[0] == ids[1] != ids[2] and {resume for _, resume in ids} == {"allow"}


def rows(tmp_path):
    with (tmp_path / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_csv_keeps_its_rows_on_resume(tmp_path):
    first = RunCSVLogger(tmp_path)
    first.log_metrics({"loss": 1.0}, 0)
    second = RunCSVLogger(tmp_path)
    second.log_metrics({"loss": 0.5}, 1)
    second.log_metrics({"accuracy": 0.9}, 2)
    assert [row["step"] for row in rows(tmp_path)] == ["0", "1", "2"]
    assert [row["loss"] for row in rows(tmp_path)] == ["1.0", "0.5", ""]
    assert rows(tmp_path)[2]["accuracy"] == "0.9"
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]


TABLE = b"epoch,step,train/loss\r\n0,0,0.125\r\n0,1,0.25\r\n"


@pytest.mark.parametrize(
    ("left", "kept"),
    [
        (TABLE + b"1,2,0.", [0, 1]),
        (TABLE + b"1,2", [0, 1]),
        (TABLE + b"1,2,0.5", [0, 1]),  # whole or not, nobody knows
        (TABLE[:-1], [0]),
        (TABLE + b"1,2,0.5,7\r\n", [0, 1]),
        (TABLE + b"1,2,0.2,3,0.1\r\n1,4,0.5\r\n", [0, 1, 4]),  # what an earlier version wrote after half a row
        (TABLE + b"1,2\r1,3,0.5\r\n1,4,0.5\r\n", [0, 1, 4]),
        (TABLE + b"1,2,\xc3", [0, 1]),
        (TABLE + 20 * b"\0", [0, 1]),
        (TABLE + 20 * b"\0" + b"\r\n", [0, 1]),
        (b"epoch,step,train/loss\r\n", []),
        (b"epoch,step,tra", []),
        (b"epoch,st\r\n", []),
        (b"epoch,step,gr\xc3", []),
        (b"", []),
    ],
)
def test_csv_goes_on_after_half_a_row(tmp_path, left, kept):
    (tmp_path / "metrics.csv").write_bytes(left)
    logger = RunCSVLogger(tmp_path)
    logger.log_metrics({"epoch": 1, "train/loss": 0.75}, 9)
    logger.log_metrics({"epoch": 1, "größe": 1.0}, 10)
    assert [int(row["step"]) for row in rows(tmp_path)] == [*kept, 9, 10]
    assert rows(tmp_path)[-1]["größe"] == "1.0" and all(None not in row for row in rows(tmp_path))


def test_csv_lists_no_epoch_twice(tmp_path):
    first = RunCSVLogger(tmp_path)
    for epoch in range(3):
        for step in (2 * epoch, 2 * epoch + 1):
            first.log_metrics({"epoch": epoch, "train/loss": 1.0}, step)
        first.log_metrics({"epoch": epoch, "val/loss": 1.0}, 2 * epoch + 1)
    first.log_metrics({"epoch": 3, "test/gap": 1.0}, 6)
    first.log_metrics({"memory": 1.0}, 6)
    # Killed after the third epoch, and resumed from the checkpoint of the first.
    second = RunCSVLogger(tmp_path)
    second.log_metrics({"epoch": 1, "train/loss": 2.0}, 2)
    second.log_metrics({"epoch": 1, "val/loss": 2.0}, 3)
    second.log_metrics({"epoch": 2, "test/gap": 2.0}, 4)
    table = [(row["epoch"], row["step"], row["train/loss"], row["val/loss"], row["test/gap"]) for row in rows(tmp_path)]
    assert table == [
        ("0", "0", "1.0", "", ""),
        ("0", "1", "1.0", "", ""),
        ("0", "1", "", "1.0", ""),
        ("1", "2", "2.0", "", ""),
        ("1", "3", "", "2.0", ""),
        ("2", "4", "", "", "2.0"),
    ]


def test_csv_keeps_what_came_before_the_middle_of_an_epoch(tmp_path):
    first = RunCSVLogger(tmp_path)
    for step in range(4):
        first.log_metrics({"epoch": 0, "train/loss": 1.0}, step)
    RunCSVLogger(tmp_path).log_metrics({"epoch": 0, "train/loss": 2.0}, 2)
    assert [row["train/loss"] for row in rows(tmp_path)] == ["1.0", "1.0", "2.0"]


def test_csv_keeps_the_last_step_before_a_validation_that_is_done_again(tmp_path):
    first = RunCSVLogger(tmp_path)
    for epoch in (0, 1):
        first.log_metrics({"epoch": epoch, "train/loss": 1.0}, epoch)
        first.log_metrics({"epoch": epoch, "val/loss": 1.0}, epoch)
    RunCSVLogger(tmp_path).log_metrics({"epoch": 0, "val/loss": 2.0}, 0)
    assert [(row["train/loss"], row["val/loss"]) for row in rows(tmp_path)] == [("1.0", ""), ("", "2.0")]


def test_csv_replaces_the_results_of_a_test_that_was_cut_short(tmp_path):
    first = RunCSVLogger(tmp_path)
    first.log_metrics({"epoch": 0, "val/loss": 1.0}, 1)
    first.log_metrics({"epoch": 1, "test/gap": 1.0}, 2)
    RunCSVLogger(tmp_path).log_metrics({"epoch": 1, "test/gap": 2.0}, 2)
    assert [row["test/gap"] for row in rows(tmp_path)] == ["", "2.0"]


def test_csv_keeps_the_training_when_it_is_only_tested(tmp_path):
    first = RunCSVLogger(tmp_path)
    first.log_metrics({"epoch": 0, "val/loss": 1.0}, 1)
    first.log_metrics({"epoch": 1, "test/gap": 1.0}, 2)
    RunCSVLogger(tmp_path).log_metrics({"epoch": 0, "test/gap": 2.0}, 0)
    assert [row["test/gap"] for row in rows(tmp_path)] == ["", "1.0", "2.0"]


def test_csv_in_a_trainer(tmp_path):
    logger = RunCSVLogger(tmp_path)
    logger.log_hyperparams({"lr": 1})
    fit(tmp_path, logger)
    assert [float(row["loss"]) for row in rows(tmp_path)] and len(rows(tmp_path)) == 2


def test_tensorboard_gets_images_and_tables(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer = make_trainer(tmp_path, TensorBoardLogger(tmp_path, name="", version=""), RunCSVLogger(tmp_path))
    log_images(trainer, "maps", [np.zeros((4, 6, 3), np.uint8)] * 2, step=3)
    log_table(trainer, "scores", ["id", "value"], [["a", 1]])
    trainer.loggers[0].experiment.flush()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert sorted(events.Tags()["images"]) == ["maps/0", "maps/1"]
    assert (events.Images("maps/0")[0].width, events.Images("maps/0")[0].step) == (6, 3)
    assert "| a | 1 |" in events.Tensors("scores/text_summary")[0].tensor_proto.string_val[0].decode()


def test_the_command_line_that_wandb_keeps_holds_no_secret(tmp_path, monkeypatch):
    words = ["train.py", "seed=1", "+logger.wandb.api_key=s3cr3t-t0ken", "+x={password:s3cr3t-t0ken}"]
    monkeypatch.setattr(sys, "argv", words)
    logger = ResilientWandbLogger(tmp_path, mode="offline")
    logger.log_hyperparams({"seed": 1})
    logger.finish()
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"+logger.wandb.api_key=***" in kept and b"s3cr3t-t0ken" not in kept and sys.argv == words
