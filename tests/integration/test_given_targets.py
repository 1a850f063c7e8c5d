"""Targets whose weights came from elsewhere: shown a few images, measured on the test set, and warned about."""

import json
import logging

import pytest
import torch
from torch import nn

import train
from lightning_xai.networks.mask_net import SmallCNN
from tests.running import bars_npz, configure


class Probabilities(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, images):
        return self.net(images).softmax(1)


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Words of the data, the weights of a good target, and its numbers."""
    folder = tmp_path_factory.mktemp("bars")
    words = bars_npz(folder / "bars.npz").split()
    epochs = ("target_trainer.trainer.max_epochs=12", "target_trainer.module.lr=0.02")
    numbers = train.main(configure(folder / "run", *words, *epochs, "task=target"))
    return words, next((folder / "targets").glob("*.ckpt")), numbers


def run(folder, caplog, *words):
    caplog.clear()
    with caplog.at_level(logging.INFO):
        numbers = train.main(configure(folder / "run", "explainer=center_prior", *words))
    return {name: value for name, value in numbers.items() if name.startswith("target/")}


def test_a_given_target_is_measured_as_one_that_was_trained_here(tmp_path, caplog, trained):
    words, weights, expected = trained
    found = run(tmp_path, caplog, *words, f"target.weights={weights}")
    assert found == pytest.approx(
        {name: value for name, value in expected.items() if name.startswith("target/")}, abs=1e-5
    )
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["target"] == pytest.approx(found)
    assert not [text for text in warnings_of(caplog) if "worthless" in text and found["target/accuracy"] >= 0.9]


def test_a_weak_one_is_warned_about_and_the_likely_cause_is_said(tmp_path, caplog, trained):
    """A bare state dict brings no statistics of its own."""
    words, weights, expected = trained
    torch.save(torch.load(weights, weights_only=True)["state_dict"], tmp_path / "bare.pt")
    wrong = ("target.mean=[900]", "target.std=[0.001]")
    found = run(tmp_path, caplog, *words, f"target.weights={tmp_path / 'bare.pt'}", *wrong)
    assert found["target/accuracy"] < expected["target/accuracy"]
    for part in ("a map of a bad model is worthless", "belong to other units"):
        assert any(part in text for text in warnings_of(caplog)), part


def test_a_classifier_is_not_judged_by_the_bound_of_segmenters(tmp_path, caplog, trained):
    words, weights, _ = trained
    with pytest.raises(ValueError, match=r"target_trainer is one of segmenters .*, but the target is a Classifier"):
        run(tmp_path, caplog, *words, f"target.weights={weights}", "target_trainer=segmenter")


def test_exchanged_classes_are_named(tmp_path, caplog, trained):
    words, weights, expected = trained
    content = torch.load(weights, weights_only=True)
    head = [key for key in content["state_dict"] if key.endswith(("head.weight", "head.bias"))]
    for key in head:
        content["state_dict"][key] = content["state_dict"][key].flip(0)
    torch.save(content, tmp_path / "exchanged.ckpt")
    run(tmp_path, caplog, *words, f"target.weights={tmp_path / 'exchanged.ckpt'}")
    assert any("classes seem to be in another order" in text for text in warnings_of(caplog)), expected


def test_a_script_of_probabilities_gets_the_remedy_and_then_none(tmp_path, caplog, trained):
    words, weights, _ = trained
    content = torch.load(weights, weights_only=True)
    state = {key.removeprefix("model."): value for key, value in content["state_dict"].items()}
    net = SmallCNN(1, len(content["hyper_parameters"]["class_names"]), widths=(4, 8))
    net.load_state_dict(state)
    torch.jit.script(Probabilities(net).eval()).save(tmp_path / "net.pt")
    given = ("target=torchscript", f"target.weights={tmp_path / 'net.pt'}", "target.allow_code=true")
    statistics = [f"target.{name}={content['hyper_parameters'][name]}" for name in ("mean", "std")]
    run(tmp_path / "a", caplog, *words, *given, *statistics)
    assert sum("target.activation=none" in text for text in warnings_of(caplog)) == 1
    run(tmp_path / "b", caplog, *words, *given, *statistics, "target.activation=none")
    assert not any("target.activation" in text for text in warnings_of(caplog))
