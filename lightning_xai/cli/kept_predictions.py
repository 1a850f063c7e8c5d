"""A killed ``task=predict`` goes on in its folder, if nothing changed that its maps depend on."""

import hashlib
import json
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from lightning_xai.cli.earlier_run import LOADING
from lightning_xai.cli.saved_config import as_composed
from lightning_xai.functional.files import atomic_write

FOLDER, RECIPE = "predictions", ".recipe.json"
# Keys of a config that decide what a map shows.
DECIDES = ("explainer", "target", "target_weights", "data", "ask", "region", "seed")


def recipe(cfg: DictConfig, checkpoint: str | None) -> dict[str, Any]:
    """Collect what decides the maps of ``task=predict``.

    Args:
        cfg: The composed configuration.
        checkpoint: The explainer's weights, if they come from a file.
    """
    content = as_composed(cfg)
    parts = {key: content.get(key) for key in DECIDES}
    parts["data"] = {key: value for key, value in content["data"].items() if key not in LOADING}
    weights = None if checkpoint is None else hashlib.sha256(Path(checkpoint).read_bytes()).hexdigest()
    save_maps = content.get("callbacks", {}).get("save_maps")
    plain: dict[str, Any] = json.loads(json.dumps(parts | {"weights": weights, "save_maps": save_maps}, default=str))
    return plain


def can_go_on(cfg: DictConfig, checkpoint: str | None) -> bool:
    """Whether the maps in a run folder were made as this run would make them."""
    path = Path(cfg.run_dir) / FOLDER / RECIPE
    try:
        return bool(json.loads(path.read_text(encoding="utf-8")) == recipe(cfg, checkpoint))
    except (OSError, ValueError):
        return False


def write_recipe(cfg: DictConfig, checkpoint: str | None) -> None:
    """Note how the maps of a run are made, before the first."""
    with atomic_write(Path(cfg.run_dir) / FOLDER / RECIPE) as file:
        json.dump(recipe(cfg, checkpoint), file, indent=2)
