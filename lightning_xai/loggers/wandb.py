"""A Weights & Biases logger that never stops a run, whatever becomes of the network, the server or the disk."""

import netrc
import os
import secrets
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from pathlib import Path
from threading import Thread
from typing import Any
from unittest.mock import patch
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

from lightning.fabric.loggers.logger import _DummyExperiment, rank_zero_experiment
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only, rank_zero_warn

from lightning_xai.functional.files import atomic_write
from lightning_xai.functional.secrets import masked_words

# W&B's own limit on its start should fire before ours, because its error names the reason.
MARGIN = 3.0
#: Seconds in which a server replies at all, or cannot be reached: the run is then logged offline.
REPLIES = 4.0
#: Where the run folder keeps the id of its W&B run, so that a resumed run goes on in it.
ID_FILE = "wandb_id.txt"
WITHOUT = "the run goes on without W&B"


def has_wandb_key() -> bool:
    """Whether this machine is logged in to W&B: an API key in the environment, the session, or the netrc file."""
    import wandb

    if os.environ.get("WANDB_API_KEY") or wandb.setup().settings.api_key:
        return True
    host = urlsplit(server()).netloc
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def server() -> str:
    """The address of W&B's server."""
    return os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")


def is_reachable(url: str) -> bool:
    """Whether a server replies, whatever it says."""

    def ask() -> None:
        with suppress(HTTPError), urlopen(url, timeout=REPLIES):  # through a proxy, where one is set
            pass

    return _within(REPLIES, ask) is None


def run_id(folder: Path) -> str:
    """The id of the W&B run of a run folder: a new one for a new run, else that of the run that goes on."""
    path = folder / ID_FILE
    if not path.is_file() or not path.read_text().isalnum():
        with atomic_write(path) as file:
            file.write(secrets.token_hex(4))
    return path.read_text()


def _guarded(method: Callable[..., Any]) -> Callable[..., None]:
    """A logging method of which W&B's errors become warnings, one for each method."""

    @rank_zero_only
    @wraps(method)
    def call(self: "ResilientWandbLogger", *args: Any, **kwargs: Any) -> None:
        if not isinstance(self.experiment, _DummyExperiment):
            try:
                method(self, *args, **kwargs)
            except Exception as error:
                self._warn(method.__name__, error, "what it was to log is missing there, and the run goes on")

    return call


class ResilientWandbLogger(WandbLogger):
    """Logs to Weights & Biases, offline when there is no key, and never stops a run.

    A start that fails is tried again offline. A start or an end that takes too long, or fails there too, leaves the run
    without W&B; a call in between that fails is skipped. Each of these warns once.

    Args:
        save_dir: The run folder; W&B writes into its ``wandb`` folder.
        project: W&B project.
        name: Display name of the run.
        init_timeout: Seconds that the start may take.
        finish_timeout: Seconds that the last upload may take.
        **kwargs: Passed to :func:`wandb.init` (``entity``, ``group``, ``tags``, ``mode``, ...).
    """

    def __init__(
        self,
        save_dir: str | Path,
        project: str = "lightning_xai",
        name: str | None = None,
        init_timeout: float = 8.0,
        finish_timeout: float = 120.0,
        **kwargs: Any,
    ) -> None:
        import wandb  # takes a second, which runs without it save

        os.makedirs(save_dir, exist_ok=True)
        mode = kwargs.pop("mode", None) or os.environ.get("WANDB_MODE")
        if mode is None and not has_wandb_key():
            rank_zero_info("W&B: no API key found (WANDB_API_KEY or `wandb login`), so this run is logged offline.")
            mode = "offline"
        if rank_zero_only.rank == 0 and mode in (None, "online") and not is_reachable(server()):  # type: ignore[attr-defined]
            rank_zero_warn(f"W&B: {server()} cannot be reached, so this run is logged offline.")
            mode = "offline"
        settings = wandb.Settings(silent=True, init_timeout=init_timeout, finish_timeout=finish_timeout)
        super().__init__(name=name, save_dir=save_dir, project=project, mode=mode, settings=settings, **kwargs)
        # Lightning passes it always, and W&B complains about it always.
        self._wandb_init.pop("anonymous", None)
        self.init_timeout, self.finish_timeout = init_timeout, finish_timeout
        self._warned: set[str] = set()

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The W&B run, or a stand-in that ignores every call when W&B does not work."""
        if self._experiment is None:
            self._wandb_init["id"] = self._wandb_init["id"] or run_id(Path(self._wandb_init["dir"]))
            error = _within(self.init_timeout + MARGIN, self._start)
            if error is not None and self._wandb_init["mode"] != "offline" and not isinstance(error, TimeoutError):
                self._warn("the start", error, "the run is logged offline")
                self._wandb_init["mode"] = "offline"
                error = _within(self.init_timeout + MARGIN, self._start)
            if error is not None:
                self._warn(f"the {self._wandb_init['mode'] or 'online'} start", error, WITHOUT)
                self._experiment = _DummyExperiment()  # type: ignore[assignment]
        return self._experiment

    log_hyperparams = _guarded(WandbLogger.log_hyperparams)
    log_metrics = _guarded(WandbLogger.log_metrics)
    log_image = _guarded(WandbLogger.log_image)
    log_table = _guarded(WandbLogger.log_table)

    @_guarded
    def save_file(self, path: Path) -> None:
        """Keep a copy of a file among the files of the W&B run, from where it is uploaded, offline later on.

        Args:
            path: The file; it may be moved or changed afterwards.
        """
        folder = Path(self.experiment.dir)
        shutil.copyfile(path, folder / path.name)
        self.experiment.save(str(folder / path.name), base_path=str(folder), policy="now", glob=False)

    @rank_zero_only
    def finish(self) -> None:
        """End the run, waiting for its upload within the limit, and print the sync command if it is offline."""
        run = self._experiment
        if run is None or isinstance(run, _DummyExperiment):
            return
        limit = self.finish_timeout if run.offline or is_reachable(server()) else 0.0
        if (error := _within(limit + MARGIN, lambda: _finish(run))) is not None:
            self._warn("finishing", error, WITHOUT)
        if run.offline:
            print(f"This run's W&B files are offline; upload them with: wandb sync {run.settings.sync_dir}")
        self._experiment = _DummyExperiment()  # type: ignore[assignment]

    def _start(self) -> None:
        with patch.object(sys, "argv", [*sys.argv[:1], *masked_words(sys.argv[1:])]):  # W&B keeps the command line
            _ = super().experiment

    def _warn(self, what: str, error: BaseException, otherwise: str) -> None:
        """Warn once of what failed, and of what happens instead."""
        if what not in self._warned:
            self._warned.add(what)
            reason = str(error).partition("\n")[0]
            rank_zero_warn(f"W&B: {what} failed ({type(error).__name__}: {reason}); {otherwise}.")


def _within(limit: float, call: Callable[[], Any]) -> BaseException | None:
    """Run a call for at most ``limit`` seconds; the error that it ended with, if any, or a ``TimeoutError``."""
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
        return TimeoutError(f"no end within {limit:g} s")
    return failure[0] if failure else None


def _finish(run: Any) -> None:
    import wandb

    run.finish()
    # Without this the files may be incomplete for a moment more; a later run starts W&B's service again.
    wandb.teardown()
