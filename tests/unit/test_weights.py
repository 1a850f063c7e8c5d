"""Weights files: every accepted format, prefixes, and one clear sentence for each refusal."""

import logging

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lightning_xai.weights import load_model


def small_net(classes=3):
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(144, classes)]
    return nn.Sequential(*layers).eval()


@pytest.fixture
def trained():
    net = small_net()
    with torch.no_grad():
        for value in net.state_dict().values():
            value.add_(1)
    return net


def assert_same(loaded, original):
    images = torch.rand(2, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(loaded.eval()(images), original(images))


@pytest.mark.parametrize("container", [None, "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module.", "model.", "net.", "module._orig_mod."])
def test_state_dict_with_prefix_in_container(tmp_path, caplog, trained, prefix, container):
    state = {prefix + key: value for key, value in trained.state_dict().items()}
    torch.save(state if container is None else {container: state, "best_prec1": 91.2}, tmp_path / "net.th")
    with caplog.at_level(logging.INFO):
        model, info = load_model(small_net(), tmp_path / "net.th")
    assert_same(model, trained)
    assert info.prefix == prefix
    assert (f"stripped prefix {prefix!r} from 9 keys" in caplog.text) == bool(prefix)


def test_prefix_of_the_model_itself_stays(tmp_path):
    model = nn.ModuleDict({"model": nn.Linear(2, 2)})
    torch.save(model.state_dict(), tmp_path / "net.pt")
    assert load_model(model, tmp_path / "net.pt")[1].prefix == ""


def test_safetensors(tmp_path, trained):
    save_file(trained.state_dict(), tmp_path / "net.safetensors")
    model, info = load_model(small_net(), tmp_path / "net.safetensors")
    assert_same(model, trained)
    assert info.format == "safetensors"


def test_file_from_before_num_batches_tracked(tmp_path, trained):
    torch.save({k: v for k, v in trained.state_dict().items() if "num_batches" not in k}, tmp_path / "old.pt")
    assert_same(load_model(small_net(), tmp_path / "old.pt")[0], trained)


@pytest.mark.parametrize("give_model", [False, True])
def test_torchscript(tmp_path, trained, give_model):
    torch.jit.script(trained).save(tmp_path / "net.pt")
    model, info = load_model(small_net() if give_model else None, tmp_path / "net.pt")
    assert info.format == "TorchScript"
    assert isinstance(model, torch.jit.ScriptModule) != give_model
    assert_same(model, trained)


@pytest.mark.parametrize("give_model", [False, True])
def test_torch_export_survives_mode_changes(tmp_path, trained, give_model):
    shapes = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(trained, (torch.rand(2, 1, 8, 8),), dynamic_shapes=shapes)
    torch.export.save(program, tmp_path / "net.pt2")
    model, info = load_model(small_net() if give_model else None, tmp_path / "net.pt2")
    assert info.format == "torch.export"
    nn.Sequential(model).train()  # a parent's mode reaches its children
    assert_same(model, trained)


def test_export_in_training_mode_is_refused(tmp_path, trained):
    program = torch.export.export(trained.train(), (torch.rand(2, 1, 8, 8),))
    torch.export.save(program, tmp_path / "net.pt2")
    with pytest.raises(ValueError, match=r"exported in training mode .*model\.eval\(\)"):
        load_model(None, tmp_path / "net.pt2")


def test_stored_normalisation_comes_back(tmp_path, trained):
    extras = {"mean": [0.5], "std": [0.2], "class_names": ["a", "b", "c"], "lr": 0.1}
    state = {f"model.{key}": value for key, value in trained.state_dict().items()}
    torch.save({"state_dict": state, "hyper_parameters": extras, "epoch": 3}, tmp_path / "best.ckpt")
    model, info = load_model(small_net(), tmp_path / "best.ckpt")
    assert_same(model, trained)
    assert (info.mean, info.std, info.class_names) == ([0.5], [0.2], ["a", "b", "c"])


def test_missing_file():
    with pytest.raises(FileNotFoundError, match=r"no weights file nowhere\.pt"):
        load_model(small_net(), "nowhere.pt")


@pytest.mark.parametrize("name", ["junk.pt", "junk.safetensors"])
def test_junk_is_named(tmp_path, name):
    (tmp_path / name).write_text("hello, this is not a network")
    with pytest.raises(ValueError, match=rf"{name} is n(either|ot a valid) safetensors"):
        load_model(small_net(), tmp_path / name)


def test_pickled_module_is_refused_without_running_it(tmp_path, trained):
    torch.save(trained, tmp_path / "net.pt")
    with pytest.raises(ValueError, match="could run code"):
        load_model(small_net(), tmp_path / "net.pt")


def test_checkpoint_without_a_state_dict(tmp_path):
    torch.save({"epoch": 3, "optimizer": {}}, tmp_path / "net.pt")
    with pytest.raises(ValueError, match="top-level keys are 'epoch', 'optimizer'"):
        load_model(small_net(), tmp_path / "net.pt")


def test_bare_weights_need_a_network(tmp_path, trained):
    torch.save(trained.state_dict(), tmp_path / "net.pt")
    with pytest.raises(ValueError, match=r"no network; give target\.model"):
        load_model(None, tmp_path / "net.pt")


def test_misfit_names_keys_shapes_and_counts_and_copies_nothing(tmp_path, trained):
    state = trained.state_dict()
    state["head.weight"] = state.pop("0.weight")
    torch.save(state, tmp_path / "net.pt")
    model = small_net(classes=5)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError) as caught:
        load_model(model, tmp_path / "net.pt")
    message = str(caught.value)
    assert "9 keys in the file, 9 in the model" in message
    assert "1 missing (0.weight)" in message and "1 unexpected (head.weight)" in message
    assert "5.weight is (3, 144) in the file and (5, 144) in the model" in message
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
