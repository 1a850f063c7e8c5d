"""Which part of what a model answers holds its logits, and in which shape it gives them."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

from torch import Size, Tensor

from lightning_xai.functional.tensors import without_metadata

log = logging.getLogger(__name__)

#: Which part of a model's answer holds the logits: its key or attribute, its position, or a function of the answer.
Output = str | int | Callable[[Any], Any] | None
#: Keys and attributes under which logits are looked for, in this order.
NAMES = ("logits", "out", "pred", "prediction", "predictions")
#: How well a tensor fits whose shape is that of logits without any change.
EXACT = 2
#: How many containers may lie inside each other.
DEPTH = 4


class Found(NamedTuple):
    """A tensor inside a model's answer, and the way to it, such as ``['out'][0]``."""

    path: str
    values: Tensor


class OutputReader:
    """Takes the logits out of whatever a model answers: a tensor, a dict, a tuple, a list, an object.

    Without ``output``, the part named ``logits``, ``out``, ``pred``, ``prediction`` or ``predictions`` is taken, else
    the first of those whose shape fits best; if several have that same shape none is taken, for a guess could be
    another head. What was taken is logged once.

    Args:
        output: Which part of the answer holds the logits: its key or attribute, its position, or a function of the
            answer. A plain tensor has no parts: only a function changes it.

    Raises:
        ValueError: If it is none of these.
    """

    def __init__(self, output: Output = None) -> None:
        if not (output is None or isinstance(output, str | int) or callable(output)):
            raise ValueError(
                f"output is {output!r}; give the key, the attribute or the position of the part of the model's answer "
                "that holds the logits, or a function of the answer."
            )
        self.output = output
        self.logged = False

    def __call__(self, answer: Any, fit: Callable[[Tensor], int]) -> Tensor:
        """The logits, as the model shapes them.

        Args:
            answer: What the model returned.
            fit: How well the shape of a tensor is that of logits, to choose between several.

        Returns:
            A floating tensor without metadata.

        Raises:
            ValueError: If there is none, not the part that ``output`` names, or more than one that could be meant.
        """
        part = answer if self.output is None else chosen_part(answer, self.output)
        found = find_logits(part, fit)
        if found is None:
            raise ValueError(
                f"The model answers with {described(answer)}, where no tensor of floating numbers is found; say with "
                "output= which part of it holds the logits: a key, a position, or a function of it."
            )
        if not (isinstance(answer, Tensor) or self.logged):
            self.logged = True
            named = "" if self.output is None else f" (output={self.output!r})"
            log.info(
                "The model answers with %s; its logits are taken from %s%s.",
                described(answer),
                found.path or "it",
                named or ", output= names another part",
            )
        return without_metadata(found.values)


def chosen_part(answer: Any, output: str | int | Callable[[Any], Any]) -> Any:
    """The part of an answer that is named by key, attribute or position, or given by a function.

    Raises:
        ValueError: If there is no such part.
    """
    if callable(output):
        return output(answer)
    if isinstance(answer, Tensor):
        return answer  # some networks answer with several parts only while they train
    found = parts_of(answer)
    if output in found:
        return found[output]
    if isinstance(output, str) and hasattr(answer, output):
        return getattr(answer, output)
    if isinstance(output, int) and -len(found) <= output < len(found):
        return list(found.values())[output]
    raise ValueError(f"output is {output!r}, but the model answers with {described(answer)}; name one of its parts.")


def find_logits(answer: Any, fit: Callable[[Tensor], int], path: str = "", depth: int = DEPTH) -> Found | None:
    """The tensor that holds the logits, or ``None`` if there is none; see :class:`OutputReader`.

    Args:
        answer: What the model returned, or a part of it.
        fit: How well the shape of a tensor is that of logits.
        path: The way to this part.
        depth: How many containers may lie inside each other.

    Raises:
        ValueError: If several nameless parts have the same shape, that of logits.
    """
    if isinstance(answer, Tensor):
        return Found(path, answer) if answer.is_floating_point() else None
    parts = parts_of(answer) if depth else {}
    for name in (name for name in NAMES if name in parts):
        named = find_logits(parts[name], fit, f"{path}[{name!r}]", depth - 1)
        if named is not None:
            return named
    found = [find_logits(part, fit, f"{path}[{key!r}]", depth - 1) for key, part in parts.items()]
    hits = [hit for hit in found if hit is not None]
    best = max(hits, key=lambda hit: fit(hit.values), default=None)
    if best is None or fit(best.values) < EXACT:
        return best
    equal = [hit.path for hit in hits if hit.values.shape == best.values.shape]
    if len(equal) > 1:
        raise ValueError(
            f"The model answers with {described(answer)}, where {' and '.join(equal)} all have the shape of logits, "
            f"{tuple(best.values.shape)}; say with output= which of them holds them (target.output)."
        )
    return best


def parts_of(answer: Any) -> dict[Any, Any]:
    """The parts of a container by key, attribute or position, in their order; none of anything else."""
    if isinstance(answer, Mapping):
        return dict(answer)
    if isinstance(answer, tuple) and hasattr(answer, "_asdict"):
        return dict(answer._asdict())
    if isinstance(answer, tuple | list):
        return dict(enumerate(answer))
    if is_dataclass(answer) and not isinstance(answer, type):
        return {field.name: getattr(answer, field.name) for field in fields(answer)}
    attributes = dict(getattr(answer, "__dict__", {}))
    return attributes | {name: getattr(answer, name) for name in NAMES if hasattr(answer, name)}


def described(answer: Any) -> str:
    """The type of an answer and the names of its parts, in words."""
    kind = type(answer).__name__
    if isinstance(answer, Tensor):
        return f"a tensor of {answer.dtype}"
    parts = list(parts_of(answer).items())
    named = [f"{key!r} ({type(part).__name__})" for key, part in parts[:8]]
    more = f" and {len(parts) - 8} more" if len(parts) > 8 else ""
    return f"a {kind} of {', '.join(named)}{more}" if named else f"a {kind} without parts"


def per_image(logits: Tensor, shape: Size) -> Tensor:
    """Logits of a classifier as ``(B, K)``; an axis that was squeezed away is given back.

    Args:
        logits: ``(B, K)``, ``(B, K, 1, 1)``, ``(B,)`` of one logit, or for a batch of one image ``(K,)`` or a scalar.
        shape: ``(B, C, *S)`` of the images.

    Raises:
        ValueError: If they have another shape.
    """
    count = shape[0]
    if logits.ndim < 2 and (logits.numel() == count or count == 1):
        return logits.reshape(count, -1)
    if logits.ndim > 2 and logits.shape[2:].numel() == 1:
        logits = logits.flatten(1)
    if logits.ndim != 2 or len(logits) != count:
        raise ValueError(
            f"The model returns logits of shape {tuple(logits.shape)} for images {tuple(shape)}; "
            "a classifier needs (B, K), or (B,) for one logit. Is it a segmenter? "
            "(output= names the part of its answer that holds the logits.)"
        )
    return logits


def per_pixel(logits: Tensor, shape: Size) -> Tensor:
    """Logits of a segmenter as ``(B, K, *S)``; an axis that was squeezed away is given back.

    Args:
        logits: ``(B, K, *S)``, ``(B, *S)`` of one logit, ``(K, *S)`` for a batch of one image, or ``(B, N, K, *S)`` of
            stacked heads, the first of which counts (deep supervision).
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
    raise ValueError(
        f"The model returns logits of shape {tuple(logits.shape)} for images {tuple(shape)}; a segmenter "
        "needs one per pixel, (B, K, *S), or (B, *S) for one logit. Is it a classifier? "
        "(output= names the part of its answer that holds the logits.)"
    )
