"""The random state of a process, and of all ranks, as plain values that a checkpoint can hold."""

import random
from typing import Any

import numpy as np
import torch
import torch.distributed as dist


def random_state() -> dict[str, Any]:
    """The state of the generators of Python, NumPy and torch, that of the current CUDA device included.

    Returns:
        Tensors, numbers and tuples: what ``torch.load(weights_only=True)`` takes.
    """
    _, keys, position, has_gauss, gauss = np.random.get_state()
    state = {
        "python": random.getstate(),
        "numpy": (torch.from_numpy(np.asarray(keys, np.int64)), int(position), int(has_gauss), float(gauss)),
        "torch": torch.get_rng_state(),
    }
    return state | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})


def set_random_state(state: dict[str, Any]) -> None:
    """Go back to a state.

    Args:
        state: From :func:`random_state`; that of a CUDA device is left out where there is none.
    """
    random.setstate(state["python"])
    keys, *rest = state["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def of_all_ranks(state: dict[str, Any], ranks: int) -> list[dict[str, Any]]:
    """Gather a state of every rank; all of them call this."""
    states = [state] * ranks
    if ranks > 1:
        dist.all_gather_object(states, state)
    return states
