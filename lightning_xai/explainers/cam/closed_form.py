"""Class activation maps in closed form: the features of one forward pass are all they need."""

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_xai.explainers.base import Complete, Explainer, finished
from lightning_xai.explainers.cam.base import ObservedMap
from lightning_xai.explainers.query_policy import QueryPolicy
from lightning_xai.functional.finite import check_outputs
from lightning_xai.functional.resize import resize
from lightning_xai.functional.segmentation import gather_classes
from lightning_xai.structures import Explanation, Query
from lightning_xai.targets import Target
from lightning_xai.targets.pooled_head import PooledHead


class EigenCAM(ObservedMap):
    """Projection of the feature maps on their first principal component; the same for every query.

    Muhammad & Yeasin 2020, arXiv 2008.00299. The sign is that of the mean feature map. From the ``D x D`` covariance of
    the channels: no matrix of positions by positions is built.
    """

    needs_gradients = False

    @override
    def layer_maps(
        self, layers: list[nn.Module], images: Tensor, query: Query, logits: Tensor, features: list[Tensor]
    ) -> list[Tensor]:
        grids = [self.grid(values.detach(), images, layer) for layer, values in zip(layers, features, strict=True)]
        maps = [self._projection(grid) for grid in grids]
        return [values.expand(-1, query.shape[1], *values.shape[2:]) for values in maps]

    def _projection(self, features: Tensor) -> Tensor:
        """``(B, D, *s)`` -> ``(B, 1, *s)``."""
        flat = features.flatten(2).double()
        centered = flat - flat.mean(dim=2, keepdim=True)
        first = torch.linalg.eigh(centered @ centered.mT).eigenvectors[..., -1:]
        projection = (first.mT @ centered).squeeze(1)
        sign = (projection * centered.mean(dim=1)).sum(dim=1, keepdim=True).sign()
        signed = projection * torch.where(sign == 0, 1.0, sign)
        maps: Tensor = signed.to(features.dtype).view(-1, 1, *features.shape[2:])
        return maps


class CAM(Explainer):
    """The class activation map itself: the features before the pooling, weighted by the linear head's row.

    Zhou et al. 2016, arXiv 1512.04150, eq. 2, divided by the number of positions so that it sums up to the logit
    without its bias, as HiResCAM and Grad-CAM of that layer do. A closed form: no backward pass.

    Args:
        target: A classifier with average pooling and one linear layer.
        head: Name of the linear layer; default: the model's last one.
        negative: Explain what speaks against the class.
        query_policy: See :class:`Explainer`.

    Raises:
        ValueError: If the model has no such head.
    """

    explains = "classification"

    def __init__(
        self,
        target: Target,
        head: str | None = None,
        negative: bool = False,
        query_policy: QueryPolicy | None = None,
    ) -> None:
        super().__init__(target, query_policy)
        self.pooled = PooledHead(target, head)
        self.negative = negative

    @torch.no_grad()
    @override
    def attribute(self, images: Tensor, query: Query) -> Tensor:
        return self._maps(self.pooled(images)[0], query, images.shape[2:])

    @torch.no_grad()
    @override
    def explain_with(self, images: Tensor, complete: Complete, logits_wanted: bool = True) -> Explanation:
        """The query follows from the pass whose features make the maps."""
        features, logits = self.pooled(images)
        check_outputs(logits)
        query = complete(logits)
        return finished(self._maps(features, query, images.shape[2:]), query, logits)

    def _maps(self, features: Tensor, query: Query, size: torch.Size) -> Tensor:
        maps = gather_classes(self.pooled.cams(features), query.targets)
        return resize(-maps if self.negative else maps, size)
