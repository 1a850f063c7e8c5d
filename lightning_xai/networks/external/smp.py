"""Segmenters of segmentation-models-pytorch: ``pip install -e '.[smp]'``."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from lightning_xai.networks.external.common import (
    AS_PUBLISHED,
    IMAGENET,
    check_name,
    check_options,
    check_planar,
    library,
    published_weights,
    with_statistics,
)


def smp_segmenter(
    name: str,
    num_classes: int,
    encoder: str = "resnet34",
    in_channels: int = 3,
    size: Sequence[int] | None = None,
    pretrained: bool = False,
    weights: str | None = None,
    **options: Any,
) -> nn.Module:
    """Build a segmenter of segmentation-models-pytorch by its name.

    Args:
        name: Such as ``"unet"``, ``"fpn"`` or ``"deeplabv3plus"``; with ``weights="builtin"`` a folder that
            ``save_pretrained`` wrote, or the name of one on its hub.
        num_classes: Logits of each pixel.
        encoder: Such as ``"resnet34"``; ``smp.encoders.get_encoder_names()`` lists them, ``tu-<name>`` takes timm's.
        in_channels: Channels of the images.
        size: ``*S`` of the images, which tells slices and volumes apart.
        pretrained: Start with an encoder trained on ImageNet.
        weights: ``"builtin"``: the published network as it is, its classes included.
        options: Further ones of ``smp.create_model``.

    Raises:
        MissingPackageError: If the library is not installed.
        ValueError: If there is no network or encoder of that name, or it does not take such images.
    """
    smp = library("segmentation_models_pytorch", "smp")
    check_planar(size, "A network of segmentation-models-pytorch")
    check_options(options)
    if weights == AS_PUBLISHED:
        with published_weights(name):
            return with_statistics(smp.from_pretrained(name), *IMAGENET, in_channels)
    check_name(name.lower(), smp.MODEL_ARCHITECTURES_MAPPING, "smp architecture")
    if not encoder.startswith("tu-"):
        check_name(encoder, smp.encoders.get_encoder_names(), "smp encoder")
    options |= {"in_channels": in_channels, "classes": num_classes}
    if not pretrained:
        model: nn.Module = smp.create_model(name, encoder, encoder_weights=None, **options)
        return with_statistics(model, *IMAGENET, in_channels) if weights else model
    with published_weights(encoder):
        model = smp.create_model(name, encoder, encoder_weights="imagenet", **options)
        settings = smp.encoders.get_preprocessing_params(encoder)
    return with_statistics(model, settings["mean"], settings["std"], in_channels)
