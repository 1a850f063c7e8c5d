"""Start from an earlier run: Hydra composes on top of the ``config.yaml`` of the run that a checkpoint comes from."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Sweep
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from lightning_xai.cli.overrides import dotted, read_words
from lightning_xai.cli.run_key import anchored, chosen_run, words_of_run
from lightning_xai.cli.saved_config import NAME, read_config
from lightning_xai.cli.trust import trusted_names

if TYPE_CHECKING:
    from lightning_xai.data import ImageDataModule

#: Names of the primary config, and of the choice of each group, that stand for the earlier run's.
PRIMARY, CHOICE = "train_from_run", "of_the_run"
# Keys that hold for one run alone.
OF_ONE_RUN = ("task", "run", "ckpt_path", "run_dir", "from_run", "optimized_metric", "allow")
# Options of the data that change neither which images there are nor what they look like.
LOADING = ("batch_size", "num_workers", "cache", "cache_limit")
# Options of the data that change what images look like to the target, and their defaults.
LOOKS: dict[str, Any] = {
    "channels": None,
    "resize": "pad",
    "orientation": None,
    "spacing": None,
    "window_hu": None,
    "prepare": [],
}
# Options of a target that say where its weights lie, or how fast it runs, not what it is.
WEIGHTS = ("weights", "allow_code", "compile", "channels_last", "window_batch")


def start_from(words: list[str], config_dir: Path) -> tuple[str, list[str]]:
    """Find the run that a command line's checkpoint comes from, and let Hydra compose on top of its config.

    ``run`` names its folder, or the checkpoint lies in ``<run>/checkpoints``, or ``ckpt_path=last`` goes on in
    ``run_dir``. Every group that the command line does not choose is that run's, and so is every key that it does not
    set.

    Args:
        words: The command line without the program's name.
        config_dir: The folder that holds the config groups.

    Returns:
        Name of the primary config and the words for it: ``"train"`` and the same words if there is no such run.

    Raises:
        ValueError: If the run's config cannot be used.
    """
    read = read_words(words)
    overrides = [] if read is None or read[0].config_name else read[1]
    folder = chosen_run(overrides)
    if read is not None and folder is not None:
        more = words_of_run(folder, overrides, read[0].multirun)
        chosen = next(each.input_line or "" for each in overrides if each.key_or_group == "run")
        words = [each for word in words for each in ([word, *more] if word == chosen else [word])]
        overrides += OverridesParser.create().parse_overrides(more)
    path = config_of(overrides) if folder is None else folder / NAME
    if path is None:
        return "train", words
    saved = read_config(path, trusted_names(words))
    anchored(saved, path.parent)
    goes_on = any(override.key_or_group == "ckpt_path" and override.value() == "last" for override in overrides)
    store_config(saved, path, config_dir, saved.get("task") if goes_on else None)
    return PRIMARY, adapt_words(words, overrides, saved, config_dir)


def config_of(overrides: list[Override]) -> Path | None:
    """Find the config file of the run that the checkpoints come from; ``None`` unless it is one run."""
    values = {override.key_or_group: values_of(override) for override in overrides}
    folders = values.get("run_dir") or values.get("hydra.run.dir") or []
    run_folders = set()
    for checkpoint in values.get("ckpt_path", []):
        inside = Path(checkpoint).parent
        if checkpoint == "last":
            run_folders |= {Path(folder) for folder in folders}
        elif inside.name == "checkpoints":
            run_folders.add(inside.parent)
    configs = {folder / NAME for folder in run_folders if (folder / NAME).is_file()}
    return configs.pop() if len(configs) == 1 else None


def values_of(override: Override) -> list[str]:
    """List the values of an override, several if it is swept, with references resolved."""
    if isinstance(override.value(), Sweep):
        texts = [text.strip("'\"") for text in override.sweep_string_iterator()] if override.is_discrete_sweep() else []
    else:
        texts = [str(override.value())]
    try:
        return [str(OmegaConf.create({"value": text}).value) for text in texts]
    except OmegaConfBaseException:
        return []


def store_config(saved: DictConfig, path: Path, config_dir: Path, task: str | None) -> None:
    """Make a run's config known to Hydra: its keys as the primary config, its groups as choices.

    Args:
        saved: The run's config.
        path: Where it lies.
        config_dir: The folder that holds the config groups.
        task: The run's task if it goes on; only one that trains does.
    """
    content: dict[str, Any] = OmegaConf.to_container(saved)  # type: ignore[assignment]
    keys = {key: value for key, value in content.items() if key not in OF_ONE_RUN}
    if "allow_code" in keys.get("target", {}):
        keys["target"]["allow_code"] = False  # only a command line can allow it
    primary: Any = OmegaConf.load(config_dir / "train.yaml")
    store, defaults = ConfigStore.instance(), []
    entries: Any = OmegaConf.to_container(primary.defaults)
    for entry in entries:
        group, choice = next(iter(entry.items())) if isinstance(entry, dict) else (entry, None)
        if group == "task" and task == "global":
            entry = {group: task}
        elif choice is not None and group in keys:
            store.store(group=group, name=CHOICE, node=keys.pop(group))
            entry = {group: CHOICE}
        defaults.append(entry)
    with open_dict(primary):
        primary.merge_with(keys)
        primary.defaults = defaults
        primary.from_run = str(path)
    store.store(name=PRIMARY, node=primary)


def adapt_words(words: list[str], overrides: list[Override], saved: DictConfig, config_dir: Path) -> list[str]:
    """Adapt a command line that was written for the default config to the config of a run.

    What ``+key`` adds may be there, and what ``~key`` deletes may be gone; ``data.root`` means a folder, whatever the
    data of the run were.
    """
    content: Any = OmegaConf.to_container(saved)
    keys, changed = set(dotted(content)), dict[str, list[str]]()
    chosen = {override.key_or_group for override in overrides}
    for override in overrides:
        line, is_group = override.input_line or "", (config_dir / override.key_or_group).is_dir()
        if override.is_add() and not is_group:
            changed[line] = [f"+{line}"]
        elif override.is_delete() and override.key_or_group not in keys:
            changed[line] = []
        elif override.key_or_group == "data.root" and "data" not in chosen and not reads_root(override, saved, chosen):
            changed[line] = ["data=folder", line]
    return [each for word in words for each in changed.get(word, [word])]


def reads_root(override: Override, saved: DictConfig, chosen: set[str]) -> bool:
    """Whether ``data.root=<folder>`` is an option of the run's own data, and not a folder of images instead of them."""
    own = saved.data.get("_target_") == "lightning_xai.data.FolderData" or "data.csv" in chosen
    return "root" in saved.data and (own or (Path(str(override.value())) / "dataset.json").is_file())


def run_behind(cfg: DictConfig) -> DictConfig | None:
    """Read the config of the run that a composed config starts from; ``None`` if it has another target."""
    if cfg.get("from_run") is None:
        return None
    saved: Any = anchored(OmegaConf.load(cfg.from_run), Path(cfg.from_run).parent)  # type: ignore[arg-type]
    return saved if without_keys(saved.target, WEIGHTS) == without_keys(cfg.target, WEIGHTS) else None


def brings_images(cfg: DictConfig, saved: DictConfig) -> bool:
    """Whether the task is to explain images that the earlier run did not have."""
    return bool(cfg.task == "predict" and without_keys(cfg.data, LOADING) != without_keys(saved.data, LOADING))


def without_keys(node: DictConfig, but: tuple[str, ...]) -> dict[str, Any]:
    """Copy a node of a config, references unresolved, without some of its keys."""
    content: dict[str, Any] = OmegaConf.to_container(node)  # type: ignore[assignment]
    return {key: value for key, value in content.items() if key not in but}


def fit_to_target(cfg: DictConfig, saved: DictConfig) -> None:
    """Configure the data module of new images: all of them, in the size that the target was trained with.

    Raises:
        ValueError: If the labels of the images are to be explained.
    """
    if cfg.ask == "label":
        raise ValueError("ask=label needs labels, which images to explain do not have; use ask=prediction or ask=all.")
    with open_dict(cfg):
        if cfg.data.get("size") in (None, "auto"):
            cfg.data.size = cfg.data_info.get("size")
        if cfg.data.get("normalize") == "dataset":
            cfg.data.normalize = cfg.data_info.get("normalize", "dataset")
        if cfg.data.get("limit") == saved.data.get("limit"):
            cfg.data.limit = None  # it held for the training
        for name, default in LOOKS.items() if cfg.data._target_ != saved.data._target_ else ():
            if cfg.data.get(name) == default:
                cfg.data[name] = saved.data.get(name, default)


def check_data(cfg: DictConfig, data: "ImageDataModule", labeled: bool) -> None:
    """Refuse data that the run's target cannot have been trained on.

    Args:
        cfg: ``data_info`` of the run, and ``from_run``, are read.
        data: The data module, set up.
        labeled: Whether it knows the classes.

    Raises:
        ValueError: If channels, dimensions or class names differ.
    """
    found = {"channels": data.channels, "dims": data.spatial_dims}
    if labeled:
        found["class_names"] = data.data_info()["class_names"]
    for name, value in found.items():
        if value != cfg.data_info[name]:
            raise ValueError(
                f"The data has {name.replace('_', ' ')} {value}, but the run of {cfg.from_run} was trained with "
                f"{cfg.data_info[name]}; give it data of that kind."
            )
