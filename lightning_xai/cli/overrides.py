"""Check a command line before Hydra runs it, and name the nearest valid name where there is a typo."""

import re
from argparse import Namespace
from collections.abc import Iterator
from difflib import get_close_matches
from itertools import product
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir

# Hydra's own parser knows which words are flags, flag values and overrides; hydra-core is capped below 1.4.
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

# How Hydra names a key of the command line that the config does not have.
UNKNOWN_KEY = re.compile(r"Could not (?:override|delete from config\.) '(?P<key>[^']+)'")


def check_overrides(words: list[str], config_dir: Path, config_name: str = "train") -> None:
    """Refuse a command line that names an unknown config group, choice or key.

    The config is composed as Hydra would. Malformed overrides, ``hydra.*`` and command lines that bring their own
    config folder (as a DDP relaunch does) are left to Hydra.

    Args:
        words: The command line without the program's name, flags included.
        config_dir: The folder that holds the config groups.
        config_name: Name of the primary config in it, without suffix.

    Raises:
        ValueError: If a name is unknown; one sentence with the name and the nearest valid one.
    """
    read = read_words(words)
    if read is None:
        return
    flags, parsed = read
    checked = [each for each in parsed if each.key_or_group.replace("/", ".").split(".")[0] != "hydra"]
    with initialize_config_dir(str(config_dir.resolve()), version_base="1.3"):
        for job in product(*(single_lines(override, config_dir) for override in checked)):
            check_job(list(job), config_dir, flags.config_name or config_name)


def read_words(words: list[str]) -> tuple[Namespace, list[Override]] | None:
    """Parse the flags and overrides of a command line; ``None`` if it is malformed or brings its own config folder."""
    flags, unknown = get_args_parser().parse_known_args(words)
    if unknown or flags.config_path or flags.config_dir or flags.experimental_rerun or flags.shell_completion:
        return None
    try:
        return flags, OverridesParser.create().parse_overrides(flags.overrides)
    except OverrideParseException:
        return None  # Hydra points at the character


def single_lines(override: Override, config_dir: Path) -> list[str]:
    """List an override for each choice of a swept group; of any other sweep only the key matters."""
    group = config_dir / override.key_or_group
    if not override.is_sweep_override():
        return [override.input_line or ""]
    swept = override.value()
    if not (group.is_dir() and override.is_choice_sweep()):
        values = ["null"]
    elif isinstance(swept, Glob):
        values = swept.filter(options(group)) or swept.include
    else:
        values = list(override.sweep_string_iterator())
    return [f"{override.get_key_element()}={value}" for value in values]


def options(group: Path) -> list[str]:
    """List the choices of a config group: its YAML files, but for those that others build on."""
    return sorted(file.stem for file in group.glob("*.yaml") if not file.name.startswith("_"))


def check_job(lines: list[str], config_dir: Path, config_name: str) -> None:
    """Refuse the overrides of one job if they name an unknown choice or key; other mistakes are left to Hydra."""
    overrides = OverridesParser.create().parse_overrides(lines)
    groups = [override for override in overrides if (config_dir / override.key_or_group).is_dir()]
    for override in groups:
        check_choices(override, options(config_dir / override.key_or_group))
    try:
        compose(config_name, lines)
    except MissingConfigException as error:
        if (missing := error.missing_cfg_file or "").startswith("hydra/"):
            raise ValueError(
                f"A package that brings {missing} is not installed; for hparams_search: pip install -e '.[sweep]'."
            ) from error
    except (HydraException, OmegaConfBaseException, ValueError, AssertionError) as error:
        if (unknown := UNKNOWN_KEY.match(str(error))) is None:
            return
        added = [each.input_line or "" for each in overrides if each in groups or each.is_add() or each.is_force_add()]
        content: Any = OmegaConf.to_container(compose(config_name, added))
        check_key(unknown["key"], set(dotted(content)), config_dir)


def check_choices(override: Override, available: list[str]) -> None:
    """Raise if a group has no such choice."""
    value, group = override.value(), override.key_or_group
    if override.is_delete():
        return
    for choice in value if isinstance(value, list) else [value]:
        if str(choice).removesuffix(".yaml") in available:
            continue
        if choice is None:
            raise ValueError(f"A group takes the name of a file, not null: leave '{group}' out with ~{group}.")
        close = get_close_matches(str(choice), available, 1)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        raise ValueError(f"There is no {group} '{choice}'{hint} (available: {', '.join(available)})")


def dotted(config: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """List every key of a config, inner ones with dots."""
    for key, value in config.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from dotted(value, f"{prefix}{key}.")


def check_key(key: str, keys: set[str], config_dir: Path) -> None:
    """Raise if the config has neither such a key nor such a group."""
    if key in keys:
        return  # it exists, so something else is wrong with its value
    groups = {folder.relative_to(config_dir).as_posix() for folder in config_dir.rglob("*") if folder.is_dir()}
    names = sorted(keys | groups)
    parent, _, leaf = key.rpartition(".")
    siblings = [name.rpartition(".")[2] for name in names if name.rpartition(".")[0] == parent]
    task = parent.partition(".")[0]
    if task not in keys and task in options(config_dir / "task"):
        raise ValueError(f"'{key}' is a key of task={task}: add that to the command line.")
    elsewhere = sorted((name for name in names if name.rpartition(".")[2] == leaf), key=len)
    if close := get_close_matches(leaf, siblings, 1, 0.7):
        match = f"{parent}.{close[0]}" if parent else close[0]
    elif close := elsewhere or get_close_matches(key, [] if siblings else names, 1, 0.8):
        match = close[0]
    else:
        where = f"'{parent}' has" if parent and siblings else "there are"
        listed = ", ".join(siblings or [name for name in names if "." not in name])
        raise ValueError(f"Unknown key '{key}': {where} {listed}; a key that is not listed is added with +{key}=...")
    if match in groups:
        raise ValueError(f"Unknown group '{key}'; did you mean '{match}'?")
    raise ValueError(f"Unknown key '{key}': did you mean '{match}'?")


def list_groups(sources: list[dict[str, str]]) -> str:
    """Write a line for each config group with its choices, for the help.

    Args:
        sources: Hydra's ``runtime.config_sources``; the folder of the one that the program provides is listed.
    """
    config_dir = next(Path(source["path"]) for source in sources if source["provider"] == "main")
    groups = sorted(folder for folder in config_dir.iterdir() if folder.is_dir())
    return "\n".join(f"{group.name}: {', '.join(options(group))}" for group in groups)


OmegaConf.register_new_resolver("config_groups", list_groups, replace=True)
