"""Copy a target and take from its model what it learned: by new weights, or by permuted labels.

Adebayo et al. 2018, "Sanity Checks for Saliency Maps" (arXiv 1810.03292). The target itself is never changed.
"""

import copy
import logging
from collections.abc import Sequence
from functools import partial
from typing import Any, TypeGuard

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from lightning_xai.functional.finite import NotFiniteError
from lightning_xai.functional.reference_loss import reference_loss
from lightning_xai.functional.segmentation import IGNORED
from lightning_xai.targets import Target
from lightning_xai.targets.checks import check_range
from lightning_xai.targets.freezing import freeze

log = logging.getLogger(__name__)

#: Added to every seed: the seed that a model was initialized with could give it its own first weights again.
OFFSET = 181_003_292


def layer_names(target: Target) -> list[str]:
    """Names of the modules that hold weights or running statistics themselves, in order of registration.

    Raises:
        ValueError: If the model is no plain ``nn.Module``, so that its layers cannot be randomized.
    """
    model = target.model
    graphs = (torch.jit.ScriptModule, torch.fx.GraphModule)
    if not isinstance(model, nn.Module) or any(isinstance(module, graphs) for module in model.modules()):
        raise ValueError(
            f"The target's model is a {type(model).__name__}, whose layers cannot be randomized; "
            "give the network itself as an nn.Module, with target.weights for its weights."
        )
    return [
        name
        for name, module in model.named_modules()
        if next(module.parameters(recurse=False), None) is not None or tracks_statistics(module)
    ]


def tracks_statistics(module: nn.Module) -> TypeGuard[_NormBase]:
    """Whether a module is a batch norm, or an instance norm, with running statistics."""
    return isinstance(module, _NormBase) and module.running_mean is not None


def execution_order(target: Target, images: Tensor) -> list[str]:
    """The names of :func:`layer_names` in the order in which one forward pass first calls them.

    A layer that is never called, such as the projection inside an attention module, counts as called with the module
    around it.

    Args:
        target: The target.
        images: ``(B, C, *S)`` in natural units; the first goes through the model.
    """
    names, called = layer_names(target), dict[str, int]()

    def note(name: str, *_: Any) -> None:
        called.setdefault(name, len(called))

    hooks = [module.register_forward_pre_hook(partial(note, name)) for name, module in target.model.named_modules()]
    try:
        with torch.no_grad():
            target.logits(images[:1])
    finally:
        for hook in hooks:
            hook.remove()

    def position(name: str) -> int:
        while name not in called:
            name = name.rpartition(".")[0]
        return called[name]

    return sorted(names, key=position)


def cascade(target: Target, images: Tensor, stages: int) -> list[list[str]]:
    """Divide the layers into cumulative stages: the head alone, then more and more layers below it, at last all.

    Args:
        target: The target.
        images: ``(B, C, *S)`` in natural units, to find the order of execution.
        stages: Stages at most, at least 2; fewer for a model of fewer layers.

    Returns:
        Names of layers, last executed first; each stage begins with the one before it.

    Raises:
        ValueError: If there are fewer than two stages.
    """
    if stages < 2:
        raise ValueError(f"stages is {stages}, but a cascade has at least 2: the head, and the whole model.")
    order = execution_order(target, images)[::-1]
    cuts = sorted({1 + round((len(order) - 1) * step / (stages - 1)) for step in range(stages)})
    return [order[:cut] for cut in cuts]


def randomize(target: Target, layers: Sequence[str], images: Tensor, seed: int = 0) -> Target:
    """Copy a target and initialize some layers of its model anew.

    A layer's own ``reset_parameters()`` does it; parameters of a module without one are sampled from a normal
    distribution of their mean and deviation. Batch norms among the layers start with plain scale and shift, and
    take their running statistics from ``images``: with those of the old weights, or with none, activations would
    explode or die out, and a map would change for that reason alone.

    Args:
        target: It is left as it is.
        layers: Names of modules inside the model; the same seed gives the first of them the same weights, however
            many follow.
        images: ``(B, C, *S)`` in natural units, at least two.
        seed: Of the new weights.
    """
    twin = copy.deepcopy(target)
    modules = [twin.model.get_submodule(name) for name in layers]
    with isolate_rng(), torch.no_grad():
        torch.manual_seed(seed + OFFSET)
        for module in modules:
            reinitialize(module)
        norms = [module for module in modules if tracks_statistics(module)]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the plain mean over all batches
            norm.train()
        if norms:
            twin.logits(images)
        for norm in norms:
            norm.eval()
    return twin


def reinitialize(module: nn.Module) -> None:
    """Initialize the parameters that a module itself holds anew."""
    if callable(reset := getattr(module, "reset_parameters", None)):
        reset()
        return
    for parameter in module.parameters(recurse=False):
        parameter.normal_(float(parameter.mean()), float(parameter.std(unbiased=False)))


def random_labels(target: Target, images: Tensor, labels: Tensor, steps: int, batch_size: int, seed: int = 0) -> Target:
    """Copy a target, initialize its model anew, and train it on permuted labels.

    Dropout stays off and batch norms keep the statistics of the first batch, as everywhere around a frozen model.

    Args:
        target: It is left as it is.
        images: Training images ``(N, C, *S)`` in natural units.
        labels: ``(N,)`` classes, ``(N, K)`` multi-hot, or masks ``(N, 1, *S)`` of classes for a segmenter; they are
            permuted between the images once.
        steps: Steps of Adam.
        batch_size: Images a step, sampled at random.
        seed: Of weights, permutation and batches.

    Raises:
        NotFiniteError: If the copy's loss ends as NaN or infinite.
    """
    twin = randomize(target, layer_names(target), images[:batch_size], seed)
    parameters = [parameter.requires_grad_(True) for parameter in twin.model.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-3)
    loss = torch.tensor(torch.nan)
    with isolate_rng(), torch.enable_grad():
        torch.manual_seed(seed + OFFSET)
        labels = labels[torch.randperm(len(labels))]
        for _ in range(steps):
            rows = torch.randint(len(images), (batch_size,))
            loss = label_loss(twin, images[rows], labels[rows])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
    if steps and not loss.isfinite():
        raise NotFiniteError(
            f"The copy of the target that learns permuted labels ends at a loss of {float(loss.detach())} after "
            f"{steps} steps; train it with fewer (sanity.label_steps)."
        )
    log.info("Random labels: %d steps end at a loss of %.3f.", steps, float(loss.detach()))
    freeze(twin.model)
    return twin


def label_loss(target: Target, images: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of the target's logits, binary for a sigmoid; see :func:`random_labels`."""
    logits = target.logits(images)
    if labels.shape == logits.shape:
        return reference_loss(logits, labels, "none" if target.activation == "none" else "sigmoid")
    labels = labels.flatten(0, 1).long() if labels.ndim > 2 else labels.long()
    check_range(labels[labels != IGNORED], logits.shape[1])
    return reference_loss(logits, labels, target.activation)
