"""Checkpoints that hold more than the network: its prefix is found, the rest is named, and no other network passes."""

import logging

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lightning_xai import ClassifierTarget
from lightning_xai.targets.prefixes import tensors_in
from lightning_xai.targets.weights import load_model


def net(classes=3, layers=1):
    body = [part for _ in range(layers) for part in (nn.Linear(4, 4), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *body, nn.BatchNorm1d(4), nn.Linear(4, classes))


@pytest.fixture
def trained():
    torch.manual_seed(1)
    return net()


def under(prefix, module, scale=1.0):
    return {prefix + key: scale * value for key, value in module.state_dict().items()}


def same(model, trained):
    return all(torch.equal(value, trained.state_dict()[key]) for key, value in model.state_dict().items())


#: What lies beside the network, whose prefix is "model.".
BESIDE = {
    "weights of the loss": {"criterion.pos_weight": torch.ones(3), "loss.weight": torch.ones(3)},
    "metric states": {"val_metrics.accuracy.tp": torch.ones(3), "confmat": torch.ones(3, 3)},
    "statistics": {"mean": torch.ones(3), "std": torch.ones(3)},
    "what is no tensor": {"_extra_state": None, "train_metric.preds": []},
    "a head of the same shape": {"aux.5.weight": torch.ones(3, 4)},
    "a profiler's": {"model.total_ops": torch.zeros(1), "model.1.total_ops": torch.zeros(1)},
    "a loss inside the wrapper": {"model.criterion.weight": torch.ones(3)},
}


@pytest.mark.parametrize("rest", BESIDE)
@pytest.mark.parametrize("prefix", ["model.", "encoder.", "module.net.classifier.", "my_net."])
def test_the_network_is_found_and_the_rest_is_named(tmp_path, caplog, trained, rest, prefix):
    beside = {key.replace("model.", prefix): value for key, value in BESIDE[rest].items()}
    torch.save({"state_dict": beside | under(prefix, trained), "epoch": 1}, tmp_path / "last.ckpt")
    with caplog.at_level(logging.INFO):
        model, info = load_model(net(), tmp_path / "last.ckpt")
    assert same(model, trained) and info.prefix == prefix
    for key in (key for key, value in beside.items() if isinstance(value, torch.Tensor)):
        assert key in caplog.text


@pytest.mark.parametrize("copy", ["ema.", "model_ema.module.", "ema_model.", "swa_model.", "averaged_model.module."])
def test_an_averaged_copy_is_not_taken_unless_it_is_named(tmp_path, trained, copy):
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": under(copy, trained, 2.0) | under("network.", trained)}, path)
    model, info = load_model(net(), path)
    assert same(model, trained) and info.prefix == "network."
    target = ClassifierTarget(net(), weights=path, weights_prefix=copy.rstrip("."))
    assert torch.equal(target.model[1].weight, 2 * trained[1].weight)


@pytest.mark.parametrize("container", ["net", "network", "generator", "ema"])
def test_containers_of_any_name_beside_an_optimizer(tmp_path, trained, container):
    optimizer = torch.optim.AdamW(trained.parameters())
    trained(torch.rand(3, 4)).sum().backward()
    optimizer.step()
    torch.save({container: trained.state_dict(), "optim": optimizer.state_dict(), "epoch": 2}, tmp_path / "x.pt")
    model, info = load_model(net(), tmp_path / "x.pt")
    assert same(model, trained) and info.prefix == f"{container}."


def test_a_copy_in_a_container_of_its_own_is_named_from_the_top(tmp_path, trained):
    torch.save({"model": trained.state_dict(), "model_ema": under("", trained, 2.0)}, tmp_path / "x.pt")
    assert same(load_model(net(), tmp_path / "x.pt")[0], trained)
    model, _ = load_model(net(), tmp_path / "x.pt", prefix="model_ema")
    assert torch.equal(model[1].weight, 2 * trained[1].weight)


def test_two_likely_networks_are_refused_and_equal_ones_are_not(tmp_path, trained):
    two = under("student.", trained) | under("teacher.", trained, 2.0)
    save_file(two, tmp_path / "two.safetensors")
    with pytest.raises(ValueError, match=r"more than once, under 'student\.' and 'teacher\.'; say .*weights_prefix="):
        load_model(net(), tmp_path / "two.safetensors")
    model, _ = load_model(net(), tmp_path / "two.safetensors", prefix="teacher.")
    assert torch.equal(model[1].weight, 2 * trained[1].weight)
    torch.save(under("a.", trained) | under("b.", trained), tmp_path / "equal.pt")
    assert same(load_model(net(), tmp_path / "equal.pt")[0], trained)


def test_a_prefix_that_no_key_has_is_refused(tmp_path, trained):
    torch.save(under("a.", trained), tmp_path / "net.pt")
    with pytest.raises(ValueError, match=r"no key that begins with weights_prefix='b\.'; it has a\.1\.weight, "):
        load_model(net(), tmp_path / "net.pt", prefix="b")


@pytest.mark.parametrize("prefix", ["", "model."])
def test_weights_of_a_larger_network_are_refused(tmp_path, prefix):
    """A deeper network of the same names would be cut in two without a word."""

    class Deep(nn.Module):
        def __init__(self, depth):
            super().__init__()
            self.blocks = nn.Sequential(*[nn.Linear(4, 4) for _ in range(depth)])
            self.head = nn.Linear(4, 2)

    class Numbered(nn.Module):
        def __init__(self, depth):
            super().__init__()
            for number in range(depth):
                setattr(self, f"conv{number}", nn.Conv2d(1, 1, 1))

    for kind in (Deep, Numbered):
        torch.save(under(prefix, kind(3)), tmp_path / "net.pt")
        with pytest.raises(ValueError, match=r"does not fit .*: 2 unexpected \((blocks\.2|conv2)\.weight"):
            load_model(kind(2), tmp_path / "net.pt")


def test_numbers_of_another_program_under_our_names_are_not_read(tmp_path, trained):
    extras = {"mean": 0.5, "std": "imagenet", "class_names": 3}
    torch.save({"state_dict": trained.state_dict(), "hyper_parameters": extras}, tmp_path / "net.ckpt")
    _, info = load_model(net(), tmp_path / "net.ckpt")
    assert info.mean is info.std is info.class_names is None


def test_tensors_of_mappings_inside_each_other():
    content = {"a": {1: {"b": torch.ones(1)}}, "c": torch.zeros(1), "d": [torch.ones(1)], "e": "text"}
    assert list(tensors_in(content)) == ["a.1.b", "c"]
