"""Tables: long ones are sampled image by image, and W&B keeps the files that hold all of their rows."""

import json
import logging
from collections import Counter

import pytest
import wandb
from lightning import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.loggers.logger import DummyLogger

from lightning_xai.loggers import ResilientWandbLogger, RunCSVLogger, finish_loggers, media
from lightning_xai.loggers.media import log_files, log_table, sample_rows
from tests.wandb_files import wandb_records

COLUMNS = ("explainer", "id", "metric", "value")


def long_table(images, explainers=("own", "random"), metrics=("gap", "mass")):
    return [
        (name, f"image_{number}", metric, number / 10)
        for name in explainers
        for number in range(images)
        for metric in metrics
    ]


def trainer_of(tmp_path, *loggers):
    return Trainer(accelerator="cpu", logger=list(loggers), default_root_dir=tmp_path, enable_progress_bar=False)


def test_a_sample_holds_whole_images_of_all_explainers_and_metrics_in_order():
    rows = long_table(100)
    kept = sample_rows(COLUMNS, rows, 50)
    assert len(kept) == 48, "an image has 4 rows, and 13 of them are too many"
    assert set(Counter(row[1] for row in kept).values()) == {4}
    assert kept == [row for row in rows if row in kept]
    assert len({int(row[1][6:]) // 25 for row in kept}) == 4, "the images come from one end"
    assert sample_rows(COLUMNS, rows, 50) == kept != sample_rows(COLUMNS, rows, 50, seed=1)


def test_short_tables_and_tables_without_ids_or_of_one_image():
    rows = long_table(3)
    assert sample_rows(COLUMNS, rows, len(rows)) == rows
    numbers = [(number,) for number in range(100)]
    assert len(sample_rows(("step",), numbers, 7)) == 7
    assert len(sample_rows(("id",), [("a",)] * 100, 7)) == 7


@pytest.fixture
def offline(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(media, "SHOWN_ROWS", 40)
    return ResilientWandbLogger(tmp_path)


def test_a_long_table_is_sampled_and_its_files_are_kept(tmp_path, offline, caplog):
    rows = long_table(500)
    files = [tmp_path / "per_image.csv", tmp_path / "controls.csv"]
    for path in files:
        path.write_text(f"all rows of {path.stem}")
    trainer = trainer_of(tmp_path, offline)
    with caplog.at_level(logging.INFO):
        log_table(trainer, "test/per_image", COLUMNS, rows, files)
    finish_loggers(trainer.loggers)
    sentence = "The table test/per_image of W&B shows 40 of 2,000 rows; all are in per_image.csv and controls.csv."
    assert [record.getMessage() for record in caplog.records if "rows" in record.getMessage()] == [sentence]
    folder = next(tmp_path.glob("wandb/offline-run-*"))
    (path,) = folder.glob("files/media/table/test/per_image*.json")
    table = json.loads(path.read_text())
    assert len(table["data"]) == 40 and set(Counter(row[1] for row in table["data"]).values()) == {4}
    # What a later sync uploads: the names are in the run's records, and the copies stay when the originals are moved.
    sent = {file.path for record in wandb_records(next(folder.glob("*.wandb"))) for file in record.files.files}
    assert {"per_image.csv", "controls.csv"} <= sent
    for path in files:
        path.unlink()
        assert (folder / "files" / path.name).read_text() == f"all rows of {path.stem}"


def test_a_table_longer_than_what_wandb_shows_loses_no_row_in_silence(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("WANDB_MODE", "offline")
    trainer = trainer_of(tmp_path, ResilientWandbLogger(tmp_path))
    with caplog.at_level(logging.INFO):
        log_table(trainer, "scores", COLUMNS, long_table(wandb.Table.MAX_ROWS // 4 + 1))
    finish_loggers(trainer.loggers)
    table = json.loads(next(tmp_path.glob("wandb/offline-run-*/files/media/table/scores*.json")).read_text())
    assert len(table["data"]) == 2000 and "shows 2,000 of 10,004 rows." in caplog.text


def test_tensorboard_gets_the_sample_too(tmp_path, monkeypatch, caplog):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setattr(media, "SHOWN_ROWS", 40)
    trainer = trainer_of(tmp_path, TensorBoardLogger(tmp_path, name="", version=""), RunCSVLogger(tmp_path))
    with caplog.at_level(logging.INFO):
        log_table(trainer, "scores", COLUMNS, long_table(500))
    trainer.loggers[0].experiment.flush()
    text = (
        EventAccumulator(str(tmp_path)).Reload().Tensors("scores/text_summary")[0].tensor_proto.string_val[0].decode()
    )
    assert len(text.splitlines()) == 42 and "of TensorBoard shows 40 of 2,000 rows." in caplog.text


def test_nothing_is_said_where_no_logger_takes_tables(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(media, "SHOWN_ROWS", 40)
    trainer = trainer_of(tmp_path, DummyLogger())
    with caplog.at_level(logging.INFO):
        log_table(trainer, "scores", COLUMNS, long_table(500), [tmp_path / "nowhere.csv"])
        log_files(trainer, [tmp_path / "nowhere.csv"])
    assert "rows" not in caplog.text
