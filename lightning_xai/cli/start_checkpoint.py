"""The explainer's checkpoint that a run starts from."""

from pathlib import Path

from omegaconf import DictConfig

# The checkpoint of the last finished epoch, in a run folder.
LAST = Path("checkpoints") / "last.ckpt"


def start_checkpoint(cfg: DictConfig) -> str | None:
    """Find the explainer's checkpoint that a run starts from.

    Args:
        cfg: ``task``, ``run_dir`` and ``ckpt_path`` are read.

    Returns:
        Its path. ``None`` if there is none: ``ckpt_path=last`` in a folder without one trains from the start.

    Raises:
        FileNotFoundError: If it is missing, or ``ckpt_path=last`` finds none that could be tested.
    """
    if cfg.ckpt_path is None:
        return None
    if cfg.ckpt_path != "last":
        if not Path(cfg.ckpt_path).is_file():
            raise FileNotFoundError(
                f"ckpt_path={cfg.ckpt_path} does not exist; give an explainer checkpoint, or 'last' to go on in "
                "run_dir."
            )
        return str(cfg.ckpt_path)
    last = Path(cfg.run_dir) / LAST
    if not last.is_file() and cfg.task in ("test", "predict"):
        raise FileNotFoundError(f"ckpt_path=last finds no {last}; give another run_dir, or a checkpoint.")
    return str(last) if last.is_file() else None


def check_checkpoint(cfg: DictConfig) -> None:
    """Refuse to start from a checkpoint that is damaged, holds pickled objects, or was written by another program.

    Args:
        cfg: See :func:`start_checkpoint`.

    Raises:
        ValueError: If it is.
    """
    if (path := start_checkpoint(cfg)) is None:
        return
    from lightning_xai.targets.weights import read_pickle  # PyTorch is not needed before a run begins

    content = read_pickle(Path(path))
    if not isinstance(content, dict) or not {"state_dict", "pytorch-lightning_version"} <= content.keys():
        raise ValueError(f"{path} is no checkpoint of an explainer; give another ckpt_path.")
