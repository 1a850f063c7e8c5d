"""config.yaml of a run: what is written, what is kept out of it, and what is refused when it is read."""

from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from lightning_xai.cli.saved_config import (
    as_composed,
    read_config,
    targets_in,
    without_secrets,
    write_config,
)
from lightning_xai.cli.stages import log_config

SECRET = "s3cr3t-t0ken"


def cfg_of(folder="run", **changes):
    return OmegaConf.create({"task": "explain", "run_dir": str(folder), "ckpt_path": None, "seed": 0} | changes)


# ------------------------------------------------------------------ written


def test_references_stay_references_and_resolve_without_hydra(tmp_path):
    write_config(cfg_of(tmp_path, name="${task}_${seed}", deep={"dir": "${run_dir}/maps", "list": ["${seed}", 2]}))
    kept = OmegaConf.load(tmp_path / "config.yaml")
    assert OmegaConf.to_container(kept)["deep"] == {"dir": "${run_dir}/maps", "list": ["${seed}", 2]}
    assert kept.name == "explain_0" and kept.deep.dir == f"{tmp_path}/maps"


def test_what_only_hydra_knows_is_filled_in():
    OmegaConf.register_new_resolver("now", lambda pattern: f"noon{pattern}", replace=True)
    kept = as_composed(cfg_of(name="run ${now:%Y} of ${seed}", stamp=["${now:%H}"]))
    assert (kept["name"], kept["stamp"]) == ("run noon%Y of ${seed}", ["noon%H"])


@pytest.mark.parametrize("task", ["test", "predict", "sanity"])
@pytest.mark.parametrize("given", ["last", "best.ckpt"])
def test_what_applies_a_checkpoint_of_the_folder_leaves_the_config_of_its_training(tmp_path, task, given):
    write_config(cfg_of(tmp_path, seed=1))
    checkpoint = given if given == "last" else str(tmp_path / "checkpoints" / given)
    write_config(cfg_of(tmp_path, seed=2, task=task, ckpt_path=checkpoint))
    assert OmegaConf.load(tmp_path / "config.yaml").seed == 1
    write_config(cfg_of(tmp_path, seed=2, task=task, ckpt_path="elsewhere/checkpoints/best.ckpt"))
    assert OmegaConf.load(tmp_path / "config.yaml").seed == 2, "a run of its own"
    write_config(cfg_of(tmp_path, seed=3, ckpt_path=checkpoint))
    assert OmegaConf.load(tmp_path / "config.yaml").seed == 3, "a run that goes on"


HIDDEN = {
    "plain": "${oc.env:XAI_TOKEN}",
    "inside": "https://user:${oc.env:XAI_TOKEN}@host/${seed}",
    "other": "${plain}",
    "nested": {"far": ["${inside}", {"node": "${nested.again}"}], "again": "${oc.select:other}"},
    "default": "${oc.env:XAI_TOKEN,none}",
    "whole": "${nested}",
    "decoded": "${oc.decode:${oc.env:XAI_TOKEN}}",
}


def test_the_environment_is_in_nothing_that_is_written_or_sent(tmp_path, monkeypatch):
    monkeypatch.setenv("XAI_TOKEN", SECRET)
    cfg = cfg_of(tmp_path, **HIDDEN)
    assert cfg.nested.far[0] == f"https://user:{SECRET}@host/0", "the run itself needs it"
    write_config(cfg)
    sent = without_secrets(cfg)
    assert SECRET not in (tmp_path / "config.yaml").read_text() and SECRET not in str(sent)
    assert sent["inside"] == "https://user:${oc.env:XAI_TOKEN}@host/0", "other references are resolved"
    assert sent["nested"]["far"][1]["node"] == "${oc.env:XAI_TOKEN}"
    assert OmegaConf.load(tmp_path / "config.yaml").plain == SECRET, "a later run finds it where it was"
    assert cfg.plain == SECRET, "the environment is back"


def test_a_variable_that_decides_a_reference_is_not_followed(monkeypatch):
    monkeypatch.setenv("XAI_WHICH", "seed")
    cfg = cfg_of(chosen="${${oc.env:XAI_WHICH}}", name="${task}")
    assert cfg.chosen == 0 and without_secrets(cfg)["chosen"] == "${${oc.env:XAI_WHICH}}"
    assert cfg.chosen == 0


# ------------------------------------------------------------------ read


REST = "{data: {}, target: {}, explainer: {}, data_info: {}}"


def kept(tmp_path, text):
    (tmp_path / "config.yaml").write_text(
        OmegaConf.to_yaml(OmegaConf.merge(OmegaConf.create(REST), OmegaConf.create(text)))
    )
    return tmp_path / "config.yaml"


@pytest.mark.parametrize(
    "text",
    [
        "target: {_target_: lightning_xai.targets.ClassifierTarget}",
        "model: {_target_: monai.networks.nets.UNet}",
        "data: {prepare: [{_target_: monai.transforms.Flipd}, {_target_: lightning_xai.data.MirrorSided}]}",
        "callbacks: {a: {_target_: lightning.pytorch.callbacks.EarlyStopping}, b: {_target_: torchmetrics.AUROC}}",
        "a: ${oc.env:HOME}/${b}/x\nb: ${oc.select:a.b,null}",
        "model: {_target_: mine.Net}",
    ],
)
def test_parts_and_what_is_known_are_read(tmp_path, text):
    assert OmegaConf.to_yaml(read_config(kept(tmp_path, text), {"mine.Net"}))


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "builtins.exec",
        "mine.Net",
        "torch.load",
        "torch.hub.load",
        "torch.utils.collect_env.run",
        "monai.utils.module.instantiate",
        "monai.bundle.ConfigParser",
        "lightning_xai.cli.run_folder.shutil.rmtree",
        "lightning_xai.cli.target_cache.train_target",
        "lightning_xai.nowhere.Nothing",
        "lightning.Trainer",
        "${note}",
    ],
)
def test_anything_else_is_refused(tmp_path, name):
    path = kept(tmp_path, f"note: os.system\nlist: [{{deep: {{_target_: '{name}', command: ls}}}}]")
    with pytest.raises(ValueError) as refused:
        read_config(path, {"known.Net"})
    assert f"{path} names {name}, which is no part of this project" in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        "${oc.create:'{_target_: os.system}'}",
        "${oc.decode:'{_target_: os.system}'}",
        "x ${ oc.decode : x}",
        "${run_folder:a,b,0,null}",
        "${hydra:runtime.cwd}",
        "${${other}:x}",
        "${oc.select:a,${oc.decode:x}}",
    ],
)
def test_references_that_do_things_are_refused(tmp_path, text):
    path = tmp_path / "config.yaml"
    OmegaConf.save(
        OmegaConf.create({"a": [{"b": text}], "data": {}, "target": {}, "explainer": {}, "data_info": {}}), path
    )
    with pytest.raises(ValueError, match="holds the reference"):
        read_config(path, set())


@pytest.mark.parametrize("text", ["a: [", "- 1\n- 2", "a: ${b", "text", "", "target: {}\nexplainer: {}\nfacts: {}"])
def test_what_is_no_config_is_a_sentence(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"is no config of a run \(.+\); give another ckpt_path") as refused:
        read_config(path, set())
    assert "\n" not in str(refused.value)


def test_targets_are_found_in_files_and_words():
    files = "model:\n  _target_: a.Net\n  sub: {_target_: b.c.Other, x: 1}\n"
    assert targets_in(files, "m._target_=mine.Net", "+c={_target_:'d.E'}", "x=1") == {
        "a.Net",
        "b.c.Other",
        "mine.Net",
        "d.E",
    }


def test_the_config_is_written_and_sent_resolved_to_every_logger(tmp_path):
    sent = []
    logger = SimpleNamespace(log_hyperparams=sent.append)
    log_config(cfg_of(tmp_path, name="${task}_${seed}"), SimpleNamespace(loggers=[logger, logger]))
    assert OmegaConf.load(tmp_path / "config.yaml").name == "explain_0"
    assert len(sent) == 2 and all(type(values) is dict and values["name"] == "explain_0" for values in sent)
