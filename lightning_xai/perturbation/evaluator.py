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


class Run(NamedTuple):
    """Inputs of one step that follow each other in a chunk; the host knows them without a look at the device.

    Attributes:
        column: Their step.
        inputs: How many they are.
        queries: How many queries there are about each of them.
    """

    column: int
    inputs: int
    queries: int


class PerturbedBatch(NamedTuple):
    """The perturbed inputs ``(n, C, *S)`` of one forward pass, and the ``m`` queries about them.

    ``rows (m,)`` and ``columns (m,)`` say where the outputs go; ``input_index (m,)`` says which input each query is
    about; ``None``: query ``i`` is about input ``i``. ``runs`` say the same of columns and inputs to the host.
    """

    inputs: Tensor
    rows: Tensor
    columns: Tensor
    input_index: Tensor | None
    runs: tuple[Run, ...]


class EvaluationPlan:
    """The inputs that some perturbation sets need, each once, and which of them belong to each set.

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
        """Compute the outputs ``(B, T, steps)``, or ``(B, T, steps, R)``, of perturbation sets, by name.

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
        """Compute the outputs ``(B * T, steps)``, or ``(B * T, steps, R)``, of all steps of a plan.

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
            # Sent once a plan, without waiting: every chunk takes its part of them on the device.
            table = torch.tensor([list(levels), list(levels.values())])
            table = table.to(context.images.device, non_blocking=True)
            start = 0
            while start < total:
                stop = min(total, start + room)
                parts.append(perturb(perturbation, levels, table, context, range(start, stop), shared))
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
    perturbation: Perturbation,
    levels: Mapping[int, int],
    table: Tensor,
    context: PerturbationContext,
    index: range,
    shared: bool,
) -> PerturbedBatch:
    """Perturb some of the inputs of a perturbation.

    Args:
        perturbation: The perturbation.
        levels: Its levels, and the column of each.
        table: The same ``(2, levels)``, on the device of the images.
        context: The images and their maps.
        index: Positions in the list of all its inputs: every level of it for every row (``shared``: image).
        shared: Whether one input serves all queries of its image.
    """
    queries, device = context.queries, context.images.device
    count = len(context.images) * (1 if shared else queries)
    positions = torch.arange(index.start, index.stop, device=device)
    row, step = positions % count, positions // count
    first, last = index.start // count, (index.stop - 1) // count
    image = row if shared else row // queries
    inputs = perturbation.apply_levels(
        context, row if perturbation.per_query else image, table[0, first : last + 1], step - first
    )
    runs = tuple(
        Run(column, min(index.stop, (step + 1) * count) - max(index.start, step * count), queries if shared else 1)
        for step, column in enumerate(list(levels.values())[first : last + 1], start=first)
    )
    column = table[1][step]
    if not shared:
        return PerturbedBatch(inputs, row, column, None, runs)
    columns = column.unsqueeze(1).expand(-1, queries).flatten()
    rows = (queries * image.unsqueeze(1) + torch.arange(queries, device=device)).flatten()
    return PerturbedBatch(inputs, rows, columns, inputs_of(runs, device), runs)


def inputs_of(runs: Sequence[Run], device: torch.device) -> Tensor:
    """The input ``(m,)`` of each query of some runs that follow each other."""
    starts = accumulate([0, *(run.inputs for run in runs)])
    return torch.cat(
        [
            start + torch.arange(run.inputs * run.queries, device=device) // run.queries
            for start, run in zip(starts, runs, strict=False)
        ]
    )


def joined(parts: Sequence[PerturbedBatch]) -> PerturbedBatch:
    """Concatenate several parts into one chunk."""
    if len(parts) == 1:
        return parts[0]
    inputs, rows, columns = (torch.cat([part[field] for part in parts]) for field in range(3))  # type: ignore[misc]
    runs = tuple(run for part in parts for run in part.runs)
    alone = all(part.input_index is None for part in parts)
    return PerturbedBatch(inputs, rows, columns, None if alone else inputs_of(runs, rows.device), runs)
