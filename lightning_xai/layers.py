"""Layers inside a frozen model: find them, read what they give, run only what comes after them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lightning_xai.targets import SegmenterTarget, Target


def named_layer(target: Target, layer: str) -> nn.Module:
    """A module of the target's model by its name.

    Raises:
        ValueError: If there is none of that name.
    """
    layers = dict(target.model.named_modules()) if isinstance(target.model, nn.Module) else {}
    if layer not in layers:
        raise ValueError(f"The model has no layer {layer!r}; it has {', '.join(name for name in layers if name)}.")
    found: nn.Module = layers[layer]
    return found


@contextmanager
def captured(modules: Sequence[nn.Module]) -> Iterator[dict[nn.Module, Tensor]]:
    """Collect what modules give while the model runs, ready to be differentiated by.

    The backward pass starts at the earliest of them: nothing before it is part of the graph. Hooks are gone at the end,
    also after an exception.

    Args:
        modules: Inside a frozen model whose input needs no gradient.

    Yields:
        ``{module: output}``, filled by a forward pass; the last call counts where a module is called twice.
    """
    seen: dict[nn.Module, Tensor] = {}

    def keep(module: nn.Module, _: Any, output: Any) -> Tensor:
        if not isinstance(output, Tensor):
            raise ValueError(
                f"The layer {type(module).__name__} gives a {type(output).__name__}; choose one of tensors."
            )
        seen[module] = output if output.requires_grad else output.detach().requires_grad_(True)
        # What comes next may work in place, and must not change what was seen.
        return seen[module].clone()

    with ExitStack() as hooks:
        for module in modules:
            hooks.enter_context(_removed(module.register_forward_hook(keep)))
        yield seen
    missing = [type(module).__name__ for module in modules if module not in seen]
    if missing:
        raise ValueError(
            f"The layer {missing[0]} gave nothing: the model does not call it, or is a script, which hides its layers."
        )


def auto_layer(target: Target, images: Tensor, targets: Tensor, pixels: Tensor | None) -> str:
    """The layer that a map is usually made of.

    Of the modules whose output has positions, and whose gradient does not vanish at all but one of them: the last for a
    classifier; the coarsest, the bottleneck, for a segmenter.

    Args:
        target: The target.
        images: ``(B, C, *S)``; the first is asked.
        targets: ``(B, T)``.
        pixels: ``(B, T, *S)`` or ``None``.

    Raises:
        ValueError: If no module has positions.
    """
    names = {module: name for name, module in target.model.named_modules() if name}
    # Without a transformer's norm, three axes are positions that were flattened, not tokens.
    fewest = 3 if any(isinstance(module, nn.LayerNorm) for module in names) else images.ndim
    outputs: dict[nn.Module, Tensor] = {}

    def note(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.requires_grad and output.ndim >= fewest:
            outputs.pop(module, None)  # the order is that of the last calls
            outputs[module] = output

    image = images[:1].clone().requires_grad_(True)
    with ExitStack() as hooks:
        for module in names:
            hooks.enter_context(_removed(module.register_forward_hook(note)))
        score = target.score(image, targets[:1], None if pixels is None else pixels[:1]).sum()
    slopes = torch.autograd.grad(score, list(outputs.values()), allow_unused=True)
    found: dict[str, int] = {}
    for (module, output), slope in zip(outputs.items(), slopes, strict=True):
        grid = None if slope is None else to_grid(slope, images.shape[2:])
        if grid is not None and output is not image and int((grid != 0).any(dim=1).sum()) > 1:
            found[names[module]] = grid[0, 0].numel()
    if not found:
        raise ValueError("No layer of the model has positions that the answer depends on; name one with layer=.")
    if not isinstance(target, SegmenterTarget):
        return list(found)[-1]
    smallest = min(found.values())
    return [name for name, size in found.items() if size == smallest][-1]


def to_grid(values: Tensor, size: Sequence[int]) -> Tensor | None:
    """Activations as ``(B, D, *s)``: channels first as they are, channels last and tokens rearranged.

    Args:
        values: ``(B, D, *s)``, ``(B, *s, D)`` or tokens ``(B, N, D)``, leading class tokens included.
        size: ``*S`` of the image, whose proportions the grid has.

    Returns:
        The grid; ``None`` if the values have no positions.
    """
    dims = len(size)
    if values.ndim == dims + 2:
        if _alike(values.shape[2:], size) or not _alike(values.shape[1:-1], size):
            return values if values[0, 0].numel() > 1 else None
        return values.movedim(-1, 1)
    if values.ndim != 3:
        return None
    for extra in range(6):
        grid = _factors(values.shape[1] - extra, size)
        if grid is not None:
            return values[:, extra:].movedim(-1, 1).unflatten(2, grid)  # type: ignore[no-untyped-call,no-any-return]
    return None


def _alike(shape: Sequence[int], size: Sequence[int]) -> bool:
    """Whether a grid has the proportions of the image, up to a position of rounding."""
    stride = max(full / side for full, side in zip(size, shape, strict=True))
    return all(abs(full / stride - side) <= 1 for full, side in zip(size, shape, strict=True))


def _factors(tokens: int, size: Sequence[int]) -> tuple[int, ...] | None:
    """The grid of exactly so many square patches."""
    for stride in range(1, min(size) + 1):
        grid = tuple(side // stride for side in size)
        if not any(side % stride for side in size) and torch.Size(grid).numel() == tokens > 1:
            return grid
    return None


@contextmanager
def _removed(handle: Any) -> Iterator[None]:
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def replayed(model: nn.Module, layer: nn.Module) -> Iterator["Replay"]:
    """Run what comes after a layer again and again: what comes before it is computed once.

    Yields:
        A :class:`Replay`: run the model once inside, then :meth:`Replay.replace`.
    """
    replay = Replay(model, layer)
    try:
        yield replay
    finally:
        replay.stop()


class Replay:
    """Remembers the outputs of the modules that end before a layer does, and gives them back instead of running them.

    Args:
        model: The model.
        layer: The layer inside it, which is called once.
    """

    def __init__(self, model: nn.Module, layer: nn.Module) -> None:
        self.model = model
        self.layer = layer
        self.outputs: dict[nn.Module, Any] = {}
        #: Modules whose forward is replaced, and the one that an instance had of its own.
        self.patched: dict[nn.Module, Any] = {}
        self.value: Tensor | None = None
        self.done = False
        self.handles = [module.register_forward_hook(self._note) for module in model.modules()]

    def _note(self, module: nn.Module, _: Any, output: Any) -> None:
        if not self.done:
            self.outputs[module] = output
        self.done = self.done or module is self.layer

    def replace(self, value: Tensor) -> None:
        """From now on the layer gives ``value (n, D, *s)``, and all before it what it gave to the first image."""
        if self.layer not in self.outputs:
            raise ValueError(f"The layer {type(self.layer).__name__} gave nothing: the model does not call it.")
        self.value = value
        if not self.patched:
            self._remove_hooks()
            inside = {child for module in self.outputs for child in module.children()}
            for module in self.outputs:
                if module is self.layer or module not in inside:
                    self._patch(module)

    def _patch(self, module: nn.Module) -> None:
        def give(*_: Any, **__: Any) -> Any:
            assert self.value is not None
            if module is self.layer:
                return self.value.clone()
            return expanded(self.outputs[module], len(self.value))

        self.patched[module] = module.__dict__.get("forward")
        module.forward = give

    def _remove_hooks(self) -> None:
        for handle in self.handles:
            handle.remove()
        self.handles = []

    def stop(self) -> None:
        """Leave the model as it was."""
        self._remove_hooks()
        for module, own in self.patched.items():
            del module.forward
            if own is not None:
                module.forward = own
        self.patched = {}


def expanded(output: Any, count: int) -> Any:
    """What a module gave to one image, for a batch of ``count``, without copies."""
    if isinstance(output, Tensor):
        return output.expand(count, *output.shape[1:])
    if isinstance(output, Mapping):
        return {key: expanded(value, count) for key, value in output.items()}
    return type(output)(expanded(value, count) for value in output)
