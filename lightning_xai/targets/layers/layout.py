"""Find out on which axis the channels of a layer's output lie, from the operations that a model runs, not from sizes.

Convolutions and batch norms have their channels on axis 1, linear layers, layer norms and embeddings on the last one.
Permutations move them, elementwise operations leave them where they are.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lightning_xai.targets.layers.hooks import hookable

#: The attribute of a tensor that says on which axis its channels lie.
AXIS = "_channel_axis"
#: Operations with channels on axis 1; pooling and resizing leave an axis that is known where it is.
CONVOLUTIONS = ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "convolution")
FIRST = (*CONVOLUTIONS, "batch_norm", "instance_norm", "group_norm")
RESIZING = ("pool", "interpolate", "upsample", "pixel_shuffle", "pixel_unshuffle", "grid_sample")
#: Operations over the last axis, which holds the channels unless they are known to lie elsewhere, as in MLP-Mixers.
LAST = ("linear", "layer_norm", "rms_norm", "embedding", "matmul", "__matmul__", "addmm")
MOVING = (
    "permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "mT", "T", "mH", "H", "t", "adjoint"
)  # fmt: skip
RESHAPING = ("reshape", "view", "flatten", "unflatten", "squeeze", "unsqueeze", "_unsafe_view", "view_as", "reshape_as")
MIXING = (
    "bmm",
    "einsum",
    "scaled_dot_product_attention",
    "tensordot",
    "multi_head_attention_forward",
    "fold",
    "unfold",
)


def axis_of(values: Any) -> int | None:
    """The channel axis of a tensor that was made inside :func:`channel_axes`, where it is known."""
    return getattr(values, AXIS, None)


@contextmanager
def channel_axes(modules: Sequence[nn.Module]) -> Iterator[dict[nn.Module, int]]:
    """Find out on which axis the outputs of modules have their channels while the model runs.

    Args:
        modules: Of the model.

    Yields:
        ``{module: axis}``, filled at the end of the block, for those modules whose operations say it.
    """
    outputs: dict[nn.Module, Any] = {}
    axes: dict[nn.Module, int] = {}
    with ExitStack() as stack:
        for module in hookable(modules):
            # What is passed on, maybe a copy that another hook gave: what follows says where its channels are.
            keep: Callable[..., None] = lambda module, _, output: outputs.update({module: output})  # noqa: E731
            stack.enter_context(module.register_forward_hook(keep))
        stack.enter_context(AxisTracker())
        yield axes
    axes |= {module: axis for module, output in outputs.items() if (axis := axis_of(output)) is not None}


class AxisTracker(TorchFunctionMode):
    """Writes on every tensor that an operation returns on which axis its channels lie."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operation and mark its results."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        parts = result if isinstance(result, tuple | list) else (result,)
        if not any(isinstance(part, Tensor) for part in parts):
            return result
        name = name_of(func)
        inputs = list(tensors_of([*args, *kwargs.values()]))
        if inputs and axis_of(inputs[0]) is None and (wanted := wanted_axis(name, inputs[0], args, kwargs)) is not None:
            setattr(inputs[0], AXIS, wanted)
        for part in parts:
            if isinstance(part, Tensor) and not any(part is given for given in inputs):
                setattr(part, AXIS, result_axis(name, func, part, inputs, args, kwargs))
        return result


def name_of(function: Any) -> str:
    """The name of an operation, without its overload; of a property such as ``mT`` its own.

    Example:
        >>> name_of(torch.Tensor.permute), name_of(torch.Tensor.mT.__get__), name_of(torch.ops.aten.linear.default)
        ('permute', 'mT', 'linear')
    """
    name: str = getattr(function, "__name__", "")
    if name == "__get__":
        return str(getattr(function.__self__, "__name__", ""))
    return name.partition(".")[0]


def tensors_of(arguments: Sequence[Any]) -> Iterator[Tensor]:
    """The tensors among arguments, and in lists of them."""
    for argument in arguments:
        if isinstance(argument, Tensor):
            yield argument
        elif isinstance(argument, tuple | list):
            yield from (part for part in argument if isinstance(part, Tensor))


def wanted_axis(name: str, values: Tensor, args: Sequence[Any], kwargs: Mapping[str, Any]) -> int | None:
    """The axis on which an operation takes the channels of its input; ``None`` if it does not say."""
    if name in FIRST:
        return 1
    if name not in LAST or name == "embedding":
        return None
    if name in ("layer_norm", "rms_norm"):
        shape = kwargs.get("normalized_shape", args[1] if len(args) > 1 else ())
        return values.ndim - 1 if len(shape) == 1 else None
    if name == "linear":
        return values.ndim - 1
    return values.ndim - 1 if all(isinstance(other, Tensor) and other.ndim == 2 for other in args[1:2]) else None


def result_axis(
    name: str, func: Any, result: Tensor, inputs: Sequence[Tensor], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> int | None:
    """The axis of an operation's result on which its channels lie; ``None`` where that is unknown."""
    if name in FIRST:
        return 1
    if name == "embedding":
        return result.ndim - 1
    if not inputs or name in MIXING:
        return None
    first, axis = inputs[0], axis_of(inputs[0])
    if name in MOVING:
        return None if axis is None or not args or args[0] is not first else moved(func, axis, args, kwargs)
    if name in RESHAPING:
        return None if axis is None else reshaped(first.shape, result.shape, axis)
    if any(word in name for word in RESIZING):
        return 1 if axis is None else axis
    if name in LAST:
        return axis if result.ndim == first.ndim else None
    marked = [values for values in inputs if axis_of(values) is not None and values.ndim == result.ndim]
    whole = [values for values in marked if values.shape == result.shape]
    return axis_of((whole or marked)[0]) if marked else None


def moved(func: Any, axis: int, args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    """Where a permutation moves an axis: found on a tensor without values whose sides are all different."""
    sides = range(2, 2 + args[0].ndim)
    return list(func(torch.empty(tuple(sides), device="meta"), *args[1:], **kwargs).shape).index(sides[axis])


def reshaped(before: Sequence[int], after: Sequence[int], axis: int) -> int | None:
    """Where an axis lies in another shape of the same values; ``None`` if it was merged or split.

    Example:
        >>> reshaped((2, 8, 4, 4), (2, 8, 16), 1), reshaped((2, 8, 4, 4), (2, 128), 1)
        (1, None)
    """
    leading = torch.Size(before[:axis]).numel()
    for position, side in enumerate(after):
        if side == before[axis] and torch.Size(after[:position]).numel() == leading:
            return position
    return None
