"""How many inputs fit into one forward pass."""

import os
import weakref
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

#: Inputs per pass: a number, ``"auto"`` (as many as fit into memory), or ``None``: :data:`CPU_CHUNK` on a CPU, where
#: results must not depend on the memory that happens to be free, and ``"auto"`` elsewhere.
ChunkSize = int | Literal["auto"] | None
CPU_CHUNK = 64
#: Larger chunks gain nothing any more.
LARGEST = {"cpu": 64}
LARGEST_ELSEWHERE = 1024
#: Fraction of the free memory to plan with.
USABLE = 0.5
#: What was measured, by target, then by device, type and shape of an image, and whether gradients are kept.
_measured: "weakref.WeakKeyDictionary[Any, dict[tuple[Any, ...], int]]" = weakref.WeakKeyDictionary()


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


def checked_chunk_size(chunk_size: Any) -> ChunkSize:
    """Check a number of inputs per pass, and return it.

    Raises:
        ValueError: If it is no :data:`ChunkSize`.
    """
    number = isinstance(chunk_size, int) and not isinstance(chunk_size, bool) and chunk_size >= 1
    if number or chunk_size in ("auto", None):
        return chunk_size  # type: ignore[no-any-return]
    raise ValueError(
        f"chunk_size is {chunk_size!r}; give a number of inputs, at least 1, 'auto', or None (64 on a CPU, else auto)."
    )


def inputs_per_pass(chunk_size: ChunkSize, target: Any, images: Tensor, gradients: bool = False) -> int:
    """The number of inputs of a pass; what fits is measured once for a target and images of one shape.

    Args:
        chunk_size: See :data:`ChunkSize`.
        target: A :class:`~lightning_xai.targets.Target`.
        images: ``(B, C, *S)``.
        gradients: See :func:`fitting_chunk`.
    """
    if isinstance(chunk_size, int):
        return chunk_size
    if chunk_size is None and images.device.type == "cpu":
        return CPU_CHUNK
    sizes = _measured.setdefault(target, {})
    key = (images.device, images.dtype, *images.shape[1:], gradients)
    if key not in sizes:
        sizes[key] = fitting_chunk(target.logits, images, gradients)
    return sizes[key]


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
    """The free memory of a device, in bytes."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
