"""A frozen segmenter."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from lightning_xai.functional.segmentation import predicted_pixels, reference_pixels
from lightning_xai.targets.base import Target
from lightning_xai.targets.outputs import Dice
from lightning_xai.targets.sliding_window import by_window


class SegmenterTarget(Target):
    """A frozen segmenter ``(B, C, *S) -> (B, K, *S)``; a query is a class index and a region.

    Images (or windows) whose sides the model does not take, such as a U-Net that cannot halve them, reach it with their
    last pixels repeated, and its logits are cropped; see :mod:`lightning_xai.targets.padding`.

    Args:
        background: The class that default queries leave out, or ``None``.
        window: Largest sides ``*W`` in pixels, or one for all axes, that the model takes at once; see
            :func:`lightning_xai.targets.sliding_window.by_window`. ``None``: any.
        window_batch: Windows a pass; ``None``: 1 on a CPU, 4 elsewhere.

    Example:
        >>> target = SegmenterTarget(torch.nn.Conv2d(1, 3, 1))
        >>> target.score(torch.ones(2, 1, 4, 4), torch.tensor([[1, 2], [1, 2]])).shape
        torch.Size([2, 2])
    """

    dense = True
    task = "segmentation"
    reference_key = "mask"
    outputs = {**Target.outputs, "dice": Dice()}

    def __init__(
        self,
        model: Any = None,
        activation: str = "softmax",
        *args: Any,
        background: int | None = 0,
        window: Sequence[int] | int | None = None,
        window_batch: int | None = None,
        **kwargs: Any,
    ) -> None:
        self.window, self.window_batch = window, window_batch  # a pass over an example needs them
        super().__init__(model, activation, *args, **kwargs)
        self.background = background

    @override
    def logits(self, images: Tensor) -> Tensor:
        """Run the frozen model once, or window by window where the images are larger than the window."""
        return by_window(super().logits, images, self.window, self.window_batch)

    def dice(self, images: Tensor, targets: Tensor, pixels: Tensor | None = None) -> Tensor:
        """Dice ``(B, T)`` of the pixels predicted as each class against the region; it has no gradient.

        Args:
            images: ``(B, C, *S)``.
            targets: ``(B,)`` or ``(B, T)`` class indices.
            pixels: ``(B, T or 1, *S)``; ``None``: the prediction itself, so 1.

        Returns:
            0 where both are empty.
        """
        with torch.no_grad():
            return Dice()(self, *self._logits_and_query(images, targets, pixels))

    @override
    def evidence(self, masks: Tensor, targets: Tensor) -> Tensor:
        if masks.shape[1] > 1 or masks.dtype == torch.bool:
            return masks > 0
        return reference_pixels(masks, targets)

    @override
    def needs_logits(self, images: Tensor, targets: Tensor | None, pixels: Tensor | None) -> bool:
        """Whether completing a query needs a forward pass: the default regions do, the default classes do not."""
        return pixels is None or super().needs_logits(images, torch.empty(0), pixels)

    @override
    def default_targets(self, images: Tensor, logits: Tensor | None) -> Tensor:
        """Every foreground class ``(B, T)``."""
        return self.foreground(images)

    @override
    def predicted_classes(self, logits: Tensor) -> Tensor:
        """The class of each pixel ``(B, *S)``: the most probable of those predicted, 0 where none is."""
        every = torch.arange(logits.shape[1], device=logits.device).expand(len(logits), -1)
        return (self.activate(logits) * predicted_pixels(logits, every, self.activation)).argmax(dim=1)

    @override
    def regions(self, images: Tensor, targets: Tensor, pixels: Tensor | None, logits: Tensor | None) -> Tensor:
        if pixels is None:
            assert logits is not None
            return predicted_pixels(logits, targets, self.activation)
        if (
            pixels.shape[2:] != images.shape[2:]
            or pixels.shape[0] != len(images)
            or pixels.shape[1] not in (1, targets.shape[1])
        ):
            raise ValueError(
                f"pixels have shape {tuple(pixels.shape)}; give (B, T or 1, *S) for images {tuple(images.shape)}."
            )
        return pixels.detach().bool().expand(-1, targets.shape[1], *pixels.shape[2:]).to(images.device)

    def foreground(self, images: Tensor) -> Tensor:
        """Every class but the background, for each image: ``(B, T)``."""
        classes = self.every_class(images)
        return classes if self.background is None else classes[:, classes[0] != self.background]
