"""What metrics readout about pictures, and how the answers of one pass are read.

An :class:`Readout` names pictures and a output. Readings of the target come out of one forward pass, whoever readouts for
them; outputs of the explainer compare the map of a picture with the map of the image.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from lightning_xai.functional.finite import NotFiniteOutputError
from lightning_xai.functional.segmentation import class_labels, over_region, overlap_and_total
from lightning_xai.metrics.batch import Batch
from lightning_xai.metrics.functional import masking, similarity
from lightning_xai.perturbation.perturbations import Noisy, PerturbationSet, Unperturbed
from lightning_xai.reveal import EvaluationPlan, PerturbedBatch


@dataclass(frozen=True)
class Readout:
    """Some pictures, and what is read about them.

    Attributes:
        pictures: Which.
        output: A name from :data:`TARGET_READOUTS` or :data:`MAP_READOUTS`, or ``"head"``: the probability that the
            explainer's own head gives.
    """

    pictures: PerturbationSet
    output: str = "probability"

    @property
    def source(self) -> str:
        """Who answers: ``"target"``, ``"head"`` or ``"maps"``.

        Raises:
            ValueError: If there is no such output.
        """
        if self.output in TARGET_READOUTS:
            return "target"
        if self.output in MAP_READOUTS:
            return "maps"
        if self.output == "head":
            return "head"
        known = [*TARGET_READOUTS, *MAP_READOUTS, "head"]
        raise ValueError(f"There is no output {self.output!r}; use one of {', '.join(known)}.")


@dataclass(frozen=True)
class Outputs:
    """The logits ``(n, K, *S)`` of some pictures, and the ``m`` queries asked about them.

    Attributes:
        batch: Where the queries come from.
        logits: One forward pass.
        rows: ``(m,)``.
        which: ``(m,)``, the picture of each query.
    """

    batch: Batch
    logits: Tensor
    rows: Tensor
    which: Tensor

    def asked(self, values: Tensor) -> Tensor:
        """The asked class's values ``(m, 1, *S)`` out of ``(n, K, *S)``."""
        return values[self.which, self.batch.queries.flatten()[self.rows]].unsqueeze(1)

    @cached_property
    def sets(self) -> Tensor | None:
        """The queries' pixel sets ``(m, 1, *S)``, for a segmenter."""
        return None if self.batch.sets is None else self.batch.sets.flatten(0, 1)[self.rows].unsqueeze(1)

    def predicted(self, classes: Tensor) -> Tensor:
        """The pixels ``(m, *S)`` that the picture's segmentation gives to one class a query ``(m,)``."""
        if self.batch.target.activation == "sigmoid":
            return self.logits[self.which, classes] > 0
        return self.labels[self.which] == classes.view(-1, *(1,) * (self.logits.ndim - 2))

    @cached_property
    def labels(self) -> Tensor:
        """The most probable class of every pixel, ``(n, *S)``."""
        return class_labels(self.logits)

    @cached_property
    def own_overlap_and_total(self) -> tuple[Tensor, Tensor]:
        """Those of the queries themselves."""
        return self.overlap_and_total(self.rows)

    def overlap_and_total(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Twice the overlap of prediction and reference of the queries ``rows (m,)``, and the sum of their sizes."""
        found = self.predicted(self.batch.queries.flatten()[rows]).flatten(1)
        wanted = self.batch.reference.flatten(0, 1)[rows].flatten(1)
        return overlap_and_total(found, wanted)


def probability(outputs: Outputs) -> Tensor:
    """Probability of the asked class; a segmenter's mean over the pixel set."""
    return over_region(outputs.asked(outputs.batch.target.activate(outputs.logits)), outputs.sets, mean=True)[:, 0]


def score(outputs: Outputs) -> Tensor:
    """Logit of the asked class; a segmenter's sum over the pixel set."""
    return over_region(outputs.asked(outputs.logits), outputs.sets, mean=False)[:, 0]


def overlap(outputs: Outputs) -> Tensor:
    """Twice the pixels that both the segmentation and its reference give to the class."""
    return outputs.own_overlap_and_total[0]


def total(outputs: Outputs) -> Tensor:
    """The pixels of the segmentation's class plus those of its reference; Dice is overlap by total."""
    return outputs.own_overlap_and_total[1]


def dice(outputs: Outputs) -> Tensor:
    """Dice of the asked class against its reference; NaN where the reference is empty."""
    return _dice(outputs, outputs.rows)


def other_dice(outputs: Outputs) -> Tensor:
    """Mean Dice of the image's other asked classes against theirs; NaN where there is none."""
    queries = outputs.batch.queries.shape[1]
    image, place = outputs.rows // queries, outputs.rows % queries
    others = [_dice(outputs, image * queries + (place + step) % queries) for step in range(1, queries)]
    return torch.stack(others).nanmean(dim=0) if others else outputs.rows * float("nan")


def rival(outputs: Outputs) -> Tensor:
    """Index of the strongest class besides the asked one; for a segmenter by its mean logit over the pixel set."""
    values = over_region(outputs.logits[outputs.which], outputs.sets, mean=True).float()
    asked = outputs.batch.queries.flatten()[outputs.rows].unsqueeze(1)
    return values.scatter(1, asked, float("-inf")).argmax(dim=1)


def _dice(outputs: Outputs, rows: Tensor) -> Tensor:
    common, size = outputs.overlap_and_total(rows)
    empty = ~outputs.batch.reference.flatten(0, 1)[rows].flatten(1).any(dim=1)
    return (common.double() / size).masked_fill(empty, float("nan"))


TARGET_READOUTS: Mapping[str, Callable[[Outputs], Tensor]] = {
    output.__name__: output for output in (probability, score, overlap, total, dice, other_dice, rival)
}


@dataclass(frozen=True)
class Reexplained:
    """The maps ``(n, Q, *S)`` of some pictures, for the queries ``rows (n, Q)``.

    Attributes:
        batch: Where the queries and the images' maps come from.
        maps: One explanation.
        rows: ``(n, Q)``.
    """

    batch: Batch
    maps: Tensor
    rows: Tensor

    @property
    def originals(self) -> Tensor:
        """The images' maps, ``(n, Q, *S)``."""
        return self.batch.maps.flatten(0, 1)[self.rows].float()


def distance(again: Reexplained) -> Tensor:
    """Distance of the picture's map from the image's, over the size of that."""
    originals = again.originals
    far, size = (torch.linalg.vector_norm(part.flatten(2), dim=2) for part in (again.maps - originals, originals))
    ratio: Tensor = far / size
    return ratio


def spearman(again: Reexplained) -> Tensor:
    """Rank correlation of the picture's map and the image's."""
    ranks = again.batch.average_ranks.flatten(0, 1)[again.rows]
    return similarity.correlation(similarity.average_ranks(again.maps.flatten(2)), ranks)


def coherence(again: Reexplained) -> Tensor:
    """Correlation of both maps; see :func:`lightning_xai.metrics.functional.masking.coherency`."""
    return masking.coherency(again.maps, again.originals)


MAP_READOUTS: Mapping[str, Callable[[Reexplained], Tensor]] = {
    output.__name__: output for output in (distance, spearman, coherence)
}


def answer(
    batch: Batch, readouts: Mapping[str, Readout], chunk_size: int, explain_size: int | None = None
) -> dict[str, Tensor]:
    """Answer everything that is asked about a batch, in one queue of full chunks a source.

    Args:
        batch: The maps and their target.
        readouts: By name.
        chunk_size: Pictures per forward pass.
        explain_size: Pictures per explanation, as many by default.

    Returns:
        ``{name: (B, T, steps)}`` float64.

    Raises:
        NotFiniteOutputError: If the target's answers for whole images are NaN.
    """
    sizes = {"target": chunk_size, "head": chunk_size, "maps": explain_size or chunk_size}
    answers: dict[str, Tensor] = {}
    # A noisy picture is explained once for all queries, a masked one for the query whose map masked it.
    for source, fraction in (("target", True), ("head", True), ("maps", True), ("maps", False)):
        wanted = {name: readout for name, readout in readouts.items() if readout.source == source}
        if source == "maps":
            wanted = {
                name: readout
                for name, readout in wanted.items()
                if isinstance(readout.perturbations, Noisy) == fraction
            }
        if wanted:
            outputs = list(dict.fromkeys(readout.output for readout in wanted.values()))
            plan = EvaluationPlan(
                {name: readout.perturbations for name, readout in wanted.items()}, batch.maps[0, 0].numel()
            )
            needed = torch.zeros(plan.steps, len(outputs), dtype=torch.bool)
            for name, readout in wanted.items():
                needed[plan.columns[name], outputs.index(readout.output)] = True
            read = READERS[source](batch, outputs, needed.to(batch.maps.device))
            told = plan.run(read, batch.context, sizes[source], fraction).view(*batch.maps.shape[:2], plan.steps, -1)
            if source == "target" and Whole.key in plan.perturbations:
                check_whole(told, outputs, needed, list(plan.perturbations[Whole.key][1].values()))
            for name, readout in wanted.items():
                answers[name] = told[:, :, plan.columns[name], outputs.index(readout.output)]
    return answers


def check_whole(told: Tensor, outputs: list[str], needed: Tensor, columns: list[int]) -> None:
    """Refuse a target that answers NaN for whole images; where pixels are hidden it may.

    Args:
        told: ``(B, T, steps, R)``.
        outputs: ``R`` names.
        needed: Which outputs each job was asked for, ``(steps, R)``.
        columns: The steps that show whole images.

    Raises:
        NotFiniteOutputError: If it does.
    """
    for place, output in enumerate(outputs):
        if output in ("probability", "score"):
            asked = [column for column in columns if needed[column, place]]
            bad = told[:, :, asked, place].isnan().flatten(1).any(dim=1)
            if bad.any():
                raise NotFiniteOutputError(bad.nonzero().flatten().tolist())


def passes(readouts: Mapping[str, Readout], source: str, queries: int = 1) -> int:
    """Passes that an image costs: forward passes of the target, or maps of the explainer."""
    pictures = {name: readout.perturbations for name, readout in readouts.items() if readout.source == source}
    return EvaluationPlan(pictures, pixels=10**9).passes(queries)


#: Answers ``(m, R)`` to the queries of a part of the queue.
Reader = Callable[[PerturbedBatch], Tensor]


def read_target(batch: Batch, outputs: list[str], needed: Tensor) -> Reader:
    """Runs the target once a picture, and reads from it what each job ``(steps, R)`` needs, NaN elsewhere."""

    def read(part: PerturbedBatch) -> Tensor:
        logits = batch.target.logits(part.pictures)
        which = torch.arange(len(logits), device=logits.device) if part.which is None else part.which
        wanted = needed[part.columns]
        told = torch.full(wanted.shape, float("nan"), dtype=torch.float64, device=logits.device)
        # Readings of the same queries share what they compute.
        groups: dict[tuple[bool, ...], list[int]] = {}
        for place, pattern in enumerate(wanted.T.tolist()):
            groups.setdefault(tuple(pattern), []).append(place)
        for pattern, places in groups.items():
            if any(pattern):
                asked = torch.tensor(pattern, device=logits.device)
                seen, among = torch.unique(which[asked], return_inverse=True)
                outputs = Outputs(batch, logits if len(seen) == len(logits) else logits[seen], part.rows[asked], among)
                for place in places:
                    told[asked, place] = TARGET_READOUTS[outputs[place]](outputs).double()
        return told

    return read


def read_head(batch: Batch, outputs: list[str], needed: Tensor) -> Reader:
    """Asks the explainer's own head for probabilities, where it has one."""
    if not hasattr(batch.explainer, "probabilities"):
        raise ValueError(
            f"{type(batch.explainer).__name__} has no head of its own to readout; use head='target' in the metrics."
        )

    def read(part: PerturbedBatch) -> Tensor:
        values: Tensor = batch.explainer.probabilities(part.pictures)
        values = values if part.which is None else values[part.which]
        return values.gather(1, batch.queries.flatten()[part.rows].unsqueeze(1)).double()

    return read


def read_maps(batch: Batch, outputs: list[str], needed: Tensor) -> Reader:
    """Explains pictures again, and compares their maps with those of the images."""

    def read(part: PerturbedBatch) -> Tensor:
        rows = part.rows.view(len(part.pictures), -1)
        classes = batch.queries.flatten()[rows]
        sets = None if batch.sets is None else batch.sets.flatten(0, 1)[rows]
        again = Reexplained(batch, batch.explainer.explain(part.pictures, classes, sets), rows)
        return torch.stack([MAP_READOUTS[name](again).double().flatten() for name in outputs], dim=1)

    return read


READERS: Mapping[str, Callable[[Batch, list[str], Tensor], Reader]] = {
    "target": read_target,
    "head": read_head,
    "maps": read_maps,
}
