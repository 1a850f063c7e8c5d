"""What a sweeper optimizes: a number of the run by its name; and Optuna, where it is installed."""

import subprocess
import sys

import pytest
import yaml

from tests.running import CONFIGS, TINY, bars_npz


def call(*words, cwd):
    return subprocess.run(
        [sys.executable, CONFIGS.parent / "train.py", *words], cwd=cwd, capture_output=True, text=True, timeout=400
    )


def test_a_number_that_the_run_does_not_have_is_one_sentence_with_those_it_has(tmp_path):
    quick = (*bars_npz(tmp_path / "bars.npz").split(), *TINY, "trainer.limit_test_batches=1")
    done = call("optimized_metric=val/gpa", *quick, cwd=tmp_path)
    said = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert said.startswith("train.py: optimized_metric=val/gpa is none of the numbers of this run: target/")
    assert {"test/gap", "val/gap", "val/loss"} <= set(said.removesuffix(".").split(": ")[2].split(", "))


def test_optuna_finds_the_best_of_the_trials_that_end_well(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="Optuna is not there: pip install -e '.[sweep]'")
    quick = (*bars_npz(tmp_path / "bars.npz").split(), *TINY, "trainer.limit_test_batches=1")
    few = ("hydra.sweeper.n_trials=4", "hydra.sweeper.sampler.n_startup_trials=2")
    bad = ("explainer.baseline=choice(auto,nonsense)",)
    done = call("hparams_search=amortized_pcim", *quick, *few, *bad, cwd=tmp_path)
    (sweep,) = (tmp_path / "runs" / "sweeps").iterdir()
    ended = {int(path.parent.name) for path in sweep.glob("*/summary.json")}
    assert 0 < len(ended) < 4, "one trial at least ends well, and one fails"
    assert done.stderr.strip().splitlines()[-1] == f"train.py: {4 - len(ended)} of 4 jobs failed."
    found = yaml.safe_load((sweep / "optimization_results.yaml").read_text())
    assert set(found["best_params"]) == {"explainer.lr", "explainer.tv", "explainer.baseline"}
    assert found["best_params"]["explainer.baseline"] == "auto"
    assert 0.001 <= found["best_params"]["explainer.lr"] <= 0.03 and -1 <= found["best_value"] <= 1
