"""The pictures that metrics ask a model about: whole, blank, partly hidden, blended, noisy.

A request (:class:`Curve`, :class:`Blend`, :class:`Noisy`) names the steps it needs; a job is an perturbation and a number.
Equal steps of several requests are one job.
"""

from abc import ABC, abstractmethod
from collections.abc import Hashable
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from lightning_xai.perturbation.baselines import Fill, MaskedBaseline, baseline_images, named_baseline

AnyBaseline = str | Tensor | Fill | MaskedBaseline
CONTENTS = ("own", "shifted", "swapped", "noise")


class PerturbationContext:
    """What pictures are made from: images, one map a query, and what follows from both, computed once.

    Args:
        images: ``(B, C, *S)``.
        maps: ``(B, T, *S)``, high = important. Row ``b * T + t`` is query ``t`` of image ``b``.
    """

    def __init__(self, images: Tensor, maps: Tensor) -> None:
        self.images = images
        self.maps = maps
        self.queries = maps.shape[1]
        self._blanks: dict[Hashable, Tensor] = {}
        self._noise: dict[Hashable, tuple[Tensor, Tensor]] = {}

    @cached_property
    def order(self) -> Tensor:
        """Pixels from the most to the least important, ``(B, T, N)``; equal pixels keep their scan order."""
        return order_of(self.maps)

    @cached_property
    def ranks(self) -> Tensor:
        """Rank of every pixel, 0 = most important, ``(B * T, 1, *S)`` int32."""
        return ranks_of(self.order).view(-1, 1, *self.maps.shape[2:])

    @cached_property
    def scaled(self) -> Tensor:
        """The maps between 0 and 1, ``(B * T, 1, *S)`` float32; a constant map is 0."""
        return min_max(self.maps).flatten(0, 1).unsqueeze(1)

    def blank(self, fill: AnyBaseline) -> Tensor:
        """The images with every pixel hidden, ``(B, C, *S)``."""
        key = key_of(fill)
        if key not in self._blanks:
            known = named_baseline(fill)
            nothing = torch.zeros_like(self.images[:, :1], dtype=torch.bool)
            self._blanks[key] = (
                known.hide(self.images, nothing)
                if isinstance(known, MaskedBaseline)
                else baseline_images(self.images, known)
            )
        return self._blanks[key]

    def content(self, kind: str) -> Tensor:
        """What is seen where pixels are shown, ``(B, C, *S)``.

        Args:
            kind: ``"own"``: the image; ``"shifted"``: the image moved by half its size along every axis, what leaves
                comes in on the other side; ``"swapped"``: the image before it in the batch; ``"noise"``: noise with the
                mean and deviation of each channel, the same pattern for every image.
        """
        if kind == "own":
            return self.images
        if kind == "swapped":
            return self.swapped
        return self.shifted if kind == "shifted" else self.static

    @cached_property
    def swapped(self) -> Tensor:
        """For each image the one before it in the batch, ``(B, C, *S)``."""
        return self.images.roll(1, dims=0)

    @cached_property
    def shifted(self) -> Tensor:
        """The images moved by half their size along every axis, ``(B, C, *S)``."""
        sides = self.images.shape[2:]
        return self.images.roll([side // 2 for side in sides], dims=list(range(2, self.images.ndim)))

    @cached_property
    def static(self) -> Tensor:
        """Noise with the mean and deviation of each image's channels, ``(B, C, *S)``."""
        axes = tuple(range(2, self.images.ndim))
        field = torch.randn(self.images.shape[1:], generator=torch.Generator().manual_seed(0)).to(self.images)
        return self.images.mean(dim=axes, keepdim=True) + self.images.std(dim=axes, keepdim=True) * field

    def noise(self, noisy: "Noisy") -> tuple[Tensor, Tensor]:
        """The fields ``(samples, C or 1, *S)`` of a noise, and what they are multiplied by ``(B,)``."""
        if noisy not in self._noise:
            self._noise[noisy] = noisy.fields(self.images), noisy.size(self.images)
        return self._noise[noisy]


class Perturbation(ABC):
    """Draws pictures of one kind."""

    #: Whether the picture depends on the query's map; if not, one picture serves all queries of an image.
    per_query: ClassVar[bool]

    @property
    @abstractmethod
    def key(self) -> Hashable:
        """What makes two perturbations draw the same."""

    @abstractmethod
    def apply(self, context: PerturbationContext, place: Tensor, number: Tensor) -> Tensor:
        """Pictures ``(n, C, *S)`` of rows (``per_query``) or images ``place (n,)``, as the ``number (n,)`` says."""


class Unperturbed(Perturbation):
    """The image as it is."""

    per_query = False
    key = "whole"

    def apply(self, context: PerturbationContext, place: Tensor, number: Tensor) -> Tensor:
        """See :meth:`Perturbation.apply`."""
        return context.images[place]


@dataclass(frozen=True, eq=False)
class BaselineImage(Perturbation):
    """Every pixel hidden."""

    fill: AnyBaseline
    per_query = False

    @property
    def key(self) -> Hashable:
        """See :attr:`Perturbation.key`."""
        return "blank", key_of(self.fill)

    def apply(self, context: PerturbationContext, place: Tensor, number: Tensor) -> Tensor:
        """See :meth:`Perturbation.apply`."""
        return context.blank(self.fill)[place]


@dataclass(frozen=True, eq=False)
class Masked(Perturbation):
    """The first ``number`` pixels of the ranking are shown and the others hidden; the reverse for negative numbers."""

    fill: AnyBaseline
    content: str = "own"
    per_query = True

    @property
    def key(self) -> Hashable:
        """See :attr:`Perturbation.key`."""
        return "hidden", key_of(self.fill), self.content

    def apply(self, context: PerturbationContext, place: Tensor, number: Tensor) -> Tensor:
        """See :meth:`Perturbation.apply`."""
        shape = (-1,) + (1,) * (context.images.ndim - 1)
        visible = (context.ranks[place] < number.abs().view(shape)) == (number > 0).view(shape)
        image, known = place // context.queries, named_baseline(self.fill)
        pictures = context.content(self.content)[image]
        if isinstance(known, MaskedBaseline):
            return known.hide(pictures, visible)
        # In place: a chunk of pictures is large, and fresh memory costs more than filling it.
        return torch.where(visible, pictures, thin(context.blank(self.fill))[image], out=pictures)


@dataclass(frozen=True, eq=False)
class SoftMasked(Perturbation):
    """The image times its map (number 1), or times what the map leaves (number 0)."""

    fill: AnyBaseline
    given: bool
    per_query = True

    @property
    def key(self) -> Hashable:
        """See :attr:`Perturbation.key`."""
        return "blended", key_of(self.fill), self.given

    def apply(self, context: PerturbationContext, place: Tensor, number: Tensor) -> Tensor:
        """See :meth:`Perturbation.apply`."""
        alpha = context.maps.flatten(0, 1).unsqueeze(1)[place].float() if self.given else context.scaled[place]
        alpha = torch.where((number == 1).view(-1, *(1,) * (alpha.ndim - 1)), alpha, 1 - alpha)
        image = place // context.queries
        pictures = context.images[image]
        return torch.lerp(thin(context.blank(self.fill))[image], pictures, alpha.to(pictures.dtype), out=pictures)


Step = tuple[Perturbation, int]


@dataclass(frozen=True, eq=False)
class Curve:
    """Pixels hidden or shown in the order of the map.

    Attributes:
        fractions: Fractions of pixels that are hidden (``"erase"``) or shown (``"reveal"``), each in [0, 1].
        direction: ``"erase"`` starts from the image, ``"reveal"`` from the blank.
        fill: See :func:`lightning_xai.perturbation.baselines.hide_pixels`.
        order: ``"most_first"`` or ``"least_first"``.
        content: What the shown pixels show; see :meth:`PerturbationContext.content`.
    """

    fractions: tuple[float, ...]
    direction: str = "erase"
    fill: AnyBaseline = "zero"
    order: str = "most_first"
    content: str = "own"

    def __post_init__(self) -> None:
        if self.content not in CONTENTS:
            raise ValueError(f"Curve has content {self.content!r}; use {' | '.join(CONTENTS)}.")
        if self.direction not in ("erase", "reveal") or self.order not in ("most_first", "least_first"):
            raise ValueError(
                f"Curve has direction {self.direction!r}, order {self.order!r}; "
                "use erase | reveal and most_first | least_first."
            )
        if not self.fractions or min(self.fractions) < 0 or max(self.fractions) > 1:
            raise ValueError(f"Curve fractions are {self.fractions}; give fractions of pixels between 0 and 1.")
        named_baseline(self.fill)

    def steps(self, pixels: int) -> list[Step]:
        """One job a fraction, for maps of so many pixels."""
        return [self._job(fraction, pixels) for fraction in self.fractions]

    def _job(self, fraction: float, pixels: int) -> Step:
        top = fraction if self.order == "most_first" else 1 - fraction
        count = pixel_count(top, pixels)
        shown = (self.direction == "reveal") == (self.order == "most_first")
        everything = shown == (count == pixels)
        if count in (0, pixels) and not (everything and self.content != "own"):
            return (Unperturbed() if everything else BaselineImage(self.fill)), 0
        # Of 0 pixels none is hidden: all of another content.
        return Masked(self.fill, self.content), count if shown else -count


@dataclass(frozen=True, eq=False)
class Blend:
    """The image times its map between 0 and 1, over a fill.

    Attributes:
        part: ``"map"``: what the map keeps; ``"rest"``: what it leaves.
        fill: What a weight of 0 shows; see :func:`lightning_xai.perturbation.baselines.baseline_images`.
        given: Whether the maps come between 0 and 1 already; else each is brought there.
    """

    part: str = "map"
    fill: AnyBaseline = "zero"
    given: bool = False

    def steps(self, pixels: int) -> list[Step]:
        """The one picture."""
        return [(SoftMasked(self.fill, self.given), int(self.part == "map"))]


@dataclass(frozen=True)
class Noisy(Perturbation):
    """The image with noise on it: both the request and the perturbation.

    The noise is one field a sample, the same for every image, so that no value depends on the batch around it.

    Attributes:
        samples: Number of pictures.
        level: Size of the noise, as a fraction of the image's deviation (``"gaussian"``) or range (``"uniform"``).
        law: ``"gaussian"``, or ``"uniform"`` between -1 and 1.
        per_channel: Whether each channel has noise of its own.
        seed: Another seed gives other noise.
    """

    samples: int = 10
    level: float = 0.02
    law: str = "uniform"
    per_channel: bool = True
    seed: int = 0
    per_query: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.law not in ("gaussian", "uniform") or self.samples < 1 or self.level <= 0:
            raise ValueError(
                f"Noise is {self.law!r}, {self.samples} samples of level {self.level}; "
                "use gaussian | uniform, at least one sample, and a level above 0."
            )

    @property
    def key(self) -> Hashable:
        """See :attr:`Perturbation.key`."""
        return self

    def steps(self, pixels: int) -> list[Step]:
        """One job a sample."""
        return [(self, number) for number in range(self.samples)]

    def fields(self, images: Tensor) -> Tensor:
        """The noise of unit size, ``(samples, C or 1, *S)``."""
        shape = (images.shape[1] if self.per_channel else 1, *images.shape[2:])
        generator = torch.Generator().manual_seed(self.seed)
        draw = torch.randn if self.law == "gaussian" else torch.rand
        fields = draw(self.samples, *shape, generator=generator)
        return (fields if self.law == "gaussian" else 2 * fields - 1).to(images)

    def size(self, images: Tensor) -> Tensor:
        """What the noise is multiplied by, ``(B,)``."""
        flat = images.flatten(1)
        return self.level * (flat.std(dim=1) if self.law == "gaussian" else flat.amax(dim=1) - flat.amin(dim=1))

    def apply(self, context: PerturbationContext, place: Tensor, number: Tensor) -> Tensor:
        """See :meth:`Perturbation.apply`."""
        fields, size = context.noise(self)
        pictures = context.images[place]
        return torch.addcmul(pictures, size[place].view(-1, *(1,) * (pictures.ndim - 1)), fields[number], out=pictures)


PerturbationSet = Curve | Blend | Noisy


def other_content(content: str) -> str:
    """The name of a content that is not the image's own.

    Raises:
        ValueError: If it is none.
    """
    if content not in CONTENTS[1:]:
        raise ValueError(f"content is {content!r}; use {' | '.join(CONTENTS[1:])}.")
    return content


def pixel_count(fraction: float, pixels: int) -> int:
    """How many pixels a fraction of them is."""
    # Revealing the first p and erasing the last 1 - p must be one job, but 1 - p is not exact in floating point.
    return round(round(fraction * pixels, 6))


def thin(blank: Tensor) -> Tensor:
    """A blank ``(B, C, *S)`` without the axes along which it was only expanded: they need no copies."""
    for axis in range(2, blank.ndim):
        if blank.stride(axis) == 0:
            blank = blank.narrow(axis, 0, 1)
    return blank


def key_of(fill: AnyBaseline) -> Hashable:
    """What makes two fills the same: a tensor's identity, else equality."""
    return ("tensor", id(fill)) if isinstance(fill, Tensor) else fill


def order_of(maps: Tensor) -> Tensor:
    """Pixels of maps ``(B, T, *S)`` from the highest to the lowest, ``(B, T, N)``; equal ones keep their scan order."""
    return maps.flatten(2).argsort(dim=2, descending=True, stable=True)


def ranks_of(order: Tensor) -> Tensor:
    """Rank of every pixel ``(B, T, N)`` int32 from the order of the pixels."""
    steps = torch.arange(order.shape[2], dtype=torch.int32, device=order.device).expand_as(order)
    return torch.empty_like(steps, memory_format=torch.contiguous_format).scatter_(2, order, steps)


def min_max(maps: Tensor) -> Tensor:
    """Maps ``(B, T, *S)`` brought to [0, 1] each, float32; a constant map becomes 0.

    Example:
        >>> min_max(torch.tensor([[[1.0, 2.0, 3.0]]])).tolist()
        [[[0.0, 0.5, 1.0]]]
    """
    flat = maps.flatten(2).float()
    low = flat.amin(dim=2, keepdim=True)
    span = flat.amax(dim=2, keepdim=True) - low
    return torch.where(span > 0, (flat - low) / span, 0.0).view(maps.shape)
