"""Find a network among the tensors of a checkpoint that holds more, by the prefix of its keys."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

#: Prefixes of wrappers; where several prefixes cover the network, one that is made of these alone comes first.
PREFIXES = ("module.", "model.", "net.", "_orig_mod.")
WRAPPERS = re.compile(f"({'|'.join(map(re.escape, PREFIXES))})*")
#: Averaged copies of a network, which are not taken unless they are named.
COPIES = re.compile(r"(^|[._])(ema|swa|average[ds]?|averaged_model|momentum|shadow|swa_model)([._]|\d|$)")
#: Tensors that layers of other releases or a profiler keep with their weights.
NO_WEIGHTS = (
    "num_batches_tracked", "total_ops", "total_params", "attn_mask", "relative_position_index", "position_ids",
    "relative_coords_table",
)  # fmt: skip
DEPTH = 4


def tensors_in(content: Any, path: str = "", depth: int = DEPTH) -> dict[str, Tensor]:
    """All tensors in mappings that lie inside each other, by their dotted path.

    Example:
        >>> list(tensors_in({"net": {"weight": torch.ones(1)}, "epoch": 3}))
        ['net.weight']
    """
    found: dict[str, Tensor] = {}
    for key, value in content.items() if depth and isinstance(content, Mapping) else ():
        if isinstance(value, Tensor):
            found[f"{path}{key}"] = value
        else:
            found |= tensors_in(value, f"{path}{key}.", depth - 1)
    return found


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """What a file must hold for a model: its tensors, without the counters that PyTorch itself fills in."""
    state = model.state_dict().items()
    return {k: v for k, v in state if isinstance(v, Tensor) and not k.endswith("num_batches_tracked")}


def find_prefix(state: Mapping[str, Tensor], model: nn.Module, path: Path) -> str | None:
    """The prefix under which a state dict holds every weight of a model.

    Args:
        state: Tensors by key.
        model: The network.
        path: The file, for the message.

    Returns:
        ``None`` if no prefix covers the model.

    Raises:
        ValueError: If several do, with other weights, and none is more likely.
    """
    expected = weights_of(model)
    if not expected:
        return None
    first = next(iter(expected))
    found = [key[: -len(first)] for key in state if key == first or key.endswith(f".{first}")]
    found = [prefix for prefix in found if _covers(state, expected, prefix)]
    likely = [prefix for prefix in found if not COPIES.search(prefix)] or found
    likely = [prefix for prefix in likely if WRAPPERS.fullmatch(prefix)] or likely
    if "" in likely or not likely:
        return "" if likely else None
    for other in likely[1:]:
        if any(not torch.equal(state[likely[0] + key], state[other + key]) for key in expected):
            raise ValueError(
                f"{path} holds the network more than once, under {' and '.join(map(repr, likely))}; say which with "
                "weights_prefix= (target.weights_prefix)."
            )
    return likely[0]


def _covers(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], prefix: str) -> bool:
    return all(prefix + key in state and state[prefix + key].shape == value.shape for key, value in expected.items())


def strip_wrappers(state: dict[str, Tensor], model: nn.Module) -> tuple[dict[str, Tensor], str]:
    """Strip wrappers' prefixes that every key carries, unless the model's own keys start so."""
    expected, stripped = set(model.state_dict()), ""
    while state and not expected & state.keys():
        prefix = next((p for p in PREFIXES if all(key.startswith(p) for key in state)), None)
        if prefix is None:
            break
        state = {key.removeprefix(prefix): value for key, value in state.items()}
        stripped += prefix
    return state, stripped


def foreign_keys(keys: Iterable[str], model: nn.Module) -> list[str]:
    """Those keys that are no part of a network like the model, so that the file may hold them besides the model.

    What lies inside the model's own parts, or continues their numbers, is a larger network's: loading the rest of it
    would explain another network than the one that was trained.

    Args:
        keys: Without the prefix; those of the model itself are none.
        model: The model.

    Example:
        >>> net = nn.Sequential(nn.Linear(1, 1))
        >>> foreign_keys(["loss.weight", "1.weight", "0.extra", "0.weight"], net)
        ['loss.weight']
    """
    state = set(model.state_dict())
    parts = {_part(name) for name in weights_of(model)}
    others = [key for key in keys if key not in state]
    return [key for key in others if key.rpartition(".")[2] in NO_WEIGHTS or _part(key) not in parts]


def _part(key: str) -> str:
    """The name of the part that a key lies in, without its number."""
    return key.partition(".")[0].rstrip("0123456789")
