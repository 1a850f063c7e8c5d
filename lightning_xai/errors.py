"""What a command line answers to bad input."""

import functools
import os
import sys
from collections.abc import Callable
from typing import Any

from hydra.errors import InstantiationException

BAD_INPUT = (ValueError, FileNotFoundError, NotADirectoryError)


def one_sentence(job: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Let a job end with the message of a bad-input error alone, without its traceback.

    ``HYDRA_FULL_ERROR=1`` shows the traceback all the same.

    Args:
        job: What Hydra runs.

    Returns:
        The job; on a :data:`BAD_INPUT` error, its own or of an object that the config makes, it exits
        with ``train.py: <message>``. Other errors pass.
    """

    @functools.wraps(job)
    def quiet(cfg: Any) -> Any:
        try:
            return job(cfg)
        except (*BAD_INPUT, InstantiationException) as error:
            cause = error.__cause__ if isinstance(error, InstantiationException) else error
            if os.environ.get("HYDRA_FULL_ERROR") == "1" or not isinstance(cause, BAD_INPUT):
                raise
            sys.exit(f"train.py: {cause}")

    return quiet
