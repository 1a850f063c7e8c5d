"""Everything that metrics read about a batch of maps, in one queue of full passes a source."""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from lightning_xai.functional.finite import NotFiniteOutputError
from lightning_xai.metrics.batch import MapBatch
from lightning_xai.metrics.readouts import MAP_OUTPUTS, TARGET_OUTPUTS, MapPass, Readout, TargetPass
from lightning_xai.perturbation.batch_size import ChunkSize, inputs_per_pass
from lightning_xai.perturbation.evaluator import EvaluationPlan, Evaluator, PerturbedBatch, Run, inputs_of
from lightning_xai.perturbation.perturbations import Noisy, Unperturbed
from lightning_xai.structures import Query

#: Outputs ``(m, R)`` for the queries of a part of the queue.
Reader = Callable[[PerturbedBatch], Tensor]


class SharedOutputs:
    """Outputs that no map changes, kept for all explainers that are scored on the same images and queries.

    Args:
        logits: ``(B, K, *S)`` of the whole images, from an earlier pass, or ``None``.
    """

    def __init__(self, logits: Tensor | None = None) -> None:
        self.logits = logits
        #: ``(B * T,)`` by perturbation, level and output.
        self.values: dict[tuple[Hashable, int, str], Tensor] = {}


def evaluate(
    batch: MapBatch,
    readouts: Mapping[str, Readout],
    chunk_size: ChunkSize = None,
    shared: SharedOutputs | None = None,
) -> dict[str, Tensor]:
    """Run the target, and the explainer, on every input that some readouts need, and read their outputs.

    Args:
        batch: The maps and their target.
        readouts: By name.
        chunk_size: Inputs per forward pass, and per explanation.
        shared: Outputs of other explainers on the same images and queries; what is new is added.

    Returns:
        ``{name: (B, T, steps)}`` float64.

    Raises:
        NotFiniteOutputError: If the target's output for unperturbed images is NaN.
    """
    shared = SharedOutputs() if shared is None else shared
    values: dict[str, Tensor] = {}
    # A noisy input is explained once for all queries, a masked one for the query whose map masked it.
    for source, per_image in (("target", True), ("head", True), ("maps", True), ("maps", False)):
        wanted = {name: readout for name, readout in readouts.items() if readout.source == source}
        if source == "maps":
            wanted = {name: one for name, one in wanted.items() if isinstance(one.perturbations, Noisy) == per_image}
        if wanted:
            count = inputs_per_pass(chunk_size, batch.target, batch.images, gradients=source == "maps")
            values |= _evaluate_source(batch, wanted, source, count, per_image, shared)
    return values


def _evaluate_source(
    batch: MapBatch,
    readouts: Mapping[str, Readout],
    source: str,
    chunk_size: int,
    per_image: bool,
    shared: SharedOutputs,
) -> dict[str, Tensor]:
    outputs = list(dict.fromkeys(readout.output for readout in readouts.values()))
    sets = {name: readout.perturbations for name, readout in readouts.items()}
    plan = EvaluationPlan(sets, batch.maps[0, 0].numel())
    needed: list[set[int]] = [set() for _ in range(plan.steps)]
    for name, readout in readouts.items():
        for column in plan.columns[name]:
            needed[column].add(outputs.index(readout.output))
    if source == "target":
        table = _run_target(batch, plan, outputs, needed, chunk_size, per_image, shared)
    else:
        table = Evaluator(READERS[source](batch, outputs), chunk_size, per_image).table(plan, batch.context)
    table = table.view(*batch.maps.shape[:2], plan.steps, -1)
    return {name: table[:, :, plan.columns[name], outputs.index(readout.output)] for name, readout in readouts.items()}


def _run_target(
    batch: MapBatch,
    plan: EvaluationPlan,
    outputs: list[str],
    needed: list[set[int]],
    chunk_size: int,
    per_image: bool,
    shared: SharedOutputs,
) -> Tensor:
    """Run the plan; columns that no map changes are taken from the shared outputs, or added to them."""
    read = TargetReader(batch, outputs, needed)
    #: Of the columns that no map changes, what the shared outputs call each of them.
    keys = {
        column: {index: (perturbation.key, level, outputs[index]) for index in needed[column]}
        for perturbation, levels in plan.perturbations.values()
        if not perturbation.per_query
        for level, column in levels.items()
    }
    unperturbed = list(plan.perturbations[Unperturbed.key][1].values()) if Unperturbed.key in plan.perturbations else []
    values: dict[int, Tensor] = {}
    for column, column_keys in keys.items():
        if all(key in shared.values for key in column_keys.values()):
            shape, device = (batch.targets.numel(), len(outputs)), batch.maps.device
            values[column] = torch.full(shape, float("nan"), dtype=torch.float64, device=device)
            for index, key in column_keys.items():
                values[column][:, index] = shared.values[key]
        elif column in unperturbed and shared.logits is not None:
            values[column] = read.read(shared.logits, *every_query(batch, column))
    table = Evaluator(read, chunk_size, per_image).table(plan, batch.context, values)
    check_unperturbed(batch, table, outputs, needed, unperturbed)
    for column, column_keys in keys.items():
        shared.values |= {key: table[:, column, index] for index, key in column_keys.items()}
    return table


def check_unperturbed(
    batch: MapBatch, table: Tensor, outputs: list[str], needed: list[set[int]], columns: list[int]
) -> None:
    """Refuse a target whose output for unperturbed images is NaN; where pixels are hidden it may be.

    Args:
        batch: The maps and their target.
        table: ``(B * T, steps, R)``.
        outputs: ``R`` names.
        needed: Which outputs each step has.
        columns: The steps that show unperturbed images.

    Raises:
        NotFiniteOutputError: If it is.
    """
    for index, output in enumerate(outputs):
        if output in ("probability", "score"):
            shown = [column for column in columns if index in needed[column]]
            bad = table[:, shown, index].isnan().view(len(batch.maps), -1).any(dim=1)
            if bad.any():
                raise NotFiniteOutputError(bad.nonzero().flatten().tolist())


def every_query(batch: MapBatch, column: int) -> tuple[Tensor, tuple[Run, ...]]:
    """Return rows ``(B * T,)`` and runs of all queries about the images themselves."""
    count, queries = batch.targets.shape
    return torch.arange(count * queries, device=batch.maps.device), (Run(column, count, queries),)


def passes(readouts: Mapping[str, Readout], source: str, queries: int = 1) -> int:
    """Count what an image costs: forward passes of the target, or maps of the explainer."""
    sets = {name: readout.perturbations for name, readout in readouts.items() if readout.source == source}
    return EvaluationPlan(sets, pixels=10**9).passes(queries)


@dataclass(frozen=True)
class TargetReader:
    """Run the target once an input, and read from its logits what each step needs, NaN elsewhere.

    Attributes:
        batch: The maps and their target.
        outputs: Names of ``R`` outputs.
        needed: Which outputs each step has.
    """

    batch: MapBatch
    outputs: list[str]
    needed: list[set[int]]

    def __call__(self, part: PerturbedBatch) -> Tensor:
        """Run the target on a part of the queue and return the outputs ``(m, R)`` of its queries."""
        return self.read(self.batch.target.logits(part.inputs), part.rows, part.runs)

    def read(self, logits: Tensor, rows: Tensor, runs: tuple[Run, ...]) -> Tensor:
        """Read the outputs ``(m, R)`` of queries ``rows (m,)`` from the logits of inputs ``(n, K, *S)``.

        Which of them has which output is planned on the host: nothing waits for the device.
        """
        values = logits.new_full((len(rows), len(self.outputs)), float("nan"), dtype=torch.float64)
        for indices, chosen in self._plan(runs).items():
            inputs, queries = slices_of(runs, chosen)
            among = inputs_of([runs[number] for number in chosen], logits.device)
            target_pass = TargetPass(self.batch, pick(logits, inputs), pick(rows, queries), among)
            for index in indices:
                put(values[:, index], queries, TARGET_OUTPUTS[self.outputs[index]](target_pass).double())
        return values

    def _plan(self, runs: tuple[Run, ...]) -> dict[tuple[int, ...], list[int]]:
        """The runs that have each output; outputs of the same runs stand together: they share what they compute."""
        having = {
            index: tuple(number for number, run in enumerate(runs) if index in self.needed[run.column])
            for index in range(len(self.outputs))
        }
        groups: dict[tuple[int, ...], list[int]] = {}
        for index, chosen in having.items():
            if chosen:
                groups.setdefault(chosen, []).append(index)
        return {tuple(indices): list(chosen) for chosen, indices in groups.items()}


def slices_of(runs: tuple[Run, ...], chosen: list[int]) -> tuple[list[slice], list[slice]]:
    """Return where the inputs and the queries of some runs of a chunk are; neighbors are one slice."""
    slices: tuple[list[slice], list[slice]] = ([], [])
    for each, counts in zip(
        slices, ([run.inputs for run in runs], [run.inputs * run.queries for run in runs]), strict=True
    ):
        starts = list(accumulate(counts, initial=0))
        for number in chosen:
            first = each.pop().start if each and each[-1].stop == starts[number] else starts[number]
            each.append(slice(first, starts[number + 1]))
    return slices


def pick(values: Tensor, slices: list[slice]) -> Tensor:
    """Return some slices of a tensor behind each other; without a copy where it is one."""
    return values[slices[0]] if len(slices) == 1 else torch.cat([values[part] for part in slices])


def put(values: Tensor, slices: list[slice], parts: Tensor) -> None:
    """Write what was computed of :func:`pick` back to where it came from."""
    start = 0
    for one in slices:
        stop = start + one.stop - one.start
        values[one] = parts[start:stop]
        start = stop


def read_head(batch: MapBatch, outputs: list[str]) -> Reader:
    """Return a reader of the probabilities that the explainer's own head gives, where it has one."""
    if not hasattr(batch.explainer, "probabilities"):
        raise ValueError(f"{type(batch.explainer).__name__} has no head of its own; use head='target' in the metrics.")

    def read(part: PerturbedBatch) -> Tensor:
        values: Tensor = batch.explainer.probabilities(part.inputs)
        values = values if part.input_index is None else values[part.input_index]
        return values.gather(1, batch.targets.flatten()[part.rows].unsqueeze(1)).double()

    return read


def read_maps(batch: MapBatch, outputs: list[str]) -> Reader:
    """Return a reader that explains perturbed inputs and compares their maps with those of the images."""

    def read(part: PerturbedBatch) -> Tensor:
        rows = part.rows.view(len(part.inputs), -1)
        regions = batch.query.regions
        classes = batch.targets.flatten()[rows]
        regions = None if regions is None else regions.flatten(0, 1)[rows]
        map_pass = MapPass(batch, batch.explainer.explain_query(part.inputs, Query(classes, regions)), rows)
        return torch.stack([MAP_OUTPUTS[output](map_pass).double().flatten() for output in outputs], dim=1)

    return read


READERS: Mapping[str, Callable[[MapBatch, list[str]], Reader]] = {"head": read_head, "maps": read_maps}
