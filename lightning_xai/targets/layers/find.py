"""Find a layer by its name, or the one that class activation maps are usually computed from."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_xai.functional.segmentation import image_pixels
from lightning_xai.functional.tensors import close
from lightning_xai.targets import Target
from lightning_xai.targets.layers.attention import attention_modules
from lightning_xai.targets.layers.grid import to_grid
from lightning_xai.targets.layers.hooks import hookable
from lightning_xai.targets.layers.layout import channel_axes
from lightning_xai.targets.model_call import NoGradientError
from lightning_xai.targets.outputs import Logit
from lightning_xai.targets.padding import cropped

#: Norms of tokens.
NORMS = (nn.LayerNorm, nn.RMSNorm)
OTHERS = "an explainer that needs no layers, such as PCIM, RISE, UNoise or Captum's saliency and occlusion"


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


def check_layers_visible(model: Any) -> None:
    """Raise an error for a model whose layers cannot be seen while it runs, which a hook would never notice.

    Raises:
        ValueError: If it is a plain function, TorchScript, or compiled.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"The model is a plain function without layers; use {OTHERS}.")
    if isinstance(model, torch.jit.ScriptModule):
        raise ValueError(
            f"The model is TorchScript (a script), which hides its layers; use {OTHERS}, or give the network itself "
            "and load the file's weights into it."
        )
    if hasattr(model, "_orig_mod") or any(getattr(one, "_compiled_call_impl", None) for one in model.modules()):
        raise ValueError(
            f"The model is compiled (torch.compile), which hides its layers; give the network before it was compiled "
            f"(model._orig_mod), or use {OTHERS}."
        )


@dataclass
class Observed:
    """What the modules of a model gave in one pass.

    Attributes:
        outputs: Output by module, in the order of their last calls.
        axes: On which axis the channels lie, where an operation says it.
        attention: Modules in which positions attend to each other.
        logits: Of the target, ``(1, K, *S)``.
        without_gradient: Modules that gave positions without a gradient, although the image has one.
    """

    outputs: dict[nn.Module, Tensor] = field(default_factory=dict)
    axes: Mapping[nn.Module, int] = field(default_factory=dict)
    attention: set[nn.Module] = field(default_factory=set)
    logits: Tensor = field(default_factory=lambda: torch.empty(0))
    without_gradient: list[nn.Module] = field(default_factory=list)


def auto_layer(target: Target, images: Tensor, targets: Tensor) -> str:
    """Choose the layer that class activation maps are usually computed from.

    Of the modules whose output has positions, and whose gradient does not vanish at all but one of them: the last for a
    classifier; the coarsest, the bottleneck, for a segmenter. Modules that hand on what they get are no layers, nor are
    the projections inside of attention: of a network that reads a class token it is the last block's norm.

    Args:
        target: The target.
        images: ``(B, C, *S)``; the first goes through the model.
        targets: ``(B, T)``.

    Raises:
        ValueError: If no module that can be seen has positions.
    """
    check_layers_visible(target.model)
    names = {module: name for name, module in target.model.named_modules() if name}
    image = images[:1].clone().requires_grad_(True)
    observed, score = observe_all(target, list(names), image, targets)
    outputs = observed.outputs
    gradients: tuple[Tensor | None, ...] = (None,) * len(outputs)
    if outputs and score.requires_grad:
        gradients = torch.autograd.grad(score, list(outputs.values()), allow_unused=True)
    size = target.input_size(image)
    positions: dict[str, int] = {}
    for (module, output), gradient in zip(outputs.items(), gradients, strict=True):
        grid = None if gradient is None or len(output) != 1 else to_grid(gradient, size, observed.axes.get(module))
        if grid is None or int((grid != 0).any(dim=1).sum()) <= 1:
            continue
        if not (target.dense and are_logits(output.detach(), observed.logits.detach())):
            positions[names[module]] = grid[0, 0].numel()
    if not positions:
        raise ValueError(no_layer(observed, gradients, names))
    attention = tuple(f"{names[module]}." for module in observed.attention)
    # A model that computes attention all by itself has nothing but its projections.
    positions = {name: count for name, count in positions.items() if not name.startswith(attention)} or positions
    if not target.dense:
        return list(positions)[-1]
    smallest = min(positions.values())
    return [name for name, count in positions.items() if count == smallest][-1]


def observe_all(target: Target, modules: list[nn.Module], image: Tensor, targets: Tensor) -> tuple[Observed, Tensor]:
    """Run a model once on an image ``(1, C, *S)`` that needs a gradient: what its modules gave, and the score."""
    observed = Observed()
    given: dict[nn.Module, list[tuple[Any, ...]]] = {}

    def note_inputs(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        given[module] = [state_of(value) for value in inputs if isinstance(value, Tensor)]

    def note(module: nn.Module, _: Any, output: Any) -> None:
        if not isinstance(output, Tensor) or output.ndim < 3 or not output.is_floating_point():
            return
        if not output.requires_grad and has_positions(output):
            observed.without_gradient.append(module)
        if output.requires_grad and state_of(output) not in given.pop(module, []):
            observed.outputs.pop(module, None)  # the order is that of the last calls
            observed.outputs[module] = output

    with ExitStack() as hooks, torch.enable_grad():  # the caller may need no gradient
        for module in hookable(modules):
            hooks.enter_context(module.register_forward_pre_hook(note_inputs))
            hooks.enter_context(module.register_forward_hook(note))
        observed.axes = hooks.enter_context(channel_axes(modules))
        observed.attention = hooks.enter_context(attention_modules(modules))
        # Every pixel of a segmenter: there may be none of the class.
        everywhere = image_pixels(image) if target.dense else None
        try:
            observed.logits = target.logits(image)
        except NoGradientError as error:
            if not (observed.outputs or observed.without_gradient):
                raise
            names = {module: name for name, module in target.model.named_modules()}
            raise ValueError(no_layer(observed, [None] * len(observed.outputs), names)) from error
        scores = Logit()(target, observed.logits, target.query(image, targets[:1], everywhere, observed.logits))[0]
        # Weighted, for the scores of "no" and "yes" of a single logit cancel out.
        score = (scores * torch.arange(1, len(scores) + 1).to(scores)).sum()
    if not observed.attention and not any(isinstance(module, NORMS) for module in modules):
        # Without attention or a transformer's norm, three axes are positions that were flattened, not tokens.
        observed.outputs = {module: one for module, one in observed.outputs.items() if one.ndim >= image.ndim}
    return observed, score


def are_logits(output: Tensor, logits: Tensor) -> bool:
    """Whether a module's output is that of the whole segmenter, maybe at a fraction of the size or before padding."""
    if output.ndim != logits.ndim or output.shape[1] not in (1, logits.shape[1]):
        return False
    whole = logits[:, -output.shape[1] :]
    if min(after - before for after, before in zip(output.shape[2:], whole.shape[2:], strict=True)) >= 0:
        return close(cropped(output, whole.shape[2:]).to(whole.dtype), whole)
    mode = "bilinear" if output.ndim == 4 else "trilinear"
    enlarged = [F.interpolate(output, whole.shape[2:], mode=mode, align_corners=corners) for corners in (False, True)]
    return any(close(values.to(whole.dtype), whole) for values in enlarged)


def state_of(values: Tensor) -> tuple[Any, ...]:
    """What is equal before and after a module that hands its input on untouched: place, shape, number of writes."""
    writes = 0 if values.is_inference() else values._version
    return values.data_ptr(), values.shape, values.stride(), writes


def no_layer(observed: Observed, gradients: Sequence[Tensor | None], names: Mapping[nn.Module, str]) -> str:
    """The error sentence where no layer can be chosen, with the true cause as far as it is known."""
    connected = [
        one for one, gradient in zip(observed.outputs.values(), gradients, strict=True) if gradient is not None
    ]
    cut_off = [module for module, output in observed.outputs.items() if has_positions(output)]
    cut_off = observed.without_gradient or cut_off
    if cut_off and not any(has_positions(output) for output in connected):
        last = names[cut_off[-1]]
        return (
            f"The model computes its layers up to {last!r} without a gradient (torch.no_grad, inference mode, detach "
            "or quantized layers), so that class activation maps that need one have no layer; remove that, or use "
            f"EigenCAM, ScoreCAM or AblationCAM with layer={last!r}, or RISE or Captum's Occlusion, which need none."
        )
    scripted = [names[module] for module in names if isinstance(module, torch.jit.ScriptModule)]
    if scripted:
        return f"The part {scripted[0]!r} of the model is TorchScript, which hides its layers; use {OTHERS}."
    return f"No layer of the model has positions that the output depends on; name one with layer=, or use {OTHERS}."


def has_positions(output: Tensor) -> bool:
    """Whether an output has more values than channels, if these lie on axis 1."""
    return output.ndim > 2 and output[0].numel() > output.shape[1]
