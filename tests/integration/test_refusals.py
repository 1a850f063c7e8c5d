"""What train.py does not go on with: weights that are code, and numbers that are none."""

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from torch import nn

import train
from lightning_xai.functional.finite import NotFiniteError
from tests.running import CONFIGS, bars_npz, command_line, configure, tiny


@pytest.fixture(scope="module")
def bars(tmp_path_factory):
    return bars_npz(tmp_path_factory.mktemp("bars") / "bars.npz").split()


class Scaled(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.head, self.factor = nn.Linear(256, 2), factor

    def forward(self, images):
        return self.factor * self.head(images.flatten(1))


def foreign(folder, factor, *words):
    """The overrides of a run around a TorchScript file of :class:`Scaled`."""
    path = folder.parent / "net.pt"
    torch.jit.trace(Scaled(factor).eval(), torch.rand(2, 1, 16, 16), check_trace=False).save(path)
    given = ("target=torchscript", f"target.weights={path}", *words)
    return [word for word in tiny(folder, *given) if not word.startswith("target.model")]


def composed(words):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("train", words)


def test_torchscript_runs_only_when_allowed(bars, tmp_path):
    words = foreign(tmp_path / "run", 1.0, *bars, "explainer=center_prior")
    with pytest.raises(InstantiationException, match=r"net\.pt is a TorchScript file.*target\.allow_code=true"):
        train.main(composed(words))
    assert "test/gap" in train.main(composed([*words, "target.allow_code=true"]))


def test_the_command_line_says_so_in_one_sentence(bars, tmp_path):
    done = command_line(*foreign(tmp_path / "run", 1.0, *bars, "explainer=center_prior"), cwd=tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"train.py: {tmp_path}/net.pt is a TorchScript file, and such")


@pytest.mark.parametrize("words", [(), ("ask=label",), ("task=predict",)])
def test_a_target_of_nan_makes_no_table(bars, tmp_path, words):
    foreign_words = foreign(tmp_path / "run", float("nan"), *bars, "explainer=center_prior", "target.allow_code=true")
    with pytest.raises(NotFiniteError, match=r"The target's logits are NaN or infinite for images test_0000\d"):
        train.main(composed([*foreign_words, *words]))
    assert not (tmp_path / "run" / "per_image.csv").exists()


@pytest.mark.parametrize("explainer", ["amortized_pcim", "cape"])
def test_an_explainer_whose_loss_is_lost_makes_no_table(bars, tmp_path, explainer):
    words = (f"explainer={explainer}", "explainer.lr=1e30", "trainer.max_epochs=3")
    with pytest.raises(
        NotFiniteError, match=r"(training|validation) loss is (NaN|infinite) in epoch \d, step \d+ \(image"
    ):
        train.main(configure(tmp_path / "run", *bars, *words))
    assert not (tmp_path / "run" / "summary.json").exists()


def test_a_target_whose_loss_is_lost_is_not_kept_and_the_shell_sees_it(bars, tmp_path):
    words = tiny(tmp_path / "run", *bars, "target_trainer.module.lr=1e30", "explainer=center_prior")
    done = command_line(*words, cwd=tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(
        "train.py: The training loss is NaN in epoch 0, step 1 (images train_"
    )
    assert not list((tmp_path / "targets").glob("*"))
