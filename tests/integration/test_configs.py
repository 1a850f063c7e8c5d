"""Every YAML of configs composes, and names things that exist."""

import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra._internal.utils import _locate
from omegaconf import OmegaConf

from lightning_xai.cli.tasks import TASKS
from lightning_xai.explainers.pcim import PRESETS
from tests.running import CONFIGS, load_config

FILES = sorted(path.relative_to(CONFIGS).with_suffix("").as_posix() for path in CONFIGS.rglob("*.yaml"))
GROUP_FILES = [name for name in FILES if "/" in name]
DATA_INFO = {"channels": 1, "dims": 2, "classes": 2, "class_names": ["a", "b"], "activation": "softmax", "mean": [0.5]}
DATA_INFO |= {"size": [16, 16], "std": [0.2], "has_masks": False, "fingerprint": "none"}
OPTUNA = "hydra_plugins.hydra_optuna_sweeper"
REQUIRED = {"data/decathlon": "root", "data/folder": "root", "data/manifest": "csv", "data/npz": "path"}
REQUIRED |= {
    "target/_library": "name",
    "target/torchscript": "weights",
    "target/monai_bundle": "folder",
    "target/timm": "name",
}
REQUIRED |= {f"target/{name}": "name" for name in ("torchvision", "torchvision_segmenter")}
REQUIRED |= {f"target/{name}": "name" for name in ("huggingface", "huggingface_segmenter")}


def composed(*overrides: str) -> dict[str, Any]:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("train", ["run_dir=run", "name=test", *overrides])
    OmegaConf.set_struct(config, False)
    config.data_info = DATA_INFO
    resolved: dict[str, Any] = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    return resolved


def targets_of(node: Any) -> Iterator[str]:
    """Every ``_target_`` in a config."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield node["_target_"]
        for value in node.values():
            yield from targets_of(value)
    elif isinstance(node, list):
        for value in node:
            yield from targets_of(value)


def test_every_task_has_its_choice():
    assert {path.stem for path in (CONFIGS / "task").glob("*.yaml")} == set(TASKS)
    for name in TASKS:
        assert composed(f"task={name}")["task"] == name


def test_every_target_asks_before_it_loads_code():
    for path in (CONFIGS / "target").glob("[a-z]*.yaml"):
        assert load_config(path).allow_code is False, path.name


def test_there_are_files_to_check():
    groups = {name.partition("/")[0] for name in GROUP_FILES}
    assert groups == {folder.name for folder in CONFIGS.iterdir()} - {"train.yaml"}
    assert {"experiment/demo", "experiment/pcim_fluorescence", "experiment/pcim_brightfield"} <= set(FILES)


@pytest.mark.parametrize("name", GROUP_FILES)
def test_it_composes_and_resolves(name, monkeypatch):
    monkeypatch.setenv("LIGHTNING_XAI_DATA", "somewhere")
    group, _, choice = name.partition("/")
    if group == "hparams_search":
        pytest.importorskip(OPTUNA, reason="Optuna is not there: pip install -e '.[sweep]'")
    required = [f"{group}.{REQUIRED[name]}=given"] if name in REQUIRED else []
    config = composed(f"{'+' if group == 'experiment' else ''}{group}={choice}".removeprefix("+"), *required)
    assert config["run_dir"] == "run"
    if group == "experiment":
        assert config["name"] == "test" and config["explainer"]["_target_"].startswith("lightning_xai.explainers.")


@pytest.mark.parametrize("name", FILES)
def test_its_targets_can_be_imported(name):
    for target in targets_of(yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())):
        if target.endswith("TensorBoardLogger"):
            pytest.importorskip("tensorboard")
        assert callable(_locate(target)), target


@pytest.mark.parametrize("name", FILES)
def test_it_says_on_its_first_lines_what_it_is(name):
    lines = (CONFIGS / f"{name}.yaml").read_text().splitlines()
    comments = [line for line in lines[:2] if line.startswith("# ") and "@package" not in line]
    assert comments and len(comments[0]) > 15


def test_published_recipes_clip_no_gradients_and_tuned_ones_do():
    clipped = {"amortized_pcim": 1.0, "unoise_visibility": 1.0, "unoise": None}
    for name in ("cape", *clipped):
        config = composed(f"explainer={name}")
        assert config["trainer"]["gradient_clip_val"] is None and config["explainer"].get("clip_norm") == clipped.get(
            name
        )
    assert composed("explainer=unoise")["explainer"]["reference"] == "mask"
    assert composed("explainer=unoise_visibility")["explainer"]["reference"] == "prediction"


def test_the_recipe_of_the_u_noise_paper(monkeypatch):
    monkeypatch.setenv("LIGHTNING_XAI_DATA", "somewhere")
    config = composed("experiment=unoise_paper")
    wanted = {"min_scale": 1.0, "max_scale": 5.0, "noise_weight": 1e-3, "objective": "noise", "reference": "mask"}
    assert config["explainer"] | wanted == config["explainer"] and config["explainer"]["lr"] == 3e-3
    assert (config["data"]["batch_size"], config["trainer"]["max_epochs"]) == (8, 100)
    assert (config["target"]["model"]["depth"], config["target"]["model"]["width"]) == (5, 64)


def test_tables_of_pcim_show_a_fill_that_it_does_not_train_on():
    for name in ("fast", "two_fills", "full"):
        fills = {metric.get("fill") for metric in composed(f"metrics={name}")["metrics"].values()}
        assert fills - {None, *PRESETS["faithful"].baseline, "input_zero"}, name


def test_recipes_change_what_they_say(monkeypatch):
    monkeypatch.setenv("LIGHTNING_XAI_DATA", "somewhere")
    for name, data in (("pcim_fluorescence", "NpzData"), ("pcim_brightfield", "ManifestData")):
        config = composed(f"experiment={name}")
        assert config["data"]["_target_"] == f"lightning_xai.data.{data}"
        assert config["explainer"]["_target_"] == "lightning_xai.explainers.PCIM"
        assert {"gap_zero", "gap_median"} <= set(config["metrics"]), "both fills are judged"
    for name, net in (("cape_cifar", "CifarResNet"), ("cape_birds", "from_pretrained"), ("cape_cytology", "SmallCNN")):
        config = composed(f"experiment={name}")
        assert config["explainer"]["_target_"] == "lightning_xai.explainers.CAPE"
        assert config["target"]["model"]["_target_"].endswith(net) and "top2_iou" in config["metrics"]
    for name, explainer in (("retina", "AmortizedPCIM"), ("chest", "AmortizedPCIM"), ("chest_tag", "CaptumExplainer")):
        config = composed(f"experiment=global_{name}")
        assert config["task"] == "global" and config["explainer"]["_target_"].endswith(explainer)
        steps = [step["_target_"].rpartition(".")[2] for step in config["data"]["prepare"] or []]
        assert steps == {"retina": ["MirrorSided"], "chest": [], "chest_tag": ["CornerTag"]}[name]
        assert composed(f"experiment=global_{name}", "explainer=cape")["explainer"]["_target_"].endswith("CAPE")
    assert composed("experiment=demo")["data"]["_target_"] == "lightning_xai.data.EmbeddedDigits"


def commands() -> list[str]:
    """Every ``python train.py`` line of the README."""
    readme = (CONFIGS.parent / "README.md").read_text(encoding="utf-8")
    return [line.partition("#")[0].strip() for line in readme.splitlines() if line.startswith("python train.py ")]


@pytest.mark.parametrize("line", commands())
def test_the_commands_of_the_readme_compose(line):
    if "hparams_search=" in line:
        pytest.importorskip(OPTUNA, reason="Optuna is not there: pip install -e '.[sweep]'")
    words = [word for word in shlex.split(line)[2:] if not word.startswith("-")]
    if "data.root=new_photos" in words:  # the run's own configuration, which the checkpoint brings, has such a folder
        words.append("data=folder")
    composed(*(word.partition(",")[0] if "-m" in line else word for word in words))
