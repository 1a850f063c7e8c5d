"""The one gate around the command: whatever goes wrong ends a run with one sentence instead of a traceback."""

import functools
import os
import re
import signal
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, ParamSpec, TypeVar

import hydra
import omegaconf
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException
from hydra.types import RunMode
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from lightning_xai.functional.text import first_line, one_line

P = ParamSpec("P")
T = TypeVar("T")

PACKAGE = Path(__file__).parents[1]
LIBRARIES = tuple(sysconfig.get_paths()[name] for name in ("purelib", "platlib", "stdlib"))
#: Where words and files are read that the user wrote.
GRAMMAR = tuple(str(Path(str(part.__file__)).parent) for part in (hydra, omegaconf))
#: Hydra's variable that asks for tracebacks.
FULL = "HYDRA_FULL_ERROR"
#: Errors whose message is the sentence, if our own code or the user's raises them.
BAD_INPUT = (ValueError, FileNotFoundError, NotADirectoryError)
#: Errors of libraries whose message is one that a user understands, by name: their libraries may not be imported yet.
EXPLAINED = {"MisconfigurationException"}
#: Errors of the machine: no bug, and nothing wrong with the input.
OF_THE_MACHINE = (OSError, MemoryError)
#: How OmegaConf names a key that a YAML leaves to the command line.
NOT_GIVEN = re.compile(r"Missing mandatory value: (?P<key>[\w.]+)")
# Like a shell's: 128 and the number of the signal.
INTERRUPTED = 128 + signal.SIGINT


def sentence_of(error: Exception) -> str | None:
    """Turn an error into the sentence that the user reads instead of a traceback.

    Args:
        error: The error; one of an object that the config makes counts as its cause.

    Returns:
        ``train.py: <message>`` of a :data:`BAD_INPUT` error, of a key that is not given and of what Hydra refuses; of
        all others their type, message and place as well. ``None`` if ``HYDRA_FULL_ERROR=1`` asks for tracebacks.
    """
    if os.environ.get(FULL) == "1":
        return None
    cause = _cause_of(error)
    if missing := NOT_GIVEN.search(str(cause)) if isinstance(cause, OmegaConfBaseException) else None:
        return f"train.py: {missing['key']} is needed and is not given; add {missing['key']}=... to the command line."
    if isinstance(cause, HydraException | OmegaConfBaseException) or type(cause).__name__ in EXPLAINED:
        return f"train.py: {first_line(cause)}"
    if isinstance(cause, BAD_INPUT) and not _of_a_library(cause):
        return f"train.py: {one_line(cause)}"
    if isinstance(error, InstantiationException) and _is_of_the_config(cause):
        key = re.search(r"full_key: (\S+)", str(error))
        return f"train.py: {key[1] if key else 'A part'} cannot be made: {one_line(cause).rstrip('.')}; check its keys."
    if isinstance(cause, ValueError | AssertionError) and _frames(cause)[-1].filename.startswith(GRAMMAR):
        unread = "Hydra cannot read the command line, or a config; check its words"
        return f"train.py: {unread if isinstance(cause, AssertionError) else one_line(cause)}"
    return f"train.py: {_unexpected(cause)}"


def _cause_of(error: BaseException) -> BaseException:
    """What Hydra's and OmegaConf's reports of an error are about."""
    if isinstance(error, InstantiationException) and error.__cause__ is not None:
        return _cause_of(error.__cause__)
    if type(error) is InterpolationResolutionError and (reported := error.__cause__ or error.__context__) is not None:
        return _cause_of(reported)
    return error


def _unexpected(error: BaseException) -> str:
    """The sentence of an error that nobody foresaw; its traceback goes into the log of the run."""
    said = f"{type(error).__name__}: {one_line(error).rstrip('.')}{_place(error)}"
    of_machine = isinstance(error, OF_THE_MACHINE) or type(error).__name__ == "OutOfMemoryError"
    kept = _keep_traceback(error)
    return (
        f"{said}; {'' if of_machine else 'this may be a bug of lightning_xai: '}"
        f"{f'the traceback is in {kept}, and ' if kept else ''}{FULL}=1 shows it."
    )


def _frames(error: BaseException) -> list[traceback.FrameSummary]:
    return list(traceback.extract_tb(error.__traceback__))


def _of_a_library(error: BaseException) -> bool:
    """Whether an error was raised by neither our code nor the user's."""
    frames = _frames(error)
    if not frames or Path(frames[-1].filename).is_relative_to(PACKAGE):
        return False
    return frames[-1].filename.startswith((*LIBRARIES, "<"))


def _is_of_the_config(error: BaseException) -> bool:
    """Whether a config names what is not there, or arguments that it does not take."""
    return isinstance(error, ImportError) or (isinstance(error, TypeError) and " argument" in str(error))


def _place(error: BaseException) -> str:
    """Name in brackets the last line of our code that an error came through."""
    own = [frame for frame in _frames(error) if Path(frame.filename).is_relative_to(PACKAGE)]
    if not own:
        return ""
    return f" ({Path(own[-1].filename).relative_to(PACKAGE.parent)}, line {own[-1].lineno}, in {own[-1].name})"


def _keep_traceback(error: BaseException) -> Path | None:
    """Append the traceback of an error to the log of the run that Hydra runs now; ``None`` where there is none."""
    try:
        path = Path(HydraConfig.get().runtime.output_dir) / "train.log"
        with path.open("a", encoding="utf-8") as file:
            file.writelines(traceback.format_exception(error))
    except (ValueError, AttributeError, OSError, OmegaConfBaseException):  # no run, or no room
        return None
    return path


@contextmanager
def environment(name: str, value: str | None) -> Iterator[None]:
    """Set an environment variable, or unset it, inside a ``with`` block."""
    before = os.environ.get(name)
    try:
        _set(name, value)
        yield
    finally:
        _set(name, before)


def _set(name: str, value: str | None) -> None:
    os.environ.pop(name, None)
    if value is not None:
        os.environ[name] = value


@contextmanager
def one_gate() -> Iterator[None]:
    """Let no error out of a ``with`` block but as one sentence and a status."""
    try:
        yield
    except KeyboardInterrupt:
        _exit_interrupted()
    except Exception as error:
        if (sentence := sentence_of(error)) is None:
            raise
        sys.exit(sentence)


def _exit_interrupted() -> NoReturn:
    print("train.py: interrupted.", file=sys.stderr)
    sys.exit(INTERRUPTED)


def exit_with_sentence(function: Callable[P, T]) -> Callable[P, T]:
    """Decorate a function so that an error ends the program with one sentence, where it would become OmegaConf's."""

    @functools.wraps(function)
    def quiet(*args: P.args, **kwargs: P.kwargs) -> T:
        with one_gate():
            return function(*args, **kwargs)

    return quiet


def one_sentence(job: Callable[[Any], dict[str, float]], failed: list[bool]) -> Callable[[Any], float | None]:
    """Wrap a job for Hydra: an error ends it with one sentence, and a sweep goes on with its next job.

    Args:
        job: Runs one job; a ``"sanity/passed"`` of 0 in its result says that it failed.
        failed: Gets an entry a job: whether it failed.

    Returns:
        The job for Hydra, whose result is what a sweeper optimizes: that of ``optimized_metric``, or ``None``.
    """
    asked = os.environ.get(FULL)  # before it is set for Hydra

    @functools.wraps(job)
    def quiet(cfg: Any) -> float | None:
        with environment(FULL, asked):
            return run(cfg)

    def run(cfg: Any) -> float | None:
        from lightning.pytorch.utilities.exceptions import SIGTERMException  # after the command line was checked

        failed.append(True)  # until it has ended well
        try:
            results = job(cfg)
            optimized = optimized_value(results, cfg.optimized_metric)
        except SIGTERMException:  # Lightning's, which alone would end with status 0
            sys.exit(128 + signal.SIGTERM)
        except SystemExit as stop:  # what Lightning makes of an interruption
            if isinstance(stop.__context__, KeyboardInterrupt):
                _exit_interrupted()
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
