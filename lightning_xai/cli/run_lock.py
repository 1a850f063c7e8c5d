"""One writer a folder: a lock file that names the process that writes there."""

import atexit
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from lightning_xai.functional import slurm

NAME = ".lock"
_held: set[Path] = set()


@dataclass(frozen=True)
class Holder:
    """A process that writes in a folder; ``started`` distinguishes it from a later one with the same number.

    ``attempt`` is that of a job of SLURM.
    """

    host: str
    pid: int
    started: str
    since: str
    attempt: str = ""

    def is_me(self) -> bool:
        """Whether it is this process."""
        return (self.host, self.pid, self.started) == (socket.gethostname(), os.getpid(), started(os.getpid()))

    def is_gone(self) -> bool:
        """Whether it is known to have ended; of a process of another host only SLURM can tell, which starts it anew."""
        if slurm.is_earlier(self.attempt):
            return True
        return self.host == socket.gethostname() and started(self.pid) not in (self.started, "")


def started(pid: int) -> str | None:
    """When a process started: ``None`` if there is none, ``""`` where the system does not say when."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return None
    except PermissionError:
        pass  # it is another user's
    try:
        # After the name, which may hold anything: state, then the fields from 4 on; 22 is the start in ticks.
        state, *fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
    return None if state in "ZX" else f"{boot}:{fields[18]}"


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a folder's lock; one that this process holds already is taken over, and released in the end all the same.

    Raises:
        ValueError: See :func:`take`.
    """
    take(folder)
    try:
        yield
    finally:
        release(folder)


def take(folder: Path) -> None:
    """Take a folder's lock, also from a process that has ended; held until :func:`release` or the end of the process.

    Args:
        folder: An existing folder.

    Raises:
        ValueError: If another process writes there, or nobody can.
    """
    path = folder.resolve() / NAME
    with _one_by_one(folder):
        while path not in _held:
            try:
                handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
            except FileExistsError:
                _clear(path, folder)
                continue
            except OSError as error:
                sentence = f"run_dir={folder} cannot be written ({error.strerror}); name another folder."
                raise ValueError(sentence) from error
            since = time.strftime("%Y-%m-%d %H:%M:%S")
            me = Holder(socket.gethostname(), os.getpid(), started(os.getpid()) or "", since, slurm.attempt())
            with os.fdopen(handle, "w") as file:
                json.dump(asdict(me), file)
            _held.add(path)


@contextmanager
def _one_by_one(folder: Path) -> Iterator[None]:
    """Let the processes of a machine take a lock one after another, where the file system can."""
    handle = None
    try:
        with suppress(OSError):  # a folder that is not there, or a network's file system
            handle = os.open(folder, os.O_RDONLY)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        if handle is not None:
            os.close(handle)


def release(folder: Path) -> None:
    """Release a folder's lock, if this process holds it."""
    path = folder.resolve() / NAME
    if path in _held:
        _held.discard(path)
        holder = _read(path)
        if holder is not None and holder.is_me():
            path.unlink(missing_ok=True)


def _clear(path: Path, folder: Path) -> None:
    """Remove the lock of a process that has ended.

    Raises:
        ValueError: If it has not, or that cannot be known.
    """
    holder = _read(path)
    if holder is not None and not holder.is_me() and not holder.is_gone():
        here = holder.host == socket.gethostname()
        advice = (
            "wait until it ends"
            if here
            else f"whether it still runs cannot be seen from {socket.gethostname()}: remove {path} if that run is over"
        )
        raise ValueError(
            f"run_dir={folder} is being written by process {holder.pid} on {holder.host} since {holder.since}; "
            f"{advice}, or give another run_dir."
        )
    aside = path.with_name(f"{NAME}.{os.getpid()}")
    with suppress(FileNotFoundError):  # somebody else was faster
        os.rename(path, aside)
        if _read(aside) != holder:  # a lock that was taken since it was read
            with suppress(FileExistsError):
                os.link(aside, path)
        aside.unlink()


def _read(path: Path) -> Holder | None:
    """What a lock file says, or ``None`` if it is not there or says nothing, as a kill may leave it."""
    for _ in range(10):
        try:
            return Holder(**json.loads(path.read_text()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError):
            time.sleep(0.05)  # it may be on its way
    return None


@atexit.register
def _release_all() -> None:
    for path in tuple(_held):
        with suppress(OSError):
            release(path.parent)
