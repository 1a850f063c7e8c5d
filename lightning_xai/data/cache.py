"""Samples that are kept after the first reading: as small as their files, once a machine, within a limit."""

import atexit
import contextlib
import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from typing_extensions import override

log = logging.getLogger(__name__)

#: Fraction of the free memory, or of the free disk where ranks share a file, that a cache may take unasked.
USABLE = 0.5
#: What files' integers are divided by when they are read, and the types that hold them again.
PACKINGS = ((255, np.uint8), (65535, np.uint16), (1, np.uint8), (1, np.int16), (1, np.uint16))
#: Variables by which launchers tell how many ranks there are.
RANKS = ("WORLD_SIZE", "SLURM_NTASKS")


@dataclass(frozen=True)
class Packed:
    """A tensor in the smallest type that gives it back to the last bit.

    Attributes:
        values: Its values, or ``None`` once a file has them.
        divisor: What they are divided by.
        dtype: Of the tensor.
        shape: Of the tensor.
        stored: Type of the values.
        offset: Where they begin in the file.
    """

    values: NDArray[Any] | None
    divisor: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    stored: np.dtype[Any]
    offset: int = 0

    @property
    def size(self) -> int:
        """Bytes."""
        return int(np.prod(self.shape)) * self.stored.itemsize

    def unpacked(self, values: NDArray[Any]) -> torch.Tensor:
        """The tensor, from its values in any shape; a new one."""
        array = np.asarray(values).reshape(self.shape)
        if self.dtype == torch.float32:
            return torch.from_numpy(array.astype(np.float32) / np.float32(self.divisor))
        return torch.from_numpy(np.array(array)).to(self.dtype)


def packed(tensor: torch.Tensor) -> Packed:
    """Pack a tensor: integers of a file that became fractions, and class indices, take their one or two bytes."""
    values = tensor.detach().cpu().contiguous().numpy()
    as_is = Packed(values, 1, tensor.dtype, tuple(tensor.shape), values.dtype)
    whole = tensor.dtype == torch.int64
    if not (whole or tensor.dtype == torch.float32) or not values.size or not np.isfinite(values).all():
        return as_is
    low, high = float(values.min()), float(values.max())
    for divisor, kind in PACKINGS:
        limits = np.iinfo(kind)
        if (whole and divisor > 1) or low * divisor < limits.min or high * divisor > limits.max + 0.5:
            continue
        small = np.rint(values * np.asarray(divisor, values.dtype)).astype(kind)
        found = Packed(small, divisor, tensor.dtype, as_is.shape, small.dtype)
        if torch.equal(found.unpacked(small), tensor):
            return found
    return as_is


class SampleCache:
    """Keeps the samples of a data set, if they fit.

    In one process they are in memory. Ranks that a launcher started share one file on each machine, mapped into memory:
    the first of them writes it. The others compute where everything is while they read, and take it when it is whole
    and has the content that they read; until then, or where it never comes, they read their files.

    Args:
        count: Samples to come.
        limit: Gigabytes at most; ``None``: half of what is free.

    Raises:
        ValueError: If the limit is not above 0.
    """

    def __init__(self, count: int, limit: float | None = None) -> None:
        if limit is not None and limit <= 0:
            raise ValueError(f"data.cache_limit is {limit}; give gigabytes above 0, or data.cache=false.")
        self.count = count
        #: Whether the samples do not fit: none is kept.
        self.full = False
        self.samples: dict[str, dict[str, Any]] = {}
        self.size = 0
        self._file = SharedFile() if several_ranks() else None
        self.limit = 1e9 * limit if limit is not None else USABLE * self._free()

    def _free(self) -> int:
        return free_memory() if self._file is None else shutil.disk_usage(self._file.part.parent).free

    def add(self, sample: Mapping[str, Any]) -> None:
        """Keep a sample, under its ``id``."""
        if self.full:
            return
        kept = {name: packed(value) if torch.is_tensor(value) else value for name, value in sample.items()}
        size = sum(part.size for part in kept.values() if isinstance(part, Packed))
        # What all will take if they are like the first is known before the second is read.
        expected = self.size + size if self.samples else self.count * size
        if expected > self.limit:
            self._give_up(expected)
            return
        if not self.samples:
            where = "memory" if self._file is None else f"{self._file.part.parent}, shared by this machine's ranks"
            log.info("Cache: about %s for %d images in %s.", in_words(expected), self.count, where)
        self.samples[sample["id"]] = {name: self._placed(part) for name, part in kept.items()}

    def _give_up(self, needed: float) -> None:
        log.warning(
            "The %d images take %s or more, but their cache may take %s (data.cache_limit): they are read each time.",
            *(self.count, in_words(needed), in_words(self.limit)),
        )
        self.full, self.samples = True, {}
        if self._file is not None:
            self._file.drop()

    def _placed(self, part: Any) -> Any:
        if not isinstance(part, Packed):
            return part
        offset, self.size = self.size, self.size + part.size
        if self._file is None or part.values is None:
            return part
        self._file.add(part.values)
        return replace(part, values=None, offset=offset)

    def rows(self, ids: Sequence[str]) -> "CachedRows | None":
        """Some of the samples, as MONAI's ``CacheDataset`` takes them, once all are there; ``None`` if none is kept."""
        if self._file is not None and self._file.path is None and not self.full:
            self._file.close()
        return None if self.full else CachedRows(self, ids)

    def sample(self, name: str) -> dict[str, Any] | None:
        """The sample of an id; ``None`` if it is to be read."""
        content = None if self._file is None else self._file.content()
        if self._file is not None and content is None:
            return None
        kept = self.samples[name].items()
        return {key: _tensor(part, content) if isinstance(part, Packed) else part for key, part in kept}


def _tensor(part: Packed, content: NDArray[np.uint8] | None) -> torch.Tensor:
    if part.values is not None:
        return part.unpacked(part.values)
    assert content is not None
    return part.unpacked(content[part.offset : part.offset + part.size].view(part.stored))


class CachedRows(Sequence[dict[str, Any] | None]):
    """Some samples of a cache in an order of their own; ``None`` for one that is to be read.

    Args:
        cache: The cache.
        ids: Those of its samples.
    """

    def __init__(self, cache: SampleCache, ids: Sequence[str]) -> None:
        self.cache, self.ids = cache, list(ids)

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any] | None: ...
    @overload
    def __getitem__(self, index: slice) -> "CachedRows": ...
    @override
    def __getitem__(self, index: int | slice) -> "dict[str, Any] | None | CachedRows":
        if isinstance(index, slice):
            return CachedRows(self.cache, self.ids[index])
        return self.cache.sample(self.ids[index])

    def __setitem__(self, index: int, sample: dict[str, Any]) -> None:
        """Keep nothing: a file that is to be shared has the sample soon."""


class SharedFile:
    """One file for the ranks of a machine, which the first of them writes; its name says what is in it."""

    def __init__(self) -> None:
        job = f"{os.getuid()}_{os.getppid()}"  # the ranks of a machine have one parent
        self.part = Path(tempfile.gettempdir()) / f"lightning_xai_{job}.part"
        #: Where the file is when it is whole; ``None`` as long as its content is not known.
        self.path: Path | None = None
        self._digest: Any = hashlib.blake2b(digest_size=16)
        self._stream: Any = None
        self._content: NDArray[np.uint8] | None = None
        with contextlib.suppress(FileExistsError):  # another rank writes it
            self._stream = self.part.open("xb")
            atexit.register(self.drop)

    def add(self, values: NDArray[Any]) -> None:
        """Append values; a rank that does not write notes what they are."""
        content = np.ascontiguousarray(values).tobytes()
        self._digest.update(content)
        if self._stream is not None:
            self._stream.write(content)

    def close(self) -> None:
        """Everything is written: the others may read it."""
        self.path = self.part.with_name(f"{self.part.stem}_{self._digest.hexdigest()}.cache")
        self._digest = None
        if self._stream is not None:
            self._stream.close()
            self._stream = None
            self.part.rename(self.path)
            atexit.register(self.path.unlink, missing_ok=True)

    def drop(self) -> None:
        """Remove what was written of a file that never became whole."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None
            self.part.unlink(missing_ok=True)

    def content(self) -> NDArray[np.uint8] | None:
        """The bytes of the whole file, mapped into memory; ``None`` as long as there is none."""
        if self._content is None and self.path is not None and self.path.is_file():
            self._content = np.memmap(self.path, np.uint8, "r")
        return self._content

    def __getstate__(self) -> dict[str, Any]:
        """A data worker maps the file by itself."""
        return self.__dict__ | {"_content": None}


def several_ranks() -> bool:
    """Whether a launcher has started more than this process."""
    return any(int(os.environ.get(name) or 1) > 1 for name in RANKS)


def free_memory() -> int:
    """Bytes of memory that are free, or that the system would free for a program."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def in_words(size: float) -> str:
    """A number of bytes as people read it.

    Example:
        >>> in_words(3.2e9), in_words(5e4)
        ('3.2 GB', '0.1 MB')
    """
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
