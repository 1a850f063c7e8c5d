"""``config.yaml`` of a run: another run can start from it, and it holds no secrets."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers import oc

from lightning_xai.functional.files import atomic_write
from lightning_xai.functional.text import first_line, strings

NAME = "config.yaml"
# Values that only Hydra can give, while it runs the job.
RUNTIME = re.compile(r"\$\{(?:hydra|now):[^{}]*\}")
# What a class of these packages may be, so that a config can do no more than put parts together.
PACKAGES = ("lightning", "lightning_xai", "monai", "torch", "torchmetrics")
RESOLVERS = ("oc.env", "oc.select")


def write_config(cfg: DictConfig) -> None:
    """Write the composed configuration into the run folder; references between keys stay references.

    A run that only applies a checkpoint of this very folder leaves the config of the run that wrote it.
    """
    path = Path(cfg.run_dir) / NAME
    if is_of_folder(cfg.ckpt_path, path.parent) and cfg.task not in ("explain", "global") and path.is_file():
        return
    with atomic_write(path) as file:
        file.write(OmegaConf.to_yaml(OmegaConf.create(as_composed(cfg))))


def is_of_folder(ckpt_path: str | None, folder: Path) -> bool:
    """Whether a run starts from a checkpoint of its own folder."""
    return ckpt_path == "last" or (ckpt_path is not None and folder.resolve() in Path(ckpt_path).resolve().parents)


def as_composed(cfg: DictConfig) -> dict[str, Any]:
    """Turn a config into plain values and references; only what Hydra's runtime alone knows is filled in."""

    def filled(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: filled(each) for key, each in value.items()}
        if isinstance(value, list):
            return [filled(each) for each in value]
        if not isinstance(value, str):
            return value
        return RUNTIME.sub(lambda found: str(OmegaConf.create({"value": found[0]}).value), value)

    content: dict[str, Any] = filled(OmegaConf.to_container(cfg))
    return content


def without_secrets(cfg: DictConfig) -> dict[str, Any]:
    """Resolve all references of a config but those to environment variables, for loggers."""
    try:
        with _environment_hidden():
            content: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    except OmegaConfBaseException:
        return as_composed(cfg)  # a variable decides what a reference refers to
    return content


@contextmanager
def _environment_hidden() -> Iterator[None]:
    """Let ``${oc.env:NAME}`` resolve to itself, wherever it stands and whatever refers to it."""

    def itself(key: str, *_: Any) -> str:
        return f"${{oc.env:{key}}}"

    OmegaConf.register_new_resolver("oc.env", itself, replace=True)
    try:
        yield
    finally:
        OmegaConf.register_new_resolver("oc.env", oc.env, replace=True)


def read_config(path: Path, trusted: set[str]) -> DictConfig:
    """Read the config of a run, which may come from a stranger: it can put parts together, and run nothing else.

    Args:
        path: The file.
        trusted: What ``_target_`` may name besides the classes of the project and of :data:`PACKAGES`.

    Raises:
        ValueError: If it cannot be read, or names anything else.
    """
    try:
        config = OmegaConf.load(path)
        missing = [name for name in ("data", "target", "explainer", "data_info") if name not in config]
        assert isinstance(config, DictConfig) and not missing, f"it lacks {', '.join(missing)}"
    except Exception as error:  # of YAML, of OmegaConf and of reading
        reason = first_line(error)
        raise ValueError(f"{path} is no config of a run ({reason}); give another ckpt_path.") from error
    for key, value in strings(OmegaConf.to_container(config)):
        if key == "_target_" and value not in trusted and not _is_part(value):
            raise ValueError(
                f"{path} names {value}, which is no part of this project; if you trust it, repeat the word of the "
                f"command line that names it, such as target.model._target_={value}."
            )
        if (reference := _foreign_reference(value)) is not None:
            raise ValueError(f"{path} holds the reference {reference}, which no run writes; give another ckpt_path.")
    return config


def targets_in(*texts: str) -> set[str]:
    """Collect everything that texts name as ``_target_``, in YAML or as words of a command line."""
    return {name for text in texts for name in re.findall(r"_target_\s*[:=]\s*[\"']?([\w.]+)", text)}


def _is_part(name: str) -> bool:
    """Whether a dotted path is a class of :data:`PACKAGES` whose construction does nothing else."""
    if name.partition(".")[0] not in PACKAGES:
        return False
    from lightning import Callback, LightningDataModule
    from lightning.pytorch.loggers import Logger
    from monai.transforms.transform import Transform
    from torch import nn
    from torchmetrics import Metric

    try:
        return issubclass(get_class(name), (Callback, LightningDataModule, Logger, Metric, Transform, nn.Module))
    except Exception:  # whatever an import or a look-up may raise
        return False


def _foreign_reference(text: str) -> str | None:
    """The first reference in a text that calls another resolver than those that a run's config may hold."""
    for found in re.finditer(r"\$\{([^:}$]*)([:}$]?)", text):
        if found[2] == "$" or (found[2] == ":" and found[1].strip() not in RESOLVERS):
            return text[found.start() :]
    return None
