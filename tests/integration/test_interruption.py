"""Runs of train.py that end before their end, and go on."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

import train
from lightning_xai.callbacks import LastCheckpoint
from tests.running import CONFIGS, bars_npz, configure, on_top, rows, tiny

EPOCHS = "trainer.max_epochs=3"


class Killed(BaseException):
    """As a kill: nothing that runs at an ordinary end runs."""


@pytest.fixture(scope="module")
def bars(tmp_path_factory):
    return bars_npz(tmp_path_factory.mktemp("bars") / "bars.npz", counts=(24, 8, 9)).split()


@pytest.fixture
def kill_after_epoch(monkeypatch):
    """A function that lets the next training be killed after an epoch, that of the target or that of the explainer."""

    def arm(folder, epoch):
        save = LastCheckpoint.on_train_epoch_end

        def save_and_die(self, trainer, module):
            save(self, trainer, module)
            if self.path.parent.name == folder and trainer.current_epoch == epoch:
                monkeypatch.setattr(LastCheckpoint, "on_train_epoch_end", save)
                raise Killed

        monkeypatch.setattr(LastCheckpoint, "on_train_epoch_end", save_and_die)

    return arm


def weights(path):
    return torch.load(path, weights_only=True)["state_dict"]


def assert_equal(one, two):
    assert one.keys() == two.keys() and all(torch.equal(value, two[name]) for name, value in one.items())


def test_a_target_that_was_half_trained_goes_on(tmp_path, bars, kill_after_epoch):
    words = (*bars, "task=target", "target_trainer.trainer.max_epochs=4")
    train.main(configure(tmp_path / "whole" / "run", *words))
    kill_after_epoch("target", 1)
    with pytest.raises(Killed):
        train.main(configure(tmp_path / "killed" / "run", *words))
    assert not list((tmp_path / "killed").glob("targets/*.ckpt"))
    seen = []
    kill_after_epoch("target", 0)  # which does not come again
    train.main(configure(tmp_path / "killed" / "run", *words, "ckpt_path=last"))
    for name in ("ckpt", "json"):
        (one,), (two,) = (list((tmp_path / place).glob(f"targets/*.{name}")) for place in ("whole", "killed"))
        seen.append((one, two))
        assert one.name == two.name
    assert_equal(*map(weights, seen[0]))
    assert seen[1][0].read_text() == seen[1][1].read_text()


def test_global_maps_are_not_made_of_a_half_trained_explainer(tmp_path, bars, kill_after_epoch):
    words = (*bars, "task=global", EPOCHS, "global.samples=20", "global.random_orders=1", "global.fractions=[0,0.5,1]")
    train.main(configure(tmp_path / "whole", *words))
    kill_after_epoch("checkpoints", 0)
    with pytest.raises(Killed):
        train.main(configure(tmp_path / "killed", *words))
    train.main(on_top(tmp_path / "killed", "ckpt_path=last"))
    assert_equal(*(weights(tmp_path / place / "checkpoints" / "last.ckpt") for place in ("whole", "killed")))
    one, two = (json.loads((tmp_path / place / "global.json").read_text()) for place in ("whole", "killed"))
    assert str(one).replace("whole", "") == str(two).replace("killed", "")


def test_a_job_that_slurm_queues_again_goes_on_with_the_same_command(tmp_path, bars):
    """And moves nothing away, in a folder that nobody named; it ends with the tables of an uninterrupted one."""
    many = (*bars, "trainer.max_epochs=30", "callbacks.faithfulness.val_batches=0", "callbacks.maps.every_n_epochs=100")
    train.main(configure(tmp_path / "whole", *many))
    (tmp_path / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    (tmp_path / "scontrol").chmod(0o755)
    slurm = {"SLURM_JOB_ID": "77", "SLURM_NTASKS": "1", "SLURM_JOB_NAME": "train", "SLURM_PROCID": "0"}
    slurm |= {"SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_NODELIST": "localhost"}
    environment = os.environ | slurm | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    given = [word for word in tiny(tmp_path / "x", *many) if not word.startswith("run_dir=")]
    command = [sys.executable, str(CONFIGS.parent / "train.py"), *given, f"paths.root={tmp_path / 'runs'}"]

    first = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 200
    while first.poll() is None and time.monotonic() < end:
        if any("val/loss" in path.read_text() for path in tmp_path.glob("runs/tiny/*/metrics.csv")):
            first.send_signal(signal.SIGUSR1)
            break
        time.sleep(0.05)
    assert first.wait(100) == 128 + signal.SIGUSR1, first.stderr.read()[-3000:]
    assert (tmp_path / "asked").read_text() == "requeue 77\n"
    (run,) = [path for path in (tmp_path / "runs" / "tiny").iterdir() if not path.is_symlink()]
    assert run.name.startswith("slurm_77_") and not (run / "per_image.csv").exists(), "it had not ended"

    second = environment | {"SLURM_RESTART_COUNT": "1"}
    again = subprocess.run(command, cwd=tmp_path, env=second, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stderr[-3000:]
    assert not (run / "earlier").exists() and len(list((tmp_path / "runs" / "tiny").glob("slurm*"))) == 1
    for name in ("metrics.csv", "per_image.csv"):
        assert (run / name).read_text() == (tmp_path / "whole" / name).read_text(), name
    assert [int(row["epoch"]) for row in rows(run / "metrics.csv") if row["val/loss"]] == list(range(30))
