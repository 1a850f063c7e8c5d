"""The network of a MONAI bundle."""

import json
from collections.abc import Iterator
from pathlib import Path

from hydra.utils import get_class
from monai.bundle.config_parser import ConfigParser
from monai.networks import nets
from torch import nn

from lightning_xai.functional.text import first_line, leaves
from lightning_xai.networks.external.common import with_names

#: Configurations of a bundle that define its network, and the names it has there.
FILES = ("inference", "evaluate", "train")
SUFFIXES = ("json", "yaml", "yml")
NETWORKS = ("network_def", "network", "net")
#: Where the classes live that a bundle may name without being code.
SAFE = ("monai.networks.", "torch.nn.")


def monai_bundle(folder: str | Path, allow_code: bool = False) -> nn.Module:
    """Build the network of a MONAI bundle, without its weights.

    Args:
        folder: The bundle: it holds ``configs`` and ``models``.
        allow_code: Whether its configuration may run code, which expressions (``$...``) and classes of its own are.

    Raises:
        ValueError: If there is no network in it, it cannot be built, or its definition is code and ``allow_code`` is
            not ``True``.
    """
    path = configuration_of(Path(folder).expanduser())
    parser = ConfigParser()
    try:
        parser.read_config(str(path))
    except Exception as error:  # of JSON, of YAML and of reading
        raise ValueError(
            f"{path} cannot be read ({first_line(error.__cause__ or error).rstrip('.')}); give a whole bundle."
        ) from error
    name = next((name for name in NETWORKS if name in parser), None)
    if name is None:
        raise ValueError(f"{path} defines no network ({', '.join(NETWORKS)}); is it the configuration of a bundle?")
    code = next(code_in(parser, name, set()), None)
    if code is not None and allow_code is not True:
        raise ValueError(
            f"{path} defines its network with {code!r}, which is code that runs on this machine; if you trust the "
            "bundle, allow it with target.allow_code=true."
        )
    try:
        model = parser.get_parsed_content(name)
    except Exception as error:  # of the network, and of whatever its definition names
        raise ValueError(
            f"The network that {path} defines cannot be built: {first_line(error.__cause__ or error).rstrip('.')}."
        ) from error
    if not isinstance(model, nn.Module):
        raise ValueError(f"{path} defines {name} as a {type(model).__name__}, not as a network.")
    return with_names(model, channel_names(path.with_name("metadata.json")))


def channel_names(path: Path) -> list[str] | None:
    """What a bundle's metadata call the channels of its output; ``None`` where they do not."""
    try:
        channels = json.loads(path.read_text())["network_data_format"]["outputs"]["pred"]["channel_def"]
        return [str(channels[number]) for number in sorted(channels, key=int)]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # they are not needed for anything else


def configuration_of(folder: Path) -> Path:
    """The configuration of a bundle.

    Raises:
        ValueError: If the folder has none.
    """
    for path in (folder / "configs" / f"{name}.{suffix}" for name in FILES for suffix in SUFFIXES):
        if path.is_file():
            return path
    raise ValueError(
        f"{folder} is no MONAI bundle: it has no configs/{FILES[0]}.json (nor .yaml, nor {', '.join(FILES[1:])})."
    )


def code_in(parser: ConfigParser, name: str, seen: set[str]) -> Iterator[str]:
    """Everything in a definition, and in what it refers to, that is not a plain value or a network of MONAI's.

    Args:
        parser: The configuration.
        name: Of the definition.
        seen: Definitions that were looked at.
    """
    seen.add(name)
    for key, value in leaves(parser.get(name)):
        if not isinstance(value, str):
            continue
        other = value[1:].replace("#", "::")
        if value.startswith("@") and other in parser:
            if other not in seen:
                yield from code_in(parser, other, seen)
        elif value.startswith(("@", "$", "%")) or (key == "_target_" and not is_network(value)):
            yield value


def is_network(name: str) -> bool:
    """Whether the name, or the import path, is that of a network or layer of MONAI or PyTorch."""
    try:
        found = get_class(name) if "." in name else getattr(nets, name)
        return issubclass(found, nn.Module) and found.__module__.startswith(SAFE)
    except Exception:  # whatever an import or a look-up may raise
        return False
