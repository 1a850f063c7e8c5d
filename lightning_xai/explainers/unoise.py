"""U-Noise: a network that learns how much noise every pixel bears before the model fails."""

from pathlib import Path
from typing import Any
from zlib import crc32

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from typing_extensions import override

from lightning_xai.explainers.amortized_pcim import stratified
from lightning_xai.explainers.base import Explainer
from lightning_xai.explainers.pcim import SOFTNESS
from lightning_xai.explainers.query_policy import QueryPolicy
from lightning_xai.functional.reference_loss import reference_loss
from lightning_xai.functional.segmentation import class_labels, gather_classes
from lightning_xai.networks.mask_net import UNet
from lightning_xai.perturbation.soft_masks import blend, standardize, top_fraction
from lightning_xai.structures import Query
from lightning_xai.targets import Target
from lightning_xai.targets.checks import required_size
from lightning_xai.targets.freezing import evaluating
from lightning_xai.targets.outputs import log_probabilities
from lightning_xai.targets.padding import cropped, padded
from lightning_xai.targets.sliding_window import by_window
from lightning_xai.targets.weights import load_model, read_state

#: Levels of the noise networks of 16 channels.
SIZES = {"small": 2, "medium": 3, "large": 4}
OBJECTIVES = ("noise", "visibility")
REFERENCES = ("mask", "prediction")
#: Area fractions that the validation loss of the visibility objective averages over.
VALIDATION_FRACTIONS = (0.1, 0.3, 0.5)


class UNoise(Explainer):
    """Learns a mask that says how much noise each pixel of an image can bear before the model fails.

    A small U-Net gives ``B = sigmoid(n(x))``, low where a pixel matters. The model sees ``x + eps (B (max - min) +
    min)``, and ``B`` is driven up by ``-noise_weight mean(log B)``. Koker et al. 2021, arXiv 2101.05791. The map that
    ``explain`` gives is ``1 - B``.

    Args:
        target: The frozen target: a segmenter, or a classifier.
        size: ``"small"``, ``"medium"`` or ``"large"``: 2, 3 or 4 levels of 16 channels.
        min_scale: Deviation of the noise where ``B`` is 0, in the model's normalized input space.
        max_scale: Deviation of the noise where ``B`` is 1.
        noise_weight: ``lambda``.
        objective: ``"noise"``, the paper's; or ``"visibility"``, ours: the most important fraction of the pixels, drawn
            at random, must be enough for the reference.
        reference: What the model should give: ``"mask"`` (a classifier: the label), as in the paper, or the model's own
            ``"prediction"`` on the whole image, which needs no labels.
        per_class: One mask for each class instead of one for all; a step trains one class an image.
        net: ``(B, C, *S) -> (B, 1, *S)``, or ``(B, classes, *S)``; default: the U-Net of that size.
        channels: Image channels; default: the target's.
        classes: Number of classes; default: the target's.
        dims: 2 or 3 spatial dimensions of the default network.
        lr: Adam's learning rate.
        init_from: Weights of a segmenter of the same U-Net to start from; its last layer is turned round, so that the
            object starts as important.
        clip_norm: Norm that gradients are clipped to, unless the trainer names another; ``None``, as published: not.
        query_policy: See :class:`Explainer`.

    Raises:
        ValueError: If an option is unknown, or the target does not know its channels or classes.

    Example:
        >>> from lightning_xai.targets import SegmenterTarget
        >>> explainer = UNoise(SegmenterTarget(nn.Conv2d(1, 2, 1)))
        >>> explainer.mask(torch.rand(2, 1, 8, 8)).shape
        torch.Size([2, 1, 8, 8])
    """

    def __init__(
        self,
        target: Target,
        size: str = "small",
        min_scale: float = 1.0,
        max_scale: float = 5.0,
        noise_weight: float = 1e-3,
        objective: str = "noise",
        reference: str = "mask",
        per_class: bool = False,
        net: nn.Module | None = None,
        channels: int | None = None,
        classes: int | None = None,
        dims: int = 2,
        lr: float = 3e-3,
        init_from: str | Path | None = None,
        clip_norm: float | None = None,
        query_policy: QueryPolicy | None = None,
    ) -> None:
        super().__init__(target, query_policy)
        if size not in SIZES or objective not in OBJECTIVES or reference not in REFERENCES:
            raise ValueError(
                f"size is {size!r}, objective {objective!r}, reference {reference!r}; "
                f"use one of {', '.join(SIZES)}, one of {', '.join(OBJECTIVES)}, and one of {', '.join(REFERENCES)}."
            )
        if not 0 <= min_scale <= max_scale:
            raise ValueError(f"min_scale is {min_scale}, max_scale {max_scale}; give 0 <= min_scale <= max_scale.")
        if net is None:
            channels = channels or required_size(target, "in_channels")
        if per_class:
            classes = classes or required_size(target, "num_classes")
        names = ("size", "min_scale", "max_scale", "noise_weight", "objective", "reference", "per_class")
        arguments = locals()
        self.save_hyperparameters({name: arguments[name] for name in (*names, "channels", "classes", "dims", "lr")})
        self.min_scale, self.max_scale, self.noise_weight = min_scale, max_scale, noise_weight
        self.objective, self.reference, self.per_class = objective, reference, per_class
        self.clip_norm = clip_norm
        outputs = (classes or 0) if per_class else 1
        self.net = net if net is not None else UNet(channels or 0, outputs, SIZES[size], dims=dims)
        if init_from is not None:
            start_from_segmenter(self.net, init_from)

    def raw(self, images: Tensor) -> Tensor:
        """``n(x)``, float32 ``(B, 1 or K, *S)``; sides that the network cannot halve are padded for it."""
        values = self.target.normalize(images)
        factor = 2 ** (SIZES[self.hparams["size"]] - 1)
        large = padded(values, [side + -side % factor for side in values.shape[2:]])
        out = cropped(self.net(large), images.shape[2:])
        return out if out.dtype == torch.float64 else out.float()

    def mask(self, images: Tensor) -> Tensor:
        """``B`` in (0, 1): how much noise every pixel bears.

        Args:
            images: ``(B, C, *S)``.

        Returns:
            ``(B, 1, *S)``, or ``(B, K, *S)`` with one mask for each class; detached.
        """
        with evaluating(self.net), torch.no_grad():
            return by_window(lambda part: self.raw(part).sigmoid(), images, self.target.window)

    def noised(self, images: Tensor, mask: Tensor, noise: Tensor) -> Tensor:
        """``x + eps (B (max - min) + min)`` in the model's normalized space, as images in natural units.

        Args:
            images: ``(B, C, *S)``.
            mask: ``B``, ``(B, 1, *S)``.
            noise: ``eps``, ``(B, 1, *S)``: shared by the channels.

        Returns:
            ``(B, C, *S)``, not clipped.
        """
        added = noise * (mask * (self.max_scale - self.min_scale) + self.min_scale)
        std = self.target.std
        if std is not None:
            added = added * std.view(1, -1, *(1,) * (images.ndim - 2)).to(images)
        return images + added

    def visible(self, images: Tensor, threshold: float) -> Tensor:
        """Images whose pixels of ``B`` above a threshold are hidden: what the model receives as zero there.

        Args:
            images: ``(B, C, *S)``.
            threshold: ``tau``; 1 hides nothing.

        Returns:
            ``(B, C, *S)``.

        Raises:
            ValueError: If every class has a mask of its own.
        """
        if self.per_class:
            raise ValueError("Every class has a mask of its own; hide pixels by the maps of explain() instead.")
        return torch.where(self.mask(images) <= threshold, images, self.target.input_zero(images))

    @torch.no_grad()
    @override
    def attribute(self, images: Tensor, query: Query) -> Tensor:
        with evaluating(self.net):  # whatever mode a training left it in
            importance = self.raw(images).neg().sigmoid()
        if self.per_class:
            return gather_classes(importance, query.targets)
        return importance.expand(-1, query.shape[1], *images.shape[2:])

    def loss(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """The loss of the model on what the mask leaves; for the paper's objective, plus a penalty on clear pixels."""
        images = batch["image"]
        raw, truth = self.raw(images), self.truth(batch)
        classes = None
        if self.per_class:
            classes = self._drawn_classes(batch, raw.shape[1])
            raw = gather_classes(raw, classes.unsqueeze(1))
        mask = raw.sigmoid()
        if self.objective == "noise":
            inputs = [self.noised(images, mask, self._noise(raw))]
        else:
            baseline = self.target.input_zero(images)
            fractions = [stratified(len(raw), raw.device)] if self.training else VALIDATION_FRACTIONS
            order = -standardize(raw)
            inputs = [blend(images, baseline, top_fraction(order, fraction, SOFTNESS)) for fraction in fractions]
        utility = torch.stack([self.utility(self.target.logits(shown), truth, classes) for shown in inputs]).mean()
        values = {"utility": utility, "mask_mean": mask.mean()}
        if self.objective == "visibility":
            return {"loss": utility, **values}
        return {"loss": utility - self.noise_weight * F.logsigmoid(raw).mean(), **values}

    def truth(self, batch: dict[str, Any]) -> Tensor:
        """What the model should give: classes ``(B, *S)`` of a segmenter, ``(B,)`` of a classifier.

        Where a target's classes do not exclude each other (a sigmoid), also what each of them should be: multi-hot
        ``(B, K, *S)``.

        Raises:
            ValueError: If the data have none and ``reference`` is not the prediction, or several classes for one pixel
                or image of a target whose classes exclude each other.
        """
        segments, several = self.target.dense, self.target.activation == "sigmoid"
        name = "mask" if segments else "label"
        if self.reference == "prediction":
            with torch.no_grad():
                logits = batch["logits"] if "logits" in batch else self.target.logits(batch["image"])
            return logits > 0 if several else class_labels(logits)
        if name not in batch:
            raise ValueError(f"The data have no {name} of one class; use reference=prediction.")
        values = torch.as_tensor(batch[name])
        multi_hot = values.ndim > 1 and values.shape[1] > 1
        if multi_hot and not several:
            raise ValueError(
                f"The data's {name} holds several classes at once, and the target's softmax allows one; use a target "
                "with activation=sigmoid, or reference=prediction."
            )
        return values > 0 if multi_hot else values.long().flatten() if not segments else values.long()[:, 0]

    def utility(self, logits: Tensor, truth: Tensor, classes: Tensor | None) -> Tensor:
        """Compute the loss of the model against the reference, see :func:`reference_loss`; with Dice for visibility.

        Args:
            logits: ``(B, K, *S)``.
            truth: ``(B, *S)``, or multi-hot ``(B, K, *S)``.
            classes: ``(B,)``, the class that is judged, one against the rest; ``None``: all.

        Returns:
            A scalar.
        """
        dice = self.objective == "visibility" and self.target.dense
        background, activation = getattr(self.target, "background", None), self.target.activation
        if activation == "none":
            logits, activation = log_probabilities(logits, "none"), "softmax"
        return reference_loss(logits, truth, activation, classes, dice, background)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Adam with a constant rate, as the paper trains."""
        return torch.optim.Adam(self.net.parameters(), lr=self.hparams["lr"])

    def _noise(self, raw: Tensor) -> Tensor:
        """``eps``; validation draws the same each time, for every image, and not from the generator of the training."""
        if self.training:
            return torch.randn_like(raw)
        noise = torch.randn(raw[:1].shape, generator=torch.Generator().manual_seed(0), dtype=raw.dtype)
        return noise.to(raw.device).expand_as(raw)

    def _drawn_classes(self, batch: dict[str, Any], classes: int) -> Tensor:
        """A class an image: at random, in validation by its id; a segmenter's background only if it is explained."""
        known = [number for number in range(classes) if number != getattr(self.target, "background", None)]
        if self.training:
            picks = torch.randint(len(known), (len(batch["image"]),))
        else:
            picks = torch.tensor([crc32(str(name).encode()) % len(known) for name in batch["id"]])
        return torch.tensor(known)[picks].to(batch["image"].device)


def start_from_segmenter(net: nn.Module, weights: str | Path) -> None:
    """Start a noise network as a segmenter of the same U-Net; its head gives background against all objects.

    Args:
        net: Changed; a :class:`~lightning_xai.networks.mask_net.UNet` of one output.
        weights: Of a U-Net of the same size with one or more outputs.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the weights do not fit.
    """
    if not isinstance(net, UNet) or net.head.out_channels != 1:
        raise ValueError("init_from starts the U-Net with one mask for all classes; leave net and per_class out.")
    first = next(module for module in net.modules() if isinstance(module, nn.Conv2d | nn.Conv3d))
    depth, width, dims = len(net.down), first.out_channels, first.weight.ndim - 2
    outputs = _outputs(Path(weights))
    segmenter, _ = load_model(UNet(first.in_channels, outputs, depth, width, dims), weights)
    state = segmenter.state_dict()
    for name in ("head.weight", "head.bias"):
        values = state[name]
        state[name] = -values if outputs == 1 else values[:1] - values[1:].mean(dim=0, keepdim=True)
    net.load_state_dict(state)


def _outputs(weights: Path) -> int:
    """How many outputs the segmenter of a weights file has."""
    if not weights.is_file():
        raise FileNotFoundError(f"init_from names {weights}, which does not exist; give a segmenter's weights.")
    state, _ = read_state(weights)
    biases = [value for name, value in state.items() if name.endswith("head.bias")]
    if len(biases) != 1:
        raise ValueError(f"{weights} is no U-Net with one head; train one with target=unet_unoise.")
    return len(biases[0])
