"""The head of a classifier that allows contributions: average pooling over regions, then one linear layer."""

import logging
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_xai.functional.tensors import close
from lightning_xai.targets import Target
from lightning_xai.targets.layers.find import check_layers_visible
from lightning_xai.targets.layers.grid import to_grid
from lightning_xai.targets.layers.hooks import hookable
from lightning_xai.targets.layers.layout import channel_axes

log = logging.getLogger(__name__)

NEEDED = "Contributions need global average pooling and one linear layer; use GradCAM or PCIM for this model."
#: What a linear layer consists of in an exported graph.
LINEAR = {"linear", "addmm", "mm", "t", "permute", "transpose", "view", "expand", "reshape"}


class PooledHead:
    """A classifier's average pooling and linear layer, found in the model and checked against its logits.

    Where ``F`` are the features before the pooling, the class maps ``M_c(i) = W_c F(i) + b_c`` average to the logits.

    Args:
        target: The classifier.
        name: Name of the linear layer that gives the logits; default: the model's last one.

    Raises:
        ValueError: If the model has no linear layer, or none of that name.
    """

    def __init__(self, target: Target, name: str | None = None) -> None:
        if isinstance(target.model, nn.Module):
            check_layers_visible(target.model)
        self.target = target
        modules = dict(target.model.named_modules()) if isinstance(target.model, nn.Module) else {}
        linear = [key for key, module in modules.items() if is_linear(module)]
        if not linear or (name is not None and name not in linear):
            named = "" if name is None else f" named {name!r}"
            raise ValueError(
                f"The model has no linear layer{named} that can be seen; its linear layers are {linear or 'none'}. "
                f"{NEEDED}"
            )
        self.name = linear[-1] if name is None else name
        self.linear: nn.Linear = modules[self.name]
        #: The module whose output is pooled, whether a ReLU that is no module lies between, and the axis of its
        #: channels; found at first use.
        self.regions: tuple[nn.Module, bool, int | None] | None = None

    @property
    def weight(self) -> Tensor:
        """Weight of the linear layer, ``(K, D)``; one logit becomes the pair (no, yes)."""
        weight = self.linear.weight
        return weight if len(weight) > 1 else torch.cat([-weight, weight])

    @property
    def bias(self) -> Tensor:
        """Bias of the linear layer, ``(K,)``; zeros if it has none."""
        if self.linear.bias is None:
            return self.weight.new_zeros(len(self.weight))
        bias = self.linear.bias
        return bias if len(bias) > 1 else torch.cat([-bias, bias])

    def cams(self, features: Tensor) -> Tensor:
        """Class activation maps ``W_c F(i) / N``, which sum to the logits without their biases.

        Args:
            features: ``(B, D, *N)``.

        Returns:
            ``(B, K, *N)``.
        """
        return linear_maps(features, self.weight) / features[0, 0].numel()

    def __call__(self, images: Tensor, live: bool = False) -> tuple[Tensor, Tensor]:
        """Run the model once.

        Args:
            images: ``(B, C, *S)``.
            live: Run it in the mode that it is in: it is being trained.

        Returns:
            Features ``(B, D, *N)`` on the regions, and the model's logits ``(B, K)``.

        Raises:
            ValueError: If the model does not end in average pooling and a linear layer.
        """
        if self.regions is None:
            self.regions = self._find(images[:2])
        module, relu, axis = self.regions
        outputs: list[Tensor] = []
        # Read after the pass: what follows may work in place, and is then part of the features.
        with module.register_forward_hook(lambda _module, _input, output: outputs.append(output)):
            logits = self.target.live_logits(images) if live else self.target.logits(images)
        grid = to_grid(outputs[-1], images.shape[2:], axis)
        assert grid is not None
        return (grid.relu() if relu else grid), logits

    @torch.no_grad()
    def _find(self, images: Tensor) -> tuple[nn.Module, bool, int | None]:
        names = {module: name for name, module in self.target.model.named_modules()}
        outputs: dict[nn.Module, Tensor] = {}
        inputs: dict[nn.Module, Tensor] = {}

        def note(module: nn.Module, arguments: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                outputs.pop(module, None)  # the order is that of the last calls
                outputs[module] = output
                if arguments and isinstance(arguments[0], Tensor):
                    inputs[module] = arguments[0]

        with ExitStack() as hooks:
            for module in hookable(names):
                hooks.enter_context(module.register_forward_hook(note))
            axes = hooks.enter_context(channel_axes(list(names)))
            logits = self.target.raw_logits(images)
        if self.linear not in inputs or not close(outputs[self.linear].to(logits.dtype), logits):
            raise ValueError(
                f"The linear layer {self.name!r} does not give the model's logits; name the one that does with head=."
            )
        pooled, size = inputs[self.linear], images.shape[2:]
        if not close(F.linear(pooled, self.linear.weight, self.linear.bias), outputs[self.linear]):
            raise ValueError(
                f"The layer {self.name!r} ({type(self.linear).__name__}) does more than a linear layer. {NEEDED}"
            )
        for module in reversed(outputs):
            grid = to_grid(outputs[module], size, axes.get(module))
            if grid is None or grid.shape[1] != pooled.shape[1]:
                continue
            for relu in (False, True):
                mean = (grid.relu() if relu else grid).flatten(2).mean(dim=2)
                if close(mean, pooled):
                    after = " after a ReLU" if relu else ""
                    sides = " x ".join(str(side) for side in grid.shape[2:])
                    log.info("Head %r pools the %s regions of %r%s.", self.name, sides, names[module], after)
                    return module, relu, axes.get(module)
        between, before = steps_before(pooled, inputs, outputs, names)
        reason = cause(outputs, axes, before, size)
        if reason is None and between:
            steps = ", ".join(f"{names[module]!r} ({type(module).__name__})" for module in between[:3])
            reason = f"between them {'lies' if len(between) == 1 else 'lie'} {steps}, which is more than a mean"
        raise ValueError(
            f"The linear layer {self.name!r} does not read the mean of regions: "
            f"{reason or single_region(outputs, pooled, size) or 'something else lies between them'}. {NEEDED}"
        )


def is_linear(module: nn.Module) -> bool:
    """Whether a module is a linear layer, also one of a ``torch.export`` file, where it is a graph of operations."""
    graph = getattr(module, "graph", None)
    if not isinstance(graph, torch.fx.Graph):
        return isinstance(module, nn.Linear)
    weight = getattr(module, "weight", None)
    steps = {getattr(node.target, "_opname", "") for node in graph.nodes if node.op == "call_function"}
    return isinstance(weight, Tensor) and weight.ndim == 2 and bool(steps) and steps <= LINEAR


def steps_before(
    pooled: Tensor,
    inputs: Mapping[nn.Module, Tensor],
    outputs: dict[nn.Module, Tensor],
    names: Mapping[nn.Module, str],
) -> tuple[list[nn.Module], Tensor]:
    """Go back from what a linear layer reads to what was pooled, through modules that change it.

    Args:
        pooled: ``(B, D)``.
        inputs: Of every module.
        outputs: Of every module.
        names: Of every module.

    Returns:
        The modules on the way, the first first, and what the first of them reads.
    """
    steps: list[nn.Module] = []
    for module in reversed(outputs):
        if any(module.children()) or module not in inputs or not close(outputs[module].flatten(1), pooled.flatten(1)):
            continue
        values = inputs[module]
        several = values.ndim > 2 and values[0].numel() > max(values.shape[1:])
        called = f"{names[module].rpartition('.')[2]} {type(module).__name__}".lower()
        if several or "pool" in called:  # images may be so small that there is nothing to pool
            break
        if not close(values.flatten(1), pooled.flatten(1)):
            steps.insert(0, module)
            pooled = values
    return steps, pooled


def cause(
    outputs: Mapping[nn.Module, Tensor], axes: Mapping[nn.Module, int], pooled: Tensor, size: torch.Size
) -> str | None:
    """What a model does instead of averaging regions; ``None`` if that cannot be said."""
    pooled = pooled.flatten(1)
    for module, values in outputs.items():
        grid = to_grid(values, size, axes.get(module))
        if values.ndim == 3 and values.shape[::2] == pooled.shape and close(values[:, 0], pooled):
            return "it reads a class token"
        if grid is not None and grid.shape[1] == pooled.shape[1] and close(grid.flatten(2).amax(dim=2), pooled):
            return "its regions are max-pooled"
        if grid is not None and values[0].numel() == pooled.shape[1] and close(values.flatten(1), pooled):
            return "its regions are flattened, each with weights of its own"
    return None


def single_region(outputs: Mapping[nn.Module, Tensor], pooled: Tensor, size: torch.Size) -> str | None:
    """The reason if images are so small that there is nothing to pool."""
    if any(close(values.flatten(1), pooled) for values in outputs.values() if values[0].numel() == len(pooled[0])):
        grids = [values for values in outputs.values() if values.ndim == len(size) + 2]
        if grids and grids[-1][0, 0].numel() == 1:
            return f"images of {tuple(size)} leave a single region, give larger ones"
    return None


def linear_maps(features: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Apply a linear head region by region: ``(B, D, *N)`` -> ``(B, K, *N)``, at least float32."""
    kind = torch.promote_types(features.dtype, torch.float32)
    flat = features.to(kind).flatten(2)
    maps = torch.matmul(weight.to(kind), flat)
    maps = maps if bias is None else maps + bias.to(kind)[:, None]
    return maps.view(*maps.shape[:2], *features.shape[2:])
