"""Perturbation sets: the perturbed inputs of a curve, or the one of a blend."""

from dataclasses import dataclass
from typing import Protocol

from lightning_xai.perturbation.baselines import named_baseline
from lightning_xai.perturbation.context import AnyBaseline
from lightning_xai.perturbation.perturbations import BaselineImage, Masked, SoftMasked, Step, Unperturbed

CONTENTS = ("own", "shifted", "swapped", "noise")


@dataclass(frozen=True, eq=False)
class Curve:
    """Inputs whose pixels are hidden or shown step by step in the order of the map.

    Attributes:
        fractions: Fractions of pixels that are hidden (``"erase"``) or shown (``"reveal"``), each in [0, 1].
        direction: ``"erase"`` starts from the image, ``"reveal"`` from the baseline image.
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
        """One step a fraction, for maps of so many pixels."""
        return [self._step(fraction, pixels) for fraction in self.fractions]

    def _step(self, fraction: float, pixels: int) -> Step:
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
    """The image blended with its baseline image by the map, scaled to between 0 and 1.

    Attributes:
        part: ``"map"``: the weight of the image is the map; ``"rest"``: one minus the map.
        fill: What a weight of 0 shows; see :func:`lightning_xai.perturbation.baselines.baseline_images`.
        prescaled: Whether the maps come between 0 and 1 already; else each is brought there.
    """

    part: str = "map"
    fill: AnyBaseline = "zero"
    prescaled: bool = False

    def steps(self, pixels: int) -> list[Step]:
        """The one step."""
        return [(SoftMasked(self.fill, self.prescaled), int(self.part == "map"))]


class PerturbationSet(Protocol):
    """Perturbed inputs of an image, in order."""

    def steps(self, pixels: int) -> list[Step]:
        """A perturbation and its level for each of them, for maps of so many pixels."""


def other_content(content: str) -> str:
    """Check the name of a content other than the image itself, and return it.

    Raises:
        ValueError: If there is no such content.
    """
    if content not in CONTENTS[1:]:
        raise ValueError(f"content is {content!r}; use {' | '.join(CONTENTS[1:])}.")
    return content


def pixel_count(fraction: float, pixels: int) -> int:
    """How many pixels a fraction of all pixels is."""
    # Revealing the first p and erasing the last 1 - p must be one step, but 1 - p is not exact in floating point.
    return round(round(fraction * pixels, 6))
