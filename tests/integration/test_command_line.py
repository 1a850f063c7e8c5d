"""train.py as a user calls it: help, typos, a sweep; a process of its own where that is what is asked about."""

import json
import re
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import yaml

from tests.running import CONFIGS, TINY, bars_npz, command_line, rows

REPO = CONFIGS.parent
GROUPS = sorted(folder.name for folder in CONFIGS.iterdir() if folder.is_dir())


def call(*words: str, cwd: Path = REPO, timeout: float = 120) -> subprocess.CompletedProcess:
    command = [sys.executable, REPO / "train.py", *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=timeout)


def test_help_lists_every_group_with_a_line_and_every_choice():
    done = command_line("--help", cwd=REPO)
    assert done.returncode == 0, done.stderr
    for group in GROUPS:
        assert re.search(rf"^ +{group} +\w.*", done.stdout, re.MULTILINE), f"no line says what {group} is"
        (listed,) = re.findall(rf"^{group}: (.*)$", done.stdout, re.MULTILINE)
        assert listed.split(", ") == sorted(path.stem for path in (CONFIGS / group).glob("[!_]*.yaml"))
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
        ("data=_base", "There is no data '_base' (available: birds, "),
        ("task=fit", "There is no task 'fit' (available: explain, global, predict, sanity, target, test)"),
        ("global.fill=black", "'global.fill' is a key of task=global: add that to the command line."),
        ("experiment=demmo", "There is no experiment 'demmo'; did you mean 'demo'?"),
        ("ask_=label", "Unknown key 'ask_': did you mean 'ask'?"),
    ],
)
def test_typos_elsewhere_name_the_nearest(word, sentence):
    done = command_line(word, cwd=REPO)
    assert done.returncode == 1 and done.stderr.startswith(f"train.py: {sentence}")


def sweep_line() -> list[str]:
    """The words of the README's sweep."""
    lines = (REPO / "README.md").read_text(encoding="utf-8").splitlines()
    (line,) = [line for line in lines if line.startswith("python train.py -m ")]
    return line.partition("#")[0].split()[2:]


def test_the_sweep_of_the_readme_makes_a_folder_a_run(tmp_path):
    words = sweep_line()
    assert words == ["-m", "explainer=pcim,random_map", "seed=0,1,2"]
    # A list and a path with slashes, as any sweep has them, name no folder.
    quick = (*bars_npz(tmp_path / "bars.npz").split(), *TINY, "trainer.limit_test_batches=1", "data.limit=8")
    done = command_line(*words, *quick, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    (sweep,) = (tmp_path / "runs" / "sweeps").iterdir()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", sweep.name)
    assert sorted(path.name for path in sweep.iterdir() if path.is_dir()) == ["0", "1", "2", "3", "4", "5"]
    for job, (explainer, seed) in enumerate(product(("PCIM", "RandomMap"), (0, 1, 2))):
        folder = sweep / str(job)
        kept = yaml.safe_load((folder / "config.yaml").read_text())
        assert kept["seed"] == seed and kept["explainer"]["_target_"] == f"lightning_xai.explainers.{explainer}"
        assert kept["run_dir"] == str(folder) and f"seed={seed}" in (folder / ".hydra" / "overrides.yaml").read_text()
        assert rows(folder / "per_image.csv") and (folder / "summary.json").is_file()
        assert (folder / "train.log").read_text().splitlines()[0] == f"Run folder: {folder}"
        assert f"seed {seed}" in (folder / "train.log").read_text()
    assert len(list((tmp_path / "runs" / "targets").glob("*.ckpt"))) == 3, "each seed trains a target of its own"
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"sweeps", "targets"}
    table = rows(sweep / "sweep.csv")
    assert [(row["explainer"], row["runs"]) for row in table] == [("pcim", "3"), ("random_map", "3")]
    gaps = [json.loads((sweep / str(job) / "job.json").read_text())["results"]["test/gap"] for job in range(3)]
    assert float(table[0]["test/gap"]) == pytest.approx(sum(gaps) / 3)
    assert done.stdout.rstrip().splitlines()[-1] == f"Table        {sweep / 'sweep.csv'}"


def test_a_sweep_goes_on_after_a_job_that_fails_and_says_so(tmp_path):
    quick = (*bars_npz(tmp_path / "bars.npz").split(), *TINY, "explainer=random_map", "trainer.limit_test_batches=1")
    folders = (f"hydra.sweep.dir={tmp_path}/sweep", f"target_dir={tmp_path}/targets")
    jobs = ("-m", "data.on_bad_image=stop,raise", "callbacks.maps.num_images=1,2")
    done = command_line(*jobs, *quick, *folders, cwd=tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr[-3000:]
    assert [path.parent.name for path in sorted((tmp_path / "sweep").glob("*/summary.json"))] == ["2", "3"]
    said = [line for line in done.stderr.splitlines() if line.startswith("train.py: ")]
    assert len(said) == 3 and said[-1] == "train.py: 2 of 4 jobs failed."
    assert [line.rpartition("(job ")[2] for line in said[:2]] == ["0 of the sweep)", "1 of the sweep)"]
    failed = [line for line in done.stdout.splitlines() if line.startswith("Job ")]
    assert [line.partition(" failed (")[0] for line in failed] == ["Job 0", "Job 1"] and "raise" in failed[0]


@pytest.mark.parametrize(
    ("plugin", "words"),
    [
        ("hydra_joblib_launcher", ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")),
        ("hydra_submitit_launcher", ("hydra/launcher=submitit_local",)),
    ],
)
def test_jobs_in_processes_of_their_own_end_with_the_same_table(tmp_path, plugin, words):
    pytest.importorskip(f"hydra_plugins.{plugin}", reason="the launchers are not there: pip install -e '.[sweep]'")
    quick = (*bars_npz(tmp_path / "bars.npz").split(), *TINY, "explainer=random_map", "trainer.limit_test_batches=1")
    done = call("-m", *words, "callbacks.maps.num_images=1,-3", *quick, cwd=tmp_path, timeout=400)
    assert done.returncode == 1 and done.stderr.rstrip().endswith("train.py: 1 of 2 jobs failed."), done.stderr[-2000:]
    (sweep,) = (tmp_path / "runs" / "sweeps").iterdir()
    good, bad = rows(sweep / "sweep.csv")
    assert good["test/gap"] and not bad["test/gap"] and (good["failed jobs"], bad["failed jobs"]) == ("", "1")
    assert "num_images" in done.stdout.rpartition("Job 1 failed")[2]


def test_a_plugin_that_is_not_installed_is_one_sentence(tmp_path):
    done = call("-m", "hydra/launcher=jobli", "seed=0,1", cwd=tmp_path)
    assert done.returncode == 1 and done.stderr.startswith("train.py: There is no hydra/launcher 'jobli'; did you")


def test_runs_from_the_shell_have_a_folder_each_and_end_with_the_table(tmp_path):
    quick = (*bars_npz(tmp_path / "bars.npz").split(), *TINY, "trainer.limit_test_batches=1")
    said = []
    for start in (call, command_line):
        done = start("explainer=center_prior", *quick, cwd=tmp_path)
        assert done.returncode == 0, done.stderr[-2000:]
        said.append(done.stdout.strip().splitlines())
    parent = tmp_path / "runs" / "center_prior_npz"
    folders = sorted(path for path in parent.iterdir() if not path.is_symlink())
    assert len(folders) == 2 and (parent / "latest").resolve() == folders[1].resolve()
    for folder, lines in zip(folders, said, strict=True):
        assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_0(_2)?", folder.name)
        assert {path.name for path in folder.iterdir()} == {
            *("config.yaml", ".hydra", "train.log", "metrics.csv", "per_image.csv", "controls.csv", "summary.json"),
            *("maps", "target"),
        } - ({"target"} if folder == folders[1] else set())
        assert lines[0] == f"Run folder: {folder}" == (folder / "train.log").read_text().splitlines()[0]
        assert [line.split()[0] for line in lines[-3:]] == ["Figures", "Per", "Summary"]
    assert (folders[0] / ".hydra" / "config.yaml").is_file() and list((tmp_path / "runs" / "targets").glob("*.ckpt"))


def test_a_named_folder_holds_everything_and_a_checkpoint_of_it_is_enough(tmp_path):
    """Train, test and go on in three lines, each without the words of the one before."""
    quick = (*bars_npz(tmp_path / "bars.npz").split(), *TINY, "trainer.limit_test_batches=1", "explainer.tv=0.5")
    lines = (
        ("run_dir=runs/mine", *quick),
        ("task=test", "ckpt_path=runs/mine/checkpoints/best.ckpt", "metrics=two_fills"),
        ("run_dir=runs/mine", "ckpt_path=last", "trainer.max_epochs=2"),
    )
    for words in lines:
        done = command_line(*words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr[-2000:]
    mine = tmp_path / "runs" / "mine"
    assert {".hydra", "train.log", "config.yaml", "checkpoints"} <= {path.name for path in mine.iterdir()}
    assert not (mine / "earlier").exists() and not (mine / ".lock").exists()
    assert [row["epoch"] for row in rows(mine / "metrics.csv") if row["val/loss"]] == ["0", "1"]
    (tested,) = (tmp_path / "runs" / "amortized_pcim_npz").iterdir()
    assert "gap_median" in (tested / "summary.json").read_text(), "a test has a folder of its own, and no link"
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"mine", "targets", "amortized_pcim_npz"}
    typo = command_line(*lines[1][:2], "explainer.weigth_decay=3", cwd=tmp_path)
    sentence = "train.py: Unknown key 'explainer.weigth_decay': did you mean 'explainer.weight_decay'?"
    assert typo.stderr.strip() == sentence


def test_a_folder_in_use_is_one_sentence(tmp_path):
    (tmp_path / ".lock").write_text(json.dumps({"host": "far-away", "pid": 1, "started": "x", "since": "noon"}))
    done = command_line(*TINY, f"run_dir={tmp_path}", cwd=REPO)
    assert done.returncode == 1 and done.stdout == ""
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith(f"train.py: run_dir={tmp_path} is being written by process 1 on far-away since noon; ")
    assert [path.name for path in tmp_path.iterdir()] == [".lock"], "nothing was written beside it"


def test_bad_input_is_one_sentence_from_the_shell_too(tmp_path):
    done = command_line(*TINY, "data=folder", "data.root=nowhere", f"run_dir={tmp_path}", cwd=REPO)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("train.py: ") and "nowhere" in done.stderr
