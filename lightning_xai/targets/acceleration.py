"""Run a frozen model faster, with the same outputs up to rounding: compiled, or with the channels last in memory."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lightning_xai.functional.text import first_line
from lightning_xai.targets.layers.hooks import hooks_of

#: By the number of axes of images, or of a convolution's weights.
FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


class CompilationError(ValueError):
    """The error for a model that runs, but that ``torch.compile`` cannot compile."""


class Compiled:
    """Runs a model as ``torch.compile`` compiles it at its first pass, and as it is while something is hooked into it.

    Hooks that come after the compilation would be passed over in silence.

    Args:
        model: The model.

    Raises:
        ValueError: If it is no ``nn.Module``.
    """

    def __init__(self, model: Any) -> None:
        if not isinstance(model, nn.Module):
            raise ValueError(
                f"compile=True compiles an nn.Module, but the model is a {type(model).__name__}; leave it out "
                "(target.compile=false)."
            )
        self._as_made = alterations(model)
        self._compiled: Callable[[Tensor], Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """A copy of the model is compiled anew."""
        return {"_as_made": self._as_made, "_compiled": None}

    def __call__(self, model: nn.Module, values: Tensor) -> Any:
        """Run the model on the values that it takes.

        Raises:
            CompilationError: If it cannot be compiled.
        """
        if alterations(model) != self._as_made:
            return model(values)
        if self._compiled is None:
            self._compiled = torch.compile(model)
        fast = torch.backends.mha.get_fastpath_enabled()
        # PyTorch's fused transformer layers have strides that the compiler does not expect.
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            return self._compiled(values)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            model(values)  # raises by itself if it does not take such values
            raise CompilationError(
                f"torch.compile cannot compile the model: {first_line(error).rstrip('.')}; a CPU needs a C++ compiler, "
                "a GPU needs Triton. Install it, or leave it out (target.compile=false)."
            ) from error
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)


def alterations(model: nn.Module) -> int:
    """Count the hooks on a model's modules, and the ``forward`` methods that were exchanged."""
    return sum(sum(map(len, hooks_of(module))) + ("forward" in vars(module)) for module in model.modules())


class ChannelsLast:
    """Gives a model's convolutions their weights with the channels last in memory, until they are restored.

    Args:
        model: The model; a plain callable is left alone.
    """

    def __init__(self, model: Any) -> None:
        parameters = model.parameters() if isinstance(model, nn.Module) else ()
        self._changed = [parameter for parameter in parameters if parameter.ndim in FORMATS]
        for parameter in self._changed:
            parameter.data = parameter.data.contiguous(memory_format=FORMATS[parameter.ndim])

    def restore(self) -> None:
        """Put the weights back in the usual order."""
        for parameter in self._changed:
            parameter.data = parameter.data.contiguous()


def channels_last(images: Tensor) -> Tensor:
    """Images ``(B, C, *S)`` with the channels last in memory."""
    return images.contiguous(memory_format=FORMATS[images.ndim])
