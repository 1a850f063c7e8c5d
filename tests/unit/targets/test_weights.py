"""Weights files: every accepted format, prefixes, and one clear sentence for each refusal."""

import io
import json
import logging
import os
import pickle
import zipfile

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lightning_xai.targets.weights import load_model


def small_net(classes=3):
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(144, classes)]
    return nn.Sequential(*layers).eval()


def export(net, path):
    shapes = ({0: torch.export.Dim("batch")},)
    torch.export.save(torch.export.export(net, (torch.rand(2, 1, 8, 8),), dynamic_shapes=shapes), path)


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
    model, info = load_model(small_net() if give_model else None, tmp_path / "net.pt", allow_code=True)
    assert info.format == "TorchScript"
    assert isinstance(model, torch.jit.ScriptModule) != give_model
    assert_same(model, trained)


@pytest.mark.parametrize("give_model", [False, True])
def test_torch_export_survives_mode_changes(tmp_path, trained, give_model):
    export(trained, tmp_path / "net.pt2")
    model, info = load_model(small_net() if give_model else None, tmp_path / "net.pt2", allow_code=True)
    assert info.format == "torch.export"
    nn.Sequential(model).train()  # a parent's mode reaches its children
    assert_same(model, trained)


def test_export_in_training_mode_is_refused(tmp_path, trained):
    export(trained.train(), tmp_path / "net.pt2")
    with pytest.raises(ValueError, match=r"exported in training mode .*model\.eval\(\)"):
        load_model(None, tmp_path / "net.pt2", allow_code=True)


# ------------------------------------------------------------------ files that are code


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def hostile_export(path, mark):
    """A torch.export file whose pickled parts run code."""
    export(small_net(), path.with_suffix(".good.pt2"))
    payload = io.BytesIO()
    torch.save(Payload(mark), payload)
    with zipfile.ZipFile(path.with_suffix(".good.pt2")) as good, zipfile.ZipFile(path, "w") as bad:
        for name in good.namelist():
            content = good.read(name)
            if "weights_config" in name:
                config = json.loads(content)
                for entry in config["config"].values():
                    entry["use_pickle"] = True
                content = json.dumps(config).encode()
            bad.writestr(name, payload.getvalue() if "weights/weight_" in name else content)


def one_sentence(caught):
    message = str(caught.value)
    return message.endswith(".") and "\n" not in message and "weights_only" not in message


@pytest.mark.parametrize("name", ["net.pt2", "net.pt", "net.pth", "net.th", "net.ckpt", "net"])
@pytest.mark.parametrize("allow_code", [False, None, "false", "true", 1])
def test_torch_export_runs_nothing_unless_allowed(tmp_path, name, allow_code):
    hostile_export(tmp_path / name, tmp_path / "ran")
    for model in (None, small_net()):
        with pytest.raises(ValueError, match=r"is a torch\.export file.* code .*target\.allow_code=true") as caught:
            load_model(model, tmp_path / name, allow_code=allow_code)
        assert one_sentence(caught)
    assert not (tmp_path / "ran").exists()


def test_the_hostile_file_would_run_code(tmp_path):
    hostile_export(tmp_path / "net.pt2", tmp_path / "ran")
    with pytest.raises(ValueError, match=r"torch\.export file but cannot be loaded"):
        load_model(None, tmp_path / "net.pt2", allow_code=True)
    assert (tmp_path / "ran").exists(), "the tests beside this one prove nothing"


@pytest.mark.parametrize("name", ["net.pt", "net.pth", "net.th", "net.ckpt", "net.bin", "net"])
def test_torchscript_asks_under_every_name(tmp_path, name):
    torch.jit.script(small_net()).save(tmp_path / name)
    for model in (None, small_net()):
        with pytest.raises(ValueError, match=r"is a TorchScript file.* code .*target\.allow_code=true") as caught:
            load_model(model, tmp_path / name)
        assert one_sentence(caught)


@pytest.mark.parametrize("allow_code", [False, True])
@pytest.mark.parametrize("name", ["net.safetensors", "net.SafeTensors"])
def test_a_safetensors_name_allows_tensors_alone(tmp_path, trained, name, allow_code):
    path = tmp_path / name
    torch.jit.script(trained).save(path)
    with pytest.raises(ValueError, match="not a valid safetensors file: it is TorchScript, which is code") as caught:
        load_model(None, path, allow_code)
    assert one_sentence(caught)
    hostile_export(path, tmp_path / "ran")
    with pytest.raises(ValueError, match=r"not a valid safetensors file: it is torch\.export, which is code") as caught:
        load_model(small_net(), path, allow_code)
    assert one_sentence(caught)
    for content in (trained.state_dict(), Payload(tmp_path / "ran")):
        torch.save(content, path)
        with pytest.raises(ValueError, match="not a valid safetensors file") as caught:
            load_model(small_net(), path, allow_code)
        assert one_sentence(caught)
    assert not (tmp_path / "ran").exists()


def test_a_safetensors_file_with_an_archive_behind_it_runs_nothing(tmp_path, trained):
    path = tmp_path / "net.safetensors"
    hostile_export(tmp_path / "bad.pt2", tmp_path / "ran")
    save_file(trained.state_dict(), path)
    path.write_bytes(path.read_bytes() + (tmp_path / "bad.pt2").read_bytes())
    with pytest.raises(ValueError, match=r"not a valid safetensors file"):
        load_model(small_net(), path, allow_code=True)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("allow_code", [False, True])
def test_a_pt2_name_allows_torch_export_alone(tmp_path, trained, allow_code):
    path = tmp_path / "net.pt2"
    torch.jit.script(trained).save(path)
    with pytest.raises(ValueError, match=r"called \.pt2, .* is a TorchScript file; give the right file") as caught:
        load_model(small_net(), path, allow_code)
    assert one_sentence(caught)
    for content in (trained.state_dict(), Payload(tmp_path / "ran")):
        torch.save(content, path)
        with pytest.raises(ValueError, match=r"called \.pt2, .* but is something else, or damaged") as caught:
            load_model(small_net(), path, allow_code)
        assert one_sentence(caught)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("allow_code", [False, True])
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_are_refused_without_running_them(tmp_path, protocol, allow_code):
    path, state = tmp_path / "net.ckpt", small_net().state_dict()
    for content in (Payload(tmp_path / "ran"), {"state_dict": state, "hyper_parameters": Payload(tmp_path / "ran")}):
        path.write_bytes(pickle.dumps(content, protocol))
        with pytest.raises(ValueError, match=r"net\.ckpt (holds pickled Python objects|is neither)") as caught:
            load_model(small_net(), path, allow_code)
        assert one_sentence(caught)
        for zipped in (False, True):
            torch.save(content, path, _use_new_zipfile_serialization=zipped, pickle_protocol=max(protocol, 2))
            with pytest.raises(ValueError, match=r"net\.ckpt (holds pickled Python objects|is neither)") as caught:
                load_model(small_net(), path, allow_code)
            assert one_sentence(caught)
    assert not (tmp_path / "ran").exists()


def test_an_archive_within_an_archive_is_not_looked_into(tmp_path):
    hostile_export(tmp_path / "bad.pt2", tmp_path / "ran")
    with zipfile.ZipFile(tmp_path / "net.pt", "w") as outer:
        outer.write(tmp_path / "bad.pt2", "archive/data.pkl")
    with pytest.raises(ValueError, match="is neither") as caught:
        load_model(small_net(), tmp_path / "net.pt", allow_code=True)
    assert one_sentence(caught) and not (tmp_path / "ran").exists()


def test_the_name_that_was_given_counts_not_that_of_the_linked_file(tmp_path, trained):
    hostile_export(tmp_path / "bad.pt2", tmp_path / "ran")
    (tmp_path / "weights.safetensors").symlink_to(tmp_path / "bad.pt2")
    with pytest.raises(ValueError, match="not a valid safetensors file"):
        load_model(small_net(), tmp_path / "weights.safetensors", allow_code=True)
    assert not (tmp_path / "ran").exists()
    # A hub's cache links the name to a file without one.
    save_file(trained.state_dict(), tmp_path / "0a1b2c")
    (tmp_path / "model.safetensors").symlink_to(tmp_path / "0a1b2c")
    assert_same(load_model(small_net(), tmp_path / "model.safetensors")[0], trained)


@pytest.mark.parametrize("name", ["net.pt", "script.pt", "net.pt2", "net.safetensors", "legacy.pt"])
def test_truncated_and_flipped_files_get_one_sentence(tmp_path, trained, name):
    path = tmp_path / name
    if name == "script.pt":
        torch.jit.script(trained).save(path)
    elif name == "net.pt2":
        export(trained, path)
    elif name == "net.safetensors":
        save_file(trained.state_dict(), path)
    else:
        torch.save(trained.state_dict(), path, _use_new_zipfile_serialization=name == "net.pt")
    whole = path.read_bytes()
    for fraction in (0, 0.01, 0.3, 0.9, 0.999):
        path.write_bytes(whole[: int(fraction * len(whole))])
        with pytest.raises(ValueError, match=name.replace(".", r"\.")) as caught:
            load_model(small_net(), path, allow_code=True)
        assert one_sentence(caught), str(caught.value)
    generator = torch.Generator().manual_seed(0)
    for _ in range(30):
        damaged = bytearray(whole)
        for place in torch.randint(min(len(whole), 400), (8,), generator=generator).tolist():
            damaged[place] ^= 1 + place % 255
        path.write_bytes(damaged)
        try:
            load_model(small_net(), path)
        except ValueError as error:
            assert "\n" not in str(error), str(error)


def test_a_checkpoint_that_holds_itself_ends(tmp_path):
    content = {}
    content["state_dict"] = content
    torch.save(content, tmp_path / "net.pt")
    with pytest.raises(ValueError, match="top-level keys are 'state_dict'"):
        load_model(small_net(), tmp_path / "net.pt")


# ------------------------------------------------------------------ weights that are no numbers


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("key", ["0.weight", "1.running_var"])
@pytest.mark.parametrize("name", ["net.safetensors", "net.pt"])
def test_weights_that_are_not_finite_are_refused_and_named(tmp_path, trained, name, key, value):
    state, model = trained.state_dict(), small_net()
    state[key].view(-1)[1] = value
    (save_file if name == "net.safetensors" else torch.save)(state, tmp_path / name)
    with pytest.raises(ValueError, match=rf"{name} holds weights that are NaN or infinite, in {key};"):
        load_model(model, tmp_path / name)
    assert all(value.isfinite().all() for value in model.state_dict().values()), "something was copied"


@pytest.mark.parametrize("key", ["0.weight", "1.running_mean"])
def test_a_whole_network_with_nan_is_refused(tmp_path, trained, key):
    trained.state_dict()[key].view(-1)[0] = float("nan")
    torch.jit.script(trained).save(tmp_path / "net.pt")
    with pytest.raises(ValueError, match=rf"NaN or infinite, in {key};"):
        load_model(None, tmp_path / "net.pt", allow_code=True)


def test_weights_too_large_for_the_model_are_refused(tmp_path):
    state = {"weight": torch.full((1, 2), 1e300, dtype=torch.float64), "bias": torch.zeros(1)}
    torch.save(state, tmp_path / "net.pt")
    with pytest.raises(ValueError, match="NaN or infinite, in weight;"):
        load_model(nn.Linear(2, 1), tmp_path / "net.pt")


def test_a_mask_of_infinities_may_stay(tmp_path):
    class Masked(nn.Linear):
        def __init__(self):
            super().__init__(2, 2)
            self.register_buffer("mask", torch.tensor([[0.0, -torch.inf], [0.0, 0.0]]))

    torch.save(Masked().state_dict(), tmp_path / "net.pt")
    assert load_model(Masked(), tmp_path / "net.pt")[0].mask[0, 1] == -torch.inf
    torch.jit.script(Masked()).save(tmp_path / "script.pt")
    assert load_model(None, tmp_path / "script.pt", allow_code=True)[0].mask[0, 1] == -torch.inf


def test_stored_normalization_comes_back(tmp_path, trained):
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
