"""SIGTERM and SIGUSR1, with which schedulers announce that a job ends: it leaves, and says so in its exit status."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from lightning_xai.functional import slurm

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

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Listen, and give the signals back in the end."""
        before = {each: signal.getsignal(each) for each in SIGNALS}
        self.listen()
        try:
            yield
        finally:
            if threading.current_thread() is threading.main_thread():
                for each, handler in before.items():
                    signal.signal(each, handler)

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
        if number == signal.SIGUSR1:
            slurm.requeue()
        self.received, self.deferred = None, False
        raise SystemExit(128 + number)


#: That of this process.
interruption = Interruption()
