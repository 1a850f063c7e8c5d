"""The metric that accumulates global maps: one map a label, and one of all labels, of any number of aligned images."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lightning_xai.global_maps import aggregation
from lightning_xai.global_maps.aggregation import FREE, NORMALIZATIONS, SUBSETS
from lightning_xai.global_maps.maps_result import GlobalMapsResult
from lightning_xai.global_maps.totals import (
    Part,
    Slots,
    empty_slots,
    fold,
    likeness,
    mean_of_labels,
    means,
    merged,
    once,
    pooled,
    standard_errors,
)

REDUCTIONS = ("mean", "median", "trimmed_mean", "quantile")
OVERALLS = ("labels", "pairs")
TOTALS = ("sums", "squares", "count", "skipped", "image_sum", "image_count", "single_count", "sample", "sample_keys")


class GlobalMaps(Metric):
    """Aggregates maps of aligned images into one map a label, and one of all labels: where a model looks in general.

    Streaming: its memory does not grow with the number of images. The mean is exact in any order of the images and on
    any number of ranks. The other reductions read a sample, the ``capacity`` images of each label whose ids have the
    smallest hashes; they are exact up to so many images, and above err by about ``0.5 / sqrt(capacity)`` in rank. An
    image (its id) counts once; that a sampler repeated images to even out the ranks does no harm. Standard errors and
    halves are of groups of images where there are; errors are exact up to 64 groups of a label, and above from 64
    random pools of groups, which err by about a tenth.

    Engelmann, Storkey & Bernabeu, arXiv 2112.09591. How the maps are aggregated is our reconstruction: their code was
    not published.

    Args:
        labels: Number of labels, or their names.
        normalization: Of every map's positive part: ``"mass"`` (sums to 1), ``"max"``, ``"rank"`` or ``"none"``.
        subset: Which maps a label's is computed from: those of images with the ``"label"``, of its ``"true_positive"``
            images, or of ``"all"`` images.
        reduction: ``"mean"``, ``"median"``, ``"trimmed_mean"`` or ``"quantile"``.
        overall: The overall map is the mean of the ``"labels"``' maps with mass 1, or is reduced from all ``"pairs"``
            of an image and a label.
        trim: Fraction of maps that the trimmed mean drops at either end, for every pixel.
        quantile: The quantile.
        capacity: Images of a label that the reductions other than the mean keep.

    Raises:
        ValueError: If a choice is unknown or out of range.

    Example:
        >>> metric = GlobalMaps(["cat", "dog"])
        >>> metric.update(maps=torch.tensor([[[[1.0, 3.0]]], [[[0.0, 5.0]]]]), labels=torch.tensor([0, 0]))
        >>> result = metric.compute()
        >>> result.label_wise[0].tolist(), result.label_wise[1], result.count
        ([[0.125, 0.875]], None, [2, 0])
    """

    full_state_update = False
    sums: Tensor
    squares: Tensor
    count: Tensor
    skipped: Tensor
    image_sum: Tensor
    image_count: Tensor
    single_count: Tensor
    sample: Tensor
    sample_keys: Tensor
    added_keys: list[Tensor]

    def __init__(
        self,
        labels: int | Sequence[str],
        normalization: str = "mass",
        subset: str = "label",
        reduction: str = "mean",
        overall: str = "labels",
        trim: float = 0.1,
        quantile: float = 0.9,
        capacity: int = 256,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        chosen = (normalization, subset, reduction, overall)
        for value, choices in zip(chosen, (NORMALIZATIONS, SUBSETS, REDUCTIONS, OVERALLS), strict=True):
            if value not in choices:
                raise ValueError(f"GlobalMaps was given {value!r}; use one of {', '.join(choices)}.")
        if not (0 <= trim < 0.5 and 0 <= quantile <= 1 and capacity >= 1):
            raise ValueError(
                f"GlobalMaps has trim {trim}, quantile {quantile}, capacity {capacity}; give a trim below 0.5, a "
                "quantile from 0 to 1 and at least 1 image."
            )
        self.labels = [str(k) for k in range(labels)] if isinstance(labels, int) else [str(name) for name in labels]
        self.normalization, self.subset, self.reduction, self.overall = chosen
        self.trim, self.quantile, self.capacity = trim, quantile, capacity
        count = len(self.labels)
        kept = 0 if reduction == "mean" else capacity
        # The size of maps and images is set by the first batch; until then they have none.
        self.add_state("sums", torch.zeros(2, count, 0, dtype=torch.float64), "sum")  # of two halves of the groups
        self.add_state("squares", torch.zeros(count, 0, dtype=torch.float64), "sum")
        self.add_state("count", torch.zeros(2, count, dtype=torch.int64), "sum")
        self.add_state("skipped", torch.zeros(count, dtype=torch.int64), "sum")
        self.add_state("image_sum", torch.zeros(0, dtype=torch.float64), "sum")
        for name in ("image_count", "single_count"):
            self.add_state(name, torch.zeros((), dtype=torch.int64), "sum")
        self.add_state("sample", torch.zeros(count, kept, 0), None)
        self.add_state("sample_keys", torch.full((count, kept), FREE), None)
        self.add_state("added_keys", [], "cat")
        # A sampler repeats the first images of a data set: the first of each rank waits until the ranks are synced.
        for name in Part._fields:
            self.add_state(f"held_{name}", [], "cat")
        for name in Slots._fields:
            self.add_state(f"slot_{name}", [], "cat")

    def update(
        self,
        *,
        maps: Tensor,
        labels: Tensor,
        images: Tensor | None = None,
        targets: Tensor | None = None,
        predictions: Tensor | None = None,
        ids: Sequence[str] | None = None,
        groups: Sequence[str] | None = None,
    ) -> None:
        """Add the maps of a batch.

        Args:
            maps: ``(B, T, *S)``.
            labels: ``(B,)`` class indices or ``(B, L)`` multi-hot; for a segmenter, which classes the image shows.
            images: ``(B, C, *S)``, for the mean image.
            targets: ``(B,)`` or ``(B, T)``, the class that each map is about; ``None``: the image's only label, or
                all labels in order.
            predictions: Labels that the model predicts, in the form of ``labels``; for ``subset="true_positive"``.
            ids: One unique id an image; numbered when left out.
            groups: The patient, well or site of each image, ``""``: none.

        Raises:
            ValueError: If shapes disagree, or it is not said which classes the maps are about.
        """
        classes = len(self.labels)
        queries = self._queries(maps, labels, targets, images).to(maps.device)
        present = aggregation.present_labels(labels, classes).to(maps.device)
        predicted = None if predictions is None else aggregation.present_labels(predictions, classes).to(maps.device)
        images = maps.new_zeros(len(maps), 0, *maps.shape[2:]) if images is None else images
        ids = self._ids(ids, len(maps))
        keys, unit_keys = (
            aggregation.image_keys(ids).to(maps.device),
            aggregation.unit_keys(ids, groups).to(maps.device),
        )
        enters = aggregation.entering(present, predicted, queries, self.subset)
        values, alive = aggregation.normalize_maps(maps.detach().float()[enters], self.normalization)
        row_keys, row_units = (column.unsqueeze(1).expand_as(enters)[enters] for column in (keys, unit_keys))
        part = Part(values, queries[enters], alive, row_keys, row_units, images.float(), keys)
        self._size(maps.shape[2:], images.shape[1])
        if not self.added_keys:
            self._hold(part.only(keys[:1]))
            self.added_keys.append(keys[:1])
        fresh = torch.isin(keys, dim_zero_cat(self.added_keys), invert=True)
        fresh &= aggregation.first_appearances(keys.unsqueeze(1))
        self._keep(fold(self._totals(), self._slots(), part if fresh.all() else part.only(keys[fresh])))
        self.added_keys.append(keys[fresh])

    def compute(self) -> GlobalMapsResult:
        """Compute the global maps of all images so far; see :class:`GlobalMapsResult`.

        Raises:
            ValueError: If two ranks were given the same images, other than the first of each.
        """
        totals = {name: value.clone() for name, value in self._totals().items()}
        if totals["sample_keys"].ndim == 3:  # gathered from ranks
            totals["sample"], totals["sample_keys"] = merged(totals["sample"], totals["sample_keys"])
        slots = empty_slots(self.sums)
        if self.image_sum.ndim > 1:  # there are images
            held = Part(*(dim_zero_cat(getattr(self, f"held_{name}")) for name in Part._fields))
            slots = fold(totals, pooled(self._slots()), once(held, dim_zero_cat(self.added_keys)))
        return self._result(totals, slots)

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather the state of all ranks; a rank without images takes part with zeros."""
        shape = aggregation.agreed(tuple(self.image_sum.shape) if self.added_keys else None)
        if shape is not None and not self.added_keys:
            self._size(torch.Size(shape[1:]), shape[0])
            nothing = torch.zeros(0, dtype=torch.int64, device=self.device)
            self.added_keys.append(nothing)
            empty = (self.sums.new_zeros(0, *shape[1:]).float(), nothing, nothing.bool(), nothing, nothing)
            self._hold(Part(*empty, self.image_sum.new_zeros(0, *shape).float(), nothing))
        super().sync(*args, **kwargs)

    def _queries(self, maps: Tensor, labels: Tensor, targets: Tensor | None, images: Tensor | None) -> Tensor:
        """The class ``(B, T)`` that each map is about."""
        if targets is None and labels.ndim == 1 and maps.shape[1] == 1:
            targets = labels.long()
        elif targets is None and maps.shape[1] == len(self.labels):
            targets = torch.arange(len(self.labels)).expand(len(maps), -1)
        elif targets is None:
            raise ValueError(
                f"Maps {tuple(maps.shape)} do not say which of {len(self.labels)} labels they are about; give targets, "
                "a map for every label, or class indices as labels and one map an image."
            )
        targets = targets.unsqueeze(1) if targets.ndim == 1 else targets
        fits = maps.shape[:2] == targets.shape and len(labels) == len(maps) > 0
        if not fits or (images is not None and (len(images), images.shape[2:]) != (len(maps), maps.shape[2:])):
            raise ValueError(
                f"Maps {tuple(maps.shape)}, targets {tuple(targets.shape)}, labels {tuple(labels.shape)} and images "
                f"{None if images is None else tuple(images.shape)} do not fit; maps must be (B, T, *S), one a target, "
                "of the size of the images."
            )
        aggregation.check_targets(targets, len(self.labels))
        return targets

    def _ids(self, ids: Sequence[str] | None, count: int) -> Sequence[str]:
        if ids is not None and len(ids) != count:
            raise ValueError(f"{len(ids)} ids for {count} images; give one id an image.")
        if ids is not None:
            return ids
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        start = sum(len(keys) for keys in self.added_keys)
        return [f"{rank}-{number}" for number in range(start, start + count)]

    def _size(self, size: torch.Size, channels: int) -> None:
        """Set the size of the totals to that of maps and images, or check that it is still the same."""
        if tuple(self.image_sum.shape) == (channels, *size):
            return
        if self.added_keys:
            raise ValueError(
                f"Images (C, *S) were {tuple(self.image_sum.shape)} and are now {(channels, *size)}; aligned images "
                "have one size, so resize them all."
            )
        for name in ("sums", "squares", "sample"):
            state = getattr(self, name)
            setattr(self, name, state.new_zeros(*state.shape[:-1], *size))
        self.image_sum = self.image_sum.new_zeros(channels, *size)
        self._keep(empty_slots(self.sums))

    def _hold(self, part: Part) -> None:
        for name, value in zip(Part._fields, part, strict=True):
            getattr(self, f"held_{name}").append(value)

    def _slots(self) -> Slots:
        return Slots(*(dim_zero_cat(getattr(self, f"slot_{name}")) for name in Slots._fields))

    def _keep(self, slots: Slots) -> None:
        for name, value in zip(Slots._fields, slots, strict=True):
            setattr(self, f"slot_{name}", [value])

    def _totals(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in TOTALS}

    def _result(self, totals: Mapping[str, Tensor], slots: Slots) -> GlobalMapsResult:
        """The result of the totals, and those of groups."""
        count = totals["count"].sum(dim=0)
        halves = [means(*half) for half in zip(totals["sums"], totals["count"], strict=True)]
        images, image_sum = int(totals["image_count"]), totals["image_sum"]
        sums = totals["sums"].sum(dim=0)
        averages, singles = means(sums, count), slots.others(count)
        label_wise = averages
        if self.reduction != "mean":
            samples = [maps[keys < FREE] for maps, keys in zip(totals["sample"], totals["sample_keys"], strict=True)]
            label_wise = [self._reduced(maps) if len(maps) else None for maps in samples]
        return GlobalMapsResult(
            labels=self.labels,
            label_wise=label_wise,
            overall=self._overall(totals, label_wise),
            count=count.tolist(),
            label_units=(singles + slots.units(len(count))).tolist(),
            skipped=totals["skipped"].tolist(),
            standard_error=standard_errors(averages, totals["squares"], sums, count, slots),
            stability=[likeness(*pair) for pair in zip(*halves, strict=True)],
            overall_stability=likeness(*(mean_of_labels(half) for half in halves)),
            mean_image=(image_sum / images).float() if images and image_sum.numel() else None,
            images=images,
            units=int(totals["single_count"]) + len(torch.unique(slots.pairs[:, 0])),
            unit="groups" if len(slots.pairs) else "images",
        )

    def _reduced(self, maps: Tensor) -> Tensor:
        return aggregation.reduce_sample(maps, self.reduction, self.trim, self.quantile)

    def _overall(self, totals: Mapping[str, Tensor], label_wise: Sequence[Tensor | None]) -> Tensor | None:
        if self.overall == "labels":
            return mean_of_labels(label_wise)
        if not totals["count"].any():
            return None
        if self.reduction == "mean":
            return totals["sums"].sum(dim=(0, 1)) / totals["count"].sum()
        keys = totals["sample_keys"]
        # Of a full sample only the images below its largest key are complete: take all labels up to the same key.
        limit = keys.amax(dim=1).min()
        return self._reduced(totals["sample"][(keys <= limit) & (keys < FREE)])
