"""Gradients of many scores by layers of a frozen network, several in one backward pass where that is faster."""

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import Node

log = logging.getLogger(__name__)

#: Elements, over all scores of a pass, of the largest gradient in it: 2 MB in float32. Beyond it the arithmetic of one
#: score takes so long that several together gain nothing.
LARGEST = 2**19
#: Fewer columns than these do not repay what batching them costs.
FEWEST = 8

Gradients = tuple[Tensor, ...]
Use = Callable[[Gradients], tuple[Tensor, ...]]


def from_gradients(model: nn.Module, scores: Tensor, inputs: Sequence[Tensor], use: Use) -> list[Tensor]:
    """Apply a function to the gradients of each column of scores.

    Several columns share a backward pass, as many as :func:`columns_at_once` says; where they are few, or the model or
    ``use`` cannot be batched by ``torch.vmap``, each column has a pass of its own. Gradients are alive for the columns
    of one pass only.

    Args:
        model: The model that computed the scores.
        scores: ``(B, T)``, with a graph; it is kept.
        inputs: Tensors that the scores depend on.
        use: From the gradients of one column's sum, each of its input's shape, to tensors ``(B, ...)``.

    Returns:
        One tensor ``(B, T, ...)`` for each that ``use`` returns.
    """
    size = columns_at_once(model, scores)
    if min(size, scores.shape[1]) >= FEWEST:
        try:
            return _joined([_together(scores, inputs, use, seeds) for seeds in _seeds(scores, size)])
        except Exception as error:  # of any kind: it comes from the model, and is raised again below if it is real
            log.debug("Every column has a backward pass of its own, for none can be shared: %s", error)
    return _joined([_alone(scores, inputs, use, seeds[0]) for seeds in _seeds(scores, 1)])


def columns_at_once(model: nn.Module, scores: Tensor) -> int:
    """Choose how many columns of scores share a backward pass: at least 1.

    So many that the largest gradient between scores and inputs has at most :data:`LARGEST` elements. One if Python code
    takes part in the backward pass (custom autograd functions, backward hooks of modules): it is made for plain
    tensors, and reading the ``.data`` of a batched one ends the process.

    Args:
        model: The model that computed the scores.
        scores: With a graph.
    """
    if any(module._backward_hooks or module._backward_pre_hooks for module in model.modules()):
        return 1
    largest = 1
    for node in nodes_of(scores):
        if isinstance(node, BackwardCFunction):
            return 1
        largest = max([largest, *(torch.Size(value.shape).numel() for value in node._input_metadata)])
    return max(1, LARGEST // largest)


def nodes_of(scores: Tensor) -> Iterator[Node]:
    """Every node of the graph of a tensor that its gradient reaches."""
    visited, ahead = set(), [scores.grad_fn]
    while ahead:
        node = ahead.pop()
        if node is not None and node not in visited:
            visited.add(node)
            if not node.name().endswith("NotImplemented"):  # no derivative is known, and PyTorch goes on with none
                ahead.extend(parent for parent, _ in node.next_functions)
            yield node


def _seeds(scores: Tensor, size: int) -> Iterator[Tensor]:
    """What the backward passes start from, ``(n, B, T)`` each: 1 at a column of its own, 0 elsewhere.

    Never ``scores.unbind(dim=1)``: the gradient of each of its parts is made of zeros for all the others.
    """
    for columns in torch.split(torch.arange(scores.shape[1], device=scores.device), size):
        seeds = torch.zeros(len(columns), 1, scores.shape[1], dtype=scores.dtype, device=scores.device)
        seeds.scatter_(2, columns.view(-1, 1, 1), 1)
        yield seeds.expand(-1, len(scores), -1)


def _alone(scores: Tensor, inputs: Sequence[Tensor], use: Use, seed: Tensor) -> list[Tensor]:
    """What ``use`` returns for one column, ``(1, B, ...)`` each."""
    gradients = torch.autograd.grad(scores, inputs, seed, retain_graph=True)
    return [value.unsqueeze(0) for value in use(gradients)]


def _together(scores: Tensor, inputs: Sequence[Tensor], use: Use, seeds: Tensor) -> list[Tensor]:
    """What ``use`` returns for several columns, ``(n, B, ...)`` each."""
    with warnings.catch_warnings():
        # Operators that vmap takes one after the other are no concern of the user's.
        warnings.filterwarnings("ignore", "There is a performance drop")
        gradients = torch.autograd.grad(scores, inputs, seeds, retain_graph=True, is_grads_batched=True)
        return list(torch.vmap(use)(gradients))


def _joined(parts: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """``(n, B, ...)`` of every pass -> ``(B, T, ...)``."""
    return [torch.cat([part.movedim(0, 1) for part in values], dim=1) for values in zip(*parts, strict=True)]
