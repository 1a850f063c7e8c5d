"""The pictures that metrics ask a model about: whole, blank, partly hidden, blended, noisy.

A request (:class:`Curve`, :class:`Blend`, :class:`Noisy`) names the jobs it needs; a job is an artist and a number.
Equal jobs of several requests are one job.
"""

from abc import ABC, abstractmethod
from collections.abc import Hashable
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from lightning_xai.fills import Fill, MaskedFill, fill_images, named_fill

AnyFill = str | Tensor | Fill | MaskedFill
CONTENTS = ("own", "shifted", "swapped", "noise")


class Scene:
    """What pictures are made from: images, one map a question, and what follows from both, computed once.

    Args:
        images: ``(B, C, *S)``.
        maps: ``(B, T, *S)``, high = important. Row ``b * T + t`` is question ``t`` of image ``b``.
    """

    def __init__(self, images: Tensor, maps: Tensor) -> None:
        self.images = images
        self.maps = maps
        self.questions = maps.shape[1]
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

    def blank(self, fill: AnyFill) -> Tensor:
        """The images with every pixel hidden, ``(B, C, *S)``."""
        key = key_of(fill)
        if key not in self._blanks:
            known = named_fill(fill)
            nothing = torch.zeros_like(self.images[:, :1], dtype=torch.bool)
            self._blanks[key] = (
                known.hide(self.images, nothing) if isinstance(known, MaskedFill) else fill_images(self.images, known)
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


class Artist(ABC):
    """Draws pictures of one kind."""

    #: Whether the picture depends on the question's map; if not, one picture serves all questions of an image.
    per_question: ClassVar[bool]

    @property
    @abstractmethod
    def key(self) -> Hashable:
        """What makes two artists draw the same."""

    @abstractmethod
    def draw(self, scene: Scene, place: Tensor, number: Tensor) -> Tensor:
        """Pictures ``(n, C, *S)`` of rows (``per_question``) or images ``place (n,)``, as the ``number (n,)`` says."""


class Whole(Artist):
    """The image as it is."""

    per_question = False
    key = "whole"

    def draw(self, scene: Scene, place: Tensor, number: Tensor) -> Tensor:
        """See :meth:`Artist.draw`."""
        return scene.images[place]


@dataclass(frozen=True, eq=False)
class Blank(Artist):
    """Every pixel hidden."""

    fill: AnyFill
    per_question = False

    @property
    def key(self) -> Hashable:
        """See :attr:`Artist.key`."""
        return "blank", key_of(self.fill)

    def draw(self, scene: Scene, place: Tensor, number: Tensor) -> Tensor:
        """See :meth:`Artist.draw`."""
        return scene.blank(self.fill)[place]


@dataclass(frozen=True, eq=False)
class Hidden(Artist):
    """The first ``number`` pixels of the ranking are shown and the others hidden; the reverse for negative numbers."""

    fill: AnyFill
    content: str = "own"
    per_question = True

    @property
    def key(self) -> Hashable:
        """See :attr:`Artist.key`."""
        return "hidden", key_of(self.fill), self.content

    def draw(self, scene: Scene, place: Tensor, number: Tensor) -> Tensor:
        """See :meth:`Artist.draw`."""
        shape = (-1,) + (1,) * (scene.images.ndim - 1)
        visible = (scene.ranks[place] < number.abs().view(shape)) == (number > 0).view(shape)
        image, known = place // scene.questions, named_fill(self.fill)
        pictures = scene.content(self.content)[image]
        if isinstance(known, MaskedFill):
            return known.hide(pictures, visible)
        # In place: a chunk of pictures is large, and fresh memory costs more than filling it.
        return torch.where(visible, pictures, thin(scene.blank(self.fill))[image], out=pictures)


@dataclass(frozen=True, eq=False)
class Blended(Artist):
    """The image times its map (number 1), or times what the map leaves (number 0)."""

    fill: AnyFill
    given: bool
    per_question = True

    @property
    def key(self) -> Hashable:
        """See :attr:`Artist.key`."""
        return "blended", key_of(self.fill), self.given

    def draw(self, scene: Scene, place: Tensor, number: Tensor) -> Tensor:
        """See :meth:`Artist.draw`."""
        alpha = scene.maps.flatten(0, 1).unsqueeze(1)[place].float() if self.given else scene.scaled[place]
        alpha = torch.where((number == 1).view(-1, *(1,) * (alpha.ndim - 1)), alpha, 1 - alpha)
        image = place // scene.questions
        pictures = scene.images[image]
        return torch.lerp(thin(scene.blank(self.fill))[image], pictures, alpha.to(pictures.dtype), out=pictures)


Job = tuple[Artist, int]


@dataclass(frozen=True, eq=False)
class Curve:
    """Pixels hidden or shown in the order of the map.

    Attributes:
        fractions: Shares of pixels that are hidden (``"erase"``) or shown (``"reveal"``), each in [0, 1].
        direction: ``"erase"`` starts from the image, ``"reveal"`` from the blank.
        fill: See :func:`lightning_xai.fills.hide_pixels`.
        order: ``"most_first"`` or ``"least_first"``.
        content: What the shown pixels show; see :meth:`Scene.content`.
    """

    fractions: tuple[float, ...]
    direction: str = "erase"
    fill: AnyFill = "zero"
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
            raise ValueError(f"Curve fractions are {self.fractions}; give shares of pixels between 0 and 1.")
        named_fill(self.fill)

    def jobs(self, pixels: int) -> list[Job]:
        """One job a fraction, for maps of so many pixels."""
        return [self._job(share, pixels) for share in self.fractions]

    def _job(self, share: float, pixels: int) -> Job:
        top = share if self.order == "most_first" else 1 - share
        count = pixel_count(top, pixels)
        shown = (self.direction == "reveal") == (self.order == "most_first")
        everything = shown == (count == pixels)
        if count in (0, pixels) and not (everything and self.content != "own"):
            return (Whole() if everything else Blank(self.fill)), 0
        # Of 0 pixels none is hidden: all of another content.
        return Hidden(self.fill, self.content), count if shown else -count


@dataclass(frozen=True, eq=False)
class Blend:
    """The image times its map between 0 and 1, over a fill.

    Attributes:
        part: ``"map"``: what the map keeps; ``"rest"``: what it leaves.
        fill: What a weight of 0 shows; see :func:`lightning_xai.fills.fill_images`.
        given: Whether the maps come between 0 and 1 already; else each is brought there.
    """

    part: str = "map"
    fill: AnyFill = "zero"
    given: bool = False

    def jobs(self, pixels: int) -> list[Job]:
        """The one picture."""
        return [(Blended(self.fill, self.given), int(self.part == "map"))]


@dataclass(frozen=True)
class Noisy(Artist):
    """The image with noise on it: both the request and the artist.

    The noise is one field a sample, the same for every image, so that no value depends on the batch around it.

    Attributes:
        samples: Number of pictures.
        level: Size of the noise, as a share of the image's deviation (``"gaussian"``) or range (``"uniform"``).
        law: ``"gaussian"``, or ``"uniform"`` between -1 and 1.
        per_channel: Whether each channel has noise of its own.
        seed: Another seed gives other noise.
    """

    samples: int = 10
    level: float = 0.02
    law: str = "uniform"
    per_channel: bool = True
    seed: int = 0
    per_question: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.law not in ("gaussian", "uniform") or self.samples < 1 or self.level <= 0:
            raise ValueError(
                f"Noise is {self.law!r}, {self.samples} samples of level {self.level}; "
                "use gaussian | uniform, at least one sample, and a level above 0."
            )

    @property
    def key(self) -> Hashable:
        """See :attr:`Artist.key`."""
        return self

    def jobs(self, pixels: int) -> list[Job]:
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

    def draw(self, scene: Scene, place: Tensor, number: Tensor) -> Tensor:
        """See :meth:`Artist.draw`."""
        fields, size = scene.noise(self)
        pictures = scene.images[place]
        return torch.addcmul(pictures, size[place].view(-1, *(1,) * (pictures.ndim - 1)), fields[number], out=pictures)


Request = Curve | Blend | Noisy


def other_content(content: str) -> str:
    """The name of a content that is not the image's own.

    Raises:
        ValueError: If it is none.
    """
    if content not in CONTENTS[1:]:
        raise ValueError(f"content is {content!r}; use {' | '.join(CONTENTS[1:])}.")
    return content


def pixel_count(share: float, pixels: int) -> int:
    """How many pixels a share of them is."""
    # Revealing the first p and erasing the last 1 - p must be one job, but 1 - p is not exact in floating point.
    return round(round(share * pixels, 6))


def thin(blank: Tensor) -> Tensor:
    """A blank ``(B, C, *S)`` without the axes along which it was only expanded: they need no copies."""
    for axis in range(2, blank.ndim):
        if blank.stride(axis) == 0:
            blank = blank.narrow(axis, 0, 1)
    return blank


def key_of(fill: AnyFill) -> Hashable:
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
