"""Ranks that a cluster starts together wait for what the first one does alone, and end when it ends without it."""

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

#: Seconds in which the first rank must have begun, and in which its file must show on another machine.
START, SHOWS = 60.0, 10.0
EXTERNAL: tuple[type[ClusterEnvironment], ...] = (TorchElasticEnvironment, SLURMEnvironment)


def address() -> tuple[str, int] | None:
    """Where the first rank listens: a port after that of the process group. ``None``: this process is alone so far."""
    found = next((each() for each in EXTERNAL if each.detect()), None)
    if found is None and {"NODE_RANK", "MASTER_PORT"} <= os.environ.keys():
        found = LightningEnvironment()
    if found is None or (not isinstance(found, LightningEnvironment) and found.world_size() == 1):
        return None
    return found.main_address, found.main_port + 1


@contextmanager
def heard() -> Iterator[None]:
    """On the first rank: let the others know when the work is done, or when this process has ended.

    They are connected meanwhile, and the system ends a connection with the process, whatever becomes of it.

    Raises:
        ValueError: If the port is taken.
    """
    if (place := address()) is None:
        yield
        return
    try:
        server = socket.create_server(("", place[1]), backlog=4096)
    except OSError as error:
        raise ValueError(
            f"Port {place[1]}, where other ranks would wait, cannot be used ({error.strerror}); set MASTER_PORT to "
            "another one."
        ) from error
    with server:
        yield


def wait(done: Callable[[], bool], what: str) -> None:
    """On another rank: wait until the first one has done its work, or has ended.

    Args:
        done: Whether it is done.
        what: The work, for a message.

    Raises:
        ValueError: If the first rank ended without it, or did not begin.
    """
    place, end = address(), time.monotonic() + START
    while not done() and place is not None and time.monotonic() < end:
        try:
            with socket.create_connection(place, timeout=5) as line:
                line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # a machine may vanish without a word
                line.settimeout(None)
                with suppress(OSError):
                    line.recv(1)
                break
        except OSError:
            time.sleep(0.2)
    end = time.monotonic() + SHOWS
    while not done():
        if time.monotonic() > end:
            raise ValueError(f"Rank zero ended without {what}; what it says itself tells why.")
        time.sleep(0.2)
