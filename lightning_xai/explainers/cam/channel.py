"""Class activation maps without gradients: the model runs again, channel by channel."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_xai.explainers.cam.base import ActivationMap, Layer, ObservedMap
from lightning_xai.explainers.query_policy import QueryPolicy
from lightning_xai.functional.tensors import close, min_max
from lightning_xai.perturbation.batch_size import ChunkSize, checked_chunk_size, inputs_per_pass
from lightning_xai.perturbation.context import PerturbationContext
from lightning_xai.perturbation.evaluator import Evaluator, output_of_inputs
from lightning_xai.perturbation.perturbations import FixedMasks, Perturbation, Step
from lightning_xai.structures import Query
from lightning_xai.targets import Target
from lightning_xai.targets.layers.grid import to_image
from lightning_xai.targets.layers.replay import Replay, replayed
from lightning_xai.targets.outputs import Logit


class ChannelCAM(ActivationMap):
    """Base of the maps that weigh feature maps by the model's outputs for each channel, without gradients.

    Args:
        target: See :class:`ActivationMap`.
        layer: See :class:`ActivationMap`.
        negative: See :class:`ActivationMap`.
        chunk_size: Channels per pass.
        query_policy: See :class:`ActivationMap`.
    """

    def __init__(
        self,
        target: Target,
        layer: Layer | Sequence[Layer] = "auto",
        *,
        negative: bool = False,
        chunk_size: ChunkSize = None,
        query_policy: QueryPolicy | None = None,
    ) -> None:
        super().__init__(target, layer, negative=negative, query_policy=query_policy)
        self.chunk_size = checked_chunk_size(chunk_size)


class ScoreCAM(ChannelCAM, ObservedMap):
    """Feature maps weighted by the score of the image masked with them, no gradients (Wang et al. 2020, eq. 5-7).

    arXiv 1910.01279. One forward pass a channel serves all queries. Masked is what the network receives: where the
    target subtracts a mean, hidden pixels have it. Channels without any contrast have no say, as in the released code:
    a dead one would hide the whole image, and a blank image may well score highest.
    """

    needs_gradients = False

    @torch.no_grad()
    @override
    def layer_maps(
        self, layers: list[nn.Module], images: Tensor, query: Query, logits: Tensor, features: list[Tensor]
    ) -> list[Tensor]:
        """Layer by layer, for each has channels of its own."""
        grids = [self.grid(values.detach(), images, layer) for layer, values in zip(layers, features, strict=True)]
        return [self._weighted(grid, images, query) for grid in grids]

    def _weighted(self, features: Tensor, images: Tensor, query: Query) -> Tensor:
        """Maps ``(B, T, *s)`` of feature maps ``(B, D, *s)``."""

        def masks_of(index: Tensor, channel: Tensor) -> Tensor:
            return min_max(to_image(self.target, features[index, channel].unsqueeze(1), images))

        chunk_size = inputs_per_pass(self.chunk_size, self.target, images)
        evaluator = Evaluator(output_of_inputs(self.target, Logit(), query), chunk_size)
        context = PerturbationContext.of_queries(images, query.shape[1])
        masks = FixedMasks(masks_of, features.shape[1], self.target.input_zero(images))
        scores = evaluator(context, {"masks": masks})["masks"]
        flat = features.flatten(2)
        constant = (flat.amax(dim=2) == flat.amin(dim=2)).unsqueeze(1)
        weights = (-scores if self.negative else scores).masked_fill(constant, -torch.inf).softmax(dim=2)
        weights = weights.masked_fill(constant, 0)  # NaN where all of them are
        return torch.einsum("btd,bd...->bt...", weights.to(features.dtype), features)


@dataclass(frozen=True, eq=False)
class Ablated(Perturbation):
    """A layer's output without one of its channels: a perturbation of that output, and at once the set of them all.

    Attributes:
        grid: The output ``(n, ...)`` -> a view of it as feature maps ``(n, D, *s)``.
        channels: ``D``.
    """

    grid: Callable[[Tensor], Tensor]
    channels: int
    per_query: ClassVar[bool] = False

    @property
    @override
    def key(self) -> Hashable:
        return "ablated", id(self.grid)

    def steps(self, pixels: int) -> list[Step]:
        """One step a channel."""
        return [(self, channel) for channel in range(self.channels)]

    @override
    def apply(self, context: PerturbationContext, index: Tensor, level: Tensor) -> Tensor:
        values = context.images[index]
        self.grid(values)[torch.arange(len(level), device=level.device), level] = 0
        return values


class AblationCAM(ChannelCAM):
    """Feature maps weighted by how much of the score is lost without them, no gradients.

    Ramaswamy & Desai 2020, eq. 4. What comes before the layer runs once an image, what comes after it once a channel,
    for all queries together.
    """

    @torch.no_grad()
    @override
    def maps_by_layer(self, layers: list[nn.Module], images: Tensor, query: Query) -> list[Tensor]:
        """Image by image, each with a replay of its own."""
        parts = [slice(number, number + 1) for number in range(len(images))]
        return [torch.cat([self._one(layer, images[part], query[part]) for part in parts]) for layer in layers]

    def _one(self, layer: nn.Module, image: Tensor, query: Query) -> Tensor:
        chunk_size = inputs_per_pass(self.chunk_size, self.target, image)  # before anything is hooked into the model
        with replayed(self.target.model, layer) as replay:
            with self.layouts_found([layer]):
                whole = Logit()(self.target, self.target.logits(image), query)[0]
            output = replay.value
            grid = self.grid(output, image, layer)
            self._check(replay, whole, image, query)
            evaluator = Evaluator(lambda batch: self._rest(replay, batch.inputs, image, query).flatten(), chunk_size)
            ablated = Ablated(lambda values: self.grid(values, image, layer), grid.shape[1])
            context = PerturbationContext.of_queries(output, query.shape[1])
            (scores,) = evaluator(context, {"channels": ablated})["channels"]
        whole = whole.unsqueeze(1)
        weights = torch.where(whole != 0, (whole - scores) / whole.abs(), whole - scores).to(grid.dtype)
        return torch.einsum("td,d...->t...", -weights if self.negative else weights, grid[0]).unsqueeze(0)

    def _rest(self, replay: Replay, value: Tensor, image: Tensor, query: Query) -> Tensor:
        """Scores ``(n, T)`` with ``n`` values of the layer."""
        count = len(value)
        replay.replace(value)
        return Logit()(self.target, self.target.logits(image.expand(count, *image.shape[1:])), query.repeat(count))

    def _check(self, replay: Replay, whole: Tensor, image: Tensor, query: Query) -> None:
        """Make sure that a replay with the layer's own value gives the score itself; with copies, if views do not."""
        twice = replay.value.expand(2, *replay.value.shape[1:])
        for replay.copies in (False, True):
            try:
                again = self._rest(replay, twice, image, query)
            except RuntimeError as error:
                if replay.copies or "more than one element of the written-to tensor" not in str(error):
                    raise
                continue  # the model works in place on what is given as a view
            if close(again, whole.expand_as(again)):
                return
        raise ValueError(
            f"The part of the model after {type(replay.layer).__name__} cannot be run on its own; choose another layer."
        )
