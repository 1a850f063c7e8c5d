"""CAPE: class activation maps as contributions that add up to the class probability."""

import copy
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from lightning import LightningDataModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from typing_extensions import override

from lightning_xai.explainers.base import Complete, Explainer, finished, with_outputs
from lightning_xai.explainers.cape.contributions import (
    compared,
    difference,
    distillation,
    log_contributions,
    mu_cape,
)
from lightning_xai.explainers.cape.features import CachedFeatures
from lightning_xai.explainers.query_policy import QueryPolicy
from lightning_xai.functional.finite import check_outputs
from lightning_xai.functional.resize import resize, spread
from lightning_xai.functional.segmentation import gather_classes
from lightning_xai.functional.tensors import as_plain_tensor
from lightning_xai.structures import Explanation, Query
from lightning_xai.targets import Target
from lightning_xai.targets.pooled_head import PooledHead, linear_maps

MODES = ("pf", "ts")
MAPS = ("cape", "mu", "cam")
MOMENTUM = 0.9


class CAPE(Explainer):
    """Computes how much each region of an image contributes to the probability of a class.

    A copy of the classifier's linear head, with three temperatures, is fitted so that its probabilities, which are
    sums of the contributions of all regions, follow the classifier's. Contributions are absolute: they sum to 1 over
    classes and regions, and compare across classes and images. Chowdhury et al., CVPR 2024, arXiv 2404.02388.

    Args:
        target: A classifier with average pooling over regions and one linear layer; classes exclude each other.
        mode: ``"pf"``: the head is fitted after the classifier, which stays frozen. ``"ts"``: the classifier is
            trained along with it, by cross-entropy alone; its weights are then part of the checkpoint.
        map: What ``explain`` gives: ``"cape"`` (sums to the probability), ``"mu"`` (mu-CAPE: keeps evidence that
            classes share, not a probability) or ``"cam"`` (the classifier's own class activation map).
        head: Name of the linear layer that gives the logits; default: the model's last one.
        lr: Learning rate of SGD (momentum .9).
        weight_decay: SGD's.
        step_epochs: Epochs after which the learning rate falls to a tenth.
        temperature: ``T`` of the distillation.
        anchor: Weight of the squared distance to the classifier's own head, which ``pf`` starts from; beyond the paper.
            More of it agrees more often with the classifier, and is less confident.
        cache: Where ``pf`` keeps the features of the training images, computed once and without augmentation:
            ``"memory"``, ``"file"``, or ``"auto"`` by size; ``None``: computed in every step, from augmented images.
        cache_dir: Folder of the feature files.
        query_policy: See :class:`Explainer`.

    Raises:
        ValueError: If the target is none that CAPE can explain, or an option is unknown.

    Example:
        >>> from lightning_xai import ClassifierTarget
        >>> from lightning_xai.networks.mask_net import SmallCNN
        >>> cape = CAPE(ClassifierTarget(SmallCNN(1, 3)))
        >>> images = torch.rand(2, 1, 28, 28)
        >>> cape.contributions(images).shape
        torch.Size([2, 3, 7, 7])
        >>> torch.allclose(cape.explain(images, torch.tensor([0, 2])).sum((2, 3))[0], cape.probabilities(images)[0, :1])
        True
    """

    explains = "classification"

    def __init__(
        self,
        target: Target,
        mode: str = "pf",
        map: str = "cape",
        head: str | None = None,
        lr: float = 1e-3,
        weight_decay: float = 1e-4,
        step_epochs: int = 30,
        temperature: float = 2.0,
        anchor: float = 0.0,
        cache: str | None = "auto",
        cache_dir: str | Path = "runs/features",
        query_policy: QueryPolicy | None = None,
    ) -> None:
        super().__init__(target, query_policy)
        if mode not in MODES or map not in MAPS:
            raise ValueError(f"mode is {mode!r}, map {map!r}; use mode={' | '.join(MODES)} and map={' | '.join(MAPS)}.")
        self.save_hyperparameters(ignore=["target", "cache_dir", "query_policy"])
        self.cache_dir = cache_dir
        self.mode, self.map = mode, map
        self.pooled = PooledHead(target, head)
        classes, width = self.pooled.weight.shape
        self.single = len(self.pooled.linear.weight) == 1
        if target.activation == "sigmoid" and not self.single:
            raise ValueError(
                "The target's classes do not exclude each other (activation='sigmoid'), but CAPE's contributions sum "
                "to 1 over all classes; use a CAM or PCIM for a multi-label model."
            )
        self.head = nn.Linear(width, classes)
        #: Logarithms of T1 (classes), T2 (regions) and T3 (training only).
        self.log_temperatures = nn.Parameter(torch.zeros(3))
        with torch.no_grad():
            if mode == "pf":
                self.head.weight.copy_(self.scaled(self.pooled.weight))
                self.head.bias.copy_(self.scaled(self.pooled.bias))
            else:
                nn.init.kaiming_normal_(self.head.weight)
                self.head.bias.zero_()
        if mode == "ts":
            self.backbone = target.model

    @property
    def temperatures(self) -> Tensor:
        """``(T1, T2, T3)``."""
        return self.log_temperatures.exp()

    def scaled(self, logits: Tensor) -> Tensor:
        """Logits whose softmax gives the target's probabilities: half of the pair that a single logit became."""
        return logits / 2 if self.single else logits

    def class_maps(self, features: Tensor) -> Tensor:
        """``M_c(i) = W_c F(i) + b_c`` of the CAPE head.

        Args:
            features: ``(B, D, *N)``.

        Returns:
            ``(B, K, *N)``, at least float32, also under autocast.
        """
        with torch.autocast(features.device.type, enabled=False):
            return linear_maps(features, self.head.weight, self.head.bias)

    def contributions(self, images: Tensor) -> Tensor:
        """``P_c(i)``: what each region contributes to each class's probability.

        Args:
            images: ``(B, C, *S)``.

        Returns:
            ``(B, K, *regions)``, non-negative; sums to 1 over classes and regions.
        """
        return self._contributions(self.class_maps(self.features(images)[0]).detach())

    def probabilities(self, images: Tensor) -> Tensor:
        """Class probabilities ``(B, K)`` of the CAPE head: the sums of the contributions."""
        return self.contributions(images).flatten(2).sum(dim=2)

    def versus(self, images: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """Contribution to one class minus the contribution to another.

        Args:
            images: ``(B, C, *S)``.
            first: ``(B,)`` classes.
            second: ``(B,)`` classes that they are compared with.

        Returns:
            ``(B, *S)``, signed; sums to the difference of the two probabilities.
        """
        return difference(self.contributions(images), torch.as_tensor(first), torch.as_tensor(second), images.shape[2:])

    def view(self, map: str) -> Self:
        """The same explainer, sharing its weights, that gives another map."""
        other = copy.copy(self)
        other.map = map
        return other

    def alternatives(self) -> dict[str, Explainer]:
        """The other two maps of the same forward pass, to be judged with this one."""
        return {f"CAPE {name}": self.view(name) for name in MAPS if name != self.map}

    @torch.no_grad()
    def features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features ``(B, D, *N)`` before the pooling, and the target's logits ``(B, K)``, without gradients."""
        with torch.inference_mode(False):
            return self.pooled(as_plain_tensor(images))

    @override
    def attribute(self, images: Tensor, query: Query) -> Explanation:
        return self.explain_with(images, lambda logits: query)

    @override
    def explain_with(self, images: Tensor, complete: Complete, logits_wanted: bool = True) -> Explanation:
        """Maps, alternatives, contributions and logits come from one pass."""
        features, logits = self.features(images)
        check_outputs(logits)
        query, size = complete(logits), images.shape[2:]
        with torch.no_grad():
            class_maps, (t1, t2, _) = self.class_maps(features), self.temperatures
            contributions = self._contributions(class_maps)
            maps = {
                "cape": spread(gather_classes(contributions, query.targets), size),
                "mu": resize(gather_classes(mu_cape(class_maps, t1, t2), query.targets), size),
                "cam": resize(gather_classes(self.pooled.cams(features), query.targets), size),
            }
        p_cape = contributions.flatten(2).sum(dim=2).gather(1, query.targets)
        extras = {"p_cape": p_cape, "contributions": contributions, "features": features}
        others = {f"CAPE {name}": maps[name] for name in MAPS if name != self.map}
        return finished(Explanation(maps[self.map], query, logits, extras, others), query, logits)

    def _contributions(self, class_maps: Tensor) -> Tensor:
        """``P_c(i)`` of class maps ``M_c(i)``, both ``(B, K, *regions)``."""
        t1, t2, _ = self.temperatures.detach()
        return log_contributions(class_maps, t1, t2).exp()

    def loss(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Distillation (``ts``: and the classifier's cross-entropy), and how well both heads do and agree."""
        if "features" in batch:
            features, logits = batch["features"], batch["logits"]
        elif self.mode == "ts":
            features, logits = self.pooled(batch["image"], live=True)
        else:
            features, logits = self.features(batch["image"])
        # No gradient of CAPE reaches the classifier, in either mode.
        maps, teacher = self.class_maps(features.detach()), self.scaled(logits.detach())
        t1, t2, t3 = self.temperatures
        kd = distillation(teacher, maps, t1 * t3, t2 * t3, self.hparams["temperature"])
        values = {"loss": kd, "kd": kd}
        if self.mode == "ts":
            values["ce"] = F.cross_entropy(self.scaled(logits), batch["label"])
            values["loss"] = kd + values["ce"]
        elif self.hparams["anchor"]:
            away = self.head.weight - self.scaled(self.pooled.weight)
            values["loss"] = kd + self.hparams["anchor"] * away.square().sum()
        own = self._contributions(maps.detach()).flatten(2).sum(dim=2)
        return values | compared(own, teacher.softmax(dim=1), batch.get("label")) | {"t1": t1, "t2": t2, "t3": t3}

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> Explanation:  # type: ignore[override]
        """Log how well CAPE's head follows the classifier, and hand the maps to the callbacks."""
        found = super().test_step(batch, batch_idx)
        with torch.inference_mode(False), torch.no_grad():
            self.log_losses("test", with_outputs(batch, found), batch_idx)
        return found

    def fit_data(self, data: LightningDataModule) -> LightningDataModule:
        """Features instead of images where the classifier is frozen and a cache is wanted."""
        if self.mode == "ts" or self.hparams["cache"] is None:
            return data
        return CachedFeatures(data, self, self.hparams["cache"], self.cache_dir)

    def setup(self, stage: str) -> None:
        """Let ``ts`` train the classifier."""
        if self.mode == "ts" and stage == "fit":
            self.target.release()
            self.backbone.requires_grad_(True).train()

    def teardown(self, stage: str) -> None:
        """Freeze the classifier again."""
        if self.mode == "ts" and stage == "fit":
            self.target.freeze()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """SGD whose rate falls in steps."""
        options = {"lr": self.hparams["lr"], "weight_decay": self.hparams["weight_decay"]}
        optimizer = torch.optim.SGD(self.parameters(), momentum=MOMENTUM, **options)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, self.hparams["step_epochs"], 0.1)]

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """A checkpoint of ``ts`` brings its classifier along."""
        super().on_load_checkpoint(checkpoint if self.mode == "pf" else {**checkpoint, "target_fingerprint": None})
