"""Classifiers and segmenters of torchvision: ``pip install -e '.[torchvision]'``."""

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


def torchvision_classifier(name: str, num_classes: int, *args: Any, **kwargs: Any) -> nn.Module:
    """Build a classifier of torchvision by its name.

    Args:
        name: Such as ``"resnet50"``; ``torchvision.models.list_models()`` lists them.
        num_classes: Logits.
        args: See :func:`torchvision_network`.
        kwargs: See :func:`torchvision_network`.
    """
    models = library("torchvision.models", "torchvision")
    check_name(name, models.list_models(module=models), "torchvision classifier")
    return torchvision_network(models, name, num_classes, *args, **kwargs)


def torchvision_segmenter(name: str, num_classes: int, *args: Any, **kwargs: Any) -> nn.Module:
    """Build a segmenter of torchvision by its name.

    Args:
        name: Such as ``"fcn_resnet50"`` or ``"deeplabv3_resnet50"``.
        num_classes: Logits of each pixel.
        args: See :func:`torchvision_network`.
        kwargs: See :func:`torchvision_network`.
    """
    models = library("torchvision.models", "torchvision")
    check_name(name, models.list_models(module=models.segmentation), "torchvision segmenter")
    kwargs.setdefault("weights_backbone", None)  # its own default would download them
    return torchvision_network(models, name, num_classes, *args, **kwargs)


def torchvision_network(
    models: Any,
    name: str,
    num_classes: int,
    in_channels: int = 3,
    size: Sequence[int] | None = None,
    pretrained: bool = False,
    weights: str | None = None,
    **options: Any,
) -> nn.Module:
    """Build a network of torchvision.

    Args:
        models: ``torchvision.models``.
        name: One of its networks.
        num_classes: Logits.
        in_channels: Channels of the images; other numbers than three only without published weights.
        size: ``*S`` of the images; vision transformers without published weights are made for it.
        pretrained: Start from the published weights, with new last layers where the classes are others.
        weights: ``"builtin"``: the published network as it is, its classes included.
        options: Further ones of ``torchvision.models.get_model``.

    Raises:
        MissingPackageError: If torchvision is not installed, or does not fit this PyTorch.
        ValueError: If the network does not take such images.
    """
    check_planar(size, "A torchvision network")
    check_options(options)
    published = models.get_model_weights(name).DEFAULT
    if weights == AS_PUBLISHED:
        check_color(in_channels, 3, name)
        with published_weights(name):
            model: nn.Module = models.get_model(name, **options | {"weights": published})
        with_names(model, published.meta.get("categories"))
    else:
        if name.startswith("vit_") and size is not None and not pretrained:
            options.setdefault("image_size", size[0])
        model = models.get_model(name, weights=None, num_classes=num_classes, **options)
        if pretrained:
            check_color(in_channels, 3, name)
            with published_weights(name):
                load_what_fits(model, published.get_state_dict(progress=False, check_hash=True))
        elif in_channels != 3:
            replace_first_convolution(model, in_channels)
    if not (pretrained or weights):
        return model
    preset = published.transforms()
    return with_statistics(model, preset.mean, preset.std, in_channels)


def load_what_fits(model: nn.Module, state: dict[str, Any]) -> None:
    """Load the weights whose shapes are those of the network: all but the last layers of other classes."""
    own = model.state_dict()
    fitting = {key: value for key, value in state.items() if key in own and own[key].shape == value.shape}
    model.load_state_dict(fitting, strict=False)


def replace_first_convolution(model: nn.Module, channels: int) -> None:
    """Put a convolution of random filters for ``channels`` in the place of the first one."""
    path, first = next((path, part) for path, part in model.named_modules() if isinstance(part, nn.Conv2d))
    parent, _, name = path.rpartition(".")
    settings = (first.out_channels, first.kernel_size, first.stride, first.padding, first.dilation, first.groups)
    other = nn.Conv2d(channels, *settings, bias=first.bias is not None)  # type: ignore[arg-type]
    setattr(model.get_submodule(parent), name, other)
