"""Amortized PCIM: a network predicts the blending weights in one forward pass."""

import logging
import math
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from typing_extensions import override

from lightning_xai.explainers.pcim import EXPLORATION, PCIM, PRESETS, SOFTNESS
from lightning_xai.explainers.query_policy import QueryPolicy
from lightning_xai.functional.finite import check_weights
from lightning_xai.networks.mask_net import MaskNet, mask_features
from lightning_xai.perturbation.soft_masks import (
    Baseline,
    baselines,
    distinct,
    smooth_noise,
    standardize,
    top_fraction,
    total_variation,
    two_sided,
)
from lightning_xai.structures import Query
from lightning_xai.targets import Target
from lightning_xai.targets.checks import required_size
from lightning_xai.targets.weights import read_pickle

log = logging.getLogger(__name__)

#: Area fractions (and fills) that a training step draws per image; the images pass the mask network once for all.
DRAWS = 2
#: Area fractions that the validation loss averages over.
VALIDATION_FRACTIONS = (0.1, 0.3, 0.6)


class AmortizedPCIM(PCIM):
    """A mask network trained over a data set with PCIM's ``faithful`` objective; goes beyond the paper.

    The network sees the image once; a linear head, one row per class, reads the map of every queried class from the
    same features. Training queries the predicted class, and any class for a fraction of the images. Every map is
    brought to mean 0 and deviation 1: only its order counts, and a network that may scale it escapes the total
    variation and saturates the sigmoid instead of learning an order.

    Args:
        target: The frozen target.
        net: ``(images (B, C, *S), targets (B, T)) -> (B, T, *S)``; default: a
            :class:`~lightning_xai.networks.mask_net.MaskNet` over a small MONAI U-Net.
        refine_steps: PCIM steps per image that start from the prediction.
        classes: Number of classes; default: the target's.
        channels: Image channels; default: the target's.
        dims: 2 or 3 spatial dimensions of the default network.
        lr: AdamW's highest learning rate (cosine schedule).
        weight_decay: AdamW's.
        baseline: See :class:`PCIM`.
        tv: Weight of the total variation in training.
        refine_tv: Weight of the total variation in refining: PCIM's own. With less, what refining gains lives in
            single pixels.
        any_class: Fraction of training queries about a class drawn at random.
        init_from: A checkpoint to start from: what fits is taken over, mixed with fresh weights if it explains
            another target. With another number of classes every new class starts as the mean of the old ones.
        clip_norm: Norm that gradients are clipped to, unless the trainer names another; ``None``: not at all.
        query_policy: See :class:`Explainer`.

    Raises:
        ValueError: If the target does not know its classes or channels.
    """

    def __init__(
        self,
        target: Target,
        net: nn.Module | None = None,
        refine_steps: int = 0,
        classes: int | None = None,
        channels: int | None = None,
        dims: int = 2,
        lr: float = 1e-2,
        weight_decay: float = 1e-4,
        baseline: Baseline = "auto",
        tv: float = 0.3,
        refine_tv: float = PRESETS["faithful"].tv,
        any_class: float = 0.25,
        init_from: str | Path | None = None,
        clip_norm: float | None = None,
        query_policy: QueryPolicy | None = None,
    ) -> None:
        super().__init__(target, "faithful", refine_steps, baseline=baseline, tv=refine_tv, query_policy=query_policy)
        self.save_hyperparameters(plain_values(locals()))
        self.training_tv = tv
        self.classes = classes or required_size(target, "num_classes")
        if net is None:
            net = MaskNet(mask_features(channels or required_size(target, "in_channels"), dims), self.classes)
        self.net = net
        self.any_class = any_class
        self.clip_norm = clip_norm
        if init_from is not None:
            start_from(self, init_from)

    def raw_maps(self, images: Tensor, targets: Tensor) -> Tensor:
        """Predicted weights before the sigmoid, float32 ``(B, T, *S)``, each map of mean 0 and deviation 1."""
        maps: Tensor = self.net(self.target.normalize(images), targets)
        return standardize(maps if maps.dtype == torch.float64 else maps.float())

    @override
    def attribute(self, images: Tensor, query: Query) -> Tensor:
        with torch.no_grad():
            raw = self.raw_maps(images, query.targets)
        alpha = raw.flatten(0, 1).unsqueeze(1)
        if self.steps:
            rows, row_query = self.rows(images, query)
            alpha = self.optimize(alpha, rows, baselines(rows, self.baseline), row_query)
        return alpha.sigmoid().view_as(raw)

    def exploration(self, step: int, images: Tensor) -> Tensor:
        """Shift nothing: refinement goes on from an order that is already good, which a shift would only spoil."""
        return images.new_zeros(())

    def loss(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Two-sided loss at random areas and fills; validation averages over fixed areas and all fills."""
        images = batch["image"]
        query = self.target.query(images, logits=batch.get("logits"))
        if query.regions is None and self.training:
            query = Query(self._mix_classes(query.targets))
        raw = self.raw_maps(images, query.targets)
        rows, row_query = self.rows(images, query)
        alpha = raw.flatten(0, 1).unsqueeze(1)
        fills = baselines(rows, self.baseline)
        draws = self._draws(fills) if self.training else product(distinct(fills), VALIDATION_FRACTIONS)
        shift, losses = EXPLORATION * (1 - self._progress()), []
        for fill, fraction in draws:
            # Validation shifts nothing, and must not draw from the generator that training draws from.
            order = alpha + shift * smooth_noise(len(alpha), alpha.shape[2:], alpha.device) if shift else alpha
            mask = top_fraction(order, fraction, SOFTNESS)
            losses.append(two_sided(self.target, rows, fill, mask, row_query))
        faithful = torch.stack(losses).mean(dim=0)
        smooth = total_variation(alpha.sigmoid())
        return {"loss": (faithful + self.training_tv * smooth).mean(), "faithful": faithful.mean(), "tv": smooth.mean()}

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW with a short warm-up and a cosine schedule over the planned steps, also when a run is prolonged."""
        optimizer = torch.optim.AdamW(
            self.net.parameters(), lr=self.hparams["lr"], weight_decay=self.hparams["weight_decay"]
        )
        steps = self.trainer.estimated_stepping_batches
        if steps == float("inf"):
            return optimizer
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(warm_cosine, steps=int(steps)))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _draws(self, fills: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """A fill and a fraction a row, :data:`DRAWS` times: fills take turns, an image's fractions are far apart."""
        fractions = stratified(len(fills[0]), fills[0].device)
        first = int(torch.randint(len(fills), ()))
        return [(fills[(first + draw) % len(fills)], (fractions + draw / DRAWS) % 1.0) for draw in range(DRAWS)]

    def _progress(self) -> float:
        """How far the training has come, 0 to 1; 1 in validation, so that its losses compare, and outside of one."""
        if not self.training or self._trainer is None:
            return 1.0
        return min(1.0, self.trainer.global_step / self.trainer.estimated_stepping_batches)

    def _mix_classes(self, targets: Tensor) -> Tensor:
        """Replace a fraction of the queries by random classes, so that every row of the head learns."""
        other = torch.randint(self.classes, targets.shape, device=targets.device)
        return torch.where(torch.rand(targets.shape, device=targets.device) < self.any_class, other, targets)


def warm_cosine(step: int, steps: int) -> float:
    """Fraction of the highest learning rate: a linear rise over a tenth of the steps, then half a cosine down to 0."""
    warm = max(1, steps // 10)
    if step < warm:
        return (step + 1) / warm
    return 0.5 + 0.5 * math.cos(math.pi * min(1.0, (step - warm) / max(1, steps - warm)))


def stratified(count: int, device: torch.device) -> Tensor:
    """One random area fraction per row, evenly spread over (0, 1)."""
    return (torch.randperm(count, device=device) + torch.rand(count, device=device)) / count


def plain_values(arguments: dict[str, Any]) -> dict[str, Any]:
    """The constructor arguments that a checkpoint may hold."""
    names = ("refine_steps", "classes", "channels", "dims", "lr", "weight_decay", "tv", "refine_tv", "any_class")
    return {name: arguments[name] for name in names} | {"baseline": plain_baseline(arguments["baseline"])}


def plain_baseline(baseline: Baseline) -> str | list[str]:
    """Names of fills are kept; a tensor or a function must be given again when the checkpoint is loaded."""
    if isinstance(baseline, str):
        return baseline
    return [str(name) for name in baseline] if isinstance(baseline, list | tuple) else "auto"


def start_from(explainer: AmortizedPCIM, checkpoint: str | Path) -> None:
    """Take over the weights of a checkpoint that fit, and say which did not.

    Weights that explain another target are mixed half and half with fresh ones ("shrink and perturb", Ash & Adams
    2020): taken over whole they hold on to the old target's order, and learn the new one later than a fresh network.

    Args:
        explainer: Its ``net`` is changed.
        checkpoint: A Lightning checkpoint of an :class:`AmortizedPCIM`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file holds nothing that fits, weights that are NaN or infinite, or what could run code.
    """
    if not Path(checkpoint).is_file():
        raise FileNotFoundError(
            f"init_from names {checkpoint}, which does not exist; give a checkpoint of an AmortizedPCIM run."
        )
    loaded = read_pickle(Path(checkpoint))
    stored: dict[str, Tensor] = loaded.get("state_dict", {}) if isinstance(loaded, dict) else {}
    own = explainer.state_dict()
    for name in ("net.head.weight", "net.head.bias"):
        if name in stored and len(stored[name]) != len(own[name]):
            log.info(
                "Fine-tuning from %d to %d classes: new classes start as the mean of the old.",
                len(stored[name]),
                len(own[name]),
            )
            stored[name] = stored[name].mean(dim=0, keepdim=True).expand_as(own[name]).clone()
    fitting = {name: value for name, value in stored.items() if name in own and value.shape == own[name].shape}
    if not fitting:
        raise ValueError(
            f"Nothing in {checkpoint} fits this AmortizedPCIM; was it made by another explainer or network?"
        )
    check_weights(fitting, own, str(checkpoint))
    left = sorted(set(own) - set(fitting))
    if left:
        log.warning("Not taken over from %s, starts fresh: %s.", checkpoint, ", ".join(left))
    if loaded.get("target_fingerprint") != explainer.target.fingerprint():
        log.info("%s explains another target: its weights are mixed half and half with fresh ones.", checkpoint)
        fitting = {
            name: torch.lerp(own[name], value, 0.5) if value.is_floating_point() else value
            for name, value in fitting.items()
        }
    explainer.load_state_dict(own | fitting)
