"""The one loop that draws pictures of images and asks a model about them.

It knows no metric and no explainer. Every forward pass is filled to ``chunk_size``, whatever the number of images,
questions and requests, and what two requests share (the whole image, the blank image) is asked once.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_xai.pictures import AnyFill, Artist, Curve, Request, Scene, order_of, ranks_of

#: ``(pictures (n, C, *S), rows (n,)) -> (n,)``, or ``(n, R)`` for R answers at once. Row ``b * T + t`` is question
#: ``t`` of image ``b``. Where questions share pictures a third argument ``which (m,)`` says which picture each of the
#: ``m`` rows is asked about.
Scorer = Callable[..., Tensor]


def pixel_ranks(maps: Tensor) -> Tensor:
    """Rank of every pixel, 0 = most important; equal pixels keep their scan order.

    Args:
        maps: ``(B, T, *S)``.

    Returns:
        ``(B, T, *S)`` int32, a permutation of 0 .. N - 1 per question. NaN ranks first, as torch sorts it.
    """
    return ranks_of(order_of(maps)).view(maps.shape)


def reveal_curve(
    score: Scorer,
    images: Tensor,
    ranking: Tensor,
    fractions: Sequence[float],
    fill: AnyFill = "zero",
    direction: str = "erase",
    chunk_size: int = 64,
) -> Tensor:
    """Score images while pixels are erased from them, or revealed on a blank, the most important first.

    Args:
        score: ``(pictures (n, C, *S), rows (n,)) -> (n,)``; row ``b * T + t`` is question ``t`` of image ``b``.
            :meth:`lightning_xai.targets.Target.scorer` makes one.
        images: ``(B, C, *S)``.
        ranking: ``(B, T, *S)``, high = important.
        fractions: Shares of pixels, each in [0, 1].
        fill: See :func:`lightning_xai.fills.hide_pixels`.
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
    return reveal(score, Scene(images, ranking), curves, chunk_size)


def reveal(
    score: Scorer, scene: Scene, requests: Mapping[str, Request], chunk_size: int = 64, share: bool = False
) -> dict[str, Tensor]:
    """Ask about the pictures of several requests in one job queue.

    Args:
        score: See :data:`Scorer`.
        scene: The images and their maps.
        requests: What pictures to ask about, by name.
        chunk_size: Pictures per forward pass.
        share: Ask all questions of an image about one picture where the picture is the same for all, with the third
            argument of ``score``.

    Returns:
        ``{name: (B, T, jobs)}``, or ``(B, T, jobs, R)`` where the score gives R answers.
    """
    plan = Plan(requests, scene.maps[0, 0].numel())

    def ask(part: Part) -> Tensor:
        return score(part.pictures, part.rows, *(() if part.which is None else (part.which,)))

    answers = plan.run(ask, scene, chunk_size, share)
    answers = answers.view(*scene.maps.shape[:2], *answers.shape[1:])
    return {name: answers[:, :, columns] for name, columns in plan.columns.items()}


class Part(NamedTuple):
    """Pictures ``(n, C, *S)`` of one chunk, and the ``m`` questions about them.

    ``rows (m,)`` and ``columns (m,)`` are the places of the answers; ``which (m,)`` says which picture each question is
    about, ``None``: each about its own.
    """

    pictures: Tensor
    rows: Tensor
    columns: Tensor
    which: Tensor | None


class Plan:
    """The distinct jobs of some requests, and which of them each request reads.

    Args:
        requests: By name.
        pixels: Pixels of a map.
    """

    def __init__(self, requests: Mapping[str, Request], pixels: int) -> None:
        #: Per artist: the artist, and the column of each of its numbers.
        self.artists: dict[object, tuple[Artist, dict[int, int]]] = {}
        self.columns: dict[str, list[int]] = {}
        self.jobs = 0
        for name, request in requests.items():
            self.columns[name] = [self._column(artist, number) for artist, number in request.jobs(pixels)]

    def _column(self, artist: Artist, number: int) -> int:
        known = self.artists.setdefault(artist.key, (artist, {}))[1]
        if number not in known:
            known[number] = self.jobs
            self.jobs += 1
        return known[number]

    def passes(self, questions: int = 1) -> int:
        """Forward passes that an image with so many questions costs."""
        return sum(len(known) * (questions if artist.per_question else 1) for artist, known in self.artists.values())

    @torch.no_grad()
    def run(self, ask: Callable[[Part], Tensor], scene: Scene, chunk_size: int, share: bool) -> Tensor:
        """Answers ``(B * T, jobs)``, or ``(B * T, jobs, R)``; the queue of pictures is cut into full chunks.

        Args:
            ask: Answers ``(m,)`` or ``(m, R)`` to the questions of a chunk.
            scene: The images and their maps.
            chunk_size: Pictures per chunk.
            share: See :func:`reveal`.
        """
        chunks: list[Part] = []
        answers: list[Tensor] = []
        for chunk in self._chunks(scene, chunk_size, share):
            answers.append(ask(chunk))
            chunks.append(chunk._replace(pictures=chunk.pictures[:0]))
        values = torch.cat(answers)
        table = values.new_empty(scene.maps.shape[:2].numel(), self.jobs, *values.shape[1:])
        table[torch.cat([chunk.rows for chunk in chunks]), torch.cat([chunk.columns for chunk in chunks])] = values
        return table

    def _chunks(self, scene: Scene, chunk_size: int, share: bool) -> Iterator[Part]:
        parts: list[Part] = []
        room = chunk_size
        for artist, known in self.artists.values():
            shared = share and scene.questions > 1 and not artist.per_question
            total = len(known) * len(scene.images) * (1 if shared else scene.questions)
            start = 0
            while start < total:
                stop = min(total, start + room)
                parts.append(draw_part(artist, known, scene, torch.arange(start, stop), shared))
                room -= stop - start
                start = stop
                if room == 0:
                    yield joined(parts)
                    parts, room = [], chunk_size
        if parts:
            yield joined(parts)


def draw_part(artist: Artist, known: Mapping[int, int], scene: Scene, index: Tensor, shared: bool) -> Part:
    """The pictures ``index`` of an artist's own queue, which is its numbers times the rows (``shared``: the images)."""
    questions, device = scene.questions, scene.images.device
    index = index.to(device)
    places = len(scene.images) * (1 if shared else questions)
    place, job = index % places, index // places
    number, column = (torch.tensor(list(values), device=device)[job] for values in (known, known.values()))
    image = place if shared else place // questions
    pictures = artist.draw(scene, place if artist.per_question else image, number)
    if not shared:
        return Part(pictures, place, column, None)
    rows = (questions * image.unsqueeze(1) + torch.arange(questions, device=device)).flatten()
    which = torch.arange(len(index), device=device).repeat_interleave(questions)
    return Part(pictures, rows, column.repeat_interleave(questions), which)


def joined(parts: Sequence[Part]) -> Part:
    """Several parts as one chunk."""
    if len(parts) == 1:
        return parts[0]
    pictures, rows, columns = (torch.cat([part[field] for part in parts]) for field in range(3))  # type: ignore[misc]
    if all(part.which is None for part in parts):
        return Part(pictures, rows, columns, None)
    starts = accumulate([0, *(len(part.pictures) for part in parts)])
    which = [
        start + (torch.arange(len(part.rows), device=rows.device) if part.which is None else part.which)
        for start, part in zip(starts, parts, strict=False)
    ]
    return Part(pictures, rows, columns, torch.cat(which))
