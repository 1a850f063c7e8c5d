"""Counts where the host would wait for a GPU, on any machine: values read from tensors, and values sent to them."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

#: Operators whose result, or the shape of it, the host must know: it waits until the device is done.
READS = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "_unique2", "unique_dim")
#: Operators that look for the true entries of a boolean index.
INDEXED = ("index", "index_put", "index_put_", "_index_put_impl_")
#: Calls that copy a tensor to the host.
COPIES = (Tensor.tolist, Tensor.numpy, Tensor.cpu)
#: Calls that make a tensor of numbers of the host: sending them waits too.
SENDS = (torch.tensor, torch.as_tensor)


class _Operators(TorchDispatchMode):
    def __init__(self, counts: Counter[str]) -> None:
        super().__init__()
        self.counts = counts

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        masks = name in INDEXED and any(one is not None and one.dtype == torch.bool for one in args[1])
        lengths = name == "repeat_interleave" and (kwargs or {}).get("output_size") is None
        if name in READS or masks or lengths:
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


class _Calls(TorchFunctionMode):
    def __init__(self, counts: Counter[str]) -> None:
        super().__init__()
        self.counts = counts

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        sends = func in SENDS and not isinstance(args[0], Tensor)
        if func in COPIES or sends:
            self.counts[func.__name__] += 1
        return func(*args, **(kwargs or {}))


def host_waits(work: Callable[[], object]) -> Counter[str]:
    """How often the host would wait for a device while ``work`` runs, by operator."""
    counts: Counter[str] = Counter()
    with _Calls(counts), _Operators(counts):
        work()
    return counts
