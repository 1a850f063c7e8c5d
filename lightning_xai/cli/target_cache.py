"""The target of a run: with weights from elsewhere, or trained once and kept under a hash of its recipe."""

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import lightning
import torch
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf, open_dict

from lightning_xai.cli import rank_zero
from lightning_xai.cli.run_folder import is_first, make_folder
from lightning_xai.cli.start_checkpoint import LAST
from lightning_xai.data import ImageDataModule
from lightning_xai.functional.files import atomic_write
from lightning_xai.functional.finite import naming_images
from lightning_xai.functional.tensors import as_plain_tensor
from lightning_xai.networks.external.common import AS_PUBLISHED
from lightning_xai.targets import Target
from lightning_xai.targets.testing import measure
from lightning_xai.targets.training.classifier import ClassifierTask, fit_target, warn_if_weak

log = logging.getLogger(__name__)

#: How many images a target is shown before the run begins.
PROBED = 8
#: Where a run keeps the test numbers of a target whose weights came from elsewhere.
MEASURED = "target_quality.json"
#: The lowest Dice of a given segmenter without a warning, where ``target_trainer`` is the default one of classifiers.
MIN_DICE = 0.7
#: Keys of a target's YAML that its network is chosen by, which the target itself does not take.
NETWORK_KEYS = ("name", "encoder", "pretrained", "folder")
#: The ``mean`` and ``std`` of a target whose network brings those of its published weights along.
PUBLISHED = "published"


def build_target(cfg: DictConfig, data: ImageDataModule) -> tuple[Target, dict[str, float]]:
    """Build the frozen target, trained first if it has no weights.

    A trained target is kept in ``target_dir`` under a hash of its data and recipe, and used again.

    Args:
        cfg: ``target``, ``target_trainer``, ``target_dir``, ``seed`` and ``data_info`` are read.
        data: The data module, set up.

    Returns:
        The target, and its numbers on the test set, ``{"target/accuracy": ...}``: none where the data have no labels of
        its classes.

    Raises:
        ValueError: If it has no weights and the trainer is not one of this kind of target.
        FileNotFoundError: If the weights that a checkpoint was trained with are gone.
        MissingMandatoryValue: If its YAML asks for weights and none are given.
    """
    given = OmegaConf.select(cfg, "target.weights", throw_on_missing=True)
    weights, quality = given, {}
    if given is None:
        weights = trained_weights(cfg, data)
        quality = target_quality(cfg)
        log.info("Target %s: test %s", weights, ", ".join(f"{name} {value:.3f}" for name, value in quality.items()))
        warn_if_weak(quality, cfg.target_trainer.min_accuracy)
    target = make_target(cfg, None if weights == AS_PUBLISHED else weights)
    probe(target, data)
    if given is not None and is_first():
        quality = measured_quality(cfg, target, data)
    # Whether the target was trained just now or long ago must not change the explainer's start.
    lightning.seed_everything(cfg.seed, workers=True, verbose=False)
    return target, {f"target/{name}": value for name, value in quality.items()}


def make_target(cfg: DictConfig, weights: str | Path | None) -> Target:
    """Make the configured target.

    Args:
        cfg: ``target`` and ``data_info`` are read.
        weights: The file of its weights; ``None``: those that its network is made with.
    """
    node = cfg.target.copy()
    with open_dict(node):
        for key in (*NETWORK_KEYS, "model", "mean", "std"):
            node.pop(key, None)
    model = instantiate(cfg.target.model)
    weights = None if weights is None else str(weights)
    target: Target = instantiate(node, model=model, weights=weights, **statistics_of(cfg, model))
    return target


def statistics_of(cfg: DictConfig, model: Any) -> dict[str, list[float] | None]:
    """The ``mean`` and ``std`` of a target: as given, or those that its network's published weights came with.

    Args:
        cfg: ``target`` and, for a network without published ones, ``data_info`` are read.
        model: The network.
    """
    found: dict[str, list[float] | None] = {}
    for name in ("mean", "std"):
        values = cfg.target.get(name)
        if values == PUBLISHED:
            values = getattr(model, f"published_{name}", None)
            if values is None:
                values = cfg.data_info[name]
                log.info("The target's %s is that of the training images, %s.", name, values)
        found[name] = None if values is None else list(values)
    return found


def probe(target: Target, data: ImageDataModule) -> None:
    """Show a target the first images of the data, so that what does not fit is said before anything is explained."""
    loader = data.test_dataloader() if "test" in data.split_items else data.predict_dataloader()
    dataset: Any = loader.dataset
    samples = [dataset[number] for number in range(min(PROBED, len(dataset)))]
    shape = samples[0]["image"].shape
    samples = [sample for sample in samples if sample["image"].shape == shape][: None if len(shape) == 3 else 1]
    images = torch.stack([as_plain_tensor(sample["image"]) for sample in samples])
    with naming_images({"id": [sample["id"] for sample in samples]}):
        target.check(images, label_names(target, data) or None)


def label_names(target: Target, data: ImageDataModule) -> list[str]:
    """The classes that the test images are labeled with, if a target of this kind can be judged by them; else none."""
    labeled = "test" in data.split_items and (data.mask_classes is not None) == target.dense
    names = data.class_names if data.mask_classes is None else data.mask_classes
    return list(names) if labeled else []


def measured_quality(cfg: DictConfig, target: Target, data: ImageDataModule) -> dict[str, float]:
    """Test a target whose weights came from elsewhere, warn if it is weak, and keep its numbers in the run folder.

    Args:
        cfg: ``target_trainer`` and ``run_dir`` are read.
        target: The target.
        data: The data module.

    Returns:
        Value by name; none where the data have no labels of the target's classes.

    Raises:
        ValueError: If the target is a classifier, and ``target_trainer`` one of segmenters.
    """
    names = label_names(target, data)
    if not names or len(names) != target.num_classes:
        return {}
    trains: Any = get_class(cfg.target_trainer.module._target_)
    if trains.dense and not target.dense:
        raise ValueError(
            f"target_trainer is one of segmenters ({trains.__name__}), but the target is a {type(target).__name__}; "
            "leave it out: the target has weights, and its trainer only says how good it should be."
        )
    quality, fault = measure(target, instantiate(cfg.target_trainer.trainer), data, names)
    log.info("Target: test %s", ", ".join(f"{name} {value:.3f}" for name, value in quality.items()))
    # The trainer that nobody chose is one of classifiers.
    warn_if_weak(quality, cfg.target_trainer.min_accuracy if trains.dense == target.dense else MIN_DICE)
    if fault is not None:
        log.warning(fault)
    with atomic_write(make_folder(cfg.run_dir, "run_dir") / MEASURED) as file:
        json.dump(quality, file, indent=2)
    return quality


def target_quality(cfg: DictConfig) -> dict[str, float]:
    """Read the test accuracy and other numbers that were kept with the weights of a target, or in the run folder.

    Args:
        cfg: ``target_weights``, ``target.weights`` and ``run_dir`` are read.

    Returns:
        Value by name; empty if it could not be measured.
    """
    given = cfg.target.get("weights") is not None
    path = Path(cfg.run_dir) / MEASURED if given else Path(cfg.target_weights).with_suffix(".json")
    if given and not path.is_file():
        return {}
    quality: dict[str, float] = json.loads(path.read_text())
    return quality


def trained_weights(cfg: DictConfig, data: ImageDataModule) -> Path:
    """Find the weights of a target without its own, by the earlier run or by their key, or train them.

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
    """Hash all that decides what training yields: data, network, recipe, seed."""
    anywhere = cfg.copy()
    anywhere.run_dir = ""  # where a run writes does not change what it learns
    names = ("target", "target_trainer", "data")
    parts: dict[str, Any] = {name: OmegaConf.to_container(anywhere[name], resolve=True) for name in names}
    del parts["target_trainer"]["min_accuracy"]
    for name in ("allow_code", "weights_prefix"):
        parts["target"].pop(name, None)
    parts["data"].pop("allow_outside", None)
    parts |= {"seed": cfg.seed, "fingerprint": cfg.data_info.fingerprint}
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def train_target(cfg: DictConfig, data: ImageDataModule, weights: Path) -> None:
    """Train the target on rank zero and keep its best checkpoint and its quality; other ranks wait for them.

    A training of the same recipe that was interrupted in this run folder goes on.

    Raises:
        ValueError: If the trainer is not one of this kind of target, or rank zero ended without it.
    """
    kinds: list[Any] = [get_class(part._target_) for part in (cfg.target, cfg.target_trainer.module)]
    if kinds[0].dense != kinds[1].dense:
        raise ValueError(
            f"{cfg.target._target_} has no weights, and {cfg.target_trainer.module._target_} does not train it; use "
            "target_trainer=segmenter for segmenters alone, or give target.weights=<file>."
        )
    if not is_first():
        rank_zero.wait(weights.is_file, f"a target in {weights}")
        return
    begin_target(cfg, data, weights)
    rank_zero.release()


def begin_target(cfg: DictConfig, data: ImageDataModule, weights: Path) -> None:
    """Train the target, or go on with its training, and keep its best checkpoint and its quality."""
    last, recipe = (Path(cfg.run_dir) / "target" / name for name in (LAST.name, "recipe"))
    goes_on = last.is_file() and recipe.is_file() and recipe.read_text() == weights.stem
    log.info("The target has no weights: %s.", f"going on from {last}" if goes_on else "training it on the data")
    if not goes_on:
        last.unlink(missing_ok=True)  # of another recipe
        with atomic_write(recipe) as file:
            file.write(weights.stem)
    trainer = instantiate(cfg.target_trainer.trainer)
    quality = fit_target(target_module(cfg), trainer, data, str(last) if goes_on else None)
    with atomic_write(weights.with_suffix(".json")) as file:
        json.dump(quality, file, indent=2)
    with atomic_write(weights, "wb") as file:
        file.write(Path(trainer.checkpoint_callback.best_model_path).read_bytes())
    for path in (last, recipe):
        path.unlink(missing_ok=True)


def target_module(cfg: DictConfig) -> ClassifierTask:
    """Put the configured network into the module that trains it."""
    model = instantiate(cfg.target.model)
    names = cfg.target.class_names
    stated = {"activation": cfg.target.activation, "class_names": None if names is None else list(names)}
    output = cfg.target.get("output")
    output = instantiate(output) if isinstance(output, DictConfig) else output
    sizes = {"num_classes": cfg.data_info.classes, "output": output}
    module: ClassifierTask = instantiate(
        cfg.target_trainer.module, model=model, **sizes, **stated, **statistics_of(cfg, model)
    )
    return module
