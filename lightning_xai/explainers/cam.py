"""Class activation maps: feature maps of a layer, weighted by what they mean to the answer.

One core for classifiers and segmenters, 2-D and 3-D, convolutions and tokens: ``A`` are the feature maps of a layer,
``Y`` the score of a question, ``G = dY/dA``. All questions share one forward pass, and the backward passes start at the
layer. Each method is one way to combine ``A`` and ``G``.
"""

from abc import abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_xai.explainers.base import Explainer
from lightning_xai.layers import Replay, auto_layer, captured, named_layer, replayed, to_grid
from lightning_xai.masking import resize
from lightning_xai.pictures import min_max
from lightning_xai.targets import Target

Layer = str | nn.Module


class ActivationMap(Explainer):
    """Base of the class activation maps.

    Args:
        target: The frozen target; its model must be an ``nn.Module`` whose layers can be seen.
        layer: A module of the model or its name, or several, whose maps are averaged, each divided by its largest
            absolute value. ``"auto"``: a classifier's last layer with positions, a segmenter's bottleneck.
        negative: Explain what speaks against the class.

    Raises:
        ValueError: If the model has no such layer, or none is named.
    """

    def __init__(self, target: Target, layer: Layer | Sequence[Layer] = "auto", negative: bool = False) -> None:
        super().__init__(target)
        layers = [layer] if isinstance(layer, str | nn.Module) else list(layer)
        if not layers:
            raise ValueError("layer is empty; name a module of the model, several, or 'auto'.")
        # A plain tuple hides the target's modules from nn.Module's bookkeeping.
        self._layers = tuple(
            named_layer(target, part) if isinstance(part, str) and part != "auto" else part for part in layers
        )
        self.negative = negative

    def attribute(self, images: Tensor, targets: Tensor, pixels: Tensor | None) -> Tensor:
        """See :meth:`Explainer.attribute`."""
        parts = [self.layer_maps(layer, images, targets, pixels) for layer in self.modules_of(images, targets)]
        maps = [resize(part, images.shape[2:]) for part in parts]
        if len(maps) == 1:
            return maps[0]
        sizes = [part.flatten(2).abs().amax(dim=2).clamp(min=1e-12) for part in maps]
        scaled = [
            part / size.view(*size.shape, *(1,) * (part.ndim - 2)) for part, size in zip(maps, sizes, strict=True)
        ]
        return torch.stack(scaled).mean(dim=0)

    def modules_of(self, images: Tensor, targets: Tensor) -> list[nn.Module]:
        """The layers, ``"auto"`` found at the first images."""
        found = []
        for layer in self._layers:
            if isinstance(layer, str):
                layer = named_layer(self.target, auto_layer(self.target, images, targets))
            found.append(layer)
        self._layers = tuple(found)
        return found

    @abstractmethod
    def layer_maps(self, layer: nn.Module, images: Tensor, targets: Tensor, pixels: Tensor | None) -> Tensor:
        """Maps ``(B, T, *s)`` on the layer's own grid."""

    def grid(self, values: Tensor, images: Tensor) -> Tensor:
        """Feature maps ``(B, D, *s)``; see :func:`lightning_xai.layers.to_grid`.

        Raises:
            ValueError: If the layer has no positions.
        """
        grid = to_grid(values, images.shape[2:])
        if grid is None:
            raise ValueError(
                f"The layer gives {tuple(values.shape)} for images {tuple(images.shape)}: no positions to map; "
                "choose an earlier one."
            )
        return grid


class GradientCAM(ActivationMap):
    """Base of the maps that combine feature maps with their gradients."""

    def layer_maps(self, layer: nn.Module, images: Tensor, targets: Tensor, pixels: Tensor | None) -> Tensor:
        """See :meth:`ActivationMap.layer_maps`: one forward pass, and a backward pass a question down to the layer."""
        with captured([layer]) as seen:
            scores = self.target.score(images, targets, pixels)
        features = seen[layer]
        grid = self.grid(features.detach(), images)
        maps = []
        for score in scores.unbind(dim=1):
            (slope,) = torch.autograd.grad(score.sum(), features, retain_graph=True)
            slopes = self.grid(slope, images)
            maps.append(self.combine(grid, -slopes if self.negative else slopes))
        return torch.stack(maps, dim=1)

    @abstractmethod
    def combine(self, features: Tensor, slopes: Tensor) -> Tensor:
        """From ``A`` and ``G``, both ``(B, D, *s)``, to the map ``(B, *s)``."""


class GradCAM(GradientCAM):
    """Feature maps weighted by the mean of their gradients; Seg-Grad-CAM for segmenters.

    Selvaraju et al. 2017, arXiv 1610.02391, eq. 1-2 without the ReLU; Vinogradova et al. 2020, arXiv 2002.11434.

    Example:
        >>> from lightning_xai import ClassifierTarget
        >>> from lightning_xai.nets import SmallCNN
        >>> maps = GradCAM(ClassifierTarget(SmallCNN(1, 3))).explain(torch.rand(2, 1, 28, 28))
        >>> maps.shape
        torch.Size([2, 1, 28, 28])
    """

    def combine(self, features: Tensor, slopes: Tensor) -> Tensor:
        """See :meth:`GradientCAM.combine`."""
        weights = slopes.flatten(2).mean(dim=2)
        return torch.einsum("bd,bd...->b...", weights, features)


class HiResCAM(GradientCAM):
    """Feature maps times their gradients, place by place; Seg-HiRes-Grad CAM for segmenters.

    Draelos & Carin 2020, arXiv 2011.08891; Rheude et al. 2024, arXiv 2409.20287. Where the rest of the model is linear
    the map sums up to the score without its bias.
    """

    def combine(self, features: Tensor, slopes: Tensor) -> Tensor:
        """See :meth:`GradientCAM.combine`."""
        return (features * slopes).sum(dim=1)


class XResCAM(GradientCAM):
    """Gradients averaged over windows: a dial between HiResCAM (window 1) and Grad-CAM (the whole layer).

    Hasany et al. 2023, Seg-XRes-CAM.

    Args:
        target: See :class:`ActivationMap`.
        layer: See :class:`ActivationMap`.
        negative: See :class:`ActivationMap`.
        window: Side of the windows, in places of the layer.

    Raises:
        ValueError: If the window is below 1.
    """

    def __init__(
        self, target: Target, layer: Layer | Sequence[Layer] = "auto", negative: bool = False, window: int = 3
    ) -> None:
        super().__init__(target, layer, negative)
        if window < 1:
            raise ValueError(f"window is {window}; it is at least 1 place wide.")
        self.window = window

    def combine(self, features: Tensor, slopes: Tensor) -> Tensor:
        """See :meth:`GradientCAM.combine`."""
        pool = F.avg_pool2d if slopes.ndim == 4 else F.avg_pool3d
        sides = [min(self.window, side) for side in slopes.shape[2:]]
        pooled = pool(slopes, sides, stride=sides, ceil_mode=True)
        for axis, side in enumerate(sides, start=2):
            pooled = pooled.repeat_interleave(side, dim=axis).narrow(axis, 0, slopes.shape[axis])
        return (features * pooled).sum(dim=1)


class GradCAMPlusPlus(GradientCAM):
    """Gradients weighted by how alone they stand (Chattopadhay et al. 2018, arXiv 1710.11063, eq. 19 with exp(Y))."""

    def combine(self, features: Tensor, slopes: Tensor) -> Tensor:
        """See :meth:`GradientCAM.combine`."""
        total = features.flatten(2).sum(dim=2).view(*features.shape[:2], *(1,) * (features.ndim - 2))
        below = 2 * slopes.square() + total * slopes**3
        alpha = torch.where(below != 0, slopes.square() / below, 0.0)
        weights = (alpha * slopes.relu()).flatten(2).sum(dim=2)
        return torch.einsum("bd,bd...->b...", weights, features)


class XGradCAM(GradientCAM):
    """Gradients averaged with the feature map's own share (Fu et al. 2020, arXiv 2008.02312, eq. 8)."""

    def combine(self, features: Tensor, slopes: Tensor) -> Tensor:
        """See :meth:`GradientCAM.combine`."""
        total = features.flatten(2).sum(dim=2)
        told = (features * slopes).flatten(2).sum(dim=2)
        weights = torch.where(total != 0, told / total, 0.0)
        return torch.einsum("bd,bd...->b...", weights, features)


class LayerCAM(GradientCAM):
    """Feature maps times their positive gradients, place by place (Jiang et al. 2021, LayerCAM, eq. 5)."""

    def combine(self, features: Tensor, slopes: Tensor) -> Tensor:
        """See :meth:`GradientCAM.combine`."""
        return (features * slopes.relu()).sum(dim=1)


class EigenCAM(ActivationMap):
    """Projection of the feature maps on their first principal component; the same for every question.

    Muhammad & Yeasin 2020, arXiv 2008.00299. The sign is that of the mean feature map. From the ``D x D`` covariance of
    the channels: no matrix of places by places is built.
    """

    def layer_maps(self, layer: nn.Module, images: Tensor, targets: Tensor, pixels: Tensor | None) -> Tensor:
        """See :meth:`ActivationMap.layer_maps`."""
        with captured([layer]) as seen, torch.no_grad():
            self.target.logits(images)
        features = self.grid(seen[layer].detach(), images)
        flat = features.flatten(2).double()
        centred = flat - flat.mean(dim=2, keepdim=True)
        first = torch.linalg.eigh(centred @ centred.mT).eigenvectors[..., -1:]
        projection = (first.mT @ centred).squeeze(1)
        sign = (projection * centred.mean(dim=1)).sum(dim=1, keepdim=True).sign()
        maps = (projection * torch.where(sign == 0, 1.0, sign)).to(features.dtype).view(-1, 1, *features.shape[2:])
        every: Tensor = maps.expand(-1, targets.shape[1], *features.shape[2:])
        return every


class ChannelCAM(ActivationMap):
    """Base of the maps that weigh feature maps by what the model says without gradients, channel by channel.

    Args:
        target: See :class:`ActivationMap`.
        layer: See :class:`ActivationMap`.
        negative: See :class:`ActivationMap`.
        chunk_size: Channels per pass.
    """

    def __init__(
        self, target: Target, layer: Layer | Sequence[Layer] = "auto", negative: bool = False, chunk_size: int = 64
    ) -> None:
        super().__init__(target, layer, negative)
        self.chunk_size = chunk_size


class ScoreCAM(ChannelCAM):
    """Feature maps weighted by the score of the image masked with them, no gradients (Wang et al. 2020, eq. 5-7).

    arXiv 1910.01279. One forward pass a channel serves all questions.
    """

    @torch.no_grad()
    def layer_maps(self, layer: nn.Module, images: Tensor, targets: Tensor, pixels: Tensor | None) -> Tensor:
        """See :meth:`ActivationMap.layer_maps`."""
        with captured([layer]) as seen:
            self.target.logits(images)
        features = self.grid(seen[layer].detach(), images)
        rows = []
        for number, image in enumerate(images):
            masks = min_max(resize(features[number : number + 1], images.shape[2:]))[0].unsqueeze(1)
            chunks = [
                self.target.score(
                    image * part,
                    targets[number].expand(len(part), -1),
                    None if pixels is None else pixels[number].expand(len(part), *pixels.shape[1:]),
                )
                for part in torch.split(masks, self.chunk_size)
            ]
            scores = torch.cat(chunks)
            weights = (-scores if self.negative else scores).softmax(dim=0)
            rows.append(torch.einsum("dt,d...->t...", weights, features[number]))
        return torch.stack(rows)


class AblationCAM(ChannelCAM):
    """Feature maps weighted by how much of the score is lost without them, no gradients.

    Ramaswamy & Desai 2020, eq. 4. What comes before the layer runs once an image, what comes after it once a channel,
    for all questions together.
    """

    @torch.no_grad()
    def layer_maps(self, layer: nn.Module, images: Tensor, targets: Tensor, pixels: Tensor | None) -> Tensor:
        """See :meth:`ActivationMap.layer_maps`."""
        rows = []
        for number in range(len(images)):
            part = slice(number, number + 1)
            sets = None if pixels is None else pixels[part]
            rows.append(self._one(layer, images[part], targets[part], sets))
        return torch.cat(rows)

    def _one(self, layer: nn.Module, image: Tensor, asked: Tensor, sets: Tensor | None) -> Tensor:
        with replayed(self.target.model, layer) as replay:
            whole = self.target.score(image, asked, sets)[0]
            output = replay.value
            grid = self.grid(output, image)
            self._check(replay, whole, image, asked, sets)
            losses = []
            for channels in torch.split(torch.arange(grid.shape[1], device=image.device), self.chunk_size):
                ablated = output.expand(len(channels), *output.shape[1:]).clone()
                self.grid(ablated, image)[torch.arange(len(channels)), channels] = 0
                losses.append(whole - self._rest(replay, ablated, image, asked, sets))
        lost = torch.cat(losses)
        weights = torch.where(whole != 0, lost / whole.abs(), lost)
        return torch.einsum("dt,d...->t...", -weights if self.negative else weights, grid[0]).unsqueeze(0)

    def _rest(self, replay: Replay, value: Tensor, image: Tensor, asked: Tensor, sets: Tensor | None) -> Tensor:
        """Scores ``(n, T)`` with ``n`` values of the layer."""
        count = len(value)
        replay.replace(value)
        many = None if sets is None else sets.expand(count, *sets.shape[1:])
        return self.target.score(image.expand(count, *image.shape[1:]), asked.expand(count, -1), many)

    def _check(self, replay: Replay, whole: Tensor, image: Tensor, asked: Tensor, sets: Tensor | None) -> None:
        """Make sure that a replay with the layer's own value gives the score itself; with copies, if views do not."""
        twice = replay.value.expand(2, *replay.value.shape[1:])
        for replay.copies in (False, True):
            try:
                again = self._rest(replay, twice, image, asked, sets)
            except RuntimeError as error:
                if replay.copies or "more than one element of the written-to tensor" not in str(error):
                    raise
                continue  # the model works in place on what is given as a view
            if torch.allclose(again, whole.expand_as(again), rtol=1e-3, atol=1e-4 * float(1 + whole.abs().max())):
                return
        raise ValueError(
            f"The part of the model after {type(replay.layer).__name__} cannot be run on its own; choose another layer."
        )
