"""A batch of maps, and what several metrics need of it, computed once."""

from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor

from lightning_xai.functional.priors import center_bump
from lightning_xai.functional.ranking import order_of
from lightning_xai.functional.segmentation import IGNORED, predicted_pixels
from lightning_xai.metrics.functional.chance import random_fraction
from lightning_xai.metrics.functional.evidence import Sorted, sort_evidence
from lightning_xai.metrics.functional.similarity import tied_ranks
from lightning_xai.perturbation.context import PerturbationContext
from lightning_xai.structures import Query


class MapBatch:
    """The maps of a batch, with the images, targets, masks and models that metrics score them with.

    Args:
        maps: ``(B, T, *S)``.
        targets: ``(B, T)`` class indices that the maps explain.
        target: The target that the maps explain, or ``None`` where no metric runs it.
        images: ``(B, C, *S)``, or ``None`` likewise.
        masks: ``(B, 1 or T, *S)``, see :meth:`lightning_xai.targets.Target.evidence`, or ``None``.
        pixels: ``(B, 1 or T, *S)`` regions of the queries to a segmenter, or ``None``: the predicted pixels.
        explainer: The explainer of the maps, or ``None``.
        logits: ``(B, K, *S)`` of the images, from an earlier pass, or ``None``.

    Raises:
        ValueError: If the masks do not fit the maps.
    """

    def __init__(
        self,
        maps: Tensor,
        targets: Tensor,
        target: Any = None,
        images: Tensor | None = None,
        masks: Tensor | None = None,
        pixels: Tensor | None = None,
        explainer: Any = None,
        logits: Tensor | None = None,
    ) -> None:
        if masks is not None and (
            masks.shape[2:] != maps.shape[2:] or len(masks) != len(maps) or masks.shape[1] not in (1, maps.shape[1])
        ):
            raise ValueError(
                f"Masks {tuple(masks.shape)} do not fit maps {tuple(maps.shape)}; masks must be (B, 1 or T, *S)."
            )
        self.maps = maps
        self.targets = targets
        self.target = target
        self.masks = masks
        self.pixels = pixels
        self.explainer = explainer
        self.logits = logits
        self._images = images
        #: Pixels in descending order ``(B, T, N)``, where they were sorted before.
        self.order: Tensor | None = None

    @property
    def dense(self) -> bool:
        """Whether the maps explain a segmenter."""
        return self.target is not None and bool(self.target.dense)

    @property
    def images(self) -> Tensor:
        """The images ``(B, C, *S)``.

        Raises:
            ValueError: If there are none.
        """
        if self._images is None or self.target is None:
            raise ValueError("The metric runs the model: give target= and images= to update().")
        return self._images

    @cached_property
    def query(self) -> Query:
        """What the maps explain; costs a pass where it takes a segmenter's predicted pixels and there are no logits."""
        if not self.dense:
            return Query(self.targets)
        if self.pixels is None:
            return Query(self.targets, self.predicted)
        return Query(self.targets, self.pixels.expand(-1, self.maps.shape[1], *self.maps.shape[2:]))

    @cached_property
    def context(self) -> PerturbationContext:
        """The images and maps that perturbed inputs are computed from."""
        return PerturbationContext(self.images, self.maps)

    @cached_property
    def unranked(self) -> Tensor:
        """``(B, T)``: the map is constant or holds NaN, so it ranks nothing."""
        flat = self.maps.flatten(2)
        # The extremes of a map with NaN are NaN, which is above nothing.
        return ~(flat.amax(dim=2) > flat.amin(dim=2))

    @cached_property
    def evidence(self) -> Tensor:
        """The evidence of each query, boolean ``(B, T, *S)``.

        Raises:
            ValueError: If there are no masks.
        """
        if self.masks is None:
            raise ValueError("The metric needs masks of the evidence: give masks= to update().")
        shown = self.masks > 0 if self.target is None else self.target.evidence(self.masks, self.targets)
        expanded: Tensor = shown.expand(-1, self.maps.shape[1], *self.maps.shape[2:])
        return expanded

    @cached_property
    def labeled(self) -> Tensor | None:
        """The pixels ``(B, 1, *S)`` that the masks say something about; ``None``: all."""
        if self.masks is None or self.masks.dtype == torch.bool:
            return None
        labeled = (self.masks != IGNORED).all(dim=1, keepdim=True)
        return None if bool(labeled.all()) else labeled

    @cached_property
    def labeled_maps(self) -> Tensor:
        """The maps, 0 where the masks say nothing."""
        return self.maps if self.labeled is None else self.maps * self.labeled

    @cached_property
    def labeled_images(self) -> "list[MapBatch]":
        """Each image by itself with the pixels that its mask says something about, in one axis ``(1, T, n)``."""
        assert self.labeled is not None
        images = []
        for index, labeled in enumerate(self.labeled[:, 0]):
            one = slice(index, index + 1)
            labeled = labeled if bool(labeled.any()) else torch.ones_like(labeled)  # without evidence: undefined anyway
            parts = []
            for maps in (self.maps, self.center.maps):
                part = MapBatch(maps[one, :, labeled], self.targets[one], self.target)
                part.evidence = self.evidence[one, :, labeled]
                parts.append(part)
            parts[0].center = parts[1]
            images.append(parts[0])
        return images

    @cached_property
    def reference(self) -> Tensor:
        """The segmentation that a Dice is taken against: the masks, or without any the prediction for the image."""
        return self.evidence if self.masks is not None else self.predicted

    @cached_property
    def predicted(self) -> Tensor:
        """The pixels that a segmenter gives to each query's class, boolean ``(B, T, *S)``; a pass without logits."""
        logits = self.target.logits(self.images) if self.logits is None else self.logits
        return predicted_pixels(logits, self.targets, self.target.activation)

    @cached_property
    def sorted(self) -> Sorted:
        """The evidence in the order of the map: one sort for all rankings, the perturbations' if there was one."""
        order = self.order
        if order is None and self._images is not None:
            order = self.context.__dict__.get("order")
        return sort_evidence(self.maps, self.evidence, order)

    @cached_property
    def area_fraction(self) -> Tensor:
        """Fraction of the pixels that are evidence, ``(B, T)``: what a random map scores. NaN for an empty mask."""
        return random_fraction(self.evidence)

    @cached_property
    def center(self) -> "MapBatch":
        """The same masks with the center prior for maps."""
        prior, order = sorted_center(self.maps.shape[2:], self.maps.device)
        center = MapBatch(prior.expand_as(self.maps), self.targets, self.target, masks=self.masks)
        center.evidence = self.evidence
        center.order = order.expand(*self.maps.shape[:2], -1)
        return center

    @cached_property
    def tied_ranks(self) -> Tensor:
        """Ranks of the pixels ``(B, T, N)`` float64, tied ones sharing their average."""
        return tied_ranks(self.maps.float())

    def where_defined(self, values: Tensor) -> Tensor:
        """Replace values ``(B, T, ...)`` by NaN where the map ranks nothing."""
        unranked = self.unranked.view(*self.unranked.shape, *(1,) * (values.ndim - 2))
        return values.masked_fill(unranked, float("nan"))


def checked_targets(maps: Tensor, images: Tensor | None, targets: Tensor | None) -> Tensor:
    """Class indices as ``(B, T)``, zeros where there are none; raises a ``ValueError`` if the shapes disagree."""
    if images is not None and (len(maps) != len(images) or maps.shape[2:] != images.shape[2:]):
        raise ValueError(f"Maps {tuple(maps.shape)} do not fit images {tuple(images.shape)}; maps must be (B, T, *S).")
    if targets is None:
        return torch.zeros(maps.shape[:2], dtype=torch.long, device=maps.device)
    table = targets.unsqueeze(1) if targets.ndim == 1 else targets
    if table.shape != maps.shape[:2]:
        raise ValueError(f"Maps {tuple(maps.shape)} do not fit targets {tuple(targets.shape)}; one map a query.")
    return table


@lru_cache(maxsize=8)
@torch.inference_mode(False)
def sorted_center(size: torch.Size, device: torch.device) -> tuple[Tensor, Tensor]:
    """The center prior ``(1, 1, *size)`` and its pixels in descending order ``(1, 1, N)``: the same for all batches."""
    prior = center_bump(size, device)[None, None]
    return prior, order_of(prior)
