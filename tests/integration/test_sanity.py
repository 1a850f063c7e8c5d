"""task=sanity: what main returns and leaves behind, and the exit status that a shell sees."""

import json
import math

import pytest
import torch
from lightning import Trainer

import train
from tests.running import bars_npz, command_line, configure, tiny

NAMES = ["alive", "head", "cascade_2", "whole_model", "random_labels", "other_image"]
QUICK = ("task=sanity", "sanity.stages=3", "sanity.label_steps=5", "target_trainer.trainer.max_epochs=6")


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def bars(shared):
    return [*bars_npz(shared / "bars.npz", counts=(64, 8, 9)).split(), *QUICK]


def table(text):
    """The verdict of every check, as printed."""
    lines = text.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("sanity "))
    return {line.split()[0]: line.split()[-1] for line in lines[start + 1 : start + 1 + len(NAMES)]}


def test_a_gradient_method_passes(shared, bars, capsys):
    folder = shared / "gradients"
    result = train.main(configure(folder, *bars, "explainer=captum_integrated_gradients"))
    assert result["sanity/passed"] == 1.0 and "target/accuracy" in result
    assert all(type(value) in (int, float) and math.isfinite(value) for value in result.values())
    shown = capsys.readouterr().out
    assert list(table(shown)) == NAMES and set(table(shown).values()) == {"pass", "-"}
    assert shown.splitlines()[-2:] == ["CaptumExplainer passes the sanity checks.", f"Sanity {folder}/sanity.json"]
    kept = json.loads((folder / "sanity.json").read_text())
    assert kept["passed"] is True and [check["name"] for check in kept["checks"]] == NAMES
    for check in kept["checks"]:
        assert check["values"] == {name: result[f"sanity/{check['name']}/{name}"] for name in check["values"]}
    assert "label_steps: 5" in (folder / "config.yaml").read_text()
    assert not (folder / "metrics.csv").exists() and not (folder / "checkpoints").exists()


def test_earlier_results_are_moved_aside(shared, bars):
    folder = shared / "twice"
    for _ in range(2):
        train.main(configure(folder, *bars, "explainer=center_prior", "sanity.images=2"))
    (aside,) = (folder / "earlier").iterdir()
    assert (aside / "sanity.json").read_text() == (folder / "sanity.json").read_text()


def test_a_learned_explainer_is_trained_around_every_target(shared, bars, monkeypatch):
    fits = []
    fit = Trainer.fit

    def noted(self, module, *args, **kwargs):
        fits.append((module.target.fingerprint(), self.max_epochs, self.loggers, self.checkpoint_callback))
        fit(self, module, *args, **kwargs)

    plain = [word for word in bars if not word.startswith(("task=", "sanity."))]
    train.main(configure(shared / "first", *plain, "task=target"))
    monkeypatch.setattr("lightning.Trainer.fit", noted)
    result = train.main(configure(shared / "amortized", *bars, "explainer=amortized_pcim"))
    assert len({mark for mark, *_ in fits}) == len(fits) == 5
    assert all(rest == [1, [], None] for _, *rest in fits)
    assert result["sanity/alive/alive"] == 1.0
    assert all(abs(result[f"sanity/{name}/spearman"]) < 1 for name in NAMES[1:])
    assert not (shared / "amortized" / "checkpoints").exists()


def test_a_checkpoint_is_refused(shared, bars, tmp_path):
    torch.save({"state_dict": {}, "pytorch-lightning_version": "2.6.5"}, tmp_path / "some.ckpt")
    with pytest.raises(ValueError, match="task=sanity trains the explainer anew around every target; leave ckpt_path"):
        train.main(configure(shared / "checkpoint", *bars, f"ckpt_path={tmp_path}/some.ckpt"))


def test_a_model_without_layers_is_refused(shared, bars, tmp_path):
    torch.jit.script(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(256, 2))).save(tmp_path / "model.pt")
    config = configure(shared / "scripted", *bars)
    config.target = {
        "_target_": "lightning_xai.targets.ClassifierTarget",
        "model": None,
        "weights": str(tmp_path / "model.pt"),
        "allow_code": True,
    }
    with pytest.raises(ValueError, match="layers cannot be randomized"):
        train.main(config)


def test_the_shell_sees_a_failure_and_its_table(shared, bars):
    done = command_line(*tiny(shared / "edges", *bars, "explainer=edge_map"), cwd=shared)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr[-2000:]
    verdicts = table(done.stdout)
    assert {name for name, verdict in verdicts.items() if verdict == "FAIL"} >= {"whole_model", "random_labels"}
    assert "EdgeMap FAILS the sanity checks." in done.stdout
    assert json.loads((shared / "edges" / "sanity.json").read_text())["passed"] is False


def test_a_sweep_goes_on_after_a_failure(shared, bars):
    words = [word for word in tiny(shared / "sweep", *bars) if not word.startswith("run_dir")]
    places = (f"hydra.sweep.dir={shared}/sweep", "hydra.sweep.subdir=${hydra.job.num}", "sanity.images=4")
    done = command_line("-m", "explainer=edge_map,captum_input_x_gradient", *words, *places, cwd=shared)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr[-2000:]
    passed = [json.loads((shared / "sweep" / str(job) / "sanity.json").read_text())["passed"] for job in (0, 1)]
    assert passed == [False, True]


def test_the_shell_sees_success(shared, bars):
    done = command_line(*tiny(shared / "fine", *bars, "explainer=captum_integrated_gradients"), cwd=shared)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "CaptumExplainer passes the sanity checks." in done.stdout
