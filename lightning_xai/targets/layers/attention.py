"""Find the modules of a model that compute attention, from the operations that they run, whatever they are called."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lightning_xai.targets.layers.hooks import hookable
from lightning_xai.targets.layers.layout import name_of, tensors_of

#: Products that mix positions, where both factors depend on the image.
PRODUCTS = ("matmul", "__matmul__", "bmm", "baddbmm", "einsum")


@contextmanager
def attention_modules(modules: Sequence[nn.Module]) -> Iterator[set[nn.Module]]:
    """Find the innermost modules in which positions attend to each other while the model runs.

    Args:
        modules: Of the model.

    Yields:
        The modules, filled by a pass of the model whose image needs a gradient.
    """
    found: set[nn.Module] = set()
    running: list[nn.Module] = []

    def begin(module: nn.Module, _: Any) -> None:
        running.append(module)

    def end(module: nn.Module, _: Any, __: Any) -> None:
        running.pop()

    with ExitStack() as stack:
        for module in hookable(modules):
            stack.enter_context(module.register_forward_pre_hook(begin))
            stack.enter_context(module.register_forward_hook(end))
        stack.enter_context(ProductWatch(running, found))
        yield found


class ProductWatch(TorchFunctionMode):
    """Notes which module is running when two tensors that both depend on the image are multiplied as matrices.

    Args:
        running: The modules that are running, the innermost last.
        found: Gets those in which it happens.
    """

    def __init__(self, running: Sequence[nn.Module], found: set[nn.Module]) -> None:
        super().__init__()
        self.running, self.found = running, found

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operation, and note the module if it is such a product."""
        kwargs = kwargs or {}
        if self.running and attends(name_of(func), [*args, *kwargs.values()]):
            self.found.add(self.running[-1])
        return func(*args, **kwargs)


def attends(name: str, arguments: Sequence[Any]) -> bool:
    """Whether an operation lets positions attend to each other.

    Args:
        name: Of the operation.
        arguments: Of the call.

    Example:
        >>> import torch
        >>> tokens, weight = torch.ones(1, 4, 2, requires_grad=True), torch.ones(2, 2)
        >>> attends("matmul", [tokens, tokens.mT]), attends("matmul", [tokens, weight])
        (True, False)
    """
    if "attention" in name:
        return True
    factors: list[Tensor] = [value for value in tensors_of(arguments) if value.requires_grad and value.ndim > 2]
    return name in PRODUCTS and len(factors) > 1
