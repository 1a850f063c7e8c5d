"""Networks of other kinds through train.py: one logit, answers with several parts, sides that cannot be halved."""

import json

import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import nn

import train
from lightning_xai.networks.mask_net import SmallCNN
from tests.running import CONFIGS, bars_npz, configure, tiny


class TwoHeads(nn.Module):
    """Answers with a dict, an auxiliary head first."""

    def __init__(self, in_channels=1, num_classes=2, widths=(4, 8), **_):
        super().__init__()
        self.net = SmallCNN(in_channels, num_classes, widths=widths)

    def forward(self, images):
        logits = self.net(images.clamp_(-3, 3))
        return {"auxiliary": -logits, "main": logits}


@pytest.fixture(scope="module")
def bars(tmp_path_factory):
    """Two classes of 16-pixel images with masks: the overrides that load them."""
    return bars_npz(tmp_path_factory.mktemp("kinds") / "bars.npz").split()


def test_one_logit_for_two_classes_is_trained_explained_and_tested(bars, tmp_path):
    words = [*bars, "target.model.num_classes=1", "target.activation=sigmoid", "target_trainer.trainer.max_epochs=30"]
    words += ["target_trainer.module.lr=0.02", "target_trainer.patience=30"]
    for explainer in ("grad_cam", "cape"):
        results = train.main(configure(tmp_path / explainer, *words, f"explainer={explainer}", "ask=all"))
        assert results["target/accuracy"] > 0.9
        assert 0 <= results["test/deletion_auc"] <= 1
    table = (tmp_path / "grad_cam" / "per_image.csv").read_text().splitlines()
    assert len({line.split(",")[2] for line in table[1:]}) == 2, "both answers, no and yes"


def test_a_sigmoid_over_two_exclusive_classes_trains(bars, tmp_path):
    words = [*bars, "target.activation=sigmoid", "target_trainer.trainer.max_epochs=30", "task=target"]
    words += ["target_trainer.module.lr=0.02", "target_trainer.patience=30"]
    assert train.main(configure(tmp_path / "run", *words))["target/accuracy"] > 0.9


@pytest.mark.parametrize("output", ["main", "1"])
def test_the_part_of_the_answer_is_named_in_the_config(bars, tmp_path, output):
    words = [*bars, f"target.model._target_={__name__}.TwoHeads", f"target.output={output}", "explainer=hires_cam"]
    words += ["target_trainer.trainer.max_epochs=20", "target_trainer.module.lr=0.02", "target_trainer.patience=20"]
    assert train.main(configure(tmp_path / "run", *words))["target/accuracy"] > 0.9


@pytest.mark.parametrize(
    ("outputs", "activation", "words"),
    [
        (1, "softmax", "one logit, whose softmax is always 1"),
        (4, "softmax", "gives 4 logits, but the data have 2 classes"),
        (3, "sigmoid", "gives 3 logits, but the data have 2 classes"),
    ],
)
def test_outputs_that_do_not_fit_the_data_are_refused(bars, tmp_path, outputs, activation, words):
    given = [f"target.model.num_classes={outputs}", f"target.activation={activation}", "task=target"]
    with pytest.raises(ValueError, match=words):
        train.main(configure(tmp_path / "run", *bars, *given))


def test_weights_of_another_number_of_classes_are_refused(bars, tmp_path):
    torch.save(SmallCNN(1, 5, widths=(4, 8)).state_dict(), tmp_path / "five.pt")
    words = [*bars, "target.model.num_classes=5", f"target.weights={tmp_path / 'five.pt'}", "explainer=grad_cam"]
    with pytest.raises(ValueError, match=r"gives 5 logits, but there are names of 2 classes"):
        train.main(configure(tmp_path / "run", *words))


@pytest.mark.parametrize("window", ["null", "10"])
def test_a_u_net_takes_sides_that_it_cannot_halve(bars, tmp_path, window):
    words = [*bars, "data.size=13", "data.mask_classes=[background,bar]", "target=unet_segmenter"]
    words += ["target.model.channels=[4,8,8,8]", "target_trainer=segmenter", "explainer=hires_cam"]
    words = [word for word in tiny(tmp_path / "run", *words, f"target.window={window}") if "widths" not in word]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose("train", words)
    assert 0 <= train.main(cfg)["target/dice"] <= 1
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert "HiResCAM" in summary["explainers"]
