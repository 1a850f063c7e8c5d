"""Small functions of tensors."""

import torch
from torch import Tensor


def min_max(maps: Tensor) -> Tensor:
    """Rescale each map of ``(B, T, *S)`` to [0, 1], float32; a constant map becomes 0.

    Example:
        >>> min_max(torch.tensor([[[1.0, 2.0, 3.0]]])).tolist()
        [[[0.0, 0.5, 1.0]]]
    """
    flat = maps.flatten(2).float()
    low = flat.amin(dim=2, keepdim=True)
    span = flat.amax(dim=2, keepdim=True) - low
    return torch.where(span > 0, (flat - low) / span, 0.0).view(maps.shape)


def without_metadata(values: Tensor) -> Tensor:
    """The plain tensor inside one that carries metadata, as MONAI's do."""
    plain: Tensor = values.as_tensor() if hasattr(values, "as_tensor") else values
    return plain


def close(values: Tensor, expected: Tensor) -> bool:
    """Whether two computations of the same values agree up to rounding."""
    return values.shape == expected.shape and torch.allclose(
        values.float(), expected.float(), rtol=1e-3, atol=1e-4 * float(1 + expected.abs().max())
    )


def as_plain_tensor(images: Tensor) -> Tensor:
    """A plain tensor without metadata, history or inference flag, safe to differentiate through."""
    with torch.inference_mode(False):
        images = without_metadata(images)
        return images.detach().clone() if images.is_inference() or images.requires_grad else images.detach()
