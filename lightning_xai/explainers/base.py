"""The face that every explainer shows: images and queries in, maps out."""

from collections.abc import Callable
from typing import Any

import lightning
import torch
from torch import Tensor

from lightning_xai.functional.finite import LossWatch, check_loss, check_outputs, check_weights, naming_images
from lightning_xai.functional.tensors import as_plain_tensor
from lightning_xai.targets import SegmenterTarget, Target
from lightning_xai.targets.regions import PixelSet, predicted
from lightning_xai.targets.sliding_window import by_window, fits

Attribute = Callable[[Tensor, Tensor, Tensor | None], Tensor]

ASK = ("prediction", "label", "all")


class Explainer(lightning.LightningModule):
    """A ``LightningModule`` that turns images and queries into maps around a frozen target.

    A subclass writes :meth:`attribute` and, if it learns, :meth:`loss` and its parameters. ``fit``, ``validate``,
    ``test`` and ``predict`` work for every explainer, learned or not.

    Args:
        target: The frozen model that is explained.

    Raises:
        ValueError: If the method is not made for this kind of target.
    """

    #: Side values ``(B, T)`` of the last :meth:`explain`, such as the probability of the blank image.
    side: dict[str, Tensor]
    #: The kind of target that the method is made for.
    explains: type[Target] = Target  # type: ignore[type-abstract]

    def __init__(self, target: Target) -> None:
        super().__init__()
        if not isinstance(target, self.explains):
            raise ValueError(
                f"{type(self).__name__} explains a {self.explains.__name__}, not a {type(target).__name__}; "
                "choose another explainer."
            )
        self.target = target
        #: Which classes the steps ask about: the model's own "prediction", the "label", or "all" classes.
        self.ask = "prediction"
        #: Which pixel set the steps ask a segmenter about.
        self.ask_pixels: PixelSet = predicted
        self.side = {}
        self.loss_watch = LossWatch()

    @property
    def learned(self) -> bool:
        """Whether there is anything to fit."""
        return any(parameter.requires_grad for parameter in self.parameters())

    def attribute(self, images: Tensor, targets: Tensor, pixels: Tensor | None) -> Tensor:
        """Compute the maps; gradients are enabled, queries are complete.

        Args:
            images: ``(B, C, *S)`` float, natural units, a plain tensor without history.
            targets: ``(B, T)`` class indices.
            pixels: ``(B, T, *S)`` boolean pixel sets for a segmenter, else ``None``.

        Returns:
            ``(B, T, *S)``, raw and signed where the method is signed.
        """
        raise NotImplementedError(f"{type(self).__name__} has no attribute() method.")

    def loss(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Training loss of a batch: a dict with ``"loss"`` and anything else worth logging."""
        raise NotImplementedError(f"{type(self).__name__} learns nothing, so it cannot be fitted; test it instead.")

    def fit_data(self, data: lightning.LightningDataModule) -> lightning.LightningDataModule:
        """What ``fit`` reads; an explainer that learns from features that can be computed once wraps it."""
        return data

    def variants(self) -> dict[str, "Explainer"]:
        """Other maps of the same fitted explainer, by name, that a test judges with it."""
        return {}

    def explain(self, images: Tensor, targets: Tensor | None = None, pixels: Tensor | None = None) -> Tensor:
        """Explain images, whatever gradient context the caller is in.

        Args:
            images: ``(B, C, *S)`` in natural units.
            targets: ``None`` (a classifier's most probable class, a segmenter's foreground classes), ``(B,)`` or
                ``(B, T)``.
            pixels: For segmenters: ``None`` (the pixels predicted as each class) or boolean ``(B, T or 1, *S)``.

        Returns:
            ``(B, T, *S)`` float32, detached, at image resolution. A query about no pixel gives a zero map.

        Raises:
            ValueError: If the queries do not fit the images or the model.
        """
        return self.mapped(self.attribute, images, targets, pixels)

    def mapped(self, attribute: Attribute, images: Tensor, targets: Tensor | None, pixels: Tensor | None) -> Tensor:
        """What :meth:`explain` does around :meth:`attribute`, around any such function.

        Args:
            attribute: As :meth:`attribute`; it may give several maps a query, ``(B, n * T, *S)``.
            images: See :meth:`explain`.
            targets: See :meth:`explain`.
            pixels: See :meth:`explain`.
        """
        with torch.inference_mode(False), torch.enable_grad():
            images = as_plain_tensor(images)
            targets, pixels = (None if value is None else as_plain_tensor(value) for value in (targets, pixels))
            targets, pixels = self.target.queries(images, targets, pixels)
            self.side = {}
            maps = self.in_windows(attribute, images, targets, pixels).detach().float()
            if pixels is not None:
                asked = pixels.flatten(2).any(dim=2).repeat(1, maps.shape[1] // targets.shape[1])
                maps = torch.where(asked.view(*asked.shape, *(1,) * (maps.ndim - 2)), maps, 0.0)
            return maps.contiguous()

    def in_windows(self, attribute: Attribute, images: Tensor, targets: Tensor, pixels: Tensor | None) -> Tensor:
        """Maps of images that the target takes at once, else of one window after the other.

        Every window is asked about the pixels of the set that it shows, and averaged with the weights of the logits.
        """
        if pixels is None or fits(images.shape[2:], self.target.window):
            return attribute(images, targets, pixels)
        channels = images.shape[1]
        maps = []
        for image, asked, sets in zip(images, targets, pixels, strict=True):

            def in_window(part: Tensor, asked: Tensor = asked) -> Tensor:
                seen = part[:, channels:] > 0
                return attribute(part[:, :channels], asked.expand(len(part), -1), seen).detach().contiguous()

            both = torch.cat([image, sets.to(image)]).unsqueeze(0)
            maps.append(by_window(in_window, both, self.target.window))
        self.side = {}  # of the last window alone
        return torch.cat(maps)

    def queries(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
        """The queries that the steps ask of a batch, from :attr:`ask` and :attr:`ask_pixels`."""
        if self.ask not in ASK:
            raise ValueError(f"ask is {self.ask!r}; use one of {', '.join(ASK)}.")
        images = as_plain_tensor(batch["image"])
        targets: Tensor | None = None
        if self.ask == "label" and batch["label"].ndim == 1:
            targets = batch["label"]
        elif self.ask != "prediction":
            classes = self.target.predict(images[:1]).shape[1]
            targets = torch.arange(classes, device=images.device).expand(len(images), -1)
        pixels = None
        if isinstance(self.target, SegmenterTarget):
            targets = self.target.foreground(images) if targets is None else targets.view(len(images), -1)
            pixels = self.ask_pixels(
                self.target, images, targets, as_plain_tensor(batch["mask"]) if "mask" in batch else None
            )
        return self.target.queries(images, targets, pixels)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Log and return the loss.

        Raises:
            NotFiniteError: If it is NaN or infinite; see :class:`~lightning_xai.functional.finite.LossWatch`.
        """
        if "image" in batch:
            batch = {**batch, "image": as_plain_tensor(batch["image"])}
        with naming_images(batch):
            losses = self.loss(batch)
        self.loss_watch(self, losses["loss"], batch)
        self.log_dict({f"train/{name}": value.detach() for name, value in losses.items()}, batch_size=len(batch["id"]))
        return losses["loss"]

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """Log the loss of an explainer that learns, and hand the maps to the callbacks.

        Raises:
            NotFiniteError: If the loss is NaN or infinite.
        """
        if self.learned:
            with naming_images(batch):
                losses = self.loss({**batch, "image": as_plain_tensor(batch["image"])})
            check_loss(self, losses["loss"], batch, "validation")
            values = {f"val/{name}": value for name, value in losses.items()}
            self.log_dict(values, batch_size=len(batch["image"]), sync_dist=True)
        return self.answer(batch)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """Hand the maps to the callbacks."""
        return self.answer(batch)

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """The maps of a batch."""
        return self.answer(batch)

    def answer(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Explain a batch: ``{"maps": (B, T, *S), "targets": (B, T), "pixels": ..., "side": {name: (B, T)}}``.

        Raises:
            NotFiniteError: If the target's logits for the images are found to be NaN or infinite; it names the images.
        """
        with naming_images(batch):
            with torch.inference_mode(False):
                targets, pixels = self.queries(batch)
            maps = self.explain(batch["image"], targets, pixels)
            # An explainer may fail on an image, which the metrics count; that the target does is asked only then.
            if not maps.isfinite().all():
                with torch.no_grad():
                    check_outputs(self.target.logits(as_plain_tensor(batch["image"])))
        return {"maps": maps, "targets": targets, "pixels": pixels, "side": self.side}

    def compared(self, answer: dict[str, Any], batch: dict[str, Any]) -> Tensor:
        """Maps ``(B, T, *S)`` for the queries of another explainer's :meth:`answer`, to be judged with its own."""
        return self.explain(as_plain_tensor(batch["image"]), answer["targets"], answer["pixels"])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store which target these weights explain.

        Raises:
            NotFiniteError: If weights have become NaN or infinite: no such checkpoint is written.
        """
        where = f"{type(self).__name__} in epoch {self.current_epoch}, step {self.global_step}"
        check_weights(checkpoint.get("state_dict", {}), dict(self.named_buffers()), where, "lower the learning rate")
        checkpoint["target_fingerprint"] = self.target.fingerprint()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint that explains another target, or whose weights are NaN or infinite.

        Raises:
            ValueError: If the fingerprints differ, or a weight is not finite.
        """
        check_weights(checkpoint.get("state_dict", {}), dict(self.named_buffers()), "The checkpoint")
        stored, own = checkpoint.get("target_fingerprint"), self.target.fingerprint()
        if stored is not None and stored != own:
            raise ValueError(
                f"The checkpoint explains target {stored}, but this target is {own}: load the weights it was trained "
                "with, or start a fine-tuning from it with explainer.init_from=<checkpoint>."
            )
