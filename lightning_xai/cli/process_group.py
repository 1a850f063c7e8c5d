"""The process group of a job of several ranks."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist


@contextmanager
def closed_at_the_end() -> Iterator[None]:
    """Close the process group that a job leaves open, so that the next job of a sweep starts without one.

    Its rank zero trains the target alone: with a group, it would wait for ranks that wait for the target.
    """
    try:
        yield
    finally:
        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()
