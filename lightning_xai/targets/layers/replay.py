"""Run only the part of a model that comes after a layer."""

from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from copy import copy as shallow_copy
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from lightning_xai.targets.layers.hooks import NO_TENSOR, UNCALLED, check_floating, hookable


@contextmanager
def replayed(model: nn.Module, layer: nn.Module) -> Iterator["Replay"]:
    """Run the part of a model after a layer repeatedly; the part before it is computed once.

    Yields:
        A :class:`Replay`: run the model on one image inside, then :meth:`Replay.replace` and run it as often as needed.
    """
    replay, fast = Replay(model, layer), torch.backends.mha.get_fastpath_enabled()
    # PyTorch's fused transformer layers would not call the modules inside them.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield replay
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        replay.stop()


class Replay:
    """Records the outputs of the modules before a layer, and returns them instead of running the modules again.

    Args:
        model: The model.
        layer: The layer inside it.
    """

    def __init__(self, model: nn.Module, layer: nn.Module) -> None:
        self.layer = layer
        #: The outputs of each module in its calls up to the layer's first.
        self.outputs: dict[nn.Module, list[Any]] = {}
        #: Whether outputs are returned as copies, for models that work in place on them.
        self.copies = False
        self.replaced: Tensor | None = None
        self._calls: dict[nn.Module, int] = {}
        #: Modules whose forward is exchanged, and the one that an instance had itself.
        self._patched: dict[nn.Module, Any] = {}
        self._handles = [module.register_forward_hook(self._note) for module in hookable(model.modules())]

    @property
    def value(self) -> Tensor:
        """The output of the layer.

        Raises:
            ValueError: If it is no tensor of floating numbers.
        """
        output = self.outputs.get(self.layer, [None])[0]
        if not isinstance(output, Tensor):
            name, what = type(self.layer).__name__, type(output).__name__
            raise ValueError(UNCALLED.format(name) if output is None else NO_TENSOR.format(name, what))
        check_floating(self.layer, output)
        return output

    def _note(self, module: nn.Module, _: Any, output: Any) -> None:
        if self.layer not in self.outputs:
            # A copy: what comes next may work in place.
            self.outputs.setdefault(module, []).append(batched(output, None, copy=True))

    def replace(self, value: Tensor) -> None:
        """In the next run, use ``value (n, D, *s)`` as the output of the layer, and the recorded outputs before it."""
        assert self.value.shape[1:] == value.shape[1:]
        self.replaced = value
        self._calls = dict.fromkeys(self.outputs, 0)
        if not self._patched:
            self._remove_hooks()
            inside = {child for module in self.outputs for child in module.children()}
            for module in self.outputs:
                if module is self.layer or module not in inside:
                    self._patch(module)

    def _patch(self, module: nn.Module) -> None:
        instance_forward = module.__dict__.get("forward")
        forward = module.forward
        self._patched[module] = instance_forward

        def give(*args: Any, **kwargs: Any) -> Any:
            assert self.replaced is not None
            call = self._calls[module]
            self._calls[module] += 1
            if call >= len(self.outputs[module]):
                return forward(*args, **kwargs)  # called once more, after the layer
            if module is self.layer:
                return self.replaced.clone()
            count = len(self.replaced)
            # One copy that is worked on in place would change what is remembered; of several, PyTorch refuses it.
            return batched(self.outputs[module][call], count, self.copies or count == 1)

        module.forward = give

    def _remove_hooks(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def stop(self) -> None:
        """Remove all hooks and restore every forward method."""
        self._remove_hooks()
        for module, instance_forward in self._patched.items():
            del module.forward
            if instance_forward is not None:
                module.forward = instance_forward
        self._patched = {}


def batched(output: Any, count: int | None, copy: bool) -> Any:
    """Expand the output of a module for one image to a batch of ``count`` (``None``: as it is), as a view or a copy."""
    if isinstance(output, Tensor):
        many = output if count is None else output.expand(count, *output.shape[1:])
        return many.clone() if copy else many
    if is_dataclass(output) and not isinstance(output, type):
        names = [field.name for field in fields(output) if field.init]
        return replace(output, **{name: batched(getattr(output, name), count, copy) for name in names})
    if isinstance(output, MutableMapping):
        like = shallow_copy(output)  # of its own class, whose attributes the model may read
        like.update({key: batched(value, count, copy) for key, value in output.items()})
        return like
    if isinstance(output, tuple | list):
        parts = [batched(value, count, copy) for value in output]
        return type(output)(*parts) if hasattr(output, "_fields") else type(output)(parts)
    return output
