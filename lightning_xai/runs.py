"""What a run does around the training itself: its folder, its target, its summary."""

import hashlib
import json
import logging
import time
from pathlib import Path
from typing import Any

import lightning
from hydra.utils import get_class, instantiate
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf, open_dict

from lightning_xai.callbacks import Faithfulness
from lightning_xai.data import ImageDataModule
from lightning_xai.earlier_run import brings_images, check_data, fit_to_target, run_behind
from lightning_xai.explainers.base import Explainer
from lightning_xai.files import atomic_write
from lightning_xai.report.ranking import borda_count
from lightning_xai.report.table import format_table, summarise
from lightning_xai.run_folder import keep_earlier, make_folder
from lightning_xai.saved_config import without_secrets, write_config
from lightning_xai.segmenter_training import SegmenterTrainer
from lightning_xai.targets import SegmenterTarget, Target
from lightning_xai.training import TargetTrainer, fit_target, warn_if_weak

log = logging.getLogger(__name__)

TASKS = ("explain", "test", "predict", "target", "sanity", "global")
WAIT_FOR_TARGET = 3600.0


def prepare(cfg: DictConfig) -> str | None:
    """Make the run folder ready, and say which checkpoint the run starts from.

    A new run in a folder that holds results moves them into ``earlier/<time>``; a resumed one goes on with them.

    Args:
        cfg: ``task``, ``run_dir`` and ``ckpt_path`` are read.

    Returns:
        Path of the explainer checkpoint, or ``None``.

    Raises:
        ValueError: If the task is unknown, or the folder cannot be made.
        FileNotFoundError: If ``ckpt_path`` names a missing file.
    """
    if cfg.task not in TASKS:
        raise ValueError(f"task is {cfg.task!r}; use one of {', '.join(TASKS)}.")
    folder = make_folder(cfg.run_dir, "run_dir")
    log.info("Run folder: %s", folder)
    if cfg.ckpt_path == "last":
        return last_checkpoint(folder, cfg.task)
    if cfg.ckpt_path is not None and not Path(cfg.ckpt_path).is_file():
        raise FileNotFoundError(
            f"ckpt_path={cfg.ckpt_path} does not exist; give an explainer checkpoint, or 'last' to go on in run_dir."
        )
    if cfg.ckpt_path is None or folder.resolve() not in Path(cfg.ckpt_path).resolve().parents:
        keep_earlier(folder)
    return None if cfg.ckpt_path is None else str(cfg.ckpt_path)


def last_checkpoint(folder: Path, task: str) -> str | None:
    """The checkpoint of the last finished epoch; a run that trains starts from scratch if there is none."""
    last = folder / "checkpoints" / "last.ckpt"
    if last.is_file():
        log.info("Resuming from %s.", last)
        return str(last)
    if task in ("test", "predict"):
        raise FileNotFoundError(f"ckpt_path=last finds no {last}; give another run_dir, or a checkpoint.")
    log.info("No %s yet: starting from scratch.", last)
    return None


def open_data(cfg: DictConfig) -> ImageDataModule:
    """The data module, set up, with what it found in ``cfg.facts``, and the config in the run folder.

    Where the run starts from another one, that run's facts stay: its target was made with them. Images that ``predict``
    brings are explained all, without labels.

    Args:
        cfg: The composed configuration.

    Raises:
        ValueError: If the data do not fit the run that it starts from.
    """
    run = run_behind(cfg)
    brought = run is not None and brings_images(cfg, run)
    if run is not None and brought:
        fit_to_target(cfg, run)
    data: ImageDataModule = instantiate(cfg.data)
    data.setup("predict" if brought else "fit")
    if run is not None:
        check_data(cfg, data, labelled=not brought)
        tell(cfg, data)
    else:
        with open_dict(cfg):
            cfg.pop("target_weights", None)
        note_facts(cfg, data)
    if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
        write_config(cfg)
    return data


def note_facts(cfg: DictConfig, data: ImageDataModule) -> None:
    """Put what the data module found into ``cfg.facts``, where target and explainer read their sizes."""
    with open_dict(cfg):
        cfg.facts = data.facts()
    tell(cfg, data)


def tell(cfg: DictConfig, data: ImageDataModule) -> None:
    """Log how many images there are, and which ones were skipped."""
    log.info("Data: %s, seed %d.", json.dumps(data.split_counts), cfg.seed)
    for sentence in data.skipped:
        log.warning("Skipped: %s", sentence)


def build_target(cfg: DictConfig, data: ImageDataModule) -> tuple[Target, dict[str, float]]:
    """The frozen target, trained first if it has no weights, and its quality on the test set.

    A trained target is kept in ``target_dir`` under a hash of everything that made it, and used again.

    Args:
        cfg: ``target``, ``target_trainer``, ``target_dir``, ``seed`` and ``facts`` are read.
        data: The data module, set up.

    Returns:
        The target and ``{"target/accuracy": ...}``, empty for weights that came from elsewhere.

    Raises:
        ValueError: If it has no weights and the trainer is not one of this kind of target.
        FileNotFoundError: If the weights that a checkpoint was trained with are gone.
    """
    weights, quality = cfg.target.get("weights"), {}
    if weights is None:
        weights = trained_weights(cfg, data)
        quality = json.loads(weights.with_suffix(".json").read_text())
        log.info("Target %s: test %s", weights, ", ".join(f"{name} {value:.3f}" for name, value in quality.items()))
        warn_if_weak(quality, cfg.target_trainer.min_accuracy)
    elif weights == "builtin":
        weights = None
    target: Target = instantiate(cfg.target, weights=None if weights is None else str(weights))
    # Whether the target was trained just now or long ago must not change the explainer's start.
    lightning.seed_everything(cfg.seed, workers=True, verbose=False)
    return target, {f"target/{name}": value for name, value in quality.items()}


def trained_weights(cfg: DictConfig, data: ImageDataModule) -> Path:
    """The weights of a target that is trained here: those of the run that this one starts from, or by their key.

    Their path is recorded in ``cfg.target_weights``.

    Raises:
        ValueError: If ``target_dir`` cannot be made.
        FileNotFoundError: If the recorded ones are gone, and a checkpoint was trained with them.
    """
    recorded = cfg.get("target_weights")
    weights = Path(recorded or Path(cfg.target_dir) / f"{target_key(cfg)}.ckpt")
    if not weights.is_file():
        weights = Path(cfg.target_dir) / weights.name  # where recorded ones are if the folder was moved
    if not weights.is_file():
        if recorded and cfg.ckpt_path not in (None, "last"):
            raise FileNotFoundError(
                f"The target of {cfg.ckpt_path} was kept in {recorded}, which is gone; put it back, or give its "
                "weights with target.weights=<file>."
            )
        make_folder(weights.parent, "target_dir")
        train_target(cfg, data, weights)
    with open_dict(cfg):
        cfg.target_weights = str(weights.resolve())
    return weights


def target_key(cfg: DictConfig) -> str:
    """Hash of all that decides what training yields: data, network, recipe, seed."""
    anywhere = cfg.copy()
    anywhere.run_dir = ""  # where a run writes does not change what it learns
    names = ("target", "target_trainer", "data")
    parts: dict[str, Any] = {name: OmegaConf.to_container(anywhere[name], resolve=True) for name in names}
    del parts["target_trainer"]["min_accuracy"]
    parts["target"].pop("allow_code", None)
    parts |= {"seed": cfg.seed, "fingerprint": cfg.facts.fingerprint}
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def train_target(cfg: DictConfig, data: ImageDataModule, weights: Path) -> None:
    """Train the target on rank zero and keep its best checkpoint and its quality; other ranks wait for them.

    Raises:
        ValueError: If the trainer is not one of this kind of target.
        TimeoutError: If rank zero does not finish.
    """
    kinds = get_class(cfg.target._target_), get_class(cfg.target_trainer.module._target_)
    if issubclass(kinds[0], SegmenterTarget) != issubclass(kinds[1], SegmenterTrainer):
        raise ValueError(
            f"{cfg.target._target_} has no weights, and {cfg.target_trainer.module._target_} does not train it; use "
            "target_trainer=segmenter for segmenters alone, or give target.weights=<file>."
        )
    if rank_zero_only.rank != 0:  # type: ignore[attr-defined]
        wait_for(weights)
        return
    log.info("The target has no weights: training it on the data.")
    trainer = instantiate(cfg.target_trainer.trainer)
    quality = fit_target(target_module(cfg), trainer, data)
    weights.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(weights.with_suffix(".json")) as file:
        json.dump(quality, file, indent=2)
    with atomic_write(weights, "wb") as file:
        file.write(Path(trainer.checkpoint_callback.best_model_path).read_bytes())


def target_module(cfg: DictConfig) -> TargetTrainer:
    """The configured network in the module that trains it."""
    names = ("activation", "mean", "std", "class_names")
    facts = {name: OmegaConf.to_object(cfg.target)[name] for name in names}  # type: ignore[index,call-overload]
    output = cfg.target.get("output")
    output = instantiate(output) if isinstance(output, DictConfig) else output
    sizes = {"num_classes": cfg.facts.classes, "output": output}
    module: TargetTrainer = instantiate(
        cfg.target_trainer.module, model=instantiate(cfg.target.model), **sizes, **facts
    )
    return module


def wait_for(path: Path) -> None:
    """Wait for a file of rank zero."""
    end = time.monotonic() + WAIT_FOR_TARGET
    while not path.is_file():
        if time.monotonic() > end:
            raise TimeoutError(
                f"Rank zero did not write {path} within {WAIT_FOR_TARGET:.0f} s; train it first with task=target."
            )
        time.sleep(1)


def build_explainer(cfg: DictConfig, target: Target) -> Explainer:
    """The configured explainer around a target, with the questions that its steps ask."""
    explainer: Explainer = instantiate(cfg.explainer)(target)
    explainer.ask, explainer.ask_pixels = cfg.ask, instantiate(cfg.pixels)
    # The loggers get them with the composed config, which names no secret.
    explainer._log_hyperparams = False
    return explainer


@rank_zero_only
def log_config(cfg: DictConfig, trainer: lightning.Trainer) -> None:
    """Write the composed configuration into the run folder, and send it to every logger."""
    write_config(cfg)
    for logger in trainer.loggers:
        logger.log_hyperparams(without_secrets(cfg))


def finish(
    cfg: DictConfig, trainer: lightning.Trainer, quality: dict[str, float], checkpoint: str | None
) -> dict[str, float]:
    """Write ``summary.json``, print the table and where things are.

    Returns:
        ``{"test/<metric>": mean}`` of the explainer.
    """
    means = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("test/")}
    scored = next((callback for callback in trainer.callbacks if isinstance(callback, Faithfulness)), None)  # type: ignore[attr-defined]
    if scored is not None and scored.results:
        judged = {f"test/{name}" for name in scored.suite.members()}
        logged = {name.removeprefix("test/"): value for name, value in means.items() if name not in judged}
        report(cfg, scored, quality, checkpoint, logged)
    return means


@rank_zero_only
def report(
    cfg: DictConfig,
    scored: Faithfulness,
    quality: dict[str, float],
    checkpoint: str | None,
    logged: dict[str, float],
) -> None:
    """See :func:`finish`; ``logged`` is what the explainer says of itself, such as its agreement with the target."""
    folder = Path(cfg.run_dir)
    summary = summarise(scored.results)
    facts = {name: metric.metadata() for name, metric in scored.suite.members().items()}
    directions = {name: fact["higher_is_better"] for name, fact in facts.items()}
    means = {
        name: {metric: value["mean"] for metric, value in table.items()}
        for name, table in summary["explainers"].items()
    }
    points = borda_count(means, directions)
    with atomic_write(folder / "summary.json") as file:
        head = {"target": quality, "checkpoint": checkpoint, "seed": cfg.seed, "logged": logged}
        json.dump(head | summary | {"borda": points, "metrics": facts, "beside": scored.beside}, file, indent=2)
    print(f"\n{format_table(summary, directions)}\n")
    if len(points) > 1:
        print(
            "Borda count over all metrics: " + ", ".join(f"{name} {value:g}" for name, value in points.items()) + "\n"
        )
    if logged:
        told = ", ".join(f"{name} {value:.3f}" for name, value in logged.items())
        print(f"{next(iter(scored.results))} on the test images: {told}\n")
    places = {"Pictures": folder / "maps", "Per image": folder / "per_image.csv", "Summary": folder / "summary.json"}
    if checkpoint is not None:
        places["Checkpoint"] = Path(checkpoint)
    print("\n".join(f"{what:<12} {where}" for what, where in places.items()))
