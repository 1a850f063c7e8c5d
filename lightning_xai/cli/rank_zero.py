"""Ranks that a cluster starts together wait for what the first one does alone, and end when it ends without it."""

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from lightning_xai.cli.run_folder import is_first

#: Seconds in which all ranks must have come, and in which its file must show on another machine.
COMES, SHOWS = 120.0, 10.0
#: What is in the environment of a process that is not alone, of torchrun, SLURM and a start by hand.
SIGNS = {"TORCHELASTIC_RUN_ID", "SLURM_NTASKS", "NODE_RANK"}

_lines: list[socket.socket] = []


def meeting() -> tuple[str, int, int] | None:
    """Where the first rank listens, a port after that of the process group, and how many others there are.

    Returns:
        ``None``: there are none so far, as where Lightning starts them itself. Without a number: they are not counted.
    """
    if not SIGNS & os.environ.keys():
        return None  # before Lightning is imported, which takes seconds
    from lightning.fabric.plugins.environments.lightning import LightningEnvironment
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
    from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

    external: tuple[type[TorchElasticEnvironment | SLURMEnvironment], ...] = (TorchElasticEnvironment, SLURMEnvironment)
    found = next((each() for each in external if each.detect()), None)
    if found is not None:
        others = found.world_size() - 1
        return (found.main_address, found.main_port + 1, others) if others else None
    if {"NODE_RANK", "MASTER_PORT"} <= os.environ.keys() and "LOCAL_RANK" not in os.environ:
        by_hand = LightningEnvironment()
        return by_hand.main_address, by_hand.main_port + 1, 0
    return None


@contextmanager
def met() -> Iterator[None]:
    """Connect all ranks to the first one, which waits for them, until :func:`release` or the end.

    The system ends a connection with the process, whatever becomes of it.

    Raises:
        ValueError: If the port is taken, or a rank does not come.
    """
    if (place := meeting()) is not None:
        host, port, others = place
        _lines.extend(_listen(port, others) if is_first() else [_connect(host, port)])
    try:
        yield
    finally:
        release()


def release() -> None:
    """Let the ranks go on that :func:`wait`."""
    while _lines:
        _lines.pop().close()


def wait(done: Callable[[], bool], what: str) -> None:
    """On another rank: wait until the first one lets go, or has ended.

    Args:
        done: Whether its work is done.
        what: The work, for a message.

    Raises:
        ValueError: If the first rank ended without it.
    """
    while _lines and not done():
        with suppress(OSError):
            _lines[0].recv(1)
        release()
    end = time.monotonic() + SHOWS
    while not done():
        if time.monotonic() > end:
            raise ValueError(f"Rank zero ended without {what}; what it says itself tells why.")
        time.sleep(0.2)


def _listen(port: int, others: int) -> list[socket.socket]:
    try:
        server = socket.create_server(("", port), backlog=4096)
    except OSError as error:
        raise ValueError(
            f"Port {port}, where other ranks come to this one, cannot be used ({error.strerror}); set MASTER_PORT to "
            "another one."
        ) from error
    lines = [server]
    server.settimeout(COMES)
    try:
        for _ in range(others):
            lines.append(server.accept()[0])
    except TimeoutError as error:
        missing = others + 1 - len(lines)
        raise ValueError(f"Of {others} other ranks, {missing} did not come in {COMES:.0f} s.") from error
    return lines


def _connect(host: str, port: int) -> socket.socket:
    end = time.monotonic() + COMES
    while True:
        try:
            line = socket.create_connection((host, port), timeout=5)
            line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # a machine may vanish without a word
            line.settimeout(None)
            return line
        except OSError as error:
            if time.monotonic() > end:
                raise ValueError(f"Rank zero did not come to {host}:{port} in {COMES:.0f} s.") from error
            time.sleep(0.2)
