"""config.yaml of a run: what is written, what is kept out of it, and what is refused when it is read."""

from types import SimpleNamespace

import pytest
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue

from lightning_xai.cli.saved_config import (
    as_composed,
    mask_hydra_files,
    read_config,
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


def test_parts_and_what_is_allowed_are_read(tmp_path):
    text = (
        "model: {_target_: mine.Net}\ntarget: {_target_: lightning_xai.targets.ClassifierTarget}\na: ${oc.env:HOME}/x"
    )
    assert read_config(kept(tmp_path, text), {"mine"}).model._target_ == "mine.Net"


@pytest.mark.parametrize("text", ["a: {_target_: mine.Net}", "a: '${hydra:runtime.cwd}'", "a: {allow_code: true}"])
def test_anything_else_is_refused_with_the_file(tmp_path, text):
    path = kept(tmp_path, text)
    with pytest.raises(ValueError, match=r"if you trust where it comes from, add allow=\[") as refused:
        read_config(path, {"known.Net"})
    assert str(refused.value).startswith(f"{path} ")


LAUGHS = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))


@pytest.mark.parametrize(
    "text", [LAUGHS, "x" * (1 << 21), "a: [", "- 1\n- 2", "a: ${b", "text", "", "target: {}\nexplainer: {}\nfacts: {}"]
)
def test_what_is_no_config_is_a_sentence(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"is no config of a run \(.+\); give another ckpt_path") as refused:
        read_config(path, set())
    assert "\n" not in str(refused.value)


def test_the_config_is_written_and_sent_resolved_to_every_logger(tmp_path):
    sent = []
    logger = SimpleNamespace(log_hyperparams=sent.append)
    log_config(cfg_of(tmp_path, name="${task}_${seed}"), SimpleNamespace(loggers=[logger, logger]))
    assert OmegaConf.load(tmp_path / "config.yaml").name == "explain_0"
    assert len(sent) == 2 and all(type(values) is dict and values["name"] == "explain_0" for values in sent)


TYPED = {
    "logger": {"wandb": {"api_key": SECRET}},
    "credentials": {"pair": ["someone", SECRET]},
    "note": "${logger.wandb}",
}


def test_typed_secrets_are_in_nothing_that_is_written_or_sent(tmp_path):
    cfg = cfg_of(tmp_path, **TYPED)
    write_config(cfg)
    sent = without_secrets(cfg)
    assert SECRET not in (tmp_path / "config.yaml").read_text() and SECRET not in str(sent)
    assert sent["note"] == {"api_key": "***"} and cfg.note.api_key == SECRET, "the run itself needs it"
    saved = OmegaConf.load(tmp_path / "config.yaml")
    with pytest.raises(MissingMandatoryValue):  # a run that starts from it asks for the value
        _ = saved.logger.wandb.api_key


def test_what_hydra_writes_holds_no_secret(tmp_path, monkeypatch):
    words = ["seed=1", f"+logger.wandb.api_key={SECRET}", f"+x={{token:{SECRET},y:2}}"]
    hydra = {
        "runtime": {"output_dir": str(tmp_path / "0")},
        "output_subdir": ".hydra",
        "mode": "MULTIRUN",
        "sweep": {"dir": str(tmp_path)},
        "overrides": {"task": words, "hydra": []},
        "job": {"override_dirname": ",".join(words)},
    }
    files = {"config.yaml": {**TYPED, "seed": 1}, "hydra.yaml": {"hydra": hydra}, "overrides.yaml": words}
    (tmp_path / "0/.hydra").mkdir(parents=True)
    for name, content in files.items():
        OmegaConf.save(OmegaConf.create(content), tmp_path / "0/.hydra" / name)
    OmegaConf.save(OmegaConf.create({"hydra": hydra}), tmp_path / "multirun.yaml")
    monkeypatch.setattr(HydraConfig, "initialized", staticmethod(lambda: True))
    monkeypatch.setattr(HydraConfig, "get", staticmethod(lambda: OmegaConf.create(hydra | {"mode": RunMode.MULTIRUN})))
    mask_hydra_files()
    found = [path.name for path in tmp_path.rglob("*.yaml") if SECRET in path.read_text()]
    assert not found and len(list(tmp_path.rglob("*.yaml"))) == 4
    kept_words = OmegaConf.to_container(OmegaConf.load(tmp_path / "0/.hydra/overrides.yaml"))
    assert kept_words == ["seed=1", "+logger.wandb.api_key=***", "+x={token:***,y:2}"]
