"""Ways to perturb an input: not at all, all of it hidden, hidden by rank, blended by a map or a mask, noisy."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from lightning_xai.perturbation.baselines import MaskedBaseline, named_baseline
from lightning_xai.perturbation.context import AnyBaseline, PerturbationContext, key_of, thin


class Perturbation(ABC):
    """A way to perturb images; a level says how much, or which of several perturbed images."""

    #: Whether the result depends on the query's map; if not, one input serves all queries of an image.
    per_query: ClassVar[bool]

    @property
    @abstractmethod
    def key(self) -> Hashable:
        """A key that is equal for equal perturbations."""

    @abstractmethod
    def apply(self, context: PerturbationContext, index: Tensor, level: Tensor) -> Tensor:
        """Compute perturbed inputs ``(n, C, *S)``.

        Args:
            context: The images and their maps.
            index: ``(n,)`` rows (``per_query``) or images.
            level: ``(n,)`` integers; what they mean is up to the perturbation.
        """

    def apply_levels(self, context: PerturbationContext, index: Tensor, levels: Tensor, position: Tensor) -> Tensor:
        """Compute the inputs of :meth:`apply` whose levels repeat; one that computes something a level overrides this.

        Args:
            context: The images and their maps.
            index: ``(n,)`` rows (``per_query``) or images.
            levels: ``(L,)``, each level once.
            position: ``(n,)``, which of them each input has.
        """
        return self.apply(context, index, levels[position])


#: A perturbation and its level.
Step = tuple[Perturbation, int]


class Unperturbed(Perturbation):
    """The unperturbed image."""

    per_query = False
    key = "unperturbed"

    @override
    def apply(self, context: PerturbationContext, index: Tensor, level: Tensor) -> Tensor:
        return context.images[index]


@dataclass(frozen=True, eq=False)
class BaselineImage(Perturbation):
    """The baseline image: every pixel hidden."""

    fill: AnyBaseline
    per_query = False

    @property
    @override
    def key(self) -> Hashable:
        return "baseline", key_of(self.fill)

    @override
    def apply(self, context: PerturbationContext, index: Tensor, level: Tensor) -> Tensor:
        return context.baseline_image(self.fill)[index]


@dataclass(frozen=True, eq=False)
class Masked(Perturbation):
    """The image with all but the first ``level`` pixels of the ranking hidden; a negative level hides these instead."""

    fill: AnyBaseline
    content: str = "own"
    per_query = True

    @property
    @override
    def key(self) -> Hashable:
        return "masked", key_of(self.fill), self.content

    @override
    def apply(self, context: PerturbationContext, index: Tensor, level: Tensor) -> Tensor:
        shape = (-1,) + (1,) * (context.images.ndim - 1)
        visible = (context.ranks[index] < level.abs().view(shape)) == (level > 0).view(shape)
        image, baseline = index // context.queries, named_baseline(self.fill)
        inputs = context.content(self.content)[image]
        if isinstance(baseline, MaskedBaseline):
            return baseline.hide(inputs, visible)
        # In place: a chunk of inputs is large, and fresh memory costs more than filling it.
        return torch.where(visible, inputs, thin(context.baseline_image(self.fill))[image], out=inputs)


@dataclass(frozen=True, eq=False)
class SoftMasked(Perturbation):
    """The image blended with its baseline image: by the map (level 1), or by one minus the map (level 0)."""

    fill: AnyBaseline
    prescaled: bool
    per_query = True

    @property
    @override
    def key(self) -> Hashable:
        return "soft-masked", key_of(self.fill), self.prescaled

    @override
    def apply(self, context: PerturbationContext, index: Tensor, level: Tensor) -> Tensor:
        alpha = context.maps.flatten(0, 1).unsqueeze(1)[index].float() if self.prescaled else context.scaled[index]
        alpha = torch.where((level == 1).view(-1, *(1,) * (alpha.ndim - 1)), alpha, 1 - alpha)
        image = index // context.queries
        inputs = context.images[image]
        return torch.lerp(thin(context.baseline_image(self.fill))[image], inputs, alpha.to(inputs.dtype), out=inputs)


@dataclass(frozen=True, eq=False)
class FixedMasks(Perturbation):
    """The image under masks that do not depend on the query; both the perturbation and the set of its inputs.

    Attributes:
        masks: ``(index (n,), level (n,))``, images and numbers of masks, -> masks ``(n or 1, 1, *S)``; boolean, or
            weights in [0, 1].
        count: Number of masks.
        fill: What a mask of 0 shows; see :func:`lightning_xai.perturbation.baselines.baseline_images`.
        per_image: Whether a mask depends on the image; if not, each is made once a pass, whatever the images (``index``
            is empty then).
    """

    masks: Callable[[Tensor, Tensor], Tensor]
    count: int
    fill: AnyBaseline = "zero"
    per_image: bool = True
    per_query: ClassVar[bool] = False

    @property
    @override
    def key(self) -> Hashable:
        return "fixed masks", id(self.masks), key_of(self.fill)

    def steps(self, pixels: int) -> list[Step]:
        """The perturbed inputs of the set: one a mask."""
        return [(self, number) for number in range(self.count)]

    @override
    def apply(self, context: PerturbationContext, index: Tensor, level: Tensor) -> Tensor:
        return self._show(context, index, self.masks(index, level))

    @override
    def apply_levels(self, context: PerturbationContext, index: Tensor, levels: Tensor, position: Tensor) -> Tensor:
        if self.per_image:
            return self.apply(context, index, levels[position])
        return self._show(context, index, self.masks(index[:0], levels)[position])

    def _show(self, context: PerturbationContext, index: Tensor, masks: Tensor) -> Tensor:
        inputs, baseline = context.images[index], thin(context.baseline_image(self.fill))[index]
        if masks.dtype == torch.bool:
            return torch.where(masks, inputs, baseline)
        return torch.lerp(baseline, inputs, masks.to(inputs.dtype))


@dataclass(frozen=True)
class Noisy(Perturbation):
    """The image with noise added; both the perturbation and the set of its inputs.

    The noise is one field a sample, the same for every image, so that no value depends on the rest of the batch.

    Attributes:
        samples: Number of noisy inputs.
        level: Size of the noise, as a fraction of the image's deviation (``"gaussian"``) or range (``"uniform"``).
        law: ``"gaussian"``, or ``"uniform"`` between -1 and 1.
        per_channel: Whether each channel has different noise.
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
    @override
    def key(self) -> Hashable:
        return self

    def steps(self, pixels: int) -> list[Step]:
        """The perturbed inputs of the set: one a sample."""
        return [(self, sample) for sample in range(self.samples)]

    def fields(self, images: Tensor) -> Tensor:
        """The noise of all samples at unit size, ``(samples, C or 1, *S)``."""
        shape = (images.shape[1] if self.per_channel else 1, *images.shape[2:])
        generator = torch.Generator().manual_seed(self.seed)
        draw = torch.randn if self.law == "gaussian" else torch.rand
        fields = draw(self.samples, *shape, generator=generator)
        return (fields if self.law == "gaussian" else 2 * fields - 1).to(images)

    def size(self, images: Tensor) -> Tensor:
        """The size of the noise for each image, ``(B,)``."""
        flat = images.flatten(1)
        return self.level * (flat.std(dim=1) if self.law == "gaussian" else flat.amax(dim=1) - flat.amin(dim=1))

    def fields_and_size(self, context: PerturbationContext) -> tuple[Tensor, Tensor]:
        """:meth:`fields` and :meth:`size` for a context's images, computed once."""
        return context.once(self, lambda: (self.fields(context.images), self.size(context.images)))

    @override
    def apply(self, context: PerturbationContext, index: Tensor, level: Tensor) -> Tensor:
        """Add the noise of the samples whose numbers are the levels."""
        fields, size = self.fields_and_size(context)
        inputs = context.images[index]
        return torch.addcmul(inputs, size[index].view(-1, *(1,) * (inputs.ndim - 1)), fields[level], out=inputs)
