"""What files may name: parts of known packages, and nothing that runs code."""

import re
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from lightning_xai.cli.trust import ALLOW, check_command_line, check_config, checked, is_part, targets_in, trusted_names

CONFIGS = Path(__file__).parents[3] / "configs"
REFUSED = r"if you trust where it comes from, add allow=\[{}\] to the command line, or set LIGHTNING_XAI_ALLOW={}\."


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    monkeypatch.setenv(ALLOW, "")


def test_all_that_the_projects_own_configs_name_is_allowed():
    names = targets_in(*(path.read_text() for path in CONFIGS.rglob("*.yaml")))
    optional = ("efficientnet",)  # of an extra
    assert len(names) > 80
    assert [name for name in sorted(names) if not name.startswith(optional) and not is_part(name)] == []


@pytest.mark.parametrize(
    "name",
    [
        *(
            "torch.nn.Linear",
            "torch.nn.functional.relu",
            "torch.optim.AdamW",
            "torch.optim.lr_scheduler.StepLR",
            "torch.gt",
        ),
        *("lightning.Trainer", "lightning.pytorch.strategies.DDPStrategy", "lightning.pytorch.loggers.CSVLogger"),
        *("torchmetrics.Accuracy", "torchmetrics.functional.accuracy", "captum.attr.IntegratedGradients"),
        *("monai.transforms.Compose", "monai.networks.nets.resnet18", "monai.losses.DiceLoss"),
        *("lightning_xai.explainers.PCIM", "hydra._internal.core_plugins.basic_launcher.BasicLauncher"),
    ],
)
def test_a_part_of_a_known_package_is_allowed(name):
    check_config({"a": [{"_target_": name}]}, "The file", set())


@pytest.mark.parametrize(
    "name",
    [
        *("os.system", "builtins.exec", "sympy.sympify", "mine.Net", "lightning_xai.nowhere.Nothing", "${note}", ""),
        # where it is defined counts, not where it can be found
        *("torch.os.system", "torch.nn.modules.module.torch.os.system", "lightning_xai.cli.run_folder.shutil.rmtree"),
        *("lightning.pytorch.trainer.trainer.os.system", "monai.transforms.compose.importlib.import_module"),
        # functions and classes that run, load or fetch something
        *("torch.load", "torch.hub.load", "torch.jit.load", "torch.utils.collect_env.run", "torch.from_file"),
        *("torch.utils.cpp_extension.load", "torch.distributed.elastic.multiprocessing.api.SubprocessHandler"),
        *("monai.utils.module.instantiate", "monai.bundle.ConfigParser", "monai.bundle.run", "monai.utils.run_cmd"),
        *("hydra.utils.get_method", "hydra.utils.instantiate", "hydra.utils.call", "monai.transforms.LoadImaged"),
        *(
            "lightning.LightningModule.load_from_checkpoint",
            "torch.nn.Module.__call__",
            "torch.multiprocessing.Process",
        ),
        *("lightning_xai.targets.training.classifier.ClassifierTask.load_from_checkpoint", "captum.insights.api.Batch"),
        *("lightning_xai.networks.external.common.library", "lightning_xai.targets.weights.load_model"),
        *("lightning_xai.functional.files.write_nifti", "lightning_xai.cli.target_cache.train_target"),
    ],
)
def test_anything_else_is_refused_and_can_be_allowed(name):
    content = {"callbacks": {"nice": {"list": [{"_target_": name}]}}}
    with pytest.raises(ValueError, match=r"^The file names .* which is no part that runs are made of; if you trust"):
        check_config(content, "The file", {"known.Net", "o", "torch.hu"})
    check_config(content, "The file", {name})
    if "." in name:
        check_config(content, "The file", {name.rpartition(".")[0]})


@pytest.mark.parametrize(
    ("key", "value", "harmless"),
    [
        ("allow_code", True, False),
        ("allow_code", "${other}", None),
        ("allow_pickle", True, False),
        ("weights_only", False, True),
        ("trust_remote_code", True, None),
        ("checkpoint_path", "evil.pth", ""),
        ("allow_outside", True, False),
    ],
)
def test_what_only_the_user_may_decide_is_refused_in_files(key, value, harmless):
    check_config({"a": {key: harmless}}, "The file", set())
    with pytest.raises(ValueError, match=REFUSED.format(key, key)):
        check_config({"a": [{key: value}]}, "The file", set())
    check_config({"a": [{key: value}]}, "The file", trusted_names([f"x.{key}={value}"]))


def test_an_argument_by_position_counts_as_well():
    node = {"_target_": "lightning_xai.networks.external.monai_bundle.monai_bundle", "_args_": ["folder", True]}
    with pytest.raises(ValueError, match="sets allow_code=True"):
        check_config({"a": [node]}, "The file", set())


@pytest.mark.parametrize(
    "text",
    [
        "${oc.create:'{_target_: os.system}'}",
        "${oc.decode:'{_target_: os.system}'}",
        "x ${ oc.decode : x}",
        "${run_folder:a,b,0,null}",
        "${${other}:x}",
        "${oc.select:a,${oc.decode:x}}",
    ],
)
def test_references_that_do_things_are_refused(text):
    with pytest.raises(ValueError, match="holds the reference"):
        check_config({"a": [text]}, "The file", set())
    check_config({"a": [text]}, "The file", {"oc.create", "oc.decode", "run_folder", "$"})


def test_references_that_read_are_not():
    check_config({"a": "${oc.env:HOME}/${b.c}", "b": "${oc.select:a.b,null} ${hydra:job.num}"}, "The file", set())


def test_the_user_allows_by_words_and_by_the_environment(monkeypatch):
    words = ["allow=[mine,other.Net]", "+c={_target_:'d.E'}", "m._target_=torch.hub.load", "n=${oc.decode:x}", "seed=1"]
    monkeypatch.setenv(ALLOW, "theirs, ours.sub")
    named = {"mine", "other.Net", "d.E", "torch.hub.load", "theirs", "ours.sub", "${oc.decode"}
    assert trusted_names(words) == named
    check_config({"n": "${oc.decode:x}"}, "The file", named)
    with pytest.raises(ValueError, match="names oc.decode.x"):  # a reference allows no class
        check_config({"_target_": "oc.decode.x"}, "The file", named)
    assert trusted_names(["allow=theirs"]) == {"theirs", "ours.sub"}


# ------------------------------------------------------------------ the command line


@pytest.fixture
def strange(tmp_path):
    """A folder of a stranger's experiments; writes one and returns the words that choose it."""

    def write(text, group="experiment"):
        (tmp_path / group).mkdir(parents=True, exist_ok=True)
        (tmp_path / group / "nice.yaml").write_text(text)
        return ["--config-dir", str(tmp_path), f"{group}=nice"]

    return write


CALLBACK = "# @package _global_\ncallbacks: {{nice: {{_target_: {}}}}}\n"


@pytest.mark.parametrize("name", ["sympy.sympify", "torch.utils.collect_env.run", "torch.os.system"])
def test_an_experiment_of_a_stranger_is_refused(strange, name):
    words = strange(CALLBACK.format(name))
    with pytest.raises(ValueError, match=REFUSED.format(re.escape(name), re.escape(name))):
        check_command_line(words, CONFIGS, "train")
    check_command_line([*words, f"allow=[{name}]"], CONFIGS, "train")


def test_a_file_cannot_allow_itself(strange):
    words = strange(CALLBACK.format("sympy.sympify") + "allow: [sympy]\n")
    with pytest.raises(ValueError, match="names sympy.sympify"):
        check_command_line(words, CONFIGS, "train")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("hydra: {callbacks: {x: {_target_: os.system, command: ls}}}", "names os.system"),
        ("hydra: {launcher: {_target_: os.system}}", "names os.system"),
        ("hydra: {job_logging: {handlers: {file: {class: socket.socket}}}}", "logging names socket.socket"),
        ("hydra: {job_logging: {formatters: {x: {(): os.system}}}}", "logging names os.system"),
        ("hydra: {job: {env_set: {LD_PRELOAD: evil.so}}}", "sets hydra.job.env_set.LD_PRELOAD"),
        ("hydra: {sweeper: {params: {+callbacks.x._target_: os.system}}}", "sets hydra.sweeper.params"),
        ("hydra: {run: {dir: '${oc.decode:x}'}}", "holds the reference"),
    ],
)
def test_hydras_own_part_is_checked_before_hydra_makes_it(strange, text, sentence):
    with pytest.raises(ValueError, match=sentence):
        check_command_line(strange(f"# @package _global_\n{text}\n"), CONFIGS, "train")


def test_every_choice_of_a_sweep_is_checked(strange, tmp_path):
    words = strange("_target_: os.system\n", "explainer")[:2]
    with pytest.raises(ValueError, match="names os.system"):
        check_command_line([*words, "-m", "explainer=pcim,nice"], CONFIGS, "train")


def test_a_search_path_and_another_folder_are_files_too(strange, tmp_path):
    strange("_target_: os.system\n", "explainer")
    with pytest.raises(ValueError, match="names os.system"):
        check_command_line([f"hydra.searchpath=[file://{tmp_path}]", "explainer=nice"], CONFIGS, "train")
    (tmp_path / "whole.yaml").write_text("a: {_target_: os.system}\n")
    with pytest.raises(ValueError, match="names os.system"):
        check_command_line(["-cp", str(tmp_path), "-cn", "whole"], CONFIGS, "train")


@pytest.mark.parametrize(
    "line",
    [
        "",
        "-m explainer=pcim,random_map seed=0,1",
        "+callbacks.mine._target_=os.system",
        "seed=[1",
        "--help",
        "--cfg job",
    ],
)
def test_what_the_user_types_is_the_users_own(line):
    check_command_line(line.split(), CONFIGS, "train")


def test_hydras_pickles_are_refused(tmp_path):
    with pytest.raises(ValueError, match="would unpickle that file, which can run code"):
        check_command_line(["--experimental-rerun", str(tmp_path / "config.pickle")], CONFIGS, "train")


def test_a_job_that_a_sweeper_made_is_checked_again(monkeypatch):
    done = []
    job = checked(lambda cfg: done.append(cfg) or {})
    monkeypatch.setenv(ALLOW, "mine")
    job(OmegaConf.create({"a": {"_target_": "mine.Net"}}))
    with pytest.raises(ValueError, match="names os.system"):
        job(OmegaConf.create({"a": {"_target_": "os.system"}}))
    assert len(done) == 1


def test_tensor_functions_of_pytorch_run_nothing():
    assert is_part("torch.sigmoid") and not is_part("torch.compile") and torch.from_file is not None
