"""What a run does around the training itself: its folder, its target, its summary."""

import hashlib
import json
import logging
import shutil
import time
from pathlib import Path
from typing import Any

import lightning
from hydra.utils import get_class, instantiate
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf, open_dict

from lightning_xai.callbacks import Faithfulness
from lightning_xai.data import ImageDataModule
from lightning_xai.explainers.base import Explainer
from lightning_xai.files import atomic_write
from lightning_xai.report.ranking import borda_count
from lightning_xai.report.table import format_table, summarise
from lightning_xai.segmenter_training import SegmenterTrainer
from lightning_xai.targets import SegmenterTarget, Target
from lightning_xai.training import TargetTrainer, fit_target, warn_if_weak

log = logging.getLogger(__name__)

TASKS = ("explain", "test", "predict", "target", "sanity", "global")
#: What a run leaves in its folder, and a new run in the same folder moves aside.
RESULTS = (
    "metrics.csv",
    "per_image.csv",
    "controls.csv",
    "visibility.csv",
    "summary.json",
    "sanity.json",
    "global.json",
    "global.html",
    "global",
    "config.yaml",
    "maps",
    "checkpoints",
    "predictions",
)
WAIT_FOR_TARGET = 3600.0


def prepare(cfg: DictConfig) -> str | None:
    """Make the run folder ready, and say which checkpoint the run starts from.

    A new run in a folder that holds results moves them into ``earlier/<time>``; a resumed one goes on with them.

    Args:
        cfg: ``task``, ``run_dir`` and ``ckpt_path`` are read.

    Returns:
        Path of the explainer checkpoint, or ``None``.

    Raises:
        ValueError: If the task is unknown.
        FileNotFoundError: If ``ckpt_path`` names a missing file.
    """
    if cfg.task not in TASKS:
        raise ValueError(f"task is {cfg.task!r}; use one of {', '.join(TASKS)}.")
    folder = Path(cfg.run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    if cfg.ckpt_path == "last":
        last = folder / "checkpoints" / "last.ckpt"
        log.info("Resuming from %s.", last) if last.is_file() else log.info("No %s yet: starting from scratch.", last)
        return str(last) if last.is_file() else None
    if cfg.ckpt_path is not None and not Path(cfg.ckpt_path).is_file():
        raise FileNotFoundError(
            f"ckpt_path={cfg.ckpt_path} does not exist; give an explainer checkpoint, or 'last' to go on in run_dir."
        )
    if cfg.ckpt_path is None or folder.resolve() not in Path(cfg.ckpt_path).resolve().parents:
        keep_earlier(folder)
    return None if cfg.ckpt_path is None else str(cfg.ckpt_path)


@rank_zero_only
def keep_earlier(folder: Path) -> None:
    """Move the results of an earlier run in this folder aside."""
    old = [folder / name for name in RESULTS if (folder / name).exists()]
    if old:
        made = time.localtime(max(path.stat().st_mtime for path in old))
        name = time.strftime("%Y-%m-%d_%H-%M-%S", made)
        aside, number = folder / "earlier" / name, 1
        while aside.exists():  # runs of the same second must not mix
            number += 1
            aside = aside.with_name(f"{name}_{number}")
        aside.mkdir(parents=True)
        for path in old:
            shutil.move(path, aside / path.name)
        log.info("Results of an earlier run were moved to %s.", aside)


def note_facts(cfg: DictConfig, data: ImageDataModule) -> None:
    """Put what the data module found into ``cfg.facts``, where target and explainer read their sizes."""
    with open_dict(cfg):
        cfg.facts = data.facts()
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
    """
    weights, quality = cfg.target.get("weights"), {}
    if weights is None:
        weights = Path(cfg.target_dir) / f"{target_key(cfg)}.ckpt"
        if not weights.is_file():
            train_target(cfg, data, weights)
        quality = json.loads(weights.with_suffix(".json").read_text())
        log.info("Target %s: test %s", weights, ", ".join(f"{name} {value:.3f}" for name, value in quality.items()))
        warn_if_weak(quality, cfg.target_trainer.min_accuracy)
    elif weights == "builtin":
        weights = None
    target: Target = instantiate(cfg.target, weights=None if weights is None else str(weights))
    # Whether the target was trained just now or long ago must not change the explainer's start.
    lightning.seed_everything(cfg.seed, workers=True, verbose=False)
    return target, {f"target/{name}": value for name, value in quality.items()}


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
    return explainer


@rank_zero_only
def log_config(cfg: DictConfig, trainer: lightning.Trainer) -> None:
    """Write the composed configuration, all values resolved, into the run folder and to every logger."""
    resolved = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))
    with atomic_write(Path(cfg.run_dir) / "config.yaml") as file:
        file.write(OmegaConf.to_yaml(resolved))
    for logger in trainer.loggers:
        logger.log_hyperparams(OmegaConf.to_container(resolved))  # type: ignore[arg-type]


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
