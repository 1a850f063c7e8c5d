"""Find the logits in what a model returns, and bring them into one shape."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from math import prod
from typing import Any, NamedTuple

from torch import Size, Tensor

from lightning_xai.functional.tensors import without_metadata
from lightning_xai.functional.text import first_few

log = logging.getLogger(__name__)

#: Which part of what a model returns holds the logits: its key or attribute, its position, or a function of the whole.
Output = str | int | Callable[[Any], Any] | None
#: Keys and attributes under which logits are looked for, in this order.
NAMES = ("logits", "out", "pred", "prediction", "predictions")
#: How well a tensor fits whose shape is that of logits without any change, and one with an axis squeezed away; below
#: lie logits at a fraction of the image's size, the larger the better, and at 0 all others.
EXACT, SQUEEZED = 2.0, 1.0
#: How many containers may lie inside each other.
DEPTH = 4


class TensorPart(NamedTuple):
    """A tensor inside what a model returned, and the path to it, such as ``['out'][0]``."""

    path: str
    values: Tensor


class OutputReader:
    """Takes the logits out of whatever a model returns: a tensor, a dict, a tuple, a list, an object.

    Without ``output``, the part named ``logits``, ``out``, ``pred``, ``prediction`` or ``predictions`` is taken, else
    the first of those whose shape fits best; if several have that same shape none is taken, for a guess could be
    another head. What was taken is logged once.

    Args:
        output: Which part holds the logits: its key or attribute, its position, or a function of all that the model
            returns. A plain tensor has no parts: only a function changes it.

    Raises:
        ValueError: If it is none of these.
    """

    def __init__(self, output: Output = None) -> None:
        if not (output is None or isinstance(output, str | int) or callable(output)):
            raise ValueError(
                f"output is {output!r}; give the key, the attribute or the position of the part of what the model "
                "returns that holds the logits, or a function of all that it returns."
            )
        self.output = output
        self.logged = False

    def __call__(self, returned: Any, fit: Callable[[Tensor], float]) -> Tensor:
        """The logits, as the model shapes them.

        Args:
            returned: What the model returned.
            fit: How well the shape of a tensor is that of logits, to choose between several.

        Returns:
            A floating tensor without metadata.

        Raises:
            ValueError: If there is none, not the part that ``output`` names, or more than one that could be meant.
        """
        part = returned if self.output is None else chosen_part(returned, self.output)
        logits = find_logits(part, fit)
        if logits is None:
            raise ValueError(
                f"The model returns {described(returned)}, where no tensor of floating numbers is found; say with "
                "output= which part of it holds the logits: a key, a position, or a function of it."
            )
        if not (isinstance(returned, Tensor) or self.logged):
            self.logged = True
            named = "" if self.output is None else f" (output={self.output!r})"
            log.info(
                "The model returns %s; its logits are taken from %s%s.",
                described(returned),
                logits.path or "it",
                named or ", output= names another part",
            )
        return without_metadata(logits.values)


def chosen_part(returned: Any, output: str | int | Callable[[Any], Any]) -> Any:
    """Take the part of what a model returned that a key, an attribute, a position or a function selects.

    Raises:
        ValueError: If there is no such part.
    """
    if callable(output):
        return output(returned)
    if isinstance(returned, Tensor):
        return returned  # some networks return several parts only in training mode
    parts = parts_of(returned)
    if output in parts:
        return parts[output]
    if isinstance(output, str) and hasattr(returned, output):
        return getattr(returned, output)
    if isinstance(output, int) and -len(parts) <= output < len(parts):
        return list(parts.values())[output]
    raise ValueError(f"output is {output!r}, but the model returns {described(returned)}; name one of its parts.")


def find_logits(returned: Any, fit: Callable[[Tensor], float], path: str = "", depth: int = DEPTH) -> TensorPart | None:
    """Find the tensor that holds the logits, ``None`` if there is none; see :class:`OutputReader`.

    Args:
        returned: What the model returned, or a part of it.
        fit: How well the shape of a tensor is that of logits.
        path: The path to this part.
        depth: How many containers may lie inside each other.

    Raises:
        ValueError: If several nameless parts have the same shape, that of logits.
    """
    if isinstance(returned, Tensor):
        return TensorPart(path, returned) if returned.is_floating_point() else None
    parts = parts_of(returned) if depth else {}
    for name in (name for name in NAMES if name in parts):
        named = find_logits(parts[name], fit, f"{path}[{name!r}]", depth - 1)
        if named is not None:
            return named
    candidates = [find_logits(part, fit, f"{path}[{key!r}]", depth - 1) for key, part in parts.items()]
    hits = [hit for hit in candidates if hit is not None]
    best = max(hits, key=lambda hit: fit(hit.values), default=None)
    if best is None or not fit(best.values):
        return best
    equal = [hit.path for hit in hits if hit.values.shape == best.values.shape]
    if len(equal) > 1:
        raise ValueError(
            f"The model returns {described(returned)}, where {' and '.join(equal)} all have the shape of logits, "
            f"{tuple(best.values.shape)}; say with output= which of them holds them (target.output)."
        )
    return best


def parts_of(returned: Any) -> dict[Any, Any]:
    """The parts of a container by key, attribute or position, in their order; none of anything else."""
    if isinstance(returned, Mapping):
        return dict(returned)
    if isinstance(returned, tuple) and hasattr(returned, "_asdict"):
        return dict(returned._asdict())
    if isinstance(returned, tuple | list):
        return dict(enumerate(returned))
    if is_dataclass(returned) and not isinstance(returned, type):
        return {field.name: getattr(returned, field.name) for field in fields(returned)}
    attributes = dict(getattr(returned, "__dict__", {}))
    return attributes | {name: getattr(returned, name) for name in NAMES if hasattr(returned, name)}


def described(returned: Any) -> str:
    """Describe what a model returned in words: its type and the names of its parts."""
    kind = type(returned).__name__
    if isinstance(returned, Tensor):
        return f"a tensor of {returned.dtype}"
    parts = list(parts_of(returned).items())
    named = [f"{key!r} ({type(part).__name__})" for key, part in parts]
    return f"a {kind} of {first_few(named, 8)}" if named else f"a {kind} without parts"


def per_image(logits: Tensor, shape: Size) -> Tensor:
    """Logits of a classifier as ``(B, K)``; an axis that was squeezed away is restored.

    Args:
        logits: ``(B, K)``, also with axes of one more such as ``(B, K, 1, 1)``, ``(B,)`` of one logit, or for a batch
            of one image ``(K,)`` or a scalar.
        shape: ``(B, C, *S)`` of the images.

    Raises:
        ValueError: If they have another shape.
    """
    count = shape[0]
    if logits.ndim < 2 and (logits.numel() == count or count == 1):
        return logits.reshape(count, -1)
    if logits.ndim > 2 and len(logits) == count and sum(side > 1 for side in logits.shape[1:]) < 2:
        logits = logits.flatten(1)
    if logits.ndim != 2 or len(logits) != count:
        raise ValueError(
            f"The model returns logits of shape {tuple(logits.shape)} for images {tuple(shape)}; "
            "a classifier needs (B, K), or (B,) for one logit. Is it a segmenter? "
            "(output= names the part of what it returns that holds the logits.)"
        )
    return logits


def per_pixel(logits: Tensor, shape: Size) -> Tensor:
    """Logits of a segmenter as ``(B, K, *s)``; an axis that was squeezed away is restored.

    Args:
        logits: ``(B, K, *S)``, ``(B, *S)`` of one logit, ``(K, *S)`` for a batch of one image, or ``(B, N, K, *S)`` of
            stacked heads, the first of which counts (deep supervision). Or all this at a fraction ``*s`` of the size.
        shape: ``(B, C, *S)`` of the images.

    Raises:
        ValueError: If they have another shape.
    """
    count, size = shape[0], shape[2:]
    if logits.shape[:1] == shape[:1] and logits.shape[2:] == size:
        return logits
    if [side for side in logits.shape if side > 1] == [side for side in (count, *size) if side > 1]:
        return logits.reshape(count, 1, *size)
    if count == 1 and logits.shape[1:] == size:
        return logits.unsqueeze(0)
    if logits.shape[:1] == shape[:1] and logits.shape[3:] == size:
        return logits[:, 0]
    coarse = logits[:, 0] if logits.ndim == len(shape) + 1 else logits
    if coarse.ndim == len(shape) - 1 and count in (1, len(coarse)):
        coarse = coarse.unsqueeze(1 if len(coarse) == count else 0)
    if coarse.shape[:1] == shape[:1] and is_fraction(coarse.shape[2:], size):
        return coarse
    raise ValueError(
        f"The model returns logits of shape {tuple(logits.shape)} for images {tuple(shape)}; a segmenter "
        "needs one per pixel, (B, K, *S), or (B, *S) for one logit, or so at a whole fraction of the size. "
        "Is it a classifier? "
        "(output= names the part of what it returns that holds the logits.)"
    )


def is_fraction(sides: Sequence[int], size: Sequence[int]) -> bool:
    """Whether sides ``*s`` are those of images ``*S`` divided by a whole number on each axis, up to rounding.

    A single position is none: it is a classifier's output. Nor is another divisor for rows than for columns: the last
    axis is that of the classes then.

    Example:
        >>> is_fraction((9, 12), (33, 48)), is_fraction((388, 388), (572, 572)), is_fraction((1, 1), (32, 32))
        (True, False, False)
        >>> is_fraction((32, 3), (32, 32))
        False
    """
    if len(sides) != len(size) or prod(sides) < 2:
        return False
    strides = [max(1, round(full / side)) for side, full in zip(sides, size, strict=True)]
    fit = [
        side == full if stride == 1 else abs(full / stride - side) < 1
        for side, full, stride in zip(sides, size, strides, strict=True)
    ]
    return all(fit) and max(strides) > 1 and strides[-2] == strides[-1]
