"""The one loop that draws pictures of images and readouts a model about them.

It knows no metric and no explainer. Every forward pass is filled to ``chunk_size``, whatever the number of images,
queries and requests, and what two requests fraction (the whole image, the blank image) is asked once.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_xai.perturbation.perturbations import (
    AnyBaseline,
    Curve,
    Perturbation,
    PerturbationContext,
    PerturbationSet,
    order_of,
    ranks_of,
)

#: ``(pictures (n, C, *S), rows (n,)) -> (n,)``, or ``(n, R)`` for R answers at once. Row ``b * T + t`` is query
#: ``t`` of image ``b``. Where queries share pictures a third argument ``which (m,)`` says which picture each of the
#: ``m`` rows is asked about.
Scorer = Callable[..., Tensor]


def pixel_ranks(maps: Tensor) -> Tensor:
    """Rank of every pixel, 0 = most important; equal pixels keep their scan order.

    Args:
        maps: ``(B, T, *S)``.

    Returns:
        ``(B, T, *S)`` int32, a permutation of 0 .. N - 1 per query. NaN ranks first, as torch sorts it.
    """
    return ranks_of(order_of(maps)).view(maps.shape)


def reveal_curve(
    score: Scorer,
    images: Tensor,
    ranking: Tensor,
    fractions: Sequence[float],
    fill: AnyBaseline = "zero",
    direction: str = "erase",
    chunk_size: int = 64,
) -> Tensor:
    """Score images while pixels are erased from them, or revealed on a blank, the most important first.

    Args:
        score: ``(pictures (n, C, *S), rows (n,)) -> (n,)``; row ``b * T + t`` is query ``t`` of image ``b``.
            :meth:`lightning_xai.targets.Target.scorer` makes one.
        images: ``(B, C, *S)``.
        ranking: ``(B, T, *S)``, high = important.
        fractions: Fractions of pixels, each in [0, 1].
        fill: See :func:`lightning_xai.perturbation.baselines.hide_pixels`.
        direction: ``"erase"`` or ``"reveal"``.
        chunk_size: Images per forward pass.

    Returns:
        ``(B, T, len(fractions))``.

    Example:
        >>> bright = lambda images, rows: images.mean(dim=(1, 2, 3))
        >>> reveal_curve(bright, torch.ones(1, 1, 2, 2), torch.rand(1, 1, 2, 2), [0.0, 0.5, 1.0]).tolist()
        [[[1.0, 0.5, 0.0]]]
    """
    curve = Curve(tuple(fractions), direction, fill)
    return reveal_curves(score, images, ranking, {"curve": curve}, chunk_size)["curve"]


def reveal_curves(
    score: Scorer, images: Tensor, ranking: Tensor, curves: Mapping[str, Curve], chunk_size: int = 64
) -> dict[str, Tensor]:
    """Several curves of the same images in one job queue; see :func:`reveal_curve`.

    Returns:
        ``{name: (B, T, len(fractions))}``.
    """
    return reveal(score, PerturbationContext(images, ranking), curves, chunk_size)


def reveal(
    score: Scorer,
    context: PerturbationContext,
    requests: Mapping[str, PerturbationSet],
    chunk_size: int = 64,
    fraction: bool = False,
) -> dict[str, Tensor]:
    """Readout about the pictures of several requests in one job queue.

    Args:
        score: See :data:`Scorer`.
        context: The images and their maps.
        requests: What pictures to ask about, by name.
        chunk_size: Pictures per forward pass.
        fraction: Readout all queries of an image about one picture where the picture is the same for all, with the third
            argument of ``score``.

    Returns:
        ``{name: (B, T, steps)}``, or ``(B, T, steps, R)`` where the score gives R answers.
    """
    plan = EvaluationPlan(requests, context.maps[0, 0].numel())

    def ask(part: PerturbedBatch) -> Tensor:
        return score(part.pictures, part.rows, *(() if part.which is None else (part.which,)))

    answers = plan.run(ask, context, chunk_size, fraction)
    answers = answers.view(*context.maps.shape[:2], *answers.shape[1:])
    return {name: answers[:, :, columns] for name, columns in plan.columns.items()}


class PerturbedBatch(NamedTuple):
    """Pictures ``(n, C, *S)`` of one chunk, and the ``m`` queries about them.

    ``rows (m,)`` and ``columns (m,)`` are the places of the answers; ``which (m,)`` says which picture each query is
    about, ``None``: each about its own.
    """

    pictures: Tensor
    rows: Tensor
    columns: Tensor
    which: Tensor | None


class EvaluationPlan:
    """The distinct steps of some requests, and which of them each request reads.

    Args:
        requests: By name.
        pixels: Pixels of a map.
    """

    def __init__(self, requests: Mapping[str, PerturbationSet], pixels: int) -> None:
        #: Per perturbation: the perturbation, and the column of each of its numbers.
        self.perturbations: dict[object, tuple[Perturbation, dict[int, int]]] = {}
        self.columns: dict[str, list[int]] = {}
        self.steps = 0
        for name, request in requests.items():
            self.columns[name] = [self._column(perturbation, number) for perturbation, number in request.steps(pixels)]

    def _column(self, perturbation: Perturbation, number: int) -> int:
        known = self.perturbations.setdefault(perturbation.key, (perturbation, {}))[1]
        if number not in known:
            known[number] = self.steps
            self.steps += 1
        return known[number]

    def passes(self, queries: int = 1) -> int:
        """Forward passes that an image with so many queries costs."""
        return sum(
            len(known) * (queries if perturbation.per_query else 1)
            for perturbation, known in self.perturbations.values()
        )

    @torch.no_grad()
    def run(
        self, ask: Callable[[PerturbedBatch], Tensor], context: PerturbationContext, chunk_size: int, fraction: bool
    ) -> Tensor:
        """Answers ``(B * T, steps)``, or ``(B * T, steps, R)``; the queue of pictures is cut into full chunks.

        Args:
            ask: Answers ``(m,)`` or ``(m, R)`` to the queries of a chunk.
            context: The images and their maps.
            chunk_size: Pictures per chunk.
            fraction: See :func:`reveal`.
        """
        chunks: list[PerturbedBatch] = []
        answers: list[Tensor] = []
        for chunk in self._chunks(context, chunk_size, fraction):
            answers.append(ask(chunk))
            chunks.append(chunk._replace(pictures=chunk.pictures[:0]))
        values = torch.cat(answers)
        table = values.new_empty(context.maps.shape[:2].numel(), self.steps, *values.shape[1:])
        table[torch.cat([chunk.rows for chunk in chunks]), torch.cat([chunk.columns for chunk in chunks])] = values
        return table

    def _chunks(self, context: PerturbationContext, chunk_size: int, fraction: bool) -> Iterator[PerturbedBatch]:
        parts: list[PerturbedBatch] = []
        room = chunk_size
        for perturbation, known in self.perturbations.values():
            shared = fraction and context.queries > 1 and not perturbation.per_query
            total = len(known) * len(context.images) * (1 if shared else context.queries)
            start = 0
            while start < total:
                stop = min(total, start + room)
                parts.append(perturb(perturbation, known, context, torch.arange(start, stop), shared))
                room -= stop - start
                start = stop
                if room == 0:
                    yield joined(parts)
                    parts, room = [], chunk_size
        if parts:
            yield joined(parts)


def perturb(
    perturbation: Perturbation, known: Mapping[int, int], context: PerturbationContext, index: Tensor, shared: bool
) -> PerturbedBatch:
    """The pictures ``index`` of an perturbation's own queue, which is its numbers times the rows (``shared``: the images)."""
    queries, device = context.queries, context.images.device
    index = index.to(device)
    places = len(context.images) * (1 if shared else queries)
    place, job = index % places, index // places
    number, column = (torch.tensor(list(values), device=device)[job] for values in (known, known.values()))
    image = place if shared else place // queries
    pictures = perturbation.apply(context, place if perturbation.per_query else image, number)
    if not shared:
        return PerturbedBatch(pictures, place, column, None)
    rows = (queries * image.unsqueeze(1) + torch.arange(queries, device=device)).flatten()
    which = torch.arange(len(index), device=device).repeat_interleave(queries)
    return PerturbedBatch(pictures, rows, column.repeat_interleave(queries), which)


def joined(parts: Sequence[PerturbedBatch]) -> PerturbedBatch:
    """Several parts as one chunk."""
    if len(parts) == 1:
        return parts[0]
    pictures, rows, columns = (torch.cat([part[field] for part in parts]) for field in range(3))  # type: ignore[misc]
    if all(part.which is None for part in parts):
        return PerturbedBatch(pictures, rows, columns, None)
    starts = accumulate([0, *(len(part.pictures) for part in parts)])
    which = [
        start + (torch.arange(len(part.rows), device=rows.device) if part.which is None else part.which)
        for start, part in zip(starts, parts, strict=False)
    ]
    return PerturbedBatch(pictures, rows, columns, torch.cat(which))
