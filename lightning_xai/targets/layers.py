"""Layers inside a frozen model: find them, read what they give, run only what comes after them."""

from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import ExitStack, contextmanager
from copy import copy as shallow_copy
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from lightning_xai.functional.resize import resize
from lightning_xai.functional.segmentation import image_pixels
from lightning_xai.targets import SegmenterTarget, Target
from lightning_xai.targets.padding import cropped

NO_TENSOR = "The layer {} gives a {}; choose one of tensors."
UNCALLED = "The layer {} gave nothing: the model does not call it, or is a script, which hides its layers."


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
def capture_outputs(modules: Sequence[nn.Module]) -> Iterator[dict[nn.Module, Tensor]]:
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
            raise ValueError(NO_TENSOR.format(type(module).__name__, type(output).__name__))
        seen[module] = output if output.requires_grad else output.detach().requires_grad_(True)
        # What comes next may work in place, and must not change what was seen.
        return seen[module].clone()

    with ExitStack() as hooks:
        for module in modules:
            hooks.enter_context(removing(module.register_forward_hook(keep)))
        yield seen
    missing = [type(module).__name__ for module in modules if module not in seen]
    if missing:
        raise ValueError(UNCALLED.format(missing[0]))


def auto_layer(target: Target, images: Tensor, targets: Tensor) -> str:
    """The layer that a map is usually made of.

    Of the modules whose output has positions, and whose gradient does not vanish at all but one of them: the last for a
    classifier; the coarsest, the bottleneck, for a segmenter.

    Args:
        target: The target.
        images: ``(B, C, *S)``; the first is asked.
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
    segments = isinstance(target, SegmenterTarget)

    def note(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.requires_grad and output.ndim >= fewest:
            outputs.pop(module, None)  # the order is that of the last calls
            outputs[module] = output

    image = images[:1].clone().requires_grad_(True)
    with ExitStack() as hooks:
        for module in names:
            hooks.enter_context(removing(module.register_forward_hook(note)))
        # Every pixel of a segmenter: there may be none of the class.
        everywhere = image_pixels(image) if segments else None
        scores = target.score(image, targets[:1], everywhere)[0]
        # Weighted, for the scores of "no" and "yes" of a single logit cancel out.
        score = (scores * torch.arange(1, len(scores) + 1).to(scores)).sum()
    gradients = torch.autograd.grad(score, list(outputs.values()), allow_unused=True) if outputs else ()
    # A segmenter's logits are no layer of it.
    seen = target.seen_size(image)
    answers = [(count, *seen) for count in (1, target.classes)] if segments else []
    found: dict[str, int] = {}
    for module, gradient in zip(outputs, gradients, strict=True):
        grid = None if gradient is None else to_grid(gradient, seen)
        if grid is not None and grid.shape[1:] not in answers and int((grid != 0).any(dim=1).sum()) > 1:
            found[names[module]] = grid[0, 0].numel()
    if not found:
        raise ValueError("No layer of the model has positions that the answer depends on; name one with layer=.")
    if not segments:
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
def removing(handle: Any) -> Iterator[None]:
    """Remove a hook at the end, also after an exception."""
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def hook_guard(model: Any) -> Iterator[None]:
    """Let others hook into a model: at the end their hooks are gone, also after an exception.

    Until then nothing in it works in place, which backward hooks do not bear.
    """
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    hooks = [(kind, dict(kind)) for module in modules for kind in _hooks(module)]
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


def _hooks(module: nn.Module) -> list[dict[int, Any]]:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return [getattr(module, kind) for kind in kinds]


@contextmanager
def replayed(model: nn.Module, layer: nn.Module) -> Iterator["Replay"]:
    """Run what comes after a layer again and again: what comes before it is computed once.

    Yields:
        A :class:`Replay`: run the model on one image inside, then :meth:`Replay.replace` and run it as often as wanted.
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
    """Remembers what modules give before a layer does, and gives it back instead of running them.

    Args:
        model: The model.
        layer: The layer inside it.
    """

    def __init__(self, model: nn.Module, layer: nn.Module) -> None:
        self.layer = layer
        #: What each module gave in its calls up to the layer's first.
        self.outputs: dict[nn.Module, list[Any]] = {}
        #: Whether outputs are given as copies, for models that work in place on them.
        self.copies = False
        self.replaced: Tensor | None = None
        self._calls: dict[nn.Module, int] = {}
        #: Modules whose forward is exchanged, and the one that an instance had of its own.
        self._patched: dict[nn.Module, Any] = {}
        self._handles = [module.register_forward_hook(self._note) for module in model.modules()]

    @property
    def value(self) -> Tensor:
        """What the layer gave.

        Raises:
            ValueError: If it gave no tensor.
        """
        given = self.outputs.get(self.layer, [None])[0]
        if not isinstance(given, Tensor):
            name, what = type(self.layer).__name__, type(given).__name__
            raise ValueError(UNCALLED.format(name) if given is None else NO_TENSOR.format(name, what))
        return given

    def _note(self, module: nn.Module, _: Any, output: Any) -> None:
        if self.layer not in self.outputs:
            # A copy: what comes next may work in place.
            self.outputs.setdefault(module, []).append(batched(output, None, copy=True))

    def replace(self, value: Tensor) -> None:
        """In the next run the layer gives ``value (n, D, *s)``, and all before it what it gave to the one image."""
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
        own = module.__dict__.get("forward")
        forward = module.forward
        self._patched[module] = own

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
        """Leave the model as it was."""
        self._remove_hooks()
        for module, own in self._patched.items():
            del module.forward
            if own is not None:
                module.forward = own
        self._patched = {}


def batched(output: Any, count: int | None, copy: bool) -> Any:
    """What a module gave to one image, for a batch of ``count`` (``None``: as it was), as a view or a copy."""
    if isinstance(output, Tensor):
        many = output if count is None else output.expand(count, *output.shape[1:])
        return many.clone() if copy else many
    if is_dataclass(output) and not isinstance(output, type):
        names = [field.name for field in fields(output) if field.init]
        return replace(output, **{name: batched(getattr(output, name), count, copy) for name in names})
    if isinstance(output, MutableMapping):
        like = shallow_copy(output)  # of its own class, whose attributes the model may ask for
        like.update({key: batched(value, count, copy) for key, value in output.items()})
        return like
    if isinstance(output, tuple | list):
        parts = [batched(value, count, copy) for value in output]
        return type(output)(*parts) if hasattr(output, "_fields") else type(output)(parts)
    return output


def to_image(target: Target, maps: Tensor, images: Tensor) -> Tensor:
    """Maps of a layer at image resolution.

    Args:
        target: The target, whose model saw the images, padded where it wants that.
        maps: ``(B, T, *s)`` over all that it saw.
        images: ``(B, C, *S)``.

    Returns:
        ``(B, T, *S)``, linearly enlarged, without what was padded.
    """
    return cropped(resize(maps, target.seen_size(images)), images.shape[2:])
