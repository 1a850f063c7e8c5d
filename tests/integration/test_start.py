"""What a command imports: one that trains nothing answers without PyTorch, and a run takes only what it uses."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.running import CONFIGS, TINY, bars_npz

#: Packages that take from a tenth of a second to seconds.
HEAVY = {"torch", "lightning", "monai", "torchmetrics", "numpy", "nibabel", "matplotlib", "scipy", "captum", "wandb"}


def start(*words: str, cwd: Path, **variables: str) -> tuple[int, str, set[str]]:
    """Run a command: its exit status, what it printed, and the packages that it imported."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", CONFIGS.parent / "train.py", *words],
        cwd=cwd, env={**os.environ, **variables}, capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    modules = re.findall(r"^import time:.*\| +([\w.]+)$", done.stderr, re.MULTILINE)
    said = done.stdout + re.sub(r"^import time:.*\n", "", done.stderr, flags=re.MULTILINE)
    return done.returncode, said, {name.partition(".")[0] for name in modules}


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ("--help", "explainer"),
        ("explainer=pcmi", "did you mean 'pcim'?"),
        ("trainer.max_epoch=3", "did you mean 'trainer.max_epochs'?"),
        ("-m explainer=pcim,pcmi seed=0,1", "did you mean 'pcim'?"),
        ("-sc query=bash", "explainer=hires_cam"),
        ("--cfg job", "max_epochs: 8"),
    ],
)
def test_a_command_that_trains_nothing_answers_without_pytorch(tmp_path, words, answer):
    line = "train.py explainer=hires"  # what the shell would complete
    _, said, packages = start(*words.split(), cwd=tmp_path, COMP_LINE=line, COMP_POINT=str(len(line)))
    assert answer in said
    assert "hydra" in packages and not packages & HEAVY
    assert not list(tmp_path.rglob("*")), "nothing is written"


def test_a_run_imports_neither_captum_nor_wandb_unless_it_uses_them(tmp_path):
    quick = (*bars_npz(tmp_path / "bars.npz").split(), *TINY, "trainer.limit_test_batches=1", "explainer=center_prior")
    status, said, packages = start(*quick, cwd=tmp_path)
    assert status == 0 and "Per image" in said
    assert {"torch", "lightning", "monai"} <= packages and not packages & {"captum", "wandb"}
