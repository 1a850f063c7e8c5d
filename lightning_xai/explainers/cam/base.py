"""What class activation maps share: feature maps of a layer, weighted by what they mean to the output.

One core for classifiers and segmenters, 2-D and 3-D, convolutions and tokens: ``A`` are the feature maps of a layer,
``Y`` the score of a query, ``G = dY/dA``. Each method is one way to combine ``A`` with ``G``, or with what the model
gives for changed inputs.
"""

import logging
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset
from typing_extensions import override

from lightning_xai.explainers.base import Complete, Explainer, differentiable, finished, maps_of
from lightning_xai.explainers.query_policy import QueryPolicy
from lightning_xai.functional.finite import check_outputs
from lightning_xai.functional.tensors import as_plain_tensor
from lightning_xai.structures import Explanation, Query
from lightning_xai.targets import Target
from lightning_xai.targets.layers.find import auto_layer, check_layers_visible, named_layer
from lightning_xai.targets.layers.grid import to_grid, to_image
from lightning_xai.targets.layers.hooks import capture_outputs
from lightning_xai.targets.layers.layout import channel_axes
from lightning_xai.targets.sliding_window import fits
from lightning_xai.typing import Batch

log = logging.getLogger(__name__)

Layer = str | nn.Module


class ActivationMap(Explainer):
    """Base of the class activation maps.

    Args:
        target: The frozen target; its model must be an ``nn.Module`` whose layers can be seen.
        layer: A module of the model or its name, or several, whose maps are averaged, each divided by its largest
            absolute value. ``"auto"``: a classifier's last layer with positions, a segmenter's bottleneck.
        negative: Explain what speaks against the class.
        query_policy: See :class:`Explainer`.

    Raises:
        ValueError: If the model has no such layer, or none is named.
    """

    def __init__(
        self,
        target: Target,
        layer: Layer | Sequence[Layer] = "auto",
        *,
        negative: bool = False,
        query_policy: QueryPolicy | None = None,
    ) -> None:
        super().__init__(target, query_policy)
        check_layers_visible(target.model)
        layers = [layer] if isinstance(layer, str | nn.Module) else list(layer)
        if not layers:
            raise ValueError("layer is empty; name a module of the model, several, or 'auto'.")
        # A plain tuple hides the target's modules from nn.Module's bookkeeping.
        self._layers = tuple(
            named_layer(target, part) if isinstance(part, str) and part != "auto" else part for part in layers
        )
        self.negative = negative
        #: On which axis the channels of each layer's output lie, found in the first pass; ``None``: nothing says it.
        self._axes: dict[nn.Module, int | None] = {}

    @override
    def attribute(self, images: Tensor, query: Query) -> Tensor:
        return self.averaged(self.maps_by_layer(self.modules_of(images, query.targets), images, query), images)

    @abstractmethod
    def maps_by_layer(self, layers: list[nn.Module], images: Tensor, query: Query) -> list[Tensor]:
        """For each layer the maps ``(B, T, *s)`` on its own grid."""

    def averaged(self, parts: list[Tensor], images: Tensor) -> Tensor:
        """The maps of several layers at image resolution, ``(B, T, *S)``; each is scaled if there are several."""
        maps = [to_image(self.target, part, images) for part in parts]
        if len(maps) == 1:
            return maps[0]
        sizes = [part.flatten(2).abs().amax(dim=2).clamp(min=1e-12) for part in maps]
        scaled = [
            part / size.view(*size.shape, *(1,) * (part.ndim - 2)) for part, size in zip(maps, sizes, strict=True)
        ]
        return torch.stack(scaled).mean(dim=0)

    def sweep(
        self,
        images: Tensor,
        layers: Sequence[Layer],
        targets: Tensor | None = None,
        pixels: Tensor | None = None,
    ) -> list[Tensor]:
        """The maps of several layers, each by itself, from one forward pass and the same backward passes.

        Args:
            images: See :meth:`Explainer.explain`.
            layers: Modules of the model or their names.
            targets: See :meth:`Explainer.explain`.
            pixels: See :meth:`Explainer.explain`.

        Returns:
            For each layer ``(B, T, *S)``.
        """
        modules = [named_layer(self.target, layer) if isinstance(layer, str) else layer for layer in layers]

        def every(images: Tensor, query: Query) -> Tensor:
            parts = self.maps_by_layer(modules, images, query)
            return torch.cat([to_image(self.target, part, images) for part in parts], dim=1)

        with differentiable():
            images, complete = self._completed(images, targets, pixels)
            query = complete(None)
            parts = maps_of(self.in_windows(every, images, query)).chunk(len(modules), dim=1)
            return [finished(part, query, None).maps for part in parts]

    @property
    @override
    def settings(self) -> dict[str, str]:
        """The names of the layers, once they are known."""
        names = {module: name for name, module in self.target.model.named_modules()}
        layers = [layer if isinstance(layer, str) else names.get(layer, "") for layer in self._layers]
        return {"layer": " + ".join(layers)}

    @override
    def on_validation_start(self) -> None:
        self.settle_layers(self.trainer.val_dataloaders)

    @override
    def on_test_start(self) -> None:
        self.settle_layers(self.trainer.test_dataloaders)

    @override
    def on_predict_start(self) -> None:
        self.settle_layers(self.trainer.predict_dataloaders)

    def settle_layers(self, loaders: Any) -> None:
        """Find the layers that ``"auto"`` stands for from the first image of the data, the same on every rank.

        Args:
            loaders: A data loader, or several; without one whose images can be indexed the first batch decides.
        """
        batch = first_sample(loaders)
        if "auto" in self._layers and batch is not None:
            images = as_plain_tensor(batch["image"]).to(self.device)
            with differentiable():
                self.modules_of(images, self.target.query(images).targets)

    def modules_of(self, images: Tensor, targets: Tensor) -> list[nn.Module]:
        """The layers; ``"auto"`` is found at the first images."""
        layers = []
        for layer in self._layers:
            if isinstance(layer, str):
                name = auto_layer(self.target, images, targets)
                log.info("%s: layer=auto is the layer %r.", type(self).__name__, name)
                layer = named_layer(self.target, name)
            layers.append(layer)
        self._layers = tuple(layers)
        return layers

    @contextmanager
    def layouts_found(self, layers: Sequence[nn.Module]) -> Iterator[None]:
        """Find out in a pass of the model where the channels of its layers lie, unless that is known."""
        unknown = [layer for layer in layers if layer not in self._axes]
        if not unknown:
            yield
            return
        with channel_axes(unknown) as axes:
            yield
        self._axes |= {layer: axes.get(layer) for layer in unknown}

    def grid(self, values: Tensor, images: Tensor, layer: nn.Module | None = None) -> Tensor:
        """Feature maps ``(B, D, *s)`` of a layer; see :func:`lightning_xai.targets.layers.grid.to_grid`.

        Raises:
            ValueError: If the layer has no positions.
        """
        grid = to_grid(values, self.target.input_size(images), None if layer is None else self._axes.get(layer))
        if grid is None:
            raise ValueError(
                f"The layer gives {tuple(values.shape)} for images {tuple(images.shape)}: no positions to map; "
                "choose an earlier one."
            )
        return grid


def first_sample(loaders: Any) -> Batch | None:
    """A batch of the first sample alone, read in this process and without random numbers of the caller.

    Args:
        loaders: A data loader, or several.

    Returns:
        ``None`` if its data set cannot be indexed.
    """
    loader = next(iter(loaders), None) if isinstance(loaders, list | tuple) else loaders
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return None
    with isolate_rng():
        batch: Batch = loader.collate_fn([loader.dataset[0]])
    return batch


class ObservedMap(ActivationMap):
    """Base of the maps that follow from what the layers give in one pass: the query follows from that pass too."""

    #: Whether the maps are made of gradients.
    needs_gradients = True

    @override
    def explain_with(self, images: Tensor, complete: Complete, logits_wanted: bool = True) -> Explanation:
        """The query follows from the pass whose features make the maps."""
        layers = [layer for layer in self._layers if isinstance(layer, nn.Module)]
        whole = fits(images.shape[2:], self.target.window) and self.target.knows(images)
        if len(layers) < len(self._layers) or not whole:
            return super().explain_with(images, complete, logits_wanted)
        logits, features = self.observe(layers, images)
        check_outputs(logits.detach())
        query = complete(logits.detach())
        maps = self.averaged(self.layer_maps(layers, images, query, logits, features), images)
        return finished(maps, query, logits)

    def observe(self, layers: list[nn.Module], images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The logits of a pass ``(B, K, *S)``, and what each layer gives in it."""
        gradients = torch.set_grad_enabled(self.needs_gradients)
        with capture_outputs(layers) as outputs, self.layouts_found(layers), gradients:
            logits = self.target.logits(images)
        return logits, [outputs[layer] for layer in layers]

    @override
    def maps_by_layer(self, layers: list[nn.Module], images: Tensor, query: Query) -> list[Tensor]:
        return self.layer_maps(layers, images, query, *self.observe(layers, images))

    @abstractmethod
    def layer_maps(
        self, layers: list[nn.Module], images: Tensor, query: Query, logits: Tensor, features: list[Tensor]
    ) -> list[Tensor]:
        """For each layer the maps ``(B, T, *s)`` on its own grid.

        Args:
            layers: The layers.
            images: ``(B, C, *S)``.
            query: The query.
            logits: Of the pass that gave the features, with their gradient.
            features: What each layer gave.
        """
