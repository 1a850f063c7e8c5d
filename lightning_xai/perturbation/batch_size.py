"""How many inputs fit into one forward pass."""

import os
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

#: Larger chunks gain nothing any more.
LARGEST = {"cpu": 64}
LARGEST_ELSEWHERE = 1024
#: Fraction of the free memory to plan with.
USABLE = 0.5


class _PeakMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the tensors that are alive at once, and of all that are allocated, while it is active."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.alive = self.peak = self.allocated = 0
        self.storages: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self.storages:
            self.storages.add(key)
            self.alive += size
            self.allocated += size
            self.peak = max(self.peak, self.alive)
            weakref.finalize(storage, self._release, key, size)

    def _release(self, key: int, size: int) -> None:
        self.storages.discard(key)
        self.alive -= size


@torch.no_grad()
def fitting_chunk(forward: Callable[[Tensor], Tensor], images: Tensor, gradients: bool = False) -> int:
    """The largest power of two of inputs whose forward pass fits into half of the free memory.

    Args:
        forward: ``(n, C, *S)`` -> logits. It is run once, on one image, to see what it needs.
        images: ``(B, C, *S)``.
        gradients: Whether all activations are kept, as an explanation by gradients does.

    Returns:
        At least 1; at most 64 on a CPU, where more gain nothing, and 1024 elsewhere.

    Example:
        >>> fitting_chunk(torch.nn.Flatten(), torch.rand(1, 1, 8, 8))
        64
    """
    counter, one = _PeakMemory(), images[:1].clone()
    with counter:
        forward(one)
    # The inputs themselves, and what they are perturbed from.
    needed = (2 * counter.allocated if gradients else counter.peak) + 6 * one.nbytes
    largest = LARGEST.get(images.device.type, LARGEST_ELSEWHERE)
    fits = min(largest, int(USABLE * free_bytes(images.device)) // needed)
    return 1 << max(0, fits.bit_length() - 1)


def free_bytes(device: torch.device) -> int:
    """Memory that is free on a device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
