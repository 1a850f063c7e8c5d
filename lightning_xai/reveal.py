"""The one loop that hides or shows pixels in an order and asks the target again.

It knows no metric and no explainer. Every forward pass is filled to ``chunk_size``, whatever the number of images,
questions and curves, and what two curves share (the full image, the blank image) is asked once.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Scorer = Callable[[Tensor, Tensor], Tensor]
Fill = Callable[[Tensor], Tensor]


def zero_fill(images: Tensor) -> Tensor:
    """Zeros: black. Suits fluorescence, not bright field."""
    return torch.zeros_like(images)


def median_fill(images: Tensor) -> Tensor:
    """The median of each image and channel: its background."""
    median = images.flatten(2).median(dim=2).values
    return median.view(*median.shape, *(1,) * (images.ndim - 2)).expand_as(images)


def mean_fill(images: Tensor) -> Tensor:
    """The mean of each image and channel."""
    return images.mean(dim=tuple(range(2, images.ndim)), keepdim=True).expand_as(images)


def blur_fill(images: Tensor) -> Tensor:
    """The image smoothed by three box blurs of a quarter of its side each, close to a Gaussian."""
    box = [max(1, size // 4) // 2 for size in images.shape[2:]]
    pool = F.avg_pool2d if images.ndim == 4 else F.avg_pool3d
    padding = [margin for margin in reversed(box) for _ in (0, 1)]
    for _ in range(3):
        images = pool(F.pad(images, padding, mode="replicate"), [2 * margin + 1 for margin in box], stride=1)
    return images


FILLS: dict[str, Fill] = {"zero": zero_fill, "median": median_fill, "mean": mean_fill, "blur": blur_fill}


def fill_images(images: Tensor, fill: str | Tensor | Fill) -> Tensor:
    """What stands where pixels are hidden.

    Args:
        images: ``(B, C, *S)``.
        fill: A name from :data:`FILLS`, a function of the images, or a tensor that broadcasts to them.

    Returns:
        ``(B, C, *S)``.

    Raises:
        ValueError: If the name is unknown.

    Example:
        >>> fill_images(torch.ones(1, 1, 2, 2), "zero").sum().item()
        0.0
    """
    if isinstance(fill, Tensor):
        return fill.to(images).expand_as(images)
    if callable(fill):
        return fill(images)
    if fill not in FILLS:
        raise ValueError(
            f"Unknown fill {fill!r}; use one of {', '.join(FILLS)}, a tensor, or a function of the images."
        )
    return FILLS[fill](images)


@dataclass(frozen=True)
class Curve:
    """One curve to ask for.

    Attributes:
        fractions: Shares of pixels that are hidden (``"erase"``) or shown (``"reveal"``), each in [0, 1].
        direction: ``"erase"`` starts from the image, ``"reveal"`` from the blank.
        fill: See :func:`fill_images`.
        order: ``"most_first"`` or ``"least_first"``.
    """

    fractions: tuple[float, ...]
    direction: str = "erase"
    fill: str | Tensor | Fill = "zero"
    order: str = "most_first"

    def __post_init__(self) -> None:
        if self.direction not in ("erase", "reveal") or self.order not in ("most_first", "least_first"):
            raise ValueError(
                f"Curve has direction {self.direction!r}, order {self.order!r}; "
                "use erase | reveal and most_first | least_first."
            )
        if not self.fractions or min(self.fractions) < 0 or max(self.fractions) > 1:
            raise ValueError(f"Curve fractions are {self.fractions}; give shares of pixels between 0 and 1.")


def pixel_ranks(maps: Tensor) -> Tensor:
    """Rank of every pixel, 0 = most important; equal pixels keep their scan order.

    Args:
        maps: ``(B, T, *S)``.

    Returns:
        ``(B, T, *S)`` int32, a permutation of 0 .. N - 1 per question. NaN ranks first, as torch sorts it.
    """
    flat = maps.flatten(2)
    order = flat.argsort(dim=2, descending=True, stable=True)
    steps = torch.arange(flat.shape[2], dtype=torch.int32, device=maps.device).expand_as(order)
    return torch.empty_like(steps, memory_format=torch.contiguous_format).scatter_(2, order, steps).view(maps.shape)


def reveal_curve(
    score: Scorer,
    images: Tensor,
    ranking: Tensor,
    fractions: Sequence[float],
    fill: str | Tensor | Fill = "zero",
    direction: str = "erase",
    chunk_size: int = 64,
) -> Tensor:
    """Score images while pixels are erased from them, or revealed on a blank, the most important first.

    Args:
        score: ``(images (n, C, *S), rows (n,)) -> (n,)``; row ``b * T + t`` is question ``t`` of image ``b``.
            :meth:`lightning_xai.targets.Target.scorer` makes one.
        images: ``(B, C, *S)``.
        ranking: ``(B, T, *S)``, high = important.
        fractions: Shares of pixels, each in [0, 1].
        fill: See :func:`fill_images`.
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


@torch.no_grad()
def reveal_curves(
    score: Scorer, images: Tensor, ranking: Tensor, curves: Mapping[str, Curve], chunk_size: int = 64
) -> dict[str, Tensor]:
    """Several curves of the same images in one job queue; see :func:`reveal_curve`.

    Returns:
        ``{name: (B, T, len(fractions))}``.
    """
    rows = ranking.shape[0] * ranking.shape[1]
    pixels = ranking[0, 0].numel()
    ranks = pixel_ranks(ranking).flatten(0, 1).unsqueeze(1)
    fills: list[Tensor] = []
    names: list[object] = []
    jobs: dict[tuple[int, int, bool], int] = {}
    plan: dict[str, list[int]] = {}
    for name, curve in curves.items():
        known = next(
            (i for i, fill in enumerate(names) if fill is curve.fill or (isinstance(fill, str) and fill == curve.fill)),
            None,
        )
        if known is None:
            known = len(fills)
            names.append(curve.fill)
            fills.append(fill_images(images, curve.fill))
        plan[name] = [jobs.setdefault(_job(curve, share, pixels, known), len(jobs)) for share in curve.fractions]
    answers = _ask(score, images, ranks, fills, list(jobs), rows, chunk_size).view(*ranking.shape[:2], len(jobs))
    return {name: answers[..., columns] for name, columns in plan.items()}


def _job(curve: Curve, share: float, pixels: int, fill: int) -> tuple[int, int, bool]:
    """(fill, k, shown): the k first ranks are shown (or hidden). The full image is (-1, 0, False) for every fill."""
    top = share if curve.order == "most_first" else 1 - share
    # Revealing the first p and erasing the last 1 - p must be one job, but 1 - p is not exact in floating point.
    k = round(round(top * pixels, 6))
    shown = (curve.direction == "reveal") == (curve.order == "most_first")
    if k == 0:
        shown, k = not shown, pixels
    return (-1, 0, False) if k == pixels and shown else (fill, k, shown)


def _ask(
    score: Scorer,
    images: Tensor,
    ranks: Tensor,
    fills: list[Tensor],
    jobs: list[tuple[int, int, bool]],
    rows: int,
    chunk_size: int,
) -> Tensor:
    """Answers ``(rows, jobs)``; a queue of row x job pairs cut into full chunks."""
    questions = rows // len(images)
    device = images.device
    which, ks, shown = (torch.tensor(column, device=device) for column in zip(*jobs, strict=True))
    answers: list[Tensor] = []
    queue = torch.arange(rows * len(jobs), device=device)
    shape = (-1,) + (1,) * (images.ndim - 1)
    for chunk in torch.split(queue, chunk_size):
        row, job = chunk // len(jobs), chunk % len(jobs)
        image = row // questions
        visible = (ranks[row] < ks[job].view(shape)) == shown[job].view(shape)
        picked = images[image]
        for index, fill in enumerate(fills):
            hidden = ~visible & (which[job] == index).view(shape)
            picked = torch.where(hidden, fill[image], picked)
        answers.append(score(picked, row))
    return torch.cat(answers)
