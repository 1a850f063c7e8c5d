"""``config.yaml`` of a run: another run can start from it, and it holds no secrets."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers import oc

from lightning_xai.cli.trust import check_config
from lightning_xai.functional.files import atomic_write
from lightning_xai.functional.secrets import masked, masked_words
from lightning_xai.functional.text import first_line

NAME = "config.yaml"
# Values that only Hydra can give, while it runs the job, or only SLURM.
RUNTIME = re.compile(r"\$\{(?:hydra|now|slurm):[^{}]*\}")
# The references that a run writes.
RESOLVERS = ("oc.env", "oc.select")
# Bytes of a config; those of runs have some ten thousand.
LARGEST = 1 << 20


def write_config(cfg: DictConfig) -> None:
    """Write the composed configuration into the run folder; references between keys stay references.

    A run that only applies a checkpoint of this very folder leaves the config of the run that wrote it.
    """
    path = Path(cfg.run_dir) / NAME
    if is_of_folder(cfg.ckpt_path, path.parent) and cfg.task not in ("explain", "global") and path.is_file():
        return
    with atomic_write(path) as file:
        file.write(OmegaConf.to_yaml(OmegaConf.create(masked(as_composed(cfg), MISSING))))


def is_of_folder(ckpt_path: str | None, folder: Path) -> bool:
    """Whether a run starts from a checkpoint of its own folder."""
    return ckpt_path == "last" or (ckpt_path is not None and folder.resolve() in Path(ckpt_path).resolve().parents)


def as_composed(cfg: DictConfig) -> dict[str, Any]:
    """Turn a config into plain values and references; only what the runtime alone knows is filled in."""

    def found(reference: str) -> Any:
        return OmegaConf.create({"value": reference}).value

    def filled(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: filled(each) for key, each in value.items()}
        if isinstance(value, list):
            return [filled(each) for each in value]
        if not isinstance(value, str):
            return value
        return found(value) if RUNTIME.fullmatch(value) else RUNTIME.sub(lambda match: str(found(match[0])), value)

    content: dict[str, Any] = filled(OmegaConf.to_container(cfg))
    return content


def without_secrets(cfg: DictConfig) -> dict[str, Any]:
    """Resolve all references of a config but those to environment variables, and mask secrets, for loggers."""
    hidden = OmegaConf.create(masked(OmegaConf.to_container(cfg)))  # before a reference takes a value elsewhere
    try:
        with _environment_hidden():
            content: dict[str, Any] = OmegaConf.to_container(hidden, resolve=True)  # type: ignore[assignment]
    except OmegaConfBaseException:
        return as_composed(hidden)  # a variable decides what a reference refers to
    return content


def mask_hydra_files() -> None:
    """Mask the secrets in what Hydra wrote about the run that it runs now, and about its sweep."""
    if not HydraConfig.initialized():
        return
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir) / (hydra.output_subdir or "no files")
    sweep = [] if hydra.mode != RunMode.MULTIRUN else Path(hydra.sweep.dir).glob("multirun.yaml")
    for path in [*folder.glob("*.yaml"), *sweep]:
        content: Any = OmegaConf.to_container(OmegaConf.load(path))
        hidden = masked_words(content) if isinstance(content, list) else _without_words(masked(content, MISSING))
        if hidden != content:
            with atomic_write(path) as file:
                file.write(OmegaConf.to_yaml(OmegaConf.create(hidden)))


def _without_words(content: dict[str, Any]) -> dict[str, Any]:
    """Mask the command line that Hydra's own part of a config repeats."""
    hydra = content.get("hydra")
    if isinstance(hydra, dict):
        words = (hydra.get("overrides") or {}).get("task") or []
        hydra["overrides"] = (hydra.get("overrides") or {}) | {"task": masked_words(words)}
        if isinstance(name := (hydra.get("job") or {}).get("override_dirname"), str):
            hydra["job"]["override_dirname"] = ",".join(masked_words(name.split(",")))
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


def read_config(path: Path, allowed: set[str]) -> DictConfig:
    """Read the config of a run, which may come from a stranger: it can put parts together, and run nothing else.

    Args:
        path: The file.
        allowed: What it may name besides, see :func:`~lightning_xai.cli.trust.trusted_names`.

    Raises:
        ValueError: If it cannot be read, or names anything else.
    """
    try:
        assert path.stat().st_size < LARGEST, f"it has more than {LARGEST >> 20} MiB"
        tokens = yaml.scan(path.read_text(encoding="utf-8"), yaml.SafeLoader)
        assert not any(isinstance(token, yaml.AliasToken) for token in tokens), (
            "it repeats parts of itself, without end"
        )
        config = OmegaConf.load(path)
        missing = [name for name in ("data", "target", "explainer", "data_info") if name not in config]
        assert isinstance(config, DictConfig) and not missing, f"it lacks {', '.join(missing)}"
    except Exception as error:  # of YAML, of OmegaConf and of reading
        reason = first_line(error)
        raise ValueError(f"{path} is no config of a run ({reason}); give another ckpt_path.") from error
    content: Any = OmegaConf.to_container(config)
    if isinstance(content["target"], dict):
        content["target"].pop("allow_code", None)  # it is never taken over
    check_config(content, str(path), allowed, RESOLVERS)
    return config
