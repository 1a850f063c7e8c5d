"""Class activation maps that combine feature maps with their gradients; all queries share one forward pass."""

import re
from abc import abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from lightning_xai.explainers.cam.base import Layer, ObservedMap
from lightning_xai.explainers.query_policy import QueryPolicy
from lightning_xai.functional.gradients import from_gradients
from lightning_xai.structures import Query
from lightning_xai.targets import Target
from lightning_xai.targets.outputs import Logit

#: What PyTorch says where scores do not depend on a layer.
UNCONNECTED = re.compile(r"have been used in the graph|does not require grad")


class GradientCAM(ObservedMap):
    """Base of the maps that combine feature maps with their gradients."""

    @override
    def layer_maps(
        self, layers: list[nn.Module], images: Tensor, query: Query, logits: Tensor, features: list[Tensor]
    ) -> list[Tensor]:
        """Backward passes of many queries each, which start at the layers."""
        scores = Logit()(self.target, logits, query)
        grids = [self.grid(values.detach(), images, layer) for layer, values in zip(layers, features, strict=True)]

        def maps(found: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            signed = [-gradient if self.negative else gradient for gradient in found]
            gradients = [self.grid(values, images, layer) for layer, values in zip(layers, signed, strict=True)]
            return tuple(self.combine(*pair) for pair in zip(grids, gradients, strict=True))

        try:
            return from_gradients(self.target.model, scores, features, maps)
        except RuntimeError as error:
            if not UNCONNECTED.search(str(error)):
                raise
            raise ValueError(
                f"The output has no gradient by the layer {' + '.join(type(layer).__name__ for layer in layers)}: the "
                "model runs it under torch.no_grad, or detaches or ignores what it gives; use EigenCAM, ScoreCAM or "
                "AblationCAM, which need no gradient, or another layer."
            ) from error

    @abstractmethod
    def combine(self, features: Tensor, gradients: Tensor) -> Tensor:
        """From ``A`` and ``G``, both ``(B, D, *s)``, to the map ``(B, *s)``."""


class GradCAM(GradientCAM):
    """Feature maps weighted by the mean of their gradients; Seg-Grad-CAM for segmenters.

    Selvaraju et al. 2017, arXiv 1610.02391, eq. 1-2 without the ReLU; Vinogradova et al. 2020, arXiv 2002.11434.

    Example:
        >>> from lightning_xai import ClassifierTarget
        >>> from lightning_xai.networks.mask_net import SmallCNN
        >>> maps = GradCAM(ClassifierTarget(SmallCNN(1, 3))).explain(torch.rand(2, 1, 28, 28))
        >>> maps.shape
        torch.Size([2, 1, 28, 28])
    """

    @override
    def combine(self, features: Tensor, gradients: Tensor) -> Tensor:
        weights = gradients.flatten(2).mean(dim=2)
        return torch.einsum("bd,bd...->b...", weights, features)


class HiResCAM(GradientCAM):
    """Feature maps times their gradients, position by position; Seg-HiRes-Grad CAM for segmenters.

    Draelos & Carin 2020, arXiv 2011.08891; Rheude et al. 2024, arXiv 2409.20287. Where the rest of the model is linear
    the map sums up to the score without its bias.
    """

    @override
    def combine(self, features: Tensor, gradients: Tensor) -> Tensor:
        return (features * gradients).sum(dim=1)


class XResCAM(GradientCAM):
    """Feature maps times gradients that are averaged over windows: HiResCAM at window 1, Grad-CAM at the whole layer.

    Hasany et al. 2023, Seg-XRes-CAM.

    Args:
        target: See :class:`ActivationMap`.
        layer: See :class:`ActivationMap`.
        negative: See :class:`ActivationMap`.
        window: Side of the windows, in positions of the layer.
        query_policy: See :class:`ActivationMap`.

    Raises:
        ValueError: If the window is below 1.
    """

    def __init__(
        self,
        target: Target,
        layer: Layer | Sequence[Layer] = "auto",
        *,
        negative: bool = False,
        window: int = 3,
        query_policy: QueryPolicy | None = None,
    ) -> None:
        super().__init__(target, layer, negative=negative, query_policy=query_policy)
        if window < 1:
            raise ValueError(f"window is {window}; it is at least 1 position wide.")
        self.window = window

    @override
    def combine(self, features: Tensor, gradients: Tensor) -> Tensor:
        pool = F.avg_pool2d if gradients.ndim == 4 else F.avg_pool3d
        sides = [min(self.window, side) for side in gradients.shape[2:]]
        pooled = pool(gradients, sides, stride=sides, ceil_mode=True)
        for axis, side in enumerate(sides, start=2):
            window = torch.arange(gradients.shape[axis], device=gradients.device) // side
            pooled = pooled.index_select(axis, window)
        return (features * pooled).sum(dim=1)


class GradCAMPlusPlus(GradientCAM):
    """Feature maps weighted by a weighted mean of their positive gradients.

    Chattopadhay et al. 2018, arXiv 1710.11063, eq. 19 with exp(Y).
    """

    @override
    def combine(self, features: Tensor, gradients: Tensor) -> Tensor:
        total = features.flatten(2).sum(dim=2).view(*features.shape[:2], *(1,) * (features.ndim - 2))
        below = 2 * gradients.square() + total * gradients**3
        alpha = torch.where(below != 0, gradients.square() / below, 0.0)
        weights = (alpha * gradients.relu()).flatten(2).sum(dim=2)
        return torch.einsum("bd,bd...->b...", weights, features)


class XGradCAM(GradientCAM):
    """Feature maps weighted by the mean of their gradients, in proportion to the feature map.

    Fu et al. 2020, arXiv 2008.02312, eq. 8.
    """

    @override
    def combine(self, features: Tensor, gradients: Tensor) -> Tensor:
        total = features.flatten(2).sum(dim=2)
        contributions = (features * gradients).flatten(2).sum(dim=2)
        weights = torch.where(total != 0, contributions / total, 0.0)
        return torch.einsum("bd,bd...->b...", weights, features)


class LayerCAM(GradientCAM):
    """Feature maps times their positive gradients, position by position (Jiang et al. 2021, LayerCAM, eq. 5)."""

    @override
    def combine(self, features: Tensor, gradients: Tensor) -> Tensor:
        return (features * gradients.relu()).sum(dim=1)
