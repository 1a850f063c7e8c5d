"""Class activation maps: feature maps of a layer, weighted by what they mean to the answer.

One core for classifiers and segmenters, 2-D and 3-D, convolutions and tokens: ``A`` are the feature maps of a layer,
``Y`` the score of a question, ``G = dY/dA``. All questions share one forward pass, many of them a backward pass, which
starts at the layer. Each method is one way to combine ``A`` and ``G``; those that ask the model again instead are in
``channel_cam``.
"""

from abc import abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_xai.explainers.base import Explainer
from lightning_xai.gradients import from_gradients
from lightning_xai.heads import PooledHead
from lightning_xai.layers import auto_layer, captured, named_layer, to_grid
from lightning_xai.masking import resize, to_image
from lightning_xai.pixels import asked_classes
from lightning_xai.targets import ClassifierTarget, Target

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
        parts = self.layer_maps(self.modules_of(images, targets), images, targets, pixels)
        maps = [to_image(self.target, part, images) for part in parts]
        if len(maps) == 1:
            return maps[0]
        sizes = [part.flatten(2).abs().amax(dim=2).clamp(min=1e-12) for part in maps]
        scaled = [
            part / size.view(*size.shape, *(1,) * (part.ndim - 2)) for part, size in zip(maps, sizes, strict=True)
        ]
        return torch.stack(scaled).mean(dim=0)

    def sweep(
        self,
        images: Tensor,
        layers: Sequence[Layer],
        targets: Tensor | None = None,
        pixels: Tensor | None = None,
    ) -> list[Tensor]:
        """The maps of several layers, each by itself, from one forward pass and the same backward passes.

        Args:
            images: See :meth:`Explainer.explain`.
            layers: Modules of the model or their names.
            targets: See :meth:`Explainer.explain`.
            pixels: See :meth:`Explainer.explain`.

        Returns:
            For each layer ``(B, T, *S)``.
        """
        modules = [named_layer(self.target, layer) if isinstance(layer, str) else layer for layer in layers]

        def every(images: Tensor, targets: Tensor, pixels: Tensor | None) -> Tensor:
            parts = self.layer_maps(modules, images, targets, pixels)
            return torch.cat([to_image(self.target, part, images) for part in parts], dim=1)

        return list(self.mapped(every, images, targets, pixels).chunk(len(modules), dim=1))

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
    def layer_maps(
        self, layers: list[nn.Module], images: Tensor, targets: Tensor, pixels: Tensor | None
    ) -> list[Tensor]:
        """For each layer the maps ``(B, T, *s)`` on its own grid."""

    def grid(self, values: Tensor, images: Tensor) -> Tensor:
        """Feature maps ``(B, D, *s)``; see :func:`lightning_xai.layers.to_grid`.

        Raises:
            ValueError: If the layer has no positions.
        """
        grid = to_grid(values, self.target.seen_size(images))
        if grid is None:
            raise ValueError(
                f"The layer gives {tuple(values.shape)} for images {tuple(images.shape)}: no positions to map; "
                "choose an earlier one."
            )
        return grid


class GradientCAM(ActivationMap):
    """Base of the maps that combine feature maps with their gradients."""

    def layer_maps(
        self, layers: list[nn.Module], images: Tensor, targets: Tensor, pixels: Tensor | None
    ) -> list[Tensor]:
        """See :meth:`ActivationMap.layer_maps`: one forward pass, and backward passes of many questions each."""
        with captured(layers) as seen:
            scores = self.target.score(images, targets, pixels)
        features = [seen[layer] for layer in layers]
        grids = [self.grid(values.detach(), images) for values in features]

        def maps(slopes: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            steepness = [self.grid(-slope if self.negative else slope, images) for slope in slopes]
            return tuple(self.combine(*pair) for pair in zip(grids, steepness, strict=True))

        return from_gradients(self.target.model, scores, features, maps)

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
            window = torch.arange(slopes.shape[axis], device=slopes.device) // side
            pooled = pooled.index_select(axis, window)
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

    def layer_maps(
        self, layers: list[nn.Module], images: Tensor, targets: Tensor, pixels: Tensor | None
    ) -> list[Tensor]:
        """See :meth:`ActivationMap.layer_maps`."""
        with captured(layers) as seen, torch.no_grad():
            self.target.logits(images)
        maps = [self._projection(self.grid(seen[layer].detach(), images)) for layer in layers]
        return [values.expand(-1, targets.shape[1], *values.shape[2:]) for values in maps]

    def _projection(self, features: Tensor) -> Tensor:
        """``(B, D, *s)`` -> ``(B, 1, *s)``."""
        flat = features.flatten(2).double()
        centred = flat - flat.mean(dim=2, keepdim=True)
        first = torch.linalg.eigh(centred @ centred.mT).eigenvectors[..., -1:]
        projection = (first.mT @ centred).squeeze(1)
        sign = (projection * centred.mean(dim=1)).sum(dim=1, keepdim=True).sign()
        signed = projection * torch.where(sign == 0, 1.0, sign)
        maps: Tensor = signed.to(features.dtype).view(-1, 1, *features.shape[2:])
        return maps


class CAM(Explainer):
    """The class activation map itself: the features before the pooling, weighted by the linear head's row.

    Zhou et al. 2016, arXiv 1512.04150, eq. 2, divided by the number of places so that it sums up to the logit without
    its bias, as HiResCAM and Grad-CAM of that layer do. A closed form: no backward pass.

    Args:
        target: A classifier with average pooling and one linear layer.
        head: Name of the linear layer; default: the model's last one.
        negative: Explain what speaks against the class.

    Raises:
        ValueError: If the model has no such head.
    """

    explains = ClassifierTarget

    def __init__(self, target: Target, head: str | None = None, negative: bool = False) -> None:
        super().__init__(target)
        self.pooled = PooledHead(target, head)
        self.negative = negative

    @torch.no_grad()
    def attribute(self, images: Tensor, targets: Tensor, pixels: Tensor | None) -> Tensor:
        """See :meth:`Explainer.attribute`."""
        maps = asked_classes(self.pooled.cams(self.pooled(images)[0]), targets)
        return resize(-maps if self.negative else maps, images.shape[2:])
