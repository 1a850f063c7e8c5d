"""predictions.csv: what a row says, and what a kill or another rank leaves of it."""

import csv
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lightning_xai import ClassifierTarget
from lightning_xai.callbacks import PredictionTable, SaveMaps
from lightning_xai.callbacks.prediction_table import COLUMNS, finished_rows, join_tables
from lightning_xai.structures import Explanation, Query
from tests.running import rows

HEADER = ",".join(COLUMNS) + "\n"


def trainer_in(folder, rank=0):
    return SimpleNamespace(
        default_root_dir=folder, global_rank=rank, is_global_zero=rank == 0,
        strategy=SimpleNamespace(barrier=lambda: None),
    )  # fmt: skip


def test_a_row_says_class_probability_and_that_of_an_image_of_zeros(tmp_path):
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
    target = ClassifierTarget(model, class_names=["cat", "dog, big", "emu"])
    images, classes = torch.rand(2, 1, 4, 4), torch.tensor([[2, 1], [0, 1]])
    found = Explanation(torch.zeros(2, 2, 4, 4), Query(classes), target.logits(images).detach())
    trainer, table = trainer_in(tmp_path), PredictionTable(SaveMaps())
    (tmp_path / "predictions").mkdir()
    table.on_predict_start(trainer, None)
    table.on_predict_batch_end(trainer, SimpleNamespace(target=target), found, {"image": images, "id": ["x/1", "y"]}, 0)
    first, second, third, _ = rows(tmp_path / "predictions" / "predictions.csv")
    assert [first[key] for key in ("id", "query", "queries", "class", "map")] == ["x/1", "0", "2", "emu", "x_1.npy"]
    assert (second["class"], second["map"], third["id"]) == ("dog, big", "x_1.npy", "y")
    with torch.no_grad():
        p, blank = model(images).softmax(1), model(torch.zeros(1, 1, 4, 4)).softmax(1)
    assert float(second["probability"]) == pytest.approx(float(p[0, 1]), abs=1e-6)
    assert float(second["p_blank"]) == pytest.approx(float(blank[0, 1]), abs=1e-6)


def write(folder, name, *entries, end="\n"):
    """A table of ``(id, query, queries)``, with the maps on disk."""
    for image_id, *_ in entries:
        np.save(folder / f"{image_id}.npy", np.zeros(1))
    lines = [f"{image_id},{query},{queries},cat,0.5,0.5,{image_id}.npy" for image_id, query, queries in entries]
    (folder / name).write_text(HEADER + "\n".join(lines) + end)


@pytest.mark.parametrize("torn", ["c,0,1,cat,0.5", "c,0,1,cat,0.5,0.5,c.np", 'c,"0', ""])
def test_a_torn_row_is_repaired_and_its_image_is_not_done(tmp_path, torn):
    write(tmp_path, "predictions.csv", ("a", 0, 1), ("b", 0, 1), end="\n" + torn)
    np.save(tmp_path / "c.npy", np.zeros(1))
    assert [row["id"] for row in finished_rows(tmp_path)] == ["a", "b"]
    join_tables(tmp_path)
    assert [row["id"] for row in rows(tmp_path / "predictions.csv")] == ["a", "b"]
    assert (tmp_path / "predictions.csv").read_bytes().endswith(b"\n")


def test_an_image_is_done_when_all_its_rows_and_its_map_are_there(tmp_path):
    write(tmp_path, "predictions.csv", ("a", 0, 2), ("a", 1, 2), ("gone", 0, 1), ("half", 0, 2))
    (tmp_path / "gone.npy").unlink()
    assert [row["id"] for row in finished_rows(tmp_path)] == ["a", "a"]
    join_tables(tmp_path)
    assert [row["id"] for row in rows(tmp_path / "predictions.csv")] == ["a", "a"], "nothing is listed twice later"


def test_the_tables_of_all_ranks_become_one_without_the_images_that_fill_a_batch(tmp_path):
    write(tmp_path, "predictions.csv", ("a", 0, 1), ("c", 0, 1))
    write(tmp_path, "predictions.rank1.csv", ("b", 0, 1), ("a", 0, 1))
    join_tables(tmp_path)
    assert sorted(row["id"] for row in rows(tmp_path / "predictions.csv")) == ["a", "b", "c"]
    assert not list(tmp_path.glob("*rank*"))


def test_ids_with_commas_quotes_and_lines(tmp_path):
    odd = 'a "b",\nc'
    with (tmp_path / "predictions.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([COLUMNS, (odd, 0, 1, "cat", 0.5, 0.5, "m.npy"), ("d", 0, 1, "cat", 0.5, 0.5, "m.npy")])
    np.save(tmp_path / "m.npy", np.zeros(1))
    assert [row["id"] for row in finished_rows(tmp_path)] == [odd, "d"]
