"""The two values that travel through the project: a query about images, and its explanation."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Query:
    """The classes and regions that a batch of images is explained for; complete, and constant for the gradient.

    Attributes:
        targets: ``(B, T)`` int64 class indices.
        regions: ``(B, T, *S)`` bool, the pixels that each query to a segmenter is about; ``None`` for a classifier.

    Example:
        >>> Query(torch.tensor([[0, 2]])).shape
        torch.Size([1, 2])
    """

    targets: Tensor
    regions: Tensor | None = None

    @property
    def shape(self) -> torch.Size:
        """``(B, T)``."""
        return self.targets.shape

    def changed(self, change: Callable[[Tensor], Tensor]) -> "Query":
        """Apply ``change`` to targets and regions."""
        return Query(change(self.targets), None if self.regions is None else change(self.regions))

    def __getitem__(self, index: Any) -> "Query":
        """Select the queries about some of the images; with a second index, some of the queries about them."""
        return self.changed(lambda values: values[index])

    def rows(self, index: Tensor | None = None) -> "Query":
        """One query a row, ``(R, 1)``: all ``B * T`` of them, or those of ``index (R,)``; row ``b * T + t``."""
        every = self.changed(lambda values: values.flatten(0, 1).unsqueeze(1))
        return every if index is None else every[index]

    def repeat(self, count: int) -> "Query":
        """The same query about ``count`` stacked copies of the images."""
        return self.changed(lambda values: values.repeat(count, *(1,) * (values.ndim - 1)))

    def to(self, device: torch.device | str) -> "Query":
        """Move the query to a device."""
        return self.changed(lambda values: values.to(device))

    def defined(self) -> Tensor:
        """Bool ``(B, T)``: the query is about at least one pixel; always so for a classifier."""
        if self.regions is None:
            return torch.ones_like(self.targets, dtype=torch.bool)
        return self.regions.flatten(2).any(dim=2)


@dataclass(frozen=True)
class Explanation:
    """The maps of a batch of images, and the logits and values of the same pass of the target.

    Attributes:
        maps: ``(B, T, *S)`` float32, detached, at image resolution, raw and signed where the method is signed.
        query: The query that the maps explain.
        logits: ``(B, K)`` or ``(B, K, *S)`` of the whole images, from the pass that made the maps; what
            :meth:`~lightning_xai.explainers.base.Explainer.attribute` returns may leave them out.
        extras: Further values by name: ``(B, T)``, such as ``"p_baseline"``, the probability of the baseline image, or
            ``(B, K, *regions)``, such as ``"contributions"``.
        alternatives: Other maps ``(B, T, *S)`` of the same pass, by name.
    """

    maps: Tensor
    query: Query
    logits: Tensor = field(default_factory=lambda: torch.empty(0))
    extras: dict[str, Tensor] = field(default_factory=dict)
    alternatives: dict[str, Tensor] = field(default_factory=dict)

    def to(self, device: torch.device | str) -> "Explanation":
        """Move the explanation to a device; with it Lightning collects what ``predict`` returns."""
        return Explanation(
            self.maps.to(device),
            self.query.to(device),
            self.logits.to(device),
            {name: value.to(device) for name, value in self.extras.items()},
            {name: maps.to(device) for name, maps in self.alternatives.items()},
        )
