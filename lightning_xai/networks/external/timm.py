"""Classifiers of timm: ``pip install -e '.[timm]'``."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from torch import nn

from lightning_xai.networks.external.common import (
    AS_PUBLISHED,
    check_name,
    check_options,
    check_planar,
    library,
    published_weights,
    with_names,
    with_statistics,
)


def timm_classifier(
    name: str,
    num_classes: int,
    in_channels: int = 3,
    size: Sequence[int] | None = None,
    pretrained: bool = False,
    weights: str | None = None,
    **options: Any,
) -> nn.Module:
    """Build a classifier of timm by its name.

    Args:
        name: Such as ``"resnet50"`` or ``"vit_base_patch16_224.augreg_in21k"``; ``timm.list_models()`` lists them.
        num_classes: Logits.
        in_channels: Channels of the images; published filters of three channels are summed for one.
        size: ``*S`` of the images; networks of a fixed size, such as transformers, are made for it.
        pretrained: Start from the published weights, with a new last layer.
        weights: ``"builtin"``: the published network as it is, its classes included.
        options: Further ones of ``timm.create_model``.

    Raises:
        MissingPackageError: If timm is not installed.
        ValueError: If there is no network of that name, or it does not take such images.
    """
    timm = library("timm", "timm")
    check_planar(size, "A timm network")
    check_options(options)
    if ":" not in name:  # hf-hub:... and local-dir:... name networks that the library does not list
        check_name(name.partition(".")[0], timm.list_models(), "timm network")
    published = timm.get_pretrained_cfg(name) if ":" not in name else None
    if size is not None and getattr(published, "fixed_input_size", False):
        options.setdefault("img_size", tuple(size))
    if weights == AS_PUBLISHED:
        with published_weights(name):
            model: nn.Module = timm.create_model(name, pretrained=True, in_chans=in_channels, **options)
        if not getattr(model, "num_classes", 1):
            raise ValueError(
                f"The published weights of {name!r} tell no classes apart; target.weights=null target.pretrained=true "
                "trains a last layer on the data."
            )
    else:
        options |= {"num_classes": num_classes, "in_chans": in_channels}
        with published_weights(name) if pretrained else nullcontext():
            model = timm.create_model(name, pretrained=pretrained, **options)
    if not (pretrained or weights):
        return model
    settings: dict[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
    if weights == AS_PUBLISHED:
        with_names(model, settings.get("label_names"))
    return with_statistics(model, settings.get("mean"), settings.get("std"), in_channels)
