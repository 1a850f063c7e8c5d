"""Bad input ends a run with one sentence instead of a traceback."""

import functools
import os
import re
import signal
import sys
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from omegaconf.errors import OmegaConfBaseException

P = ParamSpec("P")
T = TypeVar("T")

BAD_INPUT = (ValueError, FileNotFoundError, NotADirectoryError)
#: How OmegaConf names a key that a YAML leaves to the command line.
NOT_GIVEN = re.compile(r"Missing mandatory value: (?P<key>[\w.]+)")


def sentence_of(error: Exception) -> str | None:
    """Turn an error of bad input into the sentence that the user reads instead of a traceback.

    Args:
        error: The error; one of an object that the config makes counts as its cause.

    Returns:
        ``train.py: <message>`` of a :data:`BAD_INPUT` error, or of a key that is not given; ``None`` of others, and if
        ``HYDRA_FULL_ERROR=1`` asks for tracebacks.
    """
    cause = error.__cause__ if isinstance(error, InstantiationException) else error
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        return None
    if isinstance(cause, OmegaConfBaseException) and (missing := NOT_GIVEN.search(str(cause))):
        return f"train.py: {missing['key']} is needed and is not given; add {missing['key']}=... to the command line."
    if not isinstance(cause, BAD_INPUT):
        return None
    return f"train.py: {cause}"


def exit_with_sentence(function: Callable[P, T]) -> Callable[P, T]:
    """Decorate a function so that bad input ends the program with one sentence; other errors pass."""

    @functools.wraps(function)
    def quiet(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            if (sentence := sentence_of(error)) is None:
                raise
            sys.exit(sentence)

    return quiet


def one_sentence(job: Callable[[Any], dict[str, float]], failed: list[bool]) -> Callable[[Any], float | None]:
    """Wrap a job for Hydra: bad input ends it with one sentence, and a sweep goes on with its next job.

    Args:
        job: Runs one job; a ``"sanity/passed"`` of 0 in its result says that it failed.
        failed: Gets an entry a job: whether it failed.

    Returns:
        The job for Hydra, whose result is what a sweeper optimizes: that of ``optimized_metric``, or ``None``. Errors
        that are not of bad input pass.
    """

    @functools.wraps(job)
    def quiet(cfg: Any) -> float | None:
        failed.append(True)  # until it has ended well
        try:
            results = job(cfg)
            optimized = optimized_value(results, cfg.optimized_metric)
        except SystemExit as end:
            # Lightning's, which alone would end with status 0; by its name, as Lightning may not be imported yet.
            if type(end).__name__ == "SIGTERMException":
                sys.exit(128 + signal.SIGTERM)
            raise
        except Exception as error:
            if (sentence := sentence_of(error)) is None:
                raise
            if HydraConfig.get().mode != RunMode.MULTIRUN:
                sys.exit(sentence)
            print(f"{sentence} (job {HydraConfig.get().job.num} of the sweep)", file=sys.stderr)
            return None
        failed[-1] = results.get("sanity/passed") == 0
        return optimized

    return quiet


def optimized_value(results: dict[str, float], name: str | None) -> float | None:
    """Look up the number that a sweeper optimizes.

    Args:
        results: All numbers of a job.
        name: Which; ``None`` if none is optimized.

    Raises:
        ValueError: If there is none of this name.
    """
    if name is None:
        return None
    if name not in results:
        raise ValueError(f"optimized_metric={name} is none of the numbers of this run: {', '.join(sorted(results))}.")
    return float(results[name])
