"""Loggers that never stop a run, and a helper that sends pictures to whichever can take them."""

import netrc
import os
import shutil
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import wandb
from lightning.fabric.loggers.logger import _DummyExperiment, rank_zero_experiment
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only, rank_zero_warn

# W&B's own limit on its start should fire before ours: it says why.
MARGIN = 15.0
OFFLINE, WITHOUT = "the run is logged offline", "the run goes on without W&B"
ONLY_THIS = "it is missing there, and logging goes on"


def has_wandb_key() -> bool:
    """Whether this machine is logged in to W&B: an API key in the environment, the session, or the netrc file."""
    if os.environ.get("WANDB_API_KEY") or wandb.setup().settings.api_key:
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).netloc
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _guarded(name: str) -> Callable[..., None]:
    """A method of Lightning's W&B logger that cannot raise and cannot take longer than the log limit."""
    method = getattr(WandbLogger, name)

    @rank_zero_only
    @wraps(method)
    def call(self: "ResilientWandbLogger", *args: Any, **kwargs: Any) -> None:
        # The start has its own, longer limit, so it must come first.
        if not isinstance(self.experiment, _DummyExperiment):
            self._attempt("logging", self.log_timeout, lambda: method(self, *args, **kwargs))

    return call


class ResilientWandbLogger(WandbLogger):
    """Weights & Biases, offline when there is no key, and without the power to stop or stall a run.

    Every call runs in a thread with a time limit. A call that fails is skipped, one that exceeds its limit turns W&B
    off for the rest of the run, unless it sends a table or a file; a start that fails is tried again offline. Each of
    these warns once.

    Args:
        save_dir: The run folder; W&B writes into its ``wandb`` folder.
        project: W&B project.
        name: Display name of the run.
        init_timeout: Seconds that the start may take.
        log_timeout: Seconds that a single call may take.
        finish_timeout: Seconds that the last upload may take.
        **kwargs: Passed to :func:`wandb.init` (``entity``, ``group``, ``tags``, ``mode``, ...).
    """

    def __init__(
        self,
        save_dir: str | Path,
        project: str = "lightning_xai",
        name: str | None = None,
        init_timeout: float = 60.0,
        log_timeout: float = 20.0,
        finish_timeout: float = 120.0,
        **kwargs: Any,
    ) -> None:
        os.makedirs(save_dir, exist_ok=True)
        mode = kwargs.pop("mode", None) or os.environ.get("WANDB_MODE")
        if mode is None and not has_wandb_key():
            rank_zero_info("W&B: no API key found (WANDB_API_KEY or `wandb login`), so this run is logged offline.")
            mode = "offline"
        settings = wandb.Settings(silent=True, init_timeout=init_timeout, finish_timeout=finish_timeout)
        super().__init__(name=name, save_dir=save_dir, project=project, mode=mode, settings=settings, **kwargs)
        # Lightning passes it always, and W&B complains about it always.
        self._wandb_init.pop("anonymous", None)
        self.init_timeout, self.log_timeout, self.finish_timeout = init_timeout, log_timeout, finish_timeout
        self._warned: set[str] = set()

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The W&B run, or a stand-in that ignores every call when W&B does not work."""
        if self._experiment is None:
            online = self._wandb_init["mode"] != "offline"
            self._attempt("the start", self.init_timeout + MARGIN, self._start, OFFLINE if online else WITHOUT)
            # Still unset only after a quick failure; a start that hangs has turned W&B off.
            if self._experiment is None and online:
                self._wandb_init["mode"] = "offline"
                self._attempt("the offline start", self.init_timeout + MARGIN, self._start)
            if self._experiment is None:
                self._turn_off()
        return self._experiment

    log_hyperparams = _guarded("log_hyperparams")
    log_metrics = _guarded("log_metrics")
    log_image = _guarded("log_image")

    @rank_zero_only
    def log_table(
        self,
        key: str,
        columns: list[str] | None = None,
        data: list[list[Any]] | None = None,
        dataframe: Any = None,
        step: int | None = None,
    ) -> None:
        """Log a table; one that takes too long is given up, and turns nothing off. See Lightning's."""

        def send() -> None:
            table: Any = wandb.Table(columns=columns, data=data, dataframe=dataframe)  # type: ignore[arg-type]
            # Not through self.log_metrics, whose time limit turns W&B off.
            WandbLogger.log_metrics(self, {key: table}, step)

        self._attempt_extra(f"the table {key}", send)

    @rank_zero_only
    def save_file(self, path: Path) -> None:
        """Keep a copy of a file among the files of the W&B run, from where it is uploaded, offline later on.

        Args:
            path: The file; it may be moved or changed afterwards.
        """

        def send() -> None:
            folder = Path(self.experiment.dir)
            shutil.copyfile(path, folder / path.name)
            self.experiment.save(str(folder / path.name), base_path=str(folder), policy="now", glob=False)

        self._attempt_extra(f"the file {path.name}", send)

    @rank_zero_only
    def finish(self) -> None:
        """End the run, waiting for its upload within the limit, and print the sync command if it is offline."""
        run = self._experiment
        if run is None or isinstance(run, _DummyExperiment):
            return
        self._attempt("finishing", self.finish_timeout + MARGIN, lambda: _finish(run))
        if run.offline:
            print(f"This run's W&B files are offline; upload them with: wandb sync {run.settings.sync_dir}")
        self._turn_off()

    def _start(self) -> None:
        _ = super().experiment

    def _attempt_extra(self, what: str, call: Callable[[], Any]) -> None:
        """Run a call that the run can do without; it turns W&B off neither by failing nor by taking too long."""
        if not isinstance(self.experiment, _DummyExperiment):
            self._attempt(what, self.log_timeout, call, ONLY_THIS, turn_off=False)

    def _turn_off(self) -> None:
        self._experiment = _DummyExperiment()  # type: ignore[assignment]

    def _attempt(
        self, what: str, limit: float, call: Callable[[], Any], otherwise: str = WITHOUT, turn_off: bool = True
    ) -> None:
        """Run a call for at most ``limit`` seconds; say once what went wrong, and what happens otherwise."""
        failure: list[BaseException] = []

        def work() -> None:
            try:
                call()
            except BaseException as error:  # W&B raises many types, some of them not an Exception
                failure.append(error)

        thread = Thread(target=work, daemon=True)
        thread.start()
        thread.join(limit)
        if thread.is_alive():
            failure.append(TimeoutError(f"no answer within {limit:g} s"))
            if turn_off:
                self._turn_off()
        if failure and what not in self._warned:
            self._warned.add(what)
            reason = str(failure[0]).partition("\n")[0]
            rank_zero_warn(f"W&B: {what} failed ({type(failure[0]).__name__}: {reason}); {otherwise}.")


def _finish(run: Any) -> None:
    run.finish()
    # Without this the files may be incomplete for a moment more; a later run starts W&B's service again.
    wandb.teardown()
