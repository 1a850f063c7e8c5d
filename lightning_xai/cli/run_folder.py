"""The folder of a run: a new one for each, unless it is named; Hydra asks for it through two resolvers."""

import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import timedelta
from itertools import count
from pathlib import Path
from tempfile import TemporaryFile

from lightning_utilities.core.rank_zero import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from lightning_xai.cli import run_lock
from lightning_xai.cli.errors import exit_with_sentence
from lightning_xai.cli.kept_predictions import FOLDER, can_go_on, write_recipe
from lightning_xai.cli.saved_config import is_of_folder
from lightning_xai.cli.start_checkpoint import LAST, start_checkpoint
from lightning_xai.functional import slurm
from lightning_xai.functional.files import safe_name

log = logging.getLogger(__name__)

#: What a run leaves in its folder, and a new run in the same folder moves aside.
RESULTS = (
    "metrics.csv",
    "per_image.csv",
    "controls.csv",
    "visibility.csv",
    "summary.json",
    "target_quality.json",
    "wandb_id.txt",
    "sanity.json",
    "global.json",
    "global.html",
    "global",
    "config.yaml",
    "maps",
    "checkpoints",
    "predictions",
)
# The environment variables that may hold a process's rank, the first that is there.
RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")
# The environment variable with which the other ranks of a sweep, started by Lightning, find its folder.
SWEEP = "LIGHTNING_XAI_SWEEP_DIR"


def is_first() -> bool:
    """Whether this is the process of a job that writes: the first, or the only one."""
    node = os.environ.get("NODE_RANK", os.environ.get("GROUP_RANK", "0"))
    # Lightning sets the rank when it is imported, by these variables; a folder is made before that.
    by_variables = next((os.environ[name] for name in RANKS if name in os.environ), "0")
    return int(getattr(rank_zero_only, "rank", by_variables)) == 0 and node == "0"


def make_folder(path: str | Path, key: str) -> Path:
    """Make a folder that a key of the config names.

    Raises:
        ValueError: If it cannot be made, or nothing can be written there.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{key}={path} cannot be made ({error.strerror}); name another folder.") from error
    try:
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"{key}={path} cannot be written ({error.strerror}); name another folder.") from error
    return folder


def new_folder(parent: Path, suffix: str = "", when: time.struct_time | None = None) -> Path:
    """Make a folder named after a time; one of the same second gets a number.

    Args:
        parent: Where; made if it is missing.
        suffix: Comes after the time.
        when: The time, now by default.
    """
    make_folder(parent, "run_dir")
    name = time.strftime("%Y-%m-%d_%H-%M-%S", when or time.localtime()) + suffix
    for number in count(1):
        folder = parent / (name if number == 1 else f"{name}_{number}")
        with suppress(FileExistsError):
            folder.mkdir()
            break
    return folder


@contextmanager
def writing(run_dir: str) -> Iterator[None]:
    """Lock a run folder while a run writes there; only the first process of a job holds the lock.

    Raises:
        ValueError: If the folder cannot be made, or another run writes there.
    """
    folder = make_folder(run_dir, "run_dir")
    with run_lock.held(folder) if is_first() else nullcontext():
        yield


@exit_with_sentence
def run_folder(run_dir: str | None, name: str, seed: int, ckpt_path: str | None, root: str) -> str:
    """Make the folder of a run and lock it, before anything is written there.

    Args:
        run_dir: The folder that the user named, or ``None``.
        name: Name of the run.
        seed: Its seed.
        ckpt_path: Its checkpoint.
        root: The folder of all runs.

    Returns:
        ``run_dir``, or a new folder ``<root>/<name>/<date>_<time>_<seed>``, to which ``<root>/<name>/latest`` points
        unless the run starts from a checkpoint.
    """
    if run_dir is None and ckpt_path == "last":
        raise ValueError("ckpt_path=last goes on in a run folder: name it with run_dir=<folder>.")
    if run_dir is None:
        run_dir = str(shared_folder(Path(root) / safe_name(name)[:80], f"_{seed}"))
        if ckpt_path is None and is_first():
            link_latest(Path(run_dir))
    folder = make_folder(run_dir, "run_dir")
    if is_first():
        run_lock.take(folder)
    return run_dir


@exit_with_sentence
def sweep_folder(root: str) -> str:
    """Make the folder ``<root>/sweeps/<date>_<time>``; a process that Lightning started gets that of the first one."""
    if "LOCAL_RANK" not in os.environ or SWEEP not in os.environ:
        os.environ[SWEEP] = str(shared_folder(Path(root) / "sweeps").resolve())
    return os.environ[SWEEP]


def shared_folder(parent: Path, suffix: str = "") -> Path:
    """Make a new folder that all processes of a job use, whatever started them.

    Args:
        parent: Where.
        suffix: End of its name.

    Returns:
        See :func:`new_folder`; in a batch job of SLURM it is named after that, and not created yet: queued again, the
        job finds it.

    Raises:
        ValueError: If the processes cannot agree.
    """
    environment = os.environ
    if slurm.job() is not None:
        return parent / slurm.folder_name(suffix)
    if int(environment.get("WORLD_SIZE", "1")) == 1 and "LOCAL_RANK" not in environment:
        return new_folder(parent, suffix)
    if environment.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        raise ValueError("Several processes need one folder: give all of them the same run_dir=<folder>.")
    from torch.distributed import TCPStore  # type: ignore[attr-defined]  # which some builds of torch lack

    # torchrun's own store, which is up as long as its processes run.
    address, port = environment["MASTER_ADDR"], int(environment["MASTER_PORT"])
    store = TCPStore(address, port, is_master=False, timeout=timedelta(minutes=5))
    key = f"lightning_xai/{parent}/{environment.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    if environment.get("RANK", "0") == "0":
        store.set(key, str(new_folder(parent, suffix).resolve()))
    return Path(store.get(key).decode())


def prepare_folder(cfg: DictConfig) -> None:
    """Make the run folder, or clear it of the results of an earlier run.

    They move into ``earlier/<time>``, unless the new run goes on with a checkpoint of this folder. A job that SLURM has
    queued again goes on too, with ``ckpt_path=last`` where it trains.

    Args:
        cfg: ``task``, ``run_dir``, ``ckpt_path`` and the places of what is kept between runs are read.

    Raises:
        ValueError: If a folder cannot be made, or nothing can be written there.
        FileNotFoundError: If ``ckpt_path`` names a missing file.
    """
    folder = make_folder(cfg.run_dir, "run_dir")
    log.info("Run folder: %s", folder)
    check_caches(cfg)
    queued_again = slurm.is_of_this_job(folder)
    if queued_again and cfg.ckpt_path is None and cfg.task in ("explain", "global"):
        cfg.ckpt_path = "last"
    checkpoint = start_checkpoint(cfg)
    if cfg.ckpt_path == "last":
        log.info("Resuming from %s." if checkpoint else "No %s yet: starting from scratch.", folder / LAST)
    if cfg.task == "predict":
        prepare_predictions(cfg, checkpoint)
    elif not (queued_again or is_of_folder(cfg.ckpt_path, folder)):
        keep_earlier(folder)
    if is_first():
        slurm.mark(folder)


def check_caches(cfg: DictConfig) -> None:
    """Find before anything is trained that what comes after it could not be kept.

    Raises:
        ValueError: If a folder cannot be made, or nothing can be written there.
    """
    if cfg.task == "global":
        make_folder(cfg.paths.peppr, "paths.peppr")
    if (features := OmegaConf.select(cfg, "explainer.cache_dir")) is not None:
        make_folder(features, "paths.features")


def prepare_predictions(cfg: DictConfig, checkpoint: str | None) -> None:
    """Move earlier maps aside, unless they are this run's, killed before its end.

    Args:
        cfg: ``run_dir``, ``ckpt_path`` and what maps depend on are read.
        checkpoint: The explainer's weights, if they come from a file.
    """
    folder = Path(cfg.run_dir)
    if can_go_on(cfg, checkpoint):
        log.info("Going on with the maps of %s.", folder / FOLDER)
        return
    keep_earlier(folder, (FOLDER,) if is_of_folder(cfg.ckpt_path, folder) else RESULTS)
    if is_first():
        write_recipe(cfg, checkpoint)


def link_latest(folder: Path) -> None:
    """Make the link ``latest`` next to a folder point to it, where the file system has links."""
    part = folder.with_name(f".latest.{os.getpid()}")
    with suppress(OSError):
        part.unlink(missing_ok=True)
        part.symlink_to(folder.name)
        os.replace(part, folder.with_name("latest"))
    with suppress(OSError):
        part.unlink(missing_ok=True)


def keep_earlier(folder: Path, names: tuple[str, ...] = RESULTS) -> None:
    """Move the results of an earlier run in this folder aside; only the first process of a job does.

    Args:
        folder: The run folder.
        names: Files and folders in it.
    """
    old = [folder / name for name in names if (folder / name).exists()]
    if old and is_first():
        written = time.localtime(max(path.stat().st_mtime for path in old))
        aside = new_folder(folder / "earlier", when=written)  # runs of the same second must not mix
        for path in old:
            shutil.move(path, aside / path.name)
        log.info("Results of an earlier run were moved to %s.", aside)


def register_resolvers() -> None:
    """Let the config ask for ``${run_folder:...}``, ``${sweep_folder:...}`` and ``${slurm:...}``."""
    OmegaConf.register_new_resolver("slurm", slurm.number, replace=True)
    OmegaConf.register_new_resolver("run_folder", run_folder, replace=True)
    OmegaConf.register_new_resolver("sweep_folder", sweep_folder, replace=True, use_cache=True)


register_resolvers()
