"""What metrics read about perturbed inputs, and how everything is read from one pass.

A :class:`Readout` names perturbed inputs and an output. Outputs of the target come out of one forward pass, whichever
metric reads them; outputs of the explainer compare the map of a perturbed input with the map of the image.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from lightning_xai.functional.correlation import correlation
from lightning_xai.functional.ranking import average_ranks
from lightning_xai.functional.segmentation import class_labels, over_region, overlap_and_total
from lightning_xai.metrics.batch import MapBatch
from lightning_xai.metrics.functional import masking
from lightning_xai.perturbation.sets import PerturbationSet


@dataclass(frozen=True)
class Readout:
    """Some perturbed inputs, and what is read about them.

    Attributes:
        perturbations: Which inputs.
        output: A name from :data:`TARGET_OUTPUTS` or :data:`MAP_OUTPUTS`, or ``"head"``: the probability that the
            explainer's own head gives.
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
        names = [*TARGET_OUTPUTS, *MAP_OUTPUTS, "head"]
        raise ValueError(f"There is no output {self.output!r}; use one of {', '.join(names)}.")


@dataclass(frozen=True)
class TargetPass:
    """The logits ``(n, K, *S)`` of some inputs, and the ``m`` queries about them.

    Attributes:
        batch: Where the queries come from.
        logits: One forward pass.
        rows: ``(m,)``.
        input_index: ``(m,)``, the input of each query.
    """

    batch: MapBatch
    logits: Tensor
    rows: Tensor
    input_index: Tensor

    def gather(self, values: Tensor) -> Tensor:
        """The values ``(m, 1, *S)`` of each query's class out of ``(n, K, *S)``."""
        return values[self.input_index, self.batch.targets.flatten()[self.rows]].unsqueeze(1)

    @cached_property
    def regions(self) -> Tensor | None:
        """The queries' regions ``(m, 1, *S)``, for a segmenter."""
        return self.batch.query.rows(self.rows).regions

    def predicted(self, classes: Tensor) -> Tensor:
        """The pixels ``(m, *S)`` that the input's segmentation gives to one class a query ``(m,)``."""
        if self.batch.target.activation == "sigmoid":
            return self.logits[self.input_index, classes] > 0
        return self.labels[self.input_index] == classes.view(-1, *(1,) * (self.logits.ndim - 2))

    @cached_property
    def labels(self) -> Tensor:
        """The most probable class of every pixel, ``(n, *S)``."""
        return class_labels(self.logits)

    @cached_property
    def query_overlap_and_total(self) -> tuple[Tensor, Tensor]:
        """Those of the queries themselves."""
        return self.overlap_and_total(self.rows)

    def overlap_and_total(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Twice the overlap of prediction and reference of the queries ``rows (m,)``, and the sum of their sizes."""
        found = self.predicted(self.batch.targets.flatten()[rows]).flatten(1)
        wanted = self.batch.reference.flatten(0, 1)[rows].flatten(1)
        return overlap_and_total(found, wanted)


def probability(found: TargetPass) -> Tensor:
    """Probability of the query's class; a segmenter's mean over the region."""
    return over_region(found.gather(found.batch.target.activate(found.logits)), found.regions, mean=True)[:, 0]


def score(found: TargetPass) -> Tensor:
    """Logit of the query's class; a segmenter's sum over the region."""
    return over_region(found.gather(found.logits), found.regions, mean=False)[:, 0]


def overlap(found: TargetPass) -> Tensor:
    """Twice the pixels that both the segmentation and its reference give to the class."""
    return found.query_overlap_and_total[0]


def total(found: TargetPass) -> Tensor:
    """The pixels of the segmentation's class plus those of its reference; Dice is overlap by total."""
    return found.query_overlap_and_total[1]


def dice(found: TargetPass) -> Tensor:
    """Dice of the query's class against its reference; NaN where the reference is empty."""
    return _dice(found, found.rows)


def other_dice(found: TargetPass) -> Tensor:
    """Mean Dice of the image's other queries against theirs; NaN where there is none."""
    queries = found.batch.targets.shape[1]
    image, index = found.rows // queries, found.rows % queries
    others = [_dice(found, image * queries + (index + step) % queries) for step in range(1, queries)]
    return torch.stack(others).nanmean(dim=0) if others else found.rows * float("nan")


def rival(found: TargetPass) -> Tensor:
    """Index of the strongest class besides the query's; for a segmenter by its mean logit over the region."""
    values = over_region(found.logits[found.input_index], found.regions, mean=True).float()
    targets = found.batch.targets.flatten()[found.rows].unsqueeze(1)
    return values.scatter(1, targets, float("-inf")).argmax(dim=1)


def _dice(found: TargetPass, rows: Tensor) -> Tensor:
    common, size = found.overlap_and_total(rows)
    empty = ~found.batch.reference.flatten(0, 1)[rows].flatten(1).any(dim=1)
    return (common.double() / size).masked_fill(empty, float("nan"))


TARGET_OUTPUTS: Mapping[str, Callable[[TargetPass], Tensor]] = {
    output.__name__: output for output in (probability, score, overlap, total, dice, other_dice, rival)
}


@dataclass(frozen=True)
class MapPass:
    """The maps ``(n, Q, *S)`` of some inputs, for the queries ``rows (n, Q)``.

    Attributes:
        batch: Where the queries and the images' maps come from.
        maps: One explanation.
        rows: ``(n, Q)``.
    """

    batch: MapBatch
    maps: Tensor
    rows: Tensor

    @property
    def originals(self) -> Tensor:
        """The images' maps, ``(n, Q, *S)``."""
        return self.batch.maps.flatten(0, 1)[self.rows].float()


def distance(found: MapPass) -> Tensor:
    """Distance of the input's map from the image's, over the size of that."""
    originals = found.originals
    far, size = (torch.linalg.vector_norm(part.flatten(2), dim=2) for part in (found.maps - originals, originals))
    ratio: Tensor = far / size
    return ratio


def spearman(found: MapPass) -> Tensor:
    """Rank correlation of the input's map and the image's."""
    ranks = found.batch.average_ranks.flatten(0, 1)[found.rows]
    return correlation(average_ranks(found.maps.flatten(2)), ranks)


def coherence(found: MapPass) -> Tensor:
    """Correlation of both maps; see :func:`lightning_xai.metrics.functional.masking.coherency`."""
    return masking.coherency(found.maps, found.originals)


MAP_OUTPUTS: Mapping[str, Callable[[MapPass], Tensor]] = {
    output.__name__: output for output in (distance, spearman, coherence)
}
