"""Chest X-ray classifiers of torchxrayvision: ``pip install -e '.[torchxrayvision]'``."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from lightning_xai.networks.external.common import (
    AS_PUBLISHED,
    check_color,
    check_name,
    check_options,
    check_planar,
    library,
    published_weights,
    with_names,
    with_statistics,
)

#: Images in [0, 1] as the published networks take them, in [-1024, 1024].
MEAN, STD = (0.5,), (0.5 / 1024,)


def torchxrayvision_classifier(
    name: str,
    num_classes: int,
    in_channels: int = 1,
    size: Sequence[int] | None = None,
    pretrained: bool = False,
    weights: str | None = None,
    **options: Any,
) -> nn.Module:
    """Build a chest X-ray classifier of torchxrayvision, which gives logits.

    The published networks scale their probabilities so that each label's operating point is 0.5, and return those;
    here they return the logits before that. They resize images to the side that they were trained with.

    Args:
        name: Of published weights, such as ``"densenet121-res224-all"``.
        num_classes: Logits.
        in_channels: Channels of the images; published weights take one.
        size: ``*S`` of the images, which tells slices and volumes apart.
        pretrained: Start from the published weights, with a new last layer.
        weights: ``"builtin"``: the published network as it is, its labels included.
        options: Further ones of ``torchxrayvision.models.DenseNet`` without published weights.

    Raises:
        MissingPackageError: If torchxrayvision is not installed.
        ValueError: If there are no weights of that name, or they do not take such images.
    """
    models = library("torchxrayvision", "torchxrayvision").models
    check_planar(size, "A torchxrayvision network")
    check_options(options)
    densenets = [key for key in models.model_urls if key.startswith("densenet121-")]
    check_name(name, densenets, "torchxrayvision classifier")
    if not (pretrained or weights == AS_PUBLISHED):
        model: nn.Module = models.DenseNet(num_classes=num_classes, in_channels=in_channels, weights=None, **options)
        return with_statistics(model, MEAN, STD, in_channels) if weights else model
    check_color(in_channels, 1, name)
    with published_weights(name):
        model = models.DenseNet(weights=name)
    setattr(model, "op_threshs", None)  # noqa: B010  # with it, scaled probabilities are returned
    if weights == AS_PUBLISHED:
        with_names(model, getattr(model, "pathologies", None))
    else:
        model.classifier = nn.Linear(int(model.classifier.in_features), num_classes)  # type: ignore[arg-type,union-attr]
    return with_statistics(model, MEAN, STD, in_channels)
