"""Maps to compare with: of what knows nothing of the target, of an explainer reversed, and of the reference itself."""

from typing import Any

import torch
from monai.networks.layers.simplelayers import GaussianFilter
from torch import Tensor
from typing_extensions import override

from lightning_xai.explainers.base import Attribute, Explainer, maps_of
from lightning_xai.explainers.query_policy import QueryPolicy
from lightning_xai.functional.counter_noise import content_keys, mixed, signed, uniform_noise
from lightning_xai.functional.priors import center_bump
from lightning_xai.functional.tensors import as_plain_tensor
from lightning_xai.structures import Explanation, Query
from lightning_xai.targets import Target

#: Classes that a seed is apart from the next: each of them has its own noise.
SEEDS = 2**32


class RandomMap(Explainer):
    """Uniform noise, the same for the same image and query in any batch.

    Args:
        target: The target; only its queries are used.
        seed: Another seed gives another map.
        query_policy: See :class:`Explainer`.
    """

    def __init__(self, target: Target, seed: int = 0, query_policy: QueryPolicy | None = None) -> None:
        super().__init__(target, query_policy)
        self.seed = seed

    @override
    def attribute(self, images: Tensor, query: Query) -> Tensor:
        # Seeded by content, so that shards, batch sizes and orders do not matter; all maps at once, on the device.
        keys = content_keys(images).unsqueeze(1) + mixed(query.targets + signed(SEEDS * self.seed))
        return uniform_noise(keys, images[0, 0].numel()).view(*query.shape, *images.shape[2:])


class CenterPrior(Explainer):
    """A Gaussian bump in the middle of the image, one sigma a quarter of each side."""

    @override
    def attribute(self, images: Tensor, query: Query) -> Tensor:
        return center_bump(images.shape[2:], images.device).expand(*query.shape, *images.shape[2:])

    def in_windows(self, attribute: Attribute, images: Tensor, query: Query) -> Tensor | Explanation:
        """The middle of the whole image, not that of each window."""
        return attribute(images, query)


class EdgeMap(Explainer):
    """Gradient magnitude of the channel mean: where the image has edges, whatever the target says.

    Central differences, one-sided at the border.
    """

    @override
    def attribute(self, images: Tensor, query: Query) -> Tensor:
        gray = images.mean(dim=1)
        square = torch.zeros_like(gray)
        for axis in range(1, gray.ndim):
            if gray.shape[axis] > 1:
                square += torch.gradient(gray, dim=axis)[0].square()
        return square.sqrt().unsqueeze(1).expand(*query.shape, *gray.shape[1:])


#: The explainers that do not look at the target.
BLIND = (RandomMap, CenterPrior, EdgeMap)


class Reversed(Explainer):
    """Another explainer's maps with the other sign: what it calls least important comes first.

    Args:
        explainer: The other explainer.
    """

    def __init__(self, explainer: Explainer) -> None:
        super().__init__(explainer.target, explainer.query_policy)
        self.explainer = explainer

    @override
    def attribute(self, images: Tensor, query: Query) -> Tensor:
        return -maps_of(self.explainer.attribute(images, query))

    @override
    def reference_maps(self, explanation: Explanation, batch: dict[str, Any]) -> Tensor:
        """Nothing is explained again."""
        return -explanation.maps


class BlurredReference(Explainer):
    """An oracle for segmenters: the reference's pixels first, then those near it.

    The mask plus the mask blurred by a Gaussian, whose sigma is a tenth of the longest side. Without masks it takes the
    query's region.
    """

    explains = "segmentation"

    @override
    def attribute(self, images: Tensor, query: Query) -> Tensor:
        assert query.regions is not None
        return blurred(query.regions)

    @override
    def reference_maps(self, explanation: Explanation, batch: dict[str, Any]) -> Tensor:
        """The data's own masks where there are any."""
        if "mask" not in batch:
            return super().reference_maps(explanation, batch)
        regions = self.target.evidence(as_plain_tensor(batch["mask"]), explanation.query.targets)
        return blurred(regions.expand(*explanation.query.shape, *regions.shape[2:]))


def blurred(regions: Tensor) -> Tensor:
    """Regions ``(B, T, *S)`` plus themselves blurred: inside above 1, falling with the distance outside."""
    values, side = regions.float(), max(regions.shape[2:])
    # As wide as the image, and sampled: no two pixels tie for being far away.
    blur = GaussianFilter(regions.ndim - 2, side / 10, truncated=10, approx="sampled").to(regions.device)
    smooth: Tensor = blur(values)
    return values + smooth
