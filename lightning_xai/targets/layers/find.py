"""Find a layer by its name, or the one that class activation maps are usually computed from."""

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from lightning_xai.functional.segmentation import image_pixels
from lightning_xai.targets import Target
from lightning_xai.targets.layers.grid import to_grid


def named_layer(target: Target, layer: str) -> nn.Module:
    """Look up a module of the target's model by its name.

    Raises:
        ValueError: If there is none of that name.
    """
    layers = dict(target.model.named_modules()) if isinstance(target.model, nn.Module) else {}
    if layer not in layers:
        raise ValueError(f"The model has no layer {layer!r}; it has {', '.join(name for name in layers if name)}.")
    module: nn.Module = layers[layer]
    return module


def auto_layer(target: Target, images: Tensor, targets: Tensor) -> str:
    """Choose the layer that class activation maps are usually computed from.

    Of the modules whose output has positions, and whose gradient does not vanish at all but one of them: the last for a
    classifier; the coarsest, the bottleneck, for a segmenter.

    Args:
        target: The target.
        images: ``(B, C, *S)``; the first goes through the model.
        targets: ``(B, T)``.

    Raises:
        ValueError: If no module that can be seen has positions.
    """
    if not isinstance(target.model, nn.Module):
        raise ValueError(
            "The model is a plain function without layers; use an explainer that needs none, such as PCIM."
        )
    names = {module: name for name, module in target.model.named_modules() if name}
    # Without a transformer's norm, three axes are positions that were flattened, not tokens.
    fewest = 3 if any(isinstance(module, nn.LayerNorm) for module in names) else images.ndim
    outputs: dict[nn.Module, Tensor] = {}

    def note(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.requires_grad and output.ndim >= fewest:
            outputs.pop(module, None)  # the order is that of the last calls
            outputs[module] = output

    image = images[:1].clone().requires_grad_(True)
    with ExitStack() as hooks, torch.enable_grad():  # the caller may need no gradient
        for module in names:
            hooks.enter_context(module.register_forward_hook(note))
        # Every pixel of a segmenter: there may be none of the class.
        everywhere = image_pixels(image) if target.dense else None
        scores = target.score(image, targets[:1], everywhere)[0]
        # Weighted, for the scores of "no" and "yes" of a single logit cancel out.
        score = (scores * torch.arange(1, len(scores) + 1).to(scores)).sum()
    gradients = torch.autograd.grad(score, list(outputs.values()), allow_unused=True) if outputs else ()
    # A segmenter's logits are no layer of it.
    size = target.input_size(image)
    logits_shapes = [(count, *size) for count in (1, target.num_classes)] if target.dense else []
    positions: dict[str, int] = {}
    for module, gradient in zip(outputs, gradients, strict=True):
        grid = None if gradient is None else to_grid(gradient, size)
        if grid is not None and grid.shape[1:] not in logits_shapes and int((grid != 0).any(dim=1).sum()) > 1:
            positions[names[module]] = grid[0, 0].numel()
    if not positions:
        raise ValueError("No layer of the model has positions that the output depends on; name one with layer=.")
    if not target.dense:
        return list(positions)[-1]
    smallest = min(positions.values())
    return [name for name, count in positions.items() if count == smallest][-1]
