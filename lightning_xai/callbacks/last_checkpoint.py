"""The checkpoint from which a run that was killed anywhere goes on as if nothing had been."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping
from typing_extensions import override

from lightning_xai.functional.interruption import interruption
from lightning_xai.functional.random_state import of_all_ranks, random_state, set_random_state

#: Where the random state of all ranks stands in a checkpoint.
KEY = "random_states"
LOADERS = "combined_loader"  # where Lightning keeps that of the training data, in the state of its loop


class LastCheckpoint(Checkpoint):
    """Keeps ``last.ckpt``: after every epoch, every so many steps, and when SIGTERM or SIGUSR1 ask the run to end.

    With the place in the training data, which Lightning keeps of a loader that knows it, and the random state of all
    ranks, which this adds to every checkpoint, the resumed run ends like an uninterrupted one. A run that was asked to
    end does so with status 143 or 138, after the step that it is in.

    Args:
        dirpath: Folder.
        save_every: Optimizer steps between checkpoints within an epoch; ``None``: none.
    """

    def __init__(self, dirpath: str | Path, save_every: int | None = 500) -> None:
        if save_every is not None and save_every < 1:
            raise ValueError(f"save_every is {save_every}; give a number of steps, or null.")
        self.path = Path(dirpath) / "last.ckpt"
        self.save_every = save_every
        #: Under the name that Lightning's own callback has.
        self.last_model_path = ""
        self._loaded: dict[str, Any] = {}
        self._ends = False
        #: The random state after a step, or before a validation, that is to be saved.
        self._after_step: dict[str, Any] | None = None
        self._before_validation: dict[str, Any] | None = None
        #: While this callback saves: the random state, and what makes of the state of the loop that of another moment.
        self._moment: tuple[dict[str, Any], Callable[[dict[str, Any]], None]] | None = None

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over the signals from Lightning, and go back to random state and place in the data of the checkpoint."""
        interruption.deferred = True
        interruption.listen()
        self._ends, self._after_step, self._before_validation = False, None, None
        states = self._loaded.get(KEY, [])
        if len(states) == trainer.world_size:
            set_random_state(states[trainer.global_rank])
        # Lightning leaves this out where the loader was made before, as for the length of a schedule.
        for state in self._loaded.get("loops", {}).get("fit_loop", {}).get("state_dict", {}).get(LOADERS, []):
            loader: Any = trainer.train_dataloader
            loader.load_state_dict(state)
        # Lightning keeps that a training was stopped early, and would do one more epoch before it stops it again.
        if self._loaded and any(isinstance(each, EarlyStopping) and each.stopped_epoch for each in trainer.callbacks):  # type: ignore[attr-defined]
            trainer.should_stop = True
        self._loaded = {}

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Decide whether to save after this step; not after the last of an epoch, which ends with its validation."""
        last = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        if last or (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        self._ends = asked_to_end(trainer)
        if self._ends or (self.save_every is not None and trainer.global_step % self.save_every == 0):
            self._after_step = random_state()

    @override
    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        """Save only now, when the loggers have what was logged in the step before."""
        if self._after_step is not None:
            self._save(trainer, (self._after_step, without_started_batch))
            self._after_step = None
        if self._ends:
            interruption.leave()

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember the random state from which an interrupted validation is done again."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._before_validation = random_state()
            self._end_validation(trainer)

    @override
    def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Save in the middle of a validation only to end."""
        if self._before_validation is not None:
            self._end_validation(trainer)

    @override
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on, the validation is not done again."""
        self._before_validation = None
        if self._after_step is not None:
            self._after_step = random_state()

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save."""
        self._save(trainer)
        if asked_to_end(trainer):
            interruption.leave()

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing is left to save."""
        interruption.deferred = False

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Nothing can be saved any more."""
        interruption.deferred = False

    @override
    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over the signals from Lightning."""
        interruption.listen()

    @override
    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over the signals from Lightning."""
        interruption.listen()

    @override
    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the random state of all ranks."""
        state, amend = self._moment or (random_state(), lambda _: None)
        checkpoint[KEY] = of_all_ranks(state, trainer.world_size)
        amend(checkpoint["loops"]["fit_loop"])

    @override
    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep what only the start of the training can take."""
        if trainer.state.fn == "fit":
            self._loaded = checkpoint

    def _end_validation(self, trainer: Trainer) -> None:
        if asked_to_end(trainer):
            assert self._before_validation is not None
            self._save(trainer, (self._before_validation, with_failed_validation))
            interruption.leave()

    def _save(
        self, trainer: Trainer, moment: tuple[dict[str, Any], Callable[[dict[str, Any]], None]] | None = None
    ) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        self._moment = moment
        trainer.save_checkpoint(self.path, weights_only=False)
        self._moment = None
        self.last_model_path = str(self.path)


def asked_to_end(trainer: Trainer) -> bool:
    """Whether any rank was asked to end: all of them must leave at one point."""
    asked = interruption.received is not None
    return trainer.strategy.reduce_boolean_decision(asked, all=False) if trainer.world_size > 1 else asked


def without_started_batch(loop: dict[str, Any]) -> None:
    """Make of the state of Lightning's loop at the start of a batch that at the end of the one before."""
    progress = loop["epoch_loop.batch_progress"]
    for counted in (progress["total"], progress["current"]):
        counted["ready"] -= 1
    progress["is_last_batch"] = False
    for state in loop["state_dict"].get(LOADERS, []):
        if "batches" in state:
            state["batches"] -= 1


def with_failed_validation(loop: dict[str, Any]) -> None:
    """Let Lightning find that the first batch of a validation failed: then it does all of it once more."""
    none = {"ready": 0, "started": 0, "processed": 0, "completed": 0}
    loop["epoch_loop.val_loop.batch_progress"] |= {"current": none, "total": none | {"ready": 1, "started": 1}}
