"""The one loop that shows perturbed inputs to a model and collects its outputs.

It serves metrics, curves, PEPPR and the explainers that need nothing but outputs, and depends on none of them. Every
forward pass is filled to ``chunk_size``, whatever the number of images, queries and perturbation sets, and what two
sets share (the unperturbed input, the baseline image) is evaluated once.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_xai.perturbation.context import PerturbationContext
from lightning_xai.perturbation.perturbations import Perturbation
from lightning_xai.perturbation.sets import PerturbationSet
from lightning_xai.structures import Query
from lightning_xai.targets import Target
from lightning_xai.targets.outputs import TargetOutput


class PerturbedBatch(NamedTuple):
    """Perturbed inputs ``(n, C, *S)`` of one forward pass, and the ``m`` queries about them.

    ``rows (m,)`` and ``columns (m,)`` say where the outputs go; ``input_index (m,)`` says which input each query is
    about; ``None``: query ``i`` is about input ``i``.
    """

    inputs: Tensor
    rows: Tensor
    columns: Tensor
    input_index: Tensor | None


class EvaluationPlan:
    """The distinct steps of some perturbation sets, and which of them each set reads.

    Args:
        sets: By name.
        pixels: Pixels of a map.
    """

    def __init__(self, sets: Mapping[str, PerturbationSet], pixels: int) -> None:
        #: Per perturbation: itself, and the column of each of its levels.
        self.perturbations: dict[object, tuple[Perturbation, dict[int, int]]] = {}
        self.columns: dict[str, list[int]] = {}
        self.steps = 0
        for name, perturbation_set in sets.items():
            steps = perturbation_set.steps(pixels)
            self.columns[name] = [self._column(perturbation, level) for perturbation, level in steps]

    def _column(self, perturbation: Perturbation, level: int) -> int:
        levels = self.perturbations.setdefault(perturbation.key, (perturbation, {}))[1]
        if level not in levels:
            levels[level] = self.steps
            self.steps += 1
        return levels[level]

    def passes(self, queries: int = 1) -> int:
        """Number of forward passes that an image with so many queries costs."""
        return sum(len(levels) * (queries if one.per_query else 1) for one, levels in self.perturbations.values())


@dataclass(frozen=True)
class Evaluator:
    """Shows perturbed inputs to a model, chunk by chunk, and collects its outputs.

    Attributes:
        evaluate: Gives outputs ``(m,)`` or ``(m, R)`` for the queries of a chunk; it runs the model once.
        chunk_size: Inputs per chunk, all but the last full.
        per_image: Evaluate all queries of an image on one input where the input is the same for all.
    """

    evaluate: Callable[[PerturbedBatch], Tensor]
    chunk_size: int = 64
    per_image: bool = True

    def __call__(self, context: PerturbationContext, sets: Mapping[str, PerturbationSet]) -> dict[str, Tensor]:
        """Outputs ``(B, T, steps)``, or ``(B, T, steps, R)``, of perturbation sets by name; what they share runs once.

        Args:
            context: The images, and their maps or their number of queries.
            sets: The perturbation sets, by name.
        """
        plan = EvaluationPlan(sets, context.maps[0, 0].numel())
        outputs = self.table(plan, context)
        outputs = outputs.view(*context.maps.shape[:2], *outputs.shape[1:])
        return {name: outputs[:, :, columns] for name, columns in plan.columns.items()}

    @torch.no_grad()
    def table(
        self, plan: EvaluationPlan, context: PerturbationContext, computed: Mapping[int, Tensor] | None = None
    ) -> Tensor:
        """Outputs ``(B * T, steps)``, or ``(B * T, steps, R)``, of all steps of a plan.

        Args:
            plan: Which inputs.
            context: The images and their maps.
            computed: Outputs ``(B * T, ...)`` of columns that need no pass.
        """
        computed = computed or {}
        chunks: list[PerturbedBatch] = []
        outputs: list[Tensor] = []
        for chunk in self._chunks(plan, context, computed):
            outputs.append(self.evaluate(chunk))
            chunks.append(chunk._replace(inputs=chunk.inputs[:0]))
        values = torch.cat([*outputs, *computed.values()])
        table = values.new_empty(context.maps.shape[:2].numel(), plan.steps, *values.shape[1:])
        if chunks:
            rows, columns = torch.cat([chunk.rows for chunk in chunks]), torch.cat([chunk.columns for chunk in chunks])
            table[rows, columns] = values[: len(rows)]
        for column, column_values in computed.items():
            table[:, column] = column_values
        return table

    def _chunks(
        self, plan: EvaluationPlan, context: PerturbationContext, computed: Mapping[int, Tensor]
    ) -> Iterator[PerturbedBatch]:
        parts: list[PerturbedBatch] = []
        room = self.chunk_size
        for perturbation, all_levels in plan.perturbations.values():
            levels = {level: column for level, column in all_levels.items() if column not in computed}
            shared = self.per_image and context.queries > 1 and not perturbation.per_query
            total = len(levels) * len(context.images) * (1 if shared else context.queries)
            start = 0
            while start < total:
                stop = min(total, start + room)
                parts.append(perturb(perturbation, levels, context, torch.arange(start, stop), shared))
                room -= stop - start
                start = stop
                if room == 0:
                    yield joined(parts)
                    parts, room = [], self.chunk_size
        if parts:
            yield joined(parts)


def output_of_inputs(target: Target, output: TargetOutput, query: Query) -> Callable[[PerturbedBatch], Tensor]:
    """Make the ``evaluate`` of an :class:`Evaluator` whose perturbations are the same for all queries of an image.

    Each input passes the model once, then the output is read for every query about it.

    Args:
        target: The target.
        output: What is read from its logits.
        query: ``(B, T)``.
    """
    count = query.shape[1]

    def evaluate(batch: PerturbedBatch) -> Tensor:
        queried = query[batch.rows[::count] // count]
        return output(target, target.logits(batch.inputs), queried).flatten()

    return evaluate


def perturb(
    perturbation: Perturbation, levels: Mapping[int, int], context: PerturbationContext, index: Tensor, shared: bool
) -> PerturbedBatch:
    """Perturb some of the inputs of a perturbation.

    Args:
        perturbation: The perturbation.
        levels: Its levels, and the column of each.
        context: The images and their maps.
        index: ``(n,)`` positions in the list of all its inputs: every level of it for every row (``shared``: image).
        shared: Whether one input serves all queries of its image.
    """
    queries, device = context.queries, context.images.device
    index = index.to(device)
    count = len(context.images) * (1 if shared else queries)
    row, step = index % count, index // count
    level, column = (torch.tensor(list(values), device=device)[step] for values in (levels, levels.values()))
    image = row if shared else row // queries
    inputs = perturbation.apply(context, row if perturbation.per_query else image, level)
    if not shared:
        return PerturbedBatch(inputs, row, column, None)
    rows = (queries * image.unsqueeze(1) + torch.arange(queries, device=device)).flatten()
    input_index = torch.arange(len(index), device=device).repeat_interleave(queries)
    return PerturbedBatch(inputs, rows, column.repeat_interleave(queries), input_index)


def joined(parts: Sequence[PerturbedBatch]) -> PerturbedBatch:
    """Concatenate several parts into one chunk."""
    if len(parts) == 1:
        return parts[0]
    inputs, rows, columns = (torch.cat([part[field] for part in parts]) for field in range(3))  # type: ignore[misc]
    if all(part.input_index is None for part in parts):
        return PerturbedBatch(inputs, rows, columns, None)
    starts = accumulate([0, *(len(part.inputs) for part in parts)])
    index = [
        start + (torch.arange(len(part.rows), device=rows.device) if part.input_index is None else part.input_index)
        for start, part in zip(starts, parts, strict=False)
    ]
    return PerturbedBatch(inputs, rows, columns, torch.cat(index))
