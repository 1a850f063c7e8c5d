"""Control explainers that know nothing of the target: a method that does not beat them explains nothing."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_xai.explainers.base import Explainer
from lightning_xai.targets import Target


class RandomMap(Explainer):
    """Uniform noise, the same for the same image and question in any batch.

    Args:
        target: The target; only its questions are used.
        seed: Another seed gives another map.
    """

    def __init__(self, target: Target, seed: int = 0) -> None:
        super().__init__(target)
        self.seed = seed

    def attribute(self, images: Tensor, targets: Tensor, pixels: Tensor | None) -> Tensor:
        """See :meth:`Explainer.attribute`."""
        maps = [[self._noise(image, int(target)) for target in row] for image, row in zip(images, targets, strict=True)]
        return torch.stack([torch.stack(row) for row in maps]).to(images.device)

    def _noise(self, image: Tensor, target: int) -> Tensor:
        # Seeded by content, so that shards, batch sizes and orders do not matter.
        digest = hashlib.blake2b(image.float().cpu().contiguous().numpy().tobytes(), digest_size=6).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "big") + 7919 * target + 104729 * self.seed)
        return torch.rand(image.shape[1:], generator=generator)


class CenterPrior(Explainer):
    """A Gaussian bump in the middle of the image, one sigma a quarter of each side."""

    def attribute(self, images: Tensor, targets: Tensor, pixels: Tensor | None) -> Tensor:
        """See :meth:`Explainer.attribute`."""
        return center_bump(images.shape[2:], images.device).expand(*targets.shape, *images.shape[2:])


class EdgeMap(Explainer):
    """Gradient magnitude of the channel mean: where the image has edges, whatever the target says.

    Central differences, one-sided at the border.
    """

    def attribute(self, images: Tensor, targets: Tensor, pixels: Tensor | None) -> Tensor:
        """See :meth:`Explainer.attribute`."""
        grey = images.mean(dim=1)
        square = torch.zeros_like(grey)
        for axis in range(1, grey.ndim):
            if grey.shape[axis] > 1:
                square += torch.gradient(grey, dim=axis)[0].square()
        return square.sqrt().unsqueeze(1).expand(*targets.shape, *grey.shape[1:])


def center_bump(size: Sequence[int], device: torch.device) -> Tensor:
    """A Gaussian bump ``(*size)`` in the middle, one sigma a quarter of each side."""
    bump = torch.ones((), device=device)
    for side in size:
        position = torch.linspace(-1, 1, side, device=device) if side > 1 else torch.zeros(1, device=device)
        bump = bump.unsqueeze(-1) * torch.exp(-0.5 * (position / 0.5) ** 2)
    return bump
