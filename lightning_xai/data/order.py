"""Training images in an order, and with changes, that follow from seed and epoch alone: a resumed run sees the same."""

import random
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from monai.data.dataloader import DataLoader
from torch.utils.data import Dataset, DistributedSampler, get_worker_info
from typing_extensions import override


class EpochOrder(DistributedSampler[int]):
    """A shuffled order for every epoch, spread over the ranks, that can begin in its middle.

    What it gives says the epoch too, as :class:`EpochDraws` takes it: ``epoch * len(dataset) + row``. So data workers
    that live longer than an epoch know it.

    Args:
        dataset: What is ordered.
        ranks: Number of ranks, and which this is.
        seed: Of the order.
    """

    def __init__(self, dataset: Any, ranks: tuple[int, int], seed: int) -> None:
        super().__init__(dataset, *ranks, shuffle=True, seed=seed)
        #: Rows that an interrupted epoch has behind it.
        self.given = 0
        self._begun = False

    @override
    def __iter__(self) -> Iterator[int]:
        if self._begun:  # by somebody who sets no epoch
            self.set_epoch(self.epoch + 1)
        self._begun = True
        first = self.epoch * len(self.dataset)  # type: ignore[arg-type]
        rows: Iterator[int] = islice(super().__iter__(), self.given, None)
        return (first + row for row in rows)

    @override
    def set_epoch(self, epoch: int) -> None:
        if epoch != self.epoch:
            self.given = 0
        self._begun = False
        super().set_epoch(epoch)


class EpochDraws(Dataset[Any]):
    """Gives the rows of a data set, whose random transforms draw anew for every row of every epoch.

    Neither the number of data workers nor what was drawn before matters.

    Args:
        dataset: Samples; random are those transforms of ``dataset.transform`` that MONAI calls so.
        transform: ``dataset.transform``, if there is any.
        seed: Of the draws.
    """

    def __init__(self, dataset: Any, transform: Any, seed: int) -> None:
        self.dataset, self.transform, self.seed = dataset, transform, seed

    def __len__(self) -> int:
        return len(self.dataset)

    @override
    def __getitem__(self, index: int) -> Any:
        """The row ``index % len(self)`` in the epoch ``index // len(self)``."""
        epoch, row = divmod(index, len(self.dataset))
        drawn = int(np.random.SeedSequence([self.seed, epoch, row]).generate_state(1)[0])
        if hasattr(self.transform, "set_random_state"):
            self.transform.set_random_state(seed=drawn)
        if get_worker_info() is not None:  # of transforms that are not MONAI's; in the main process all draws are kept
            random.seed(drawn)
            np.random.seed(drawn)
            torch.manual_seed(drawn)
        return self.dataset[row]


class TrainingLoader(DataLoader):
    """Batches of rows in the order of an :class:`EpochOrder`; Lightning keeps in checkpoints where it stands.

    Where Lightning puts another sampler in its place, as for ``overfit_batches``, every epoch begins at its start.
    """

    batch_size: int
    _batches = 0

    @property
    def order(self) -> EpochOrder | None:
        """The order, if it is the loader's own."""
        return self.sampler if isinstance(self.sampler, EpochOrder) else None

    @override
    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        # Nothing happens before the first batch is asked for: only then has Lightning set the epoch.
        self._batches = self.order.given // self.batch_size if self.order else 0
        for batch in super().__iter__():
            self._batches += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """The epoch, and how many of its batches have been given."""
        return {"epoch": self.order.epoch if self.order else 0, "batches": self._batches}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on after the batches that an epoch has given."""
        if self.order:
            self.order.set_epoch(state["epoch"])
            self.order.given = state["batches"] * self.batch_size
