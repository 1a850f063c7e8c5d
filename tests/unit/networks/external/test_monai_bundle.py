"""The network of a MONAI bundle: plain definitions are taken, code only where it is allowed."""

import json

import pytest
import torch
from monai.networks.nets import UNet
from torch import nn

from lightning_xai.networks.external.monai_bundle import monai_bundle

PLAIN = {"_target_": "UNet", "spatial_dims": 2, "in_channels": 1, "out_channels": 2, "channels": [4, 8], "strides": [2]}
CODE = "defines its network with '{}', which is code that runs on this machine"


def bundle(folder, config, name="inference.json"):
    (folder / "configs").mkdir()
    (folder / "configs" / name).write_text(config if isinstance(config, str) else json.dumps(config))
    return folder


@pytest.mark.parametrize(
    "config",
    [
        {"network_def": PLAIN, "network": "$@network_def.to(@device)"},
        {"net": PLAIN},
        {"network_def": PLAIN | {"_target_": "monai.networks.nets.UNet"}},
        {"outputs": 2, "network_def": PLAIN | {"out_channels": "@outputs"}},
        {"all": {"widths": [4, 8]}, "network_def": PLAIN | {"channels": "@all::widths"}},
        {"all": {"widths": [4, 8]}, "network_def": PLAIN | {"channels": "@all#widths"}},
        {"device": "$__import__('os')._exit(3)", "network_def": PLAIN},
    ],
)
def test_a_plain_definition_is_taken(tmp_path, config):
    model = monai_bundle(bundle(tmp_path, config))
    assert isinstance(model, UNet) and model(torch.rand(1, 1, 8, 8)).shape == (1, 2, 8, 8)


@pytest.mark.parametrize("name", ["inference.yaml", "inference.yml", "train.json", "evaluate.json"])
def test_the_definition_is_found_in_other_files(tmp_path, name):
    assert isinstance(monai_bundle(bundle(tmp_path, {"network_def": PLAIN}, name)), UNet)


@pytest.mark.parametrize(
    ("config", "code"),
    [
        ({"network_def": PLAIN | {"out_channels": "$1 + 1"}}, "$1 + 1"),
        ({"network_def": "$print"}, "$print"),
        ({"n": "$2", "network_def": PLAIN | {"out_channels": "@n"}}, "$2"),
        ({"n": {"m": ["$2"]}, "network_def": PLAIN | {"channels": "@n::m"}}, "$2"),
        ({"network_def": PLAIN | {"_requires_": "$print()"}}, "$print()"),
        ({"network_def": PLAIN | {"norm": {"_target_": "os.system", "command": "ls"}}}, "os.system"),
        ({"network_def": {"_target_": "torch.nn.functional.torch.load", "f": "x"}}, "torch.nn.functional.torch.load"),
        ({"network_def": {"_target_": "scripts.mine.Net"}}, "scripts.mine.Net"),
        ({"network_def": {"_target_": "download", "name": "x"}}, "download"),
        ({"network_def": PLAIN | {"out_channels": "%other.json::n"}}, "%other.json::n"),
        ({"network_def": PLAIN | {"out_channels": "@##n"}, "n": "$2"}, "@##n"),
    ],
)
def test_code_is_refused_and_not_run(tmp_path, config, code, monkeypatch):
    monkeypatch.setattr("builtins.print", lambda *_, **__: pytest.fail("code was run"))
    with pytest.raises(ValueError) as refused:
        monai_bundle(bundle(tmp_path, config))
    assert CODE.format(code) in str(refused.value) and "target.allow_code=true" in str(refused.value)
    with pytest.raises(ValueError, match="which is code"):
        monai_bundle(tmp_path, allow_code="false")


def test_code_runs_where_it_is_allowed(tmp_path):
    config = {"n": "$1 + 1", "network_def": PLAIN | {"out_channels": "@n"}}
    assert isinstance(monai_bundle(bundle(tmp_path, config), allow_code=True), nn.Module)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"trainer": {}}, "defines no network (network_def, network, net)"),
        ({"network_def": 3}, "defines network_def as a int, not as a network"),
        ("{", "cannot be read"),
        ({"network_def": PLAIN | {"strides": [2, 2, 2, 2], "channels": [4]}}, "cannot be built"),
    ],
)
def test_what_is_no_bundle_is_a_sentence(tmp_path, config, words):
    with pytest.raises(ValueError) as refused:
        monai_bundle(bundle(tmp_path, config))
    assert words in str(refused.value) and "\n" not in str(refused.value)


def test_a_folder_without_configuration_is_a_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"is no MONAI bundle: it has no configs/inference\.json"):
        monai_bundle(tmp_path)


@pytest.mark.parametrize(
    ("metadata", "names"),
    [
        ({"network_data_format": {"outputs": {"pred": {"channel_def": {"1": "spleen", "0": "background"}}}}},
         ["background", "spleen"]),
        ({"network_data_format": {"outputs": {"pred": {"channel_def": "image"}}}}, None),
        ({"version": "1"}, None), ("no json", None), (None, None),
    ],
)  # fmt: skip
def test_the_names_of_its_channels_are_noted(tmp_path, metadata, names):
    bundle(tmp_path, {"net": PLAIN})
    if metadata is not None:
        bundle_file = tmp_path / "configs" / "metadata.json"
        bundle_file.write_text(metadata if isinstance(metadata, str) else json.dumps(metadata))
    assert monai_bundle(tmp_path).published_names == names
