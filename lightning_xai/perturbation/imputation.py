"""Replace hidden pixels by the mean of their neighbors: the linear imputation of ROAD, without its noise.

Every hidden pixel is to equal the weighted mean of its neighbors, so together they solve a weighted graph Laplacian
whose boundary values are the visible pixels (https://arxiv.org/abs/2202.00449). Conjugate gradients solve it,
preconditioned by one multigrid cycle whose coarse operators are Galerkin products: those follow any shape of mask.
"""

import logging

import torch
from torch import Tensor

from lightning_xai.perturbation.multigrid import Finest, add_coarser, cycle, first_guess

log = logging.getLogger(__name__)

#: Stop when a multigrid cycle moves no pixel by more than this fraction of its channel's range.
TOLERANCE = 5e-7
MAX_STEPS = 100
#: Steps between two looks at the tolerance: on a GPU a step too many costs less than to wait.
LOOK_EVERY = {"cpu": 1}
LOOK_EVERY_ELSEWHERE = 4
#: Rounding makes the residual drift: at the first step and every so many more it is computed afresh, in float64.
REFRESH = 4
#: Values that a CPU solves at once: few enough to stay in its cache.
CHUNK = 2**19


@torch.no_grad()
def neighbor_imputation(images: Tensor, visible: Tensor) -> Tensor:
    """Replace every hidden pixel by the weighted mean of its neighbors, visible and replaced ones.

    A neighbor that differs in ``k`` coordinates has weight ``1 / k``; those outside of the image are left out.

    Args:
        images: ``(n, C, *S)``, 2-D or 3-D.
        visible: ``(n, 1, *S)`` bool. An image without a visible pixel becomes its mean per channel.

    Returns:
        ``(n, C, *S)``; the visible pixels are those of ``images`` to the last bit.

    Example:
        >>> ramp = torch.arange(5.0).expand(1, 1, 5, 5)
        >>> visible = torch.ones(1, 1, 5, 5, dtype=torch.bool)
        >>> visible[..., 1:4, 1:4] = False
        >>> neighbor_imputation(torch.where(visible, ramp, 9.0), visible)[0, 0, 2].round(decimals=5).tolist()
        [0.0, 1.0, 2.0, 3.0, 4.0]
    """
    axes = tuple(range(2, images.ndim))
    filled = images.double() if images.dtype == torch.float64 else images.float()
    all_hidden = ~visible.any(dim=axes, keepdim=True)
    filled = torch.where(all_hidden, filled.mean(dim=axes, keepdim=True), filled).contiguous()
    hidden = (~visible & ~all_hidden).contiguous()
    # Axes of length 1 hold no neighbors: dropped, a flat volume costs no more than an image.
    size = [side for side in images.shape[2:] if side > 1] or [1]
    filled, hidden = filled.view(*images.shape[:2], *size), hidden.view(len(images), 1, *size)
    count = len(images) if images.is_cuda else max(1, CHUNK // images[0].numel())
    for part, hidden_part in zip(torch.split(filled, count), torch.split(hidden, count), strict=True):
        window = _window(hidden_part)
        if window is not None:
            part[window] = _solve(part[window], hidden_part[window])
    return torch.where(visible, images, filled.view_as(images).to(images.dtype))


def _window(hidden: Tensor) -> tuple[slice, ...] | None:
    """The smallest box that holds every hidden pixel and its neighbors, with one look at the device; ``None``: none."""
    axes = range(2, hidden.ndim)
    planes = [hidden.transpose(0, axis).flatten(1).any(dim=1) for axis in axes]
    ends = [end for plane in planes for end in (plane.byte().argmax(), plane.flip(0).byte().argmax())]
    anything, *margins = torch.stack([planes[0].any().long(), *ends]).tolist()
    sides = [
        slice(max(0, low - 1), hidden.shape[axis] - high + 1)
        for axis, low, high in zip(axes, margins[::2], margins[1::2], strict=True)
    ]
    return (slice(None), slice(None), *sides) if anything else None


def _solve(images: Tensor, hidden: Tensor) -> Tensor:
    """Preconditioned conjugate gradients for the change from a first guess; ``hidden`` may miss no image."""
    finest, exact = Finest(hidden.to(images.dtype)), Finest(hidden.double())
    add_coarser(finest)
    guess = first_guess(finest, images.masked_fill(hidden, 0), (~hidden).to(images.dtype))
    axes = tuple(range(2, images.ndim))
    low, high = guess.amin(dim=axes, keepdim=True), guess.amax(dim=axes, keepdim=True)
    rounding = torch.finfo(images.dtype).eps * torch.maximum(high, -low)
    limit = (TOLERANCE * (high - low) + rounding).flatten(2)
    start = finest.flat(guess)
    filled = start.double()
    residual = finest.whole(finest.pull(start))
    change, direction = torch.zeros_like(residual), torch.zeros_like(residual)
    length = torch.ones_like(limit)
    look_every = LOOK_EVERY.get(images.device.type, LOOK_EVERY_ELSEWHERE)
    for step in range(1, MAX_STEPS + 1):
        correction = cycle(finest, residual)
        most, least = correction.amax(dim=2, keepdim=True), correction.amin(dim=2, keepdim=True)
        if step % look_every == 0 and (torch.maximum(most, -least) <= limit).all():
            break
        previous, length = length, torch.linalg.vecdot(residual, correction).unsqueeze(2)
        direction = torch.addcmul(correction, direction, _ratio(length, previous))
        pull = finest.whole(finest.pull(direction))
        stride = _ratio(length, -torch.linalg.vecdot(direction, pull).unsqueeze(2))
        change.addcmul_(direction, stride)
        if step % REFRESH == 1:
            filled += change
            change.zero_()
            # A fresh start too: the old direction need not be conjugate to a residual that jumped.
            direction.zero_()
            residual = finest.whole(exact.pull(filled).to(images.dtype))
        else:
            residual.addcmul_(pull, stride)
    else:
        log.warning("Neighbor interpolation stopped after %d steps short of its tolerance.", MAX_STEPS)
    # Every filled value is a mean of visible ones; the clamp takes off what rounding added.
    return finest.inner(filled.add_(change.add_(correction))).to(images.dtype).clamp(low, high)


def _ratio(top: Tensor, bottom: Tensor) -> Tensor:
    """``top / bottom``, and 0 where an image is solved and both have vanished."""
    return torch.where(bottom > 0, top / bottom, 0)
