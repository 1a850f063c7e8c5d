"""Classifiers and segmenters of Hugging Face's transformers: ``pip install -e '.[huggingface]'``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from lightning_xai.functional.text import first_line
from lightning_xai.networks.external.common import (
    AS_PUBLISHED,
    check_color,
    check_options,
    check_planar,
    library,
    published_weights,
    with_names,
    with_statistics,
)


def huggingface_classifier(name: str, num_classes: int, *args: Any, **kwargs: Any) -> nn.Module:
    """Build an image classifier of transformers; see :func:`huggingface_network`."""
    transformers = library("transformers", "huggingface")
    return huggingface_network(transformers.AutoModelForImageClassification, name, num_classes, *args, **kwargs)


def huggingface_segmenter(name: str, num_classes: int, *args: Any, **kwargs: Any) -> nn.Module:
    """Build a network for semantic segmentation of transformers; see :func:`huggingface_network`."""
    transformers = library("transformers", "huggingface")
    return huggingface_network(transformers.AutoModelForSemanticSegmentation, name, num_classes, *args, **kwargs)


def huggingface_network(
    kind: Any,
    name: str,
    num_classes: int,
    in_channels: int = 3,
    size: Sequence[int] | None = None,
    pretrained: bool = False,
    weights: str | None = None,
    **options: Any,
) -> nn.Module:
    """Build a network of transformers; code that comes with a checkpoint is never run.

    Args:
        kind: The ``AutoModelFor...`` of the task.
        name: A folder that ``save_pretrained`` wrote, the name of a checkpoint on the hub, or for random weights a type
            of network, such as ``"vit"`` or ``"segformer"``.
        num_classes: Logits, of each pixel for a segmenter.
        in_channels: Channels of the images.
        size: ``*S`` of the images; networks of a fixed size with random weights are made for it.
        pretrained: Start from the published weights, with new last layers where the classes are others.
        weights: ``"builtin"``: the published network as it is, its classes included.
        options: Of the network's configuration, such as ``hidden_size``.

    Raises:
        MissingPackageError: If transformers is not installed.
        ValueError: If there is no such folder or checkpoint, it is for another task, or it does not take such images.
    """
    check_planar(size, "A network of transformers")
    check_options(options)
    published = pretrained or weights == AS_PUBLISHED
    config = configuration(
        name, published, options if weights == AS_PUBLISHED else {"num_labels": num_classes, **options}
    )
    if published:
        check_color(in_channels, getattr(config, "num_channels", in_channels), name)
        model = load(kind, name, config, weights == AS_PUBLISHED)
    else:
        config.num_channels = in_channels
        if size is not None and hasattr(config, "image_size") and "image_size" not in options:
            config.image_size = size[0] if len(set(size)) == 1 else tuple(size)
        config.architectures = config.architectures or []  # None ends in a traceback where a type has several networks
        try:
            model = kind.from_config(config, trust_remote_code=False)
        except ValueError as error:
            if "Unrecognized configuration class" not in str(error):
                raise
            raise ValueError(
                f"transformers has no {kind.__name__} of the type {name!r}; choose one that is made for this task."
            ) from error
    if weights == AS_PUBLISHED:
        with_names(model, [config.id2label[number] for number in sorted(config.id2label)])
    else:  # its classes are the data's now, whatever the published ones are called
        model.config.id2label = {number: f"LABEL_{number}" for number in range(num_classes)}  # type: ignore[union-attr]
    if published or (weights and Path(name).is_dir()):
        return with_statistics(model, *statistics(name), in_channels)
    return model


def load(kind: Any, name: str, config: Any, as_it_is: bool) -> nn.Module:
    """Load a checkpoint.

    Args:
        kind: See :func:`huggingface_network`.
        name: The folder, or the checkpoint on the hub.
        config: Its configuration.
        as_it_is: Whether all weights must be in it; else layers that are not start at random.

    Raises:
        ValueError: If it cannot be loaded, or lacks weights that must be in it.
    """
    with published_weights(name):
        model: nn.Module
        model, found = kind.from_pretrained(
            name,
            config=config,
            trust_remote_code=False,
            ignore_mismatched_sizes=not as_it_is,
            output_loading_info=True,
        )
    missing = sorted(found["missing_keys"])
    if as_it_is and missing:
        raise ValueError(
            f"The checkpoint {name!r} lacks {len(missing)} weights of {type(model).__name__} ({', '.join(missing[:3])}"
            f"{', ...' if len(missing) > 3 else ''}); is it for another task? target.weights=null "
            "target.pretrained=true trains them on the data."
        )
    return model


def configuration(name: str, published: bool, options: dict[str, Any]) -> Any:
    """The configuration of a network.

    Args:
        name: See :func:`huggingface_network`.
        published: Whether its weights are asked for.
        options: Changes.

    Raises:
        ValueError: If there is none, or ``name`` is a type of network, which has no weights.
    """
    transformers = library("transformers", "huggingface")
    if name in transformers.CONFIG_MAPPING and not Path(name).is_dir():
        if published:
            raise ValueError(
                f"{name!r} is a type of network, which has no weights of its own; give a folder that save_pretrained "
                "wrote, or a name on the hub, or train it (target.weights=null target.pretrained=false)."
            )
        return transformers.AutoConfig.for_model(name, **options)
    try:
        return transformers.AutoConfig.from_pretrained(name, trust_remote_code=False, **options)
    except OSError as error:
        raise ValueError(
            f"{name!r} is no folder with a config.json that save_pretrained wrote, and no checkpoint that can be "
            f"fetched from the hub ({first_line(error).rstrip('.')})."
        ) from error


def statistics(name: str) -> tuple[Sequence[float] | None, Sequence[float] | None]:
    """Mean and standard deviation that the image processor of a checkpoint normalizes with; ``None`` without one."""
    processing = library("transformers.image_processing_base", "huggingface")
    try:
        settings, _ = processing.ImageProcessingMixin.get_image_processor_dict(name)
    except OSError:
        return None, None
    if not settings.get("do_normalize", True):
        return (0.0,), (1.0,)
    return settings.get("image_mean"), settings.get("image_std")
