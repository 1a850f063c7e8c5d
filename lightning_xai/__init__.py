"""Train explainers around frozen image models."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_xai.explainers.base import Explainer
    from lightning_xai.structures import Explanation, Query
    from lightning_xai.targets import ClassifierTarget, SegmenterTarget, Target

__version__ = "0.1.0"
__all__ = ["ClassifierTarget", "Explainer", "Explanation", "Query", "SegmenterTarget", "Target", "__version__"]

# PyTorch and Lightning take seconds to import: what only reads a command line does without.
_MODULES = {
    "ClassifierTarget": "targets",
    "Explainer": "explainers.base",
    "Explanation": "structures",
    "Query": "structures",
    "SegmenterTarget": "targets",
    "Target": "targets",
}


def __getattr__(name: str) -> Any:
    """Import a public name, or a part of the package, at its first use."""
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    try:
        return import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"{__name__}.{name}":
            raise  # a package is missing that this part needs
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
