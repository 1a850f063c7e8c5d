"""train.py on two ranks: every image once, the values of one process, files by rank zero alone."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import train
from tests.running import CONFIGS, bars_npz, configure, rows, tiny

TEST_IMAGES = 9
LIGHTNING = (sys.executable, CONFIGS.parent / "train.py")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", LIGHTNING[1])


@pytest.fixture(scope="module")
def bars(tmp_path_factory):
    return bars_npz(tmp_path_factory.mktemp("bars") / "bars.npz", counts=(16, 7, TEST_IMAGES)).split()


def alone():
    """The environment without what an earlier test's trainer left there."""
    ranks = ("WORLD_SIZE", "LOCAL_RANK", "NODE_RANK", "RANK", "MASTER_ADDR", "MASTER_PORT")
    return {name: value for name, value in os.environ.items() if name not in ranks}


def started(*words, cwd):
    """What a command line left that ends well."""
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=240, env=alone())
    assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def two_ranks(bars, tmp_path_factory):
    """Folder and output of a run by two processes, as the command line starts them; the folder is a new one."""
    place = tmp_path_factory.mktemp("ranks")
    given = [word for word in tiny(place / "x", *bars) if not word.startswith("run_dir=")]
    words = (*given, "trainer=ddp", "trainer.devices=2", "trainer.max_epochs=2")
    done = started(*LIGHTNING, *words, cwd=place)
    (config,) = [path for path in (place / "runs").rglob("config.yaml") if path.parent.name != ".hydra"]
    return config.parent, done


@pytest.fixture(scope="module")
def one_process(bars, two_ranks):
    """A test of the same checkpoint in this process: its folder and what it returned."""
    folder = two_ranks[0].parents[2] / "alone"
    checkpoint = two_ranks[0] / "checkpoints" / "best.ckpt"
    return folder, train.main(configure(folder, *bars, "task=test", f"ckpt_path={checkpoint}"))


def test_there_were_two_ranks(two_ranks):
    assert "MEMBER: 2/2" in two_ranks[1].stderr


@pytest.mark.parametrize("name", ["per_image.csv", "controls.csv"])
def test_every_image_is_scored_once_and_as_in_one_process(two_ranks, one_process, name):
    def values(folder):
        table = rows(folder / name)
        keys = [(row.get("explainer"), row["metric"], row["id"], row["target"]) for row in table]
        assert len(set(keys)) == len(keys), "an image was counted twice"
        return dict(zip(keys, [float(row["value"] or "nan") for row in table], strict=True))

    shared, alone = values(two_ranks[0]), values(one_process[0])
    assert {key[2] for key in shared} == {f"test_{number:05d}" for number in range(TEST_IMAGES)}
    assert shared == pytest.approx(alone, abs=1e-5, nan_ok=True)
    assert np.std([value for key, value in shared.items() if key[1] == "relevance_mass"]) > 0


def test_the_means_are_those_of_all_images(two_ranks, one_process):
    (line,) = [line for line in two_ranks[1].stdout.splitlines() if line.startswith("AmortizedPCIM  ")]
    names = sorted(name for name in one_process[1] if name.startswith("test/"))
    assert line.split()[1:] == [f"{one_process[1][name]:.3f}" for name in names]
    (row,) = [row for row in rows(two_ranks[0] / "metrics.csv") if row["test/gap"]]
    for name in names:
        assert float(row[name]) == pytest.approx(one_process[1][name], abs=1e-5)


def test_files_are_written_once(two_ranks):
    folder, done = two_ranks
    made = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert not [name for name in made if name.startswith("earlier")], "the second rank moved the first one's files"
    assert {name for name in made if name.endswith((".ckpt", ".png", ".csv", ".json"))} == {
        *("checkpoints/best.ckpt", "checkpoints/last.ckpt", "target/best.ckpt"),
        *("maps/val_epoch000.png", "maps/val_epoch001.png", "maps/test.png"),
        *("metrics.csv", "per_image.csv", "controls.csv", "summary.json"),
    }
    assert len(list((folder.parents[2] / "targets").iterdir())) == 2, "one target with its quality"
    assert done.stdout.count("Per image ") == 1, "both ranks printed the table"
    table = rows(folder / "metrics.csv")
    assert [row["epoch"] for row in table if row["val/loss"]] == ["0", "1"]


def test_training_was_shared(two_ranks):
    kept = torch.load(two_ranks[0] / "checkpoints" / "last.ckpt", weights_only=True)
    assert kept["global_step"] == 2, "16 images on two ranks in batches of 8 are one step an epoch"
    assert all(key.startswith("net.") for key in kept["state_dict"])


# ------------------------------------------------------------------ one folder for all ranks


def check_new_folder(folder, place):
    """It is the only one, and the latest."""
    (parent,) = (place / "runs").iterdir()
    assert sorted(path.name for path in parent.iterdir()) == sorted([folder.name, "latest"])


def check_ranks(folders, done):
    """Both ranks have said that they write in each of the folders, and have left none locked."""
    assert done.stdout.count("Run folder: ") == 2 * len(folders), "each rank says where it writes"
    assert not [folder for folder in folders if (folder / ".lock").exists()]


def test_all_ranks_that_lightning_starts_write_into_one_new_folder(two_ranks):
    folder, done = two_ranks
    check_ranks([folder], done)
    check_new_folder(folder, folder.parents[2])


#: Each job trains a target of its own, on rank zero alone, also where the job before left a process group.
SWEEP = ("-m", "seed=0,1")


@pytest.mark.parametrize(("start", "words"), [(TORCHRUN, ()), (LIGHTNING, SWEEP)], ids=["torchrun", "sweep"])
def test_all_ranks_write_into_one_new_folder(bars, tmp_path, start, words):
    """``predict`` tells: every rank writes the maps of its own images."""
    given = [word for word in tiny(tmp_path / "x", *bars) if not word.startswith("run_dir=")]
    quick = ("trainer=ddp", "trainer.devices=2", "task=predict", "explainer=center_prior")
    done = started(*start, *words, *given, *quick, cwd=tmp_path)
    folders = [path.parent for path in (tmp_path / "runs").rglob("config.yaml") if path.parent.name != ".hydra"]
    assert len(folders) == (2 if words else 1), folders
    check_ranks(folders, done)
    for folder in folders:
        assert len(list((folder / "predictions").glob("*.npy"))) == TEST_IMAGES
    if not words:
        check_new_folder(folders[0], tmp_path)


def test_a_run_of_several_ranks_is_tested_with_its_own_config_in_a_named_folder(two_ranks, tmp_path):
    """Also the ranks that Lightning starts take the run's config."""
    words = ("task=test", f"ckpt_path={two_ranks[0]}/checkpoints/best.ckpt", "run_dir=runs/mine")
    done = started(*LIGHTNING, *words, cwd=tmp_path)
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["mine"]
    folder = tmp_path / "runs" / "mine"
    check_ranks([folder], done)
    assert (folder / "per_image.csv").read_text() == (two_ranks[0] / "per_image.csv").read_text()
    assert "MEMBER: 2/2" in done.stderr
