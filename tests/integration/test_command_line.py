"""train.py as a user calls it: help, typos, a sweep."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.running import CONFIGS, TINY, bars_npz, rows

REPO = CONFIGS.parent
GROUPS = sorted(folder.name for folder in CONFIGS.iterdir() if folder.is_dir())


def call(*words: str, cwd: Path = REPO) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, REPO / "train.py", *words], cwd=cwd, capture_output=True, text=True, timeout=120
    )


def test_help_lists_every_group_with_a_line_and_every_choice():
    done = call("--help")
    assert done.returncode == 0, done.stderr
    for group in GROUPS:
        assert re.search(rf"^ +{group} +\w.*", done.stdout, re.MULTILINE), f"no line says what {group} is"
        (listed,) = re.findall(rf"^{group}: (.*)$", done.stdout, re.MULTILINE)
        assert listed.split(", ") == sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))
    assert "$" not in done.stdout, "a placeholder was not filled in"
    for key in yaml.safe_load((CONFIGS / "train.yaml").read_text()):
        if key not in ("defaults", "hydra", "data_info", "name"):
            assert re.search(rf"\b{key}\b", done.stdout), f"the help does not name the key {key}"


def test_a_typo_is_one_sentence_and_a_status():
    done = call("trainer.max_epoch=3", "explainer=pcim")
    assert done.returncode == 1 and done.stdout == ""
    (line,) = [line for line in done.stderr.splitlines() if line.strip()]
    assert line == "train.py: Unknown key 'trainer.max_epoch': did you mean 'trainer.max_epochs'?"


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("explaner=pcim", "Unknown group 'explaner'; did you mean 'explainer'?"),
        ("explainer=pcmi", "There is no explainer 'pcmi'; did you mean 'pcim'? (available: ablation_cam, "),
        ("experiment=demmo", "There is no experiment 'demmo'; did you mean 'demo'?"),
        ("ask_=label", "Unknown key 'ask_': did you mean 'ask'?"),
    ],
)
def test_typos_elsewhere_name_the_nearest(word, sentence, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", word])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(REPO / "train.py"), run_name="__main__")
    assert str(stop.value.code).startswith(f"train.py: {sentence}")


def test_a_sweep_makes_a_folder_a_run(tmp_path):
    quick = (*bars_npz(tmp_path / "bars.npz").split(), *TINY, "explainer=random_map", "trainer.limit_test_batches=1")
    folders = (f"hydra.sweep.dir={tmp_path}/sweep", f"target_dir={tmp_path}/targets")
    # The words that all runs fraction would make the folders' names too long.
    named = "hydra.sweep.subdir=${hydra.job.num}_seed_${seed}"
    done = call("-m", "seed=0,1", *quick, *folders, named, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    made = sorted(path for path in (tmp_path / "sweep").iterdir() if path.is_dir())
    assert [path.name for path in made] == ["0_seed_0", "1_seed_1"]
    for seed, folder in enumerate(made):
        assert yaml.safe_load((folder / "config.yaml").read_text())["seed"] == seed
        assert f"seed={seed}" in (folder / ".hydra" / "overrides.yaml").read_text()
        assert rows(folder / "per_image.csv") and (folder / "summary.json").is_file()
        assert "seed %d" % seed in (folder / "train.log").read_text()  # noqa: UP031
    assert len(list((tmp_path / "targets").glob("*.ckpt"))) == 2, "each seed trains a target of its own"
    assert not list(tmp_path.glob("runs")), "something was written outside the run folders"


def test_a_run_from_the_shell_lands_in_its_named_folder_and_ends_with_the_table(tmp_path):
    quick = (*bars_npz(tmp_path / "bars.npz").split(), *TINY, "trainer.limit_test_batches=1")
    done = call("explainer=center_prior", *quick, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    folder = tmp_path / "runs" / "center_prior_npz"
    assert {"config.yaml", ".hydra", "train.log", "metrics.csv", "per_image.csv", "summary.json", "maps"} <= {
        path.name for path in folder.iterdir()
    }
    assert (folder / ".hydra" / "config.yaml").is_file() and list((tmp_path / "runs" / "targets").glob("*.ckpt"))
    places = [line.split()[0] for line in done.stdout.strip().splitlines()[-3:]]
    assert places == ["Pictures", "Per", "Summary"]


def test_bad_input_is_one_sentence_from_the_shell_too(tmp_path):
    done = call(*TINY, "data=folder", "data.root=nowhere", f"run_dir={tmp_path}", "logger=none")
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("train.py: ") and "nowhere" in done.stderr
