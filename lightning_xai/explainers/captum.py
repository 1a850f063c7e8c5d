"""Captum's attribution methods behind the same face as ours."""

from typing import Any

import captum.attr
import torch
from torch import Tensor

from lightning_xai.explainers.base import Explainer
from lightning_xai.fills import Fill, fill_images
from lightning_xai.layers import named_layer
from lightning_xai.masking import resize
from lightning_xai.targets import Target


class CaptumExplainer(Explainer):
    """A method of ``captum.attr``, asked about the target's score; channels are summed.

    Args:
        target: The frozen target.
        method: Name of the class in ``captum.attr``, such as ``"IntegratedGradients"``.
        layer: Name of a module inside the target's model, for Captum's ``Layer...`` methods. Their maps are upsampled
            linearly; ``"LayerGradientXActivation"`` is HiResCAM.
        baseline: Captum's baseline as a fill (see :func:`lightning_xai.fills.fill_images`), where it takes one.
        options: Passed on to Captum's ``attribute``, such as ``n_steps`` or ``internal_batch_size``.

    Raises:
        ValueError: If Captum has no such method, or the model no such layer.

    Example:
        >>> from lightning_xai import ClassifierTarget
        >>> target = ClassifierTarget(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2)))
        >>> CaptumExplainer(target, "InputXGradient").explain(torch.rand(3, 1, 4, 4)).shape
        torch.Size([3, 1, 4, 4])
    """

    def __init__(
        self,
        target: Target,
        method: str = "IntegratedGradients",
        layer: str | None = None,
        baseline: str | Tensor | Fill | None = None,
        **options: Any,
    ) -> None:
        super().__init__(target)
        if not hasattr(captum.attr, method):
            raise ValueError(
                f"captum.attr has no {method!r}; give the name of one of its classes, such as 'IntegratedGradients'."
            )
        self.method = method
        self.layer = None if layer is None else named_layer(target, layer)
        self.baseline = baseline
        self.options = options

    def attribute(self, images: Tensor, targets: Tensor, pixels: Tensor | None) -> Tensor:
        """See :meth:`Explainer.attribute`."""
        sets: list[Tensor | None] = [None] * targets.shape[1] if pixels is None else [*torch.split(pixels, 1, dim=1)]
        return torch.cat(
            [self._one(images, *question) for question in zip(torch.split(targets, 1, dim=1), sets, strict=True)], dim=1
        )

    def _one(self, images: Tensor, asked: Tensor, pixels: Tensor | None) -> Tensor:
        """The map ``(B, 1, *S)`` of one question per image."""

        # Captum repeats additional arguments along with the images where a method needs several copies of them.
        def score(images: Tensor, asked: Tensor, *pixels: Tensor) -> Tensor:
            return self.target.score(images, asked, *pixels)[:, 0]

        method = getattr(captum.attr, self.method)(*((score,) if self.layer is None else (score, self.layer)))
        extra = () if pixels is None else (pixels,)
        options = (
            self.options if self.baseline is None else self.options | {"baselines": fill_images(images, self.baseline)}
        )
        # Captum writes gradients of the images into .grad: it gets a copy of its own.
        maps = method.attribute(images.clone(), additional_forward_args=(asked, *extra), **options)
        return resize(maps.sum(dim=1, keepdim=True), images.shape[2:])
