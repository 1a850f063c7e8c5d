"""Capture the outputs of layers, and leave no hook behind."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

NO_TENSOR = "The layer {} gives a {}; choose one of tensors."


UNCALLED = "The layer {} gave nothing: the model does not call it, or is a script, which hides its layers."


def hookable(modules: Iterable[nn.Module]) -> list[nn.Module]:
    """Those of some modules that take hooks: all but scripts."""
    return [module for module in modules if not isinstance(module, torch.jit.ScriptModule)]


def check_floating(layer: nn.Module, output: Tensor) -> None:
    """Raise an error for a layer whose output has no floating numbers.

    Raises:
        ValueError: If it has none.
    """
    if not output.is_floating_point():
        raise ValueError(f"The layer {type(layer).__name__} gives {output.dtype}; choose one of floating numbers.")


@contextmanager
def capture_outputs(modules: Sequence[nn.Module]) -> Iterator[dict[nn.Module, Tensor]]:
    """Collect the outputs of modules while the model runs, so that gradients by them can be taken.

    The backward pass starts at the earliest of them: nothing before it is part of the graph. Hooks are gone at the end,
    also after an exception.

    Args:
        modules: Inside a frozen model whose input needs no gradient.

    Yields:
        ``{module: output}``, filled by a forward pass; the last call counts where a module is called twice.
    """
    outputs: dict[nn.Module, Tensor] = {}

    def keep(module: nn.Module, _: Any, output: Any) -> Tensor:
        if not isinstance(output, Tensor):
            raise ValueError(NO_TENSOR.format(type(module).__name__, type(output).__name__))
        check_floating(module, output)
        frozen = output.requires_grad or output.is_inference()  # an inference tensor cannot get a gradient
        outputs[module] = output if frozen else output.detach().requires_grad_(True)
        # What comes next may work in place, and must not change what was captured.
        return outputs[module].clone()

    with ExitStack() as hooks:
        for module in hookable(modules):
            hooks.enter_context(module.register_forward_hook(keep))
        yield outputs
    missing = [type(module).__name__ for module in modules if module not in outputs]
    if missing:
        raise ValueError(UNCALLED.format(missing[0]))


@contextmanager
def hook_guard(model: Any) -> Iterator[None]:
    """Remove all hooks that other code adds to a model inside a ``with`` block, also after an exception.

    Attributes that it sets on modules are removed too: Captum's DeepLIFT keeps outputs of layers there. Until then
    nothing in the model works in place, which backward hooks do not bear.
    """
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    hooks = [(kind, dict(kind)) for module in modules for kind in hooks_of(module)]
    attributes = [(module, set(vars(module))) for module in modules]
    in_place = [module for module in modules if getattr(module, "inplace", False) is True]
    for module in in_place:
        module.inplace = False  # type: ignore[assignment]
    try:
        yield
    finally:
        for module in in_place:
            module.inplace = True  # type: ignore[assignment]
        for kind, before in hooks:
            for key in set(kind) - set(before):
                del kind[key]
        for module, names in attributes:
            for name in set(vars(module)) - names:
                delattr(module, name)


def hooks_of(module: nn.Module) -> list[dict[int, Any]]:
    """The tables of a module's hooks."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return [getattr(module, kind) for kind in kinds]
