"""Read from a model how many channels it takes, how many outputs it gives, and what it calls its classes."""

import logging
from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvNd

log = logging.getLogger(__name__)

#: Layers that end a network: their number of outputs can be that of its logits.
ENDS = (nn.Linear, nn.Bilinear, _ConvNd)


def channels_of(model: Any) -> int | None:
    """Input channels of the first convolution; ``None`` if the model has none, or a linear layer comes before it.

    Example:
        >>> channels_of(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 1)))
        3
    """
    for name, layer in _layers(model):
        if isinstance(layer, _ConvNd):
            log.info("The model takes images of %d channels, as its first layer %r does.", layer.in_channels, name)
            return layer.in_channels
        return None
    return None


def likely_outputs(model: Any, classes: int | None = None) -> int | None:
    """Number of outputs of the last linear layer or convolution, which are a network's logits as a rule.

    Args:
        model: The model.
        classes: How many classes it tells apart, where that is known: one output tells two apart.

    Returns:
        ``None`` if no such layer can be seen, or it contradicts ``classes``.

    Example:
        >>> likely_outputs(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 1)))
        2
    """
    layers = _layers(model)
    if not layers:
        return None
    name, layer = layers[-1]
    outputs = int(layer.out_channels if isinstance(layer, _ConvNd) else layer.out_features)
    if classes is None:
        log.info("The model gives %d logits, as its last layer %r does.", outputs, name)
    return outputs if classes in (None, outputs, max(outputs, 2)) else None


def names_of(model: Any) -> list[str] | None:
    """The names that a model brings for its classes, in the order of its logits; ``None`` if it brings none.

    Our builders of other libraries' networks note them as ``published_names``; Hugging Face's networks have them in
    their configuration.
    """
    names = getattr(model, "published_names", None)
    labels = getattr(getattr(model, "config", None), "id2label", None)
    if names is None and isinstance(labels, Mapping):
        names = [labels[number] for number in sorted(labels)]
    return None if names is None else [str(name) for name in names]


def _layers(model: Any) -> list[tuple[str, Any]]:
    modules = model.named_modules() if isinstance(model, nn.Module) else ()
    return [(name, module) for name, module in modules if isinstance(module, ENDS)]
