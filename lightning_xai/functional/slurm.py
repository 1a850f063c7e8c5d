"""A batch job of SLURM, which may be queued again and then starts the very same command once more."""

import hashlib
import logging
import os
import subprocess
import sys
from pathlib import Path

log = logging.getLogger(__name__)

#: Where a run folder says of which job it is.
NAME = ".slurm_job"


def job() -> str | None:
    """The job that this process is of, the same when SLURM queues it again; ``None`` in a shell, as for Lightning."""
    shell = os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive")
    return os.environ.get("SLURM_JOB_ID") if "SLURM_NTASKS" in os.environ and not shell else None


def number(name: str, otherwise: int | str) -> int | str:
    """A number that SLURM has put in the environment, for a config that asks for ``${slurm:name,otherwise}``."""
    value = os.environ.get(name, "")
    return int(value) if value.isdecimal() else otherwise


def attempt() -> str:
    """The job, and how often it was queued again; empty without a job."""
    return "" if job() is None else f"{job()}#{os.environ.get('SLURM_RESTART_COUNT', '0')}"


def is_earlier(other: str) -> bool:
    """Whether an :func:`attempt` is an earlier one of this job: SLURM has ended it, on whatever machine it was."""
    return job() is not None and other != attempt() and other.partition("#")[0] == job()


def folder_name(suffix: str) -> str:
    """The name of a run's folder that is the same when the job is queued again: the job, and its command."""
    command = hashlib.sha256("\0".join(sys.argv).encode()).hexdigest()[:6]
    return f"slurm_{job()}_{command}{suffix}"


def is_of_this_job(folder: Path) -> bool:
    """Whether a run folder is that of this very job, which goes on there."""
    path = folder / NAME
    return job() is not None and path.is_file() and path.read_text() == job()


def mark(folder: Path) -> None:
    """Note the job in its run folder."""
    if (name := job()) is not None:
        (folder / NAME).write_text(name)
    else:
        (folder / NAME).unlink(missing_ok=True)


def requeue() -> None:
    """Let the first process of a job ask SLURM to queue it again; where that fails, the log says so."""
    if job() is None or os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) != "0":
        return
    array, task = (os.environ.get(f"SLURM_ARRAY_{name}_ID") for name in ("JOB", "TASK"))
    name = f"{array}_{task}" if array and task else str(job())
    try:
        subprocess.run(["scontrol", "requeue", name], check=True, capture_output=True, timeout=30)
        log.info("SLURM queues job %s again; the same command goes on.", name)
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("SLURM does not queue job %s again (%s); submit it once more.", name, error)
