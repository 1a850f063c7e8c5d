"""How an explainer is fitted: its loss in every step, what is logged of it, and its checkpoints."""

from collections.abc import Mapping
from typing import Any

import lightning
import torch
from torch import Tensor

from lightning_xai.functional.finite import LossWatch, check_loss, check_weights, naming_images, newest_checkpoint
from lightning_xai.functional.repeats import ImageMeans, Repeats
from lightning_xai.functional.sharding import shard
from lightning_xai.functional.tensors import as_plain_tensor
from lightning_xai.targets import Target


class Fitting(lightning.LightningModule):
    """The part of an explainer that fits it to a frozen target.

    Args:
        target: The frozen model that is explained.
    """

    #: Norm that gradients are clipped to where the trainer does not say (``gradient_clip_val``); ``None``: not at all.
    clip_norm: float | None = None

    def __init__(self, target: Target) -> None:
        super().__init__()
        self.target = target
        self.loss_watch = LossWatch()
        self.repeats, self.means = Repeats(), ImageMeans()

    def configure_model(self) -> None:
        """Shard the network over the ranks where the strategy asks for it."""
        mesh = self._device_mesh
        if mesh is not None:
            shard(self, mesh["data_parallel"])

    def loss(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Training loss of a batch: a dict with ``"loss"`` and anything else worth logging."""
        raise NotImplementedError(f"{type(self).__name__} learns nothing, so it cannot be fitted; test it instead.")

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Return the loss, and log its mean over the ranks.

        Raises:
            NotFiniteError: If it is NaN or infinite; see :class:`~lightning_xai.functional.finite.LossWatch`.
        """
        if "image" in batch:
            batch = {**batch, "image": as_plain_tensor(batch["image"])}
        with naming_images(batch, self):
            losses = self.loss(batch)
        self.loss_watch(self, losses["loss"], batch)
        values = self.mean_over_ranks({f"train/{name}": value.detach() for name, value in losses.items()})
        self.log_dict(values, batch_size=len(batch["id"]))
        return losses["loss"]

    def mean_over_ranks(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Average scalars over the ranks, all in one exchange."""
        if self.trainer.world_size == 1:
            return values
        stacked = torch.stack([value.float() for value in values.values()])
        means = self.trainer.strategy.reduce(stacked, reduce_op="mean")
        return dict(zip(values, torch.as_tensor(means).unbind(), strict=True))

    def log_losses(self, stage: str, batch: dict[str, Any], batch_idx: int) -> None:
        """Log the losses of a batch of an evaluation, whose mean counts each image once, on however many ranks.

        Args:
            stage: ``"val"`` or ``"test"``.
            batch: See :meth:`loss`.
            batch_idx: Its number; the first starts the evaluation.

        Raises:
            NotFiniteError: If the loss is NaN or infinite.
        """
        if batch_idx == 0:
            self.repeats.start(self, stage)
        batch, count = self.repeats.counted(batch)
        with naming_images(batch, self):
            losses = self.loss(batch)
        check_loss(self, losses["loss"], batch, {"val": "validation"}.get(stage, stage))
        self.means.log(self, {f"{stage}/{name}": value for name, value in losses.items()}, count)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip as the trainer says, else as the method was tuned."""
        value = self.clip_norm if gradient_clip_val is None else gradient_clip_val
        self.clip_gradients(optimizer, value, gradient_clip_algorithm)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store which target these weights explain.

        Raises:
            NotFiniteError: If weights have become NaN or infinite: no such checkpoint is written.
        """
        where = f"{type(self).__name__} in epoch {self.current_epoch}, step {self.global_step}"
        remedy = f"lower the learning rate{newest_checkpoint(self)}"
        check_weights(checkpoint.get("state_dict", {}), dict(self.named_buffers()), where, remedy)
        checkpoint["target_fingerprint"] = self.target.fingerprint()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another explainer or target, or whose weights are NaN or infinite.

        Raises:
            ValueError: If weights are missing, unknown or of another shape, the fingerprints differ, or a weight is not
                finite.
        """
        if "state_dict" in checkpoint:  # a strategy that shards the weights has loaded them itself
            check_names(checkpoint["state_dict"], self.state_dict(), type(self).__name__)
        check_weights(checkpoint.get("state_dict", {}), dict(self.named_buffers()), "The checkpoint")
        stored, own = checkpoint.get("target_fingerprint"), self.target.fingerprint()
        if stored is not None and stored != own:
            raise ValueError(
                f"The checkpoint explains target {stored}, but this target is {own}: load the weights it was trained "
                "with, or start a fine-tuning from it with explainer.init_from=<checkpoint>."
            )


def check_names(stored: Mapping[str, Any], own: Mapping[str, Any], name: str) -> None:
    """Refuse weights that are not those of an explainer, before torch lists all of them.

    Args:
        stored: Tensors by name, of a checkpoint.
        own: Those of the explainer.
        name: Of the explainer.

    Raises:
        ValueError: If a name or a shape differs.
    """
    shapes = {key: getattr(value, "shape", None) for key, value in stored.items()}
    wrong = [key for key in {**own, **stored} if key not in own or shapes.get(key) != own[key].shape]
    if wrong:
        raise ValueError(
            f"The checkpoint is not one of this {name}: {len(wrong)} weights such as {wrong[0]} differ in name or "
            "shape; give the explainer and the options that it was trained with, or another checkpoint."
        )
