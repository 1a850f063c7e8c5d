"""Read items in threads, and load data sets in batches."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from lightning import Trainer
from monai.data.dataloader import DataLoader
from monai.data.dataset import CacheDataset, Dataset
from monai.transforms.compose import Compose
from monai.transforms.utility.dictionary import EnsureTyped
from torch.utils.data import default_collate

from lightning_xai.data.batches import EqualSizes
from lightning_xai.data.cache import CachedRows
from lightning_xai.data.items import Item
from lightning_xai.data.loading import LoadItem
from lightning_xai.data.order import EpochDraws, EpochOrder, TrainingLoader
from lightning_xai.data.reading import BadImageError

Result = TypeVar("Result")


def read_all(read: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[tuple[Item, Result | BadImageError]]:
    """Read items in threads, few at a time, so that a data set that is not cached is never in memory as a whole.

    Args:
        read: Reads an item.
        items: What to read.

    Yields:
        Each item in order, with what was read or why it cannot be used.
    """

    def attempt(item: Item) -> Result | BadImageError:
        try:
            return read(item)
        except BadImageError as error:
            return error

    threads = min(8, os.cpu_count() or 1)
    ahead: deque[tuple[Item, Future[Result | BadImageError]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for item in items:
            ahead.append((item, pool.submit(attempt, item)))
            if len(ahead) > 2 * threads:
                done, future = ahead.popleft()
                yield done, future.result()
        for done, future in ahead:
            yield done, future.result()


def read_usable(
    read: Callable[[Item], Result], items: Sequence[Item], strict: bool, skipped: list[str]
) -> Iterator[tuple[Item, Result]]:
    """Read items, and skip those that cannot be used or stop at the first of them.

    Args:
        read: Reads an item.
        items: What to read.
        strict: Whether one that cannot be used stops everything.
        skipped: Gets a sentence for each that cannot be used.

    Yields:
        Each item in order, with what was read.

    Raises:
        BadImageError: An item cannot be used, and `strict` is set.
    """
    for item, result in read_all(read, items):
        if not isinstance(result, BadImageError):
            yield item, result
        elif strict:
            raise result
        else:
            skipped.append(str(result))


def make_dataset(
    items: Sequence[Item],
    load: LoadItem,
    cached: CachedRows | None,
    augment: Sequence[Callable[..., Any]],
) -> Dataset:
    """Make a data set of items, whose samples are read each time or come from memory.

    Args:
        items: The items.
        load: Reads one.
        cached: What it returned for each, and None for one that is to be read; None reads all each time.
        augment: Transforms after that.

    Returns:
        The data set.
    """
    steps: list[Any] = [load]
    if augment:
        plain = EnsureTyped(
            ("image", "mask"), dtype=(torch.float32, torch.int64), track_meta=False, allow_missing_keys=True
        )
        # Nested, the augmentation counts as random as a whole: the cache holds what `load` returns, and no more.
        steps.append(Compose([*augment, plain]))
    if cached is None:
        return Dataset(items, Compose(steps))
    # MONAI asks no more of it than the entry of a row.
    return CacheDataset(items, Compose(steps), runtime_cache=cached, progress=False)  # type: ignore[arg-type]


def make_loader(dataset: Any, batch_size: int, workers: int, seed: int) -> DataLoader:
    """Make the loader that gives a data set in batches, in its order.

    Args:
        dataset: Samples, or lists of patches, or whole batches.
        batch_size: Images a batch.
        workers: Processes that make the samples.
        seed: Of what workers draw.

    Returns:
        The loader.
    """
    return DataLoader(dataset, **_loader_options(dataset, batch_size, workers, seed))


def make_training_loader(
    dataset: Any, batch_size: int, workers: int, seed: int, trainer: Trainer | None
) -> TrainingLoader:
    """Make the loader that gives training images in an order of every epoch, and goes on in an interrupted one.

    Args:
        dataset: See :func:`make_loader`.
        batch_size: Images a batch.
        workers: Processes that make the samples.
        seed: Of the order and of the augmentation.
        trainer: Its ranks share the images; ``None``: there is one.

    Returns:
        The loader.
    """
    ranks = (1, 0) if trainer is None else (trainer.world_size, trainer.global_rank)
    samples = dataset.dataset if isinstance(dataset, EqualSizes) else dataset
    draws = EpochDraws(dataset, getattr(samples, "transform", None), seed)
    options = _loader_options(dataset, batch_size, workers, seed)
    return TrainingLoader(draws, sampler=EpochOrder(dataset, ranks, seed), **options)


def _loader_options(dataset: Any, batch_size: int, workers: int, seed: int) -> dict[str, Any]:
    return {
        "batch_size": 1 if isinstance(dataset, EqualSizes) else batch_size,
        "num_workers": workers,
        "prefetch_factor": prefetched(workers),
        "persistent_workers": workers > 0,
        "pin_memory": torch.cuda.is_available(),
        "collate_fn": collate,
        # Without a generator, MONAI's loader would reset the global one.
        "generator": torch.Generator().manual_seed(seed),
    }


def choose_workers(light: bool, ranks: int = 1) -> int:
    """Choose the number of worker processes: none where they would cost more time than they save.

    Args:
        light: Whether making a sample costs less than sending it between processes.
        ranks: Processes that share the cores of this machine, each with workers of its own.

    Returns:
        The number.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = cores // max(1, ranks)
    return 0 if light or share <= 2 else min(8, share - 1)


def prefetched(workers: int) -> int | None:
    """Batches that each worker makes ahead: more where a GPU would wait for them."""
    return None if not workers else 4 if torch.cuda.is_available() else 2


def collate(samples: list[Any]) -> Any:
    """Combine samples, or lists of patches, into a batch; an image without a group gets ``""`` if others have one."""
    flat = [part for each in samples for part in (each if isinstance(each, list) else [each])]
    if any("group" in part for part in flat):
        flat = [{"group": "", **part} for part in flat]
    return default_collate(flat)
