"""What metrics read about perturbed inputs, and how everything is read from one pass.

A :class:`Readout` names perturbed inputs and an output. Outputs of the target come out of one forward pass, whichever
metric reads them; outputs of the explainer compare the map of a perturbed input with the map of the image.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from lightning_xai.functional.segmentation import class_labels, over_region, overlap_and_total, predicted_pixels
from lightning_xai.metrics.batch import MapBatch
from lightning_xai.metrics.functional.masking import coherency
from lightning_xai.metrics.functional.similarity import pearson, tied_ranks
from lightning_xai.metrics.functional.stability import relative_distance
from lightning_xai.perturbation.sets import PerturbationSet


@dataclass(frozen=True)
class Readout:
    """Some perturbed inputs, and the output that is read for each of them.

    Attributes:
        perturbations: Which inputs.
        output: A key of :data:`TARGET_OUTPUTS` or :data:`MAP_OUTPUTS`, or ``"head"``: the probability from the
            explainer's own head.
    """

    perturbations: PerturbationSet
    output: str = "probability"

    @property
    def source(self) -> str:
        """What is run: ``"target"``, ``"head"`` or ``"maps"``.

        Raises:
            ValueError: If there is no such output.
        """
        if self.output in TARGET_OUTPUTS:
            return "target"
        if self.output in MAP_OUTPUTS:
            return "maps"
        if self.output == "head":
            return "head"
        outputs = [*TARGET_OUTPUTS, *MAP_OUTPUTS, "head"]
        raise ValueError(f"There is no output {self.output!r}; use one of {', '.join(outputs)}.")


@dataclass(frozen=True)
class TargetPass:
    """The logits of ``n`` inputs, and ``m`` queries about them.

    Attributes:
        batch: Where the queries come from.
        logits: ``(n, K, *S)``, from one forward pass.
        rows: ``(m,)``.
        input_index: ``(m,)``, the input of each query.
    """

    batch: MapBatch
    logits: Tensor
    rows: Tensor
    input_index: Tensor

    def gather(self, values: Tensor) -> Tensor:
        """Pick the values ``(m, 1, *S)`` of each query's class out of ``(n, K, *S)``."""
        return values[self.input_index, self.batch.targets.flatten()[self.rows]].unsqueeze(1)

    @cached_property
    def regions(self) -> Tensor | None:
        """The queries' regions ``(m, 1, *S)``, for a segmenter."""
        return self.batch.query.rows(self.rows).regions

    def predicted(self, classes: Tensor) -> Tensor:
        """Mark the pixels ``(m, *S)`` that the input's segmentation gives to one class a query ``(m,)``."""
        if self.batch.target.activation == "sigmoid":
            return self.logits[self.input_index, classes] > 0
        if self.batch.target.activation == "none":
            return predicted_pixels(self.logits[self.input_index], classes.view(-1, 1), "none")[:, 0]
        return self.labels[self.input_index] == classes.view(-1, *(1,) * (self.logits.ndim - 2))

    @cached_property
    def labels(self) -> Tensor:
        """The most probable class of every pixel, ``(n, *S)``."""
        return class_labels(self.logits)

    @cached_property
    def query_overlap_and_total(self) -> tuple[Tensor, Tensor]:
        """:meth:`overlap_and_total` of the queries themselves."""
        return self.overlap_and_total(self.rows)

    def overlap_and_total(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Count twice the overlap of prediction and reference of queries ``rows (m,)``, and the sum of their sizes."""
        predicted = self.predicted(self.batch.targets.flatten()[rows]).flatten(1)
        reference = self.batch.reference.flatten(0, 1)[rows].flatten(1)
        return overlap_and_total(predicted, reference)


def probability(run: TargetPass) -> Tensor:
    """Read the probability of the query's class; a segmenter's mean over the region."""
    return over_region(run.gather(run.batch.target.activate(run.logits)), run.regions, mean=True)[:, 0]


def score(run: TargetPass) -> Tensor:
    """Read the logit of the query's class; a segmenter's sum over the region."""
    return over_region(run.gather(run.logits), run.regions, mean=False)[:, 0]


def overlap(run: TargetPass) -> Tensor:
    """Count twice the pixels that both the segmentation and its reference give to the class."""
    return run.query_overlap_and_total[0]


def total(run: TargetPass) -> Tensor:
    """Count the pixels of the segmentation's class plus those of its reference; Dice is overlap by total."""
    return run.query_overlap_and_total[1]


def dice(run: TargetPass) -> Tensor:
    """Compute the Dice of the query's class against its reference; NaN where the reference is empty."""
    return _dice(run, run.rows)


def other_dice(run: TargetPass) -> Tensor:
    """Compute the mean Dice of the image's other queries against theirs; NaN where there is none."""
    queries = run.batch.targets.shape[1]
    image, index = run.rows // queries, run.rows % queries
    others = [_dice(run, image * queries + (index + step) % queries) for step in range(1, queries)]
    return torch.stack(others).nanmean(dim=0) if others else run.rows * float("nan")


def rival(run: TargetPass) -> Tensor:
    """Find the strongest class besides the query's; for a segmenter by its mean logit over the region."""
    values = over_region(run.logits[run.input_index], run.regions, mean=True).float()
    targets = run.batch.targets.flatten()[run.rows].unsqueeze(1)
    return values.scatter(1, targets, float("-inf")).argmax(dim=1)


def _dice(run: TargetPass, rows: Tensor) -> Tensor:
    common, size = run.overlap_and_total(rows)
    empty = ~run.batch.reference.flatten(0, 1)[rows].flatten(1).any(dim=1)
    return (common.double() / size).masked_fill(empty, float("nan"))


TARGET_OUTPUTS: Mapping[str, Callable[[TargetPass], Tensor]] = {
    output.__name__: output for output in (probability, score, overlap, total, dice, other_dice, rival)
}


@dataclass(frozen=True)
class MapPass:
    """The maps of ``n`` inputs, for ``Q`` queries about each.

    Attributes:
        batch: Where the queries and the images' maps come from.
        maps: ``(n, Q, *S)``, from one explanation.
        rows: ``(n, Q)``.
    """

    batch: MapBatch
    maps: Tensor
    rows: Tensor

    @property
    def originals(self) -> Tensor:
        """The images' maps, ``(n, Q, *S)``."""
        return self.batch.maps.flatten(0, 1)[self.rows].float()


def distance(run: MapPass) -> Tensor:
    """Compute the distance of the input's map from the image's, as a fraction of the latter's norm."""
    return relative_distance(run.maps, run.originals)


def spearman(run: MapPass) -> Tensor:
    """Compute the rank correlation of the input's map and the image's, whose ranks the batch keeps."""
    return pearson(tied_ranks(run.maps), run.batch.tied_ranks.flatten(0, 1)[run.rows])


def coherence(run: MapPass) -> Tensor:
    """Compute the coherency of the input's map with the image's."""
    return coherency(run.maps, run.originals)


MAP_OUTPUTS: Mapping[str, Callable[[MapPass], Tensor]] = {
    output.__name__: output for output in (distance, spearman, coherence)
}
