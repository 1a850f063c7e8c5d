"""SIGTERM and SIGUSR1, with which schedulers announce that a job ends: it leaves, and says so in its exit status."""

import logging
import os
import signal
import subprocess
import threading
from typing import Any, NoReturn

from lightning.fabric.plugins.environments import SLURMEnvironment

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Interruption:
    """What this process does about :data:`SIGNALS`: it leaves at once, or, while it trains, at its next safe point.

    Attributes:
        received: The first signal that came.
        deferred: Whether somebody looks at ``received`` by itself, and calls :meth:`leave` in time.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.deferred = False

    def listen(self) -> None:
        """Take the signals over, also from whoever took them before; only a main thread can."""
        if threading.current_thread() is threading.main_thread():
            for each in SIGNALS:
                signal.signal(each, self._handle)

    def _handle(self, number: int, _: Any) -> None:
        self.received = self.received or number
        if not self.deferred:
            self.leave()

    def leave(self) -> NoReturn:
        """End the process; SLURM is asked to queue its job again if it sent SIGUSR1, which is no order to end.

        Raises:
            SystemExit: With 128 and the number of the signal, as a shell has it.
        """
        number = self.received or signal.SIGTERM
        if number == signal.SIGUSR1 and SLURMEnvironment.detect() and os.environ.get("SLURM_PROCID", "0") == "0":
            requeue()
        self.received, self.deferred = None, False
        raise SystemExit(128 + number)


def requeue() -> None:
    """Ask SLURM to queue this job again; where it does not, the log says so."""
    array, task = (os.environ.get(f"SLURM_ARRAY_{name}_ID") for name in ("JOB", "TASK"))
    job = f"{array}_{task}" if array and task else os.environ["SLURM_JOB_ID"]
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True, timeout=30)
        log.info("SLURM queues job %s again; the same command goes on.", job)
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("SLURM does not queue job %s again (%s); submit it once more.", job, error)


#: That of this process.
interruption = Interruption()
