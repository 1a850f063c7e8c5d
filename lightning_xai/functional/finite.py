"""Stop a run whose loss, weights or outputs are NaN or infinite, before a table of NaN looks like a result."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor

from lightning_xai.functional.text import first_few

#: Losses in a row that a GradScaler may skip: a single overflow of float16 is nothing.
TOLERATED = 10
#: Images or weights that are named one by one.
NAMED = 8


class NotFiniteError(ValueError):
    """The error for a loss, a weight or an output that is NaN or infinite."""


class NotFiniteOutputError(NotFiniteError):
    """The error for a target's outputs of whole images that are NaN or infinite.

    Args:
        rows: Which images of the batch.
    """

    def __init__(self, rows: Sequence[int]) -> None:
        self.rows = list(rows)
        super().__init__(
            _bad_outputs(f"images number {first_few([str(row) for row in self.rows], NAMED)} of the batch")
        )


def check_outputs(outputs: Tensor) -> None:
    """Raise an error for a target's outputs ``(B, ...)`` for whole images that are NaN or infinite.

    Raises:
        NotFiniteOutputError: If there are any; its ``rows`` say which.
    """
    bad = ~outputs.detach().flatten(1).isfinite().all(dim=1)
    if bad.any():
        raise NotFiniteOutputError(bad.nonzero().flatten().tolist())


@contextmanager
def naming_images(batch: Mapping[str, Any], module: LightningModule | None = None) -> Iterator[None]:
    """Let a :class:`NotFiniteOutputError` name the images of a batch by their ids, where it has any.

    Args:
        batch: Its ``"id"`` names the images.
        module: While this is fitted, the error also says where, and names the newest checkpoint.

    Raises:
        NotFiniteError: With the ids.
    """
    try:
        yield
    except NotFiniteOutputError as error:
        if "id" not in batch:
            raise
        images = _images([batch["id"][row] for row in error.rows])
        fitted = module is not None and module._trainer is not None and module._trainer.state.fn == "fit"
        if module is None or not fitted:
            raise NotFiniteError(_bad_outputs(images)) from error
        place = f"{images} in epoch {module.current_epoch}, step {module.global_step}"
        raise NotFiniteError(_bad_outputs(place, newest_checkpoint(module))) from error


def check_weights(
    state: Mapping[str, Any], like: Mapping[str, Tensor], where: str, remedy: str = "use other weights"
) -> None:
    """Raise an error for weights that are NaN or infinite.

    Args:
        state: Tensors by name.
        like: The tensors that they replace, whose type they get; what is infinite there too, such as a mask of
            attention, may be.
        where: What holds them.
        remedy: What to do.

    Raises:
        NotFiniteError: If there are any; it names the tensors.
    """
    bad = [name for name, value in state.items() if isinstance(value, Tensor) and _is_bad(value, like.get(name))]
    if bad:
        raise NotFiniteError(f"{where} holds weights that are NaN or infinite, in {first_few(bad, NAMED)}; {remedy}.")


def check_loss(module: LightningModule, loss: Tensor, batch: Mapping[str, Any], stage: str) -> None:
    """Raise an error for a loss that is NaN or infinite.

    Args:
        module: The module whose loss it is.
        loss: A scalar.
        batch: Its ``"id"`` names the images.
        stage: ``"validation"`` or ``"test"``.

    Raises:
        NotFiniteError: It names epoch, step, images, and the newest checkpoint.
    """
    if not loss.detach().isfinite():
        raise NotFiniteError(_bad_loss(module, loss, _place(module, batch), stage))


class LossWatch:
    """Stops a training run whose loss is NaN or infinite; called in every step.

    On a CUDA device the loss of a step is looked at in the next one, when it has arrived by itself: the host does not
    wait. Where a GradScaler skips the steps that overflow float16, up to :data:`TOLERATED` such losses in a row pass.
    """

    def __init__(self) -> None:
        self._bad = 0
        #: Loss, where it was, and the event of its arrival.
        self._pending: tuple[Tensor, str, Any] | None = None

    def __reduce__(self) -> tuple[type["LossWatch"], tuple[()]]:
        """Start anew in a copy of the module: events cannot be copied."""
        return LossWatch, ()

    def __call__(self, module: LightningModule, loss: Tensor, batch: Mapping[str, Any]) -> None:
        """Look at the loss of this step, on a CUDA device at that of the step before.

        Args:
            module: The module that is trained.
            loss: A scalar.
            batch: Its ``"id"`` names the images.

        Raises:
            NotFiniteError: It names epoch, step, images, and the newest checkpoint.
        """
        self._look(module)
        loss, arrived = sent(loss.detach())
        self._pending = loss, _place(module, batch), arrived
        if arrived is None:
            self._look(module)

    def _look(self, module: LightningModule) -> None:
        if self._pending is None:
            return
        (loss, place, arrived), self._pending = self._pending, None
        if arrived is not None:
            arrived.synchronize()
        self._bad = 0 if loss.isfinite() else self._bad + 1
        if self._bad > (TOLERATED if _skips_steps(module) else 0):
            raise NotFiniteError(_bad_loss(module, loss, place, "training"))


def sent(loss: Tensor) -> tuple[Tensor, Any]:
    """Start to copy a loss to the host if it is on a CUDA device; the copy, and the event of its arrival."""
    if loss.device.type != "cuda":
        return loss, None
    arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
    loss = loss.to("cpu", non_blocking=True)
    arrived.record()
    return loss, arrived


def _is_bad(value: Tensor, like: Tensor | None) -> bool:
    if not (value.is_floating_point() or value.is_complex()):
        return False
    value = value.detach() if like is None else value.detach().to(like)
    wrong = ~value.isfinite()
    if like is not None and like.shape == value.shape:
        wrong &= value != like
    return bool(wrong.any())


def _skips_steps(module: LightningModule) -> bool:
    """Whether a GradScaler leaves out the steps whose gradients are not finite."""
    trainer = module._trainer
    return trainer is not None and getattr(trainer.precision_plugin, "scaler", None) is not None


def newest_checkpoint(module: LightningModule) -> str:
    """The end of a sentence that names the newest checkpoint that the trainer of a module wrote; or nothing."""
    callbacks = [] if module._trainer is None else module._trainer.checkpoint_callbacks
    paths = {getattr(callback, name, "") for callback in callbacks for name in ("best_model_path", "last_model_path")}
    newest = max((path for path in paths if path and Path(path).exists()), key=_time, default="")
    return f"; the newest checkpoint is {newest}" if newest else ""


def _time(path: str) -> float:
    return Path(path).stat().st_mtime


def _place(module: LightningModule, batch: Mapping[str, Any]) -> str:
    images = f" ({_images(batch['id'])})" if "id" in batch else ""
    return f"in epoch {module.current_epoch}, step {module.global_step}{images}"


def _bad_loss(module: LightningModule, loss: Tensor, place: str, stage: str) -> str:
    precision = ", train in precision=32-true or bf16-mixed" if _skips_steps(module) else ""
    back = newest_checkpoint(module)
    return (
        f"The {stage} loss is {'NaN' if loss.isnan() else 'infinite'} {place}: lower the learning rate{precision}, or "
        f"look at these images{back}."
    )


def _bad_outputs(images: str, back: str = "") -> str:
    return (
        f"The target's logits are NaN or infinite for {images}: give a target that is finite for its own images "
        f"(check its weights, mean and std, and whether 16 bits are too few){back}."
    )


def _images(ids: Sequence[Any]) -> str:
    return f"image{'s' if len(ids) > 1 else ''} {first_few([str(name) for name in ids], NAMED)}"
