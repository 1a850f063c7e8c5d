"""Images that a sampler repeats to even out the ranks: each counts once in what is logged."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler
from torchmetrics import Metric


class Repeats:
    """The images of an evaluation that this rank sees a second time, or that another rank counts.

    A :class:`~torch.utils.data.DistributedSampler` gives every rank as many images, so that its last ones begin anew.
    """

    def __init__(self) -> None:
        self._left: Counter[Any] = Counter()

    def start(self, module: LightningModule, stage: str) -> None:
        """Find the repeats of an epoch.

        Args:
            module: What is evaluated; outside of a trainer nothing repeats.
            stage: ``"val"`` or ``"test"``.
        """
        loaders = getattr(module._trainer, f"{stage}_dataloaders", None)
        several = loaders if isinstance(loaders, list | tuple) else [loaders]
        self._left = Counter(name for loader in several for name in repeated_ids(loader))

    def counted(self, batch: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
        """Leave the repeats out of a batch.

        Args:
            batch: Its ``"id"`` names the images.

        Returns:
            The rest and its number of images; the whole batch and 0 where nothing is left.
        """
        kept = []
        for row, name in enumerate(batch["id"]):
            if self._left[name] > 0:
                self._left[name] -= 1
            else:
                kept.append(row)
        count = len(batch["id"])
        if len(kept) in (0, count):
            return dict(batch), len(kept)
        return {name: rows_of(values, kept, count) for name, values in batch.items()}, len(kept)


class ImageMean(Metric):
    """A mean over images, from means of batches; NaN as soon as one is (torchmetrics' own loses the weights then)."""

    full_state_update = False
    total: Tensor
    images: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("images", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, value: Tensor, count: int) -> None:
        """Add the mean of a batch of so many images; of none it changes nothing."""
        if count:
            self.total += value.float() * count
            self.images += count

    def compute(self) -> Tensor:
        """Compute the mean."""
        return self.total / self.images


class ImageMeans(nn.ModuleDict):
    """Means over images of what a module logs, exact on ranks of unequal numbers of images.

    Lightning's own mean averages the numbers of images as integers.
    """

    def log(self, module: LightningModule, values: Mapping[str, Tensor], count: int) -> None:
        """Log the means of a batch, which count as so many images.

        Args:
            module: Has this as its attribute ``means``.
            values: Scalars by name.
            count: Images; 0 takes part, and changes nothing.
        """
        for name, value in values.items():
            if name not in self:
                with torch.inference_mode(False):
                    self[name] = ImageMean().to(module.device)
            self[name].update(value.detach(), count)  # type: ignore[operator]
            module.log(name, self[name], metric_attribute=f"means.{name}", batch_size=1)  # type: ignore[arg-type]


def rows_of(values: Any, rows: list[int], count: int) -> Any:
    """Some rows of what has one for each of ``count`` images; anything else is returned as it is."""
    if isinstance(values, Tensor) and values.ndim and len(values) == count:
        return values[rows]
    return [values[row] for row in rows] if isinstance(values, list) and len(values) == count else values


def repeated_ids(loader: Any) -> Iterable[Any]:
    """The ids of the images that a loader repeats on this rank; none without a distributed sampler."""
    sampler = getattr(loader, "sampler", None)
    if not isinstance(sampler, DistributedSampler):
        sampler = getattr(getattr(loader, "batch_sampler", None), "sampler", None)
    if not isinstance(sampler, DistributedSampler) or not isinstance(loader, DataLoader):
        return []
    known = len(sampler.dataset)  # type: ignore[arg-type]  # it has a length, or there would be no such sampler
    positions = range(sampler.rank, sampler.total_size, sampler.num_replicas)
    return [loader.dataset[index]["id"] for index, at in zip(sampler, positions, strict=True) if at >= known]
