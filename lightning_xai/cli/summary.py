"""The end of a run: ``summary.json``, the printed table, and the files that it left."""

import json
from pathlib import Path

import lightning
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig

from lightning_xai.callbacks import Faithfulness
from lightning_xai.cli.target_cache import target_quality
from lightning_xai.explainers.base import Explainer
from lightning_xai.functional.files import atomic_write
from lightning_xai.report.ranking import borda_count, ranked_metrics
from lightning_xai.report.tables import format_table, summarize


def finish(cfg: DictConfig, trainer: lightning.Trainer, checkpoint: str | None) -> dict[str, float]:
    """Write ``summary.json``, and print its table and where the files are.

    Args:
        cfg: ``run_dir``, ``seed`` and the target's keys are read.
        trainer: The trainer, after its test.
        checkpoint: The explainer's weights, if they came from a file.

    Returns:
        ``{"test/<metric>": mean}`` of the explainer.
    """
    means = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("test/")}
    scored = next((callback for callback in trainer.callbacks if isinstance(callback, Faithfulness)), None)  # type: ignore[attr-defined]
    if scored is not None and scored.results:
        judged = {f"test/{name}" for name in scored.suite.members()}
        logged = {name.removeprefix("test/"): value for name, value in means.items() if name not in judged}
        quality = {f"target/{name}": value for name, value in target_quality(cfg).items()}
        report(cfg, scored, quality, checkpoint, logged, settings_of(trainer))
    return means


def settings_of(trainer: lightning.Trainer) -> dict[str, str]:
    """What the explainer of a trainer chose by itself, such as its layer."""
    explainer = trainer.lightning_module
    assert isinstance(explainer, Explainer)
    return explainer.settings


@rank_zero_only
def report(
    cfg: DictConfig,
    scored: Faithfulness,
    quality: dict[str, float],
    checkpoint: str | None,
    logged: dict[str, float],
    settings: dict[str, str],
) -> None:
    """Write and print it.

    Args:
        cfg: ``run_dir`` and ``seed`` are read.
        scored: Holds the values.
        quality: The target's.
        checkpoint: The explainer's weights, if they came from a file.
        logged: What the explainer says of itself, such as its agreement with the target.
        settings: What it chose by itself, such as its layer.
    """
    folder = Path(cfg.run_dir)
    summary = summarize(scored.results, scored.groups, scored.without_method)
    members = scored.suite.members()
    metadata = {name: metric.metadata() for name, metric in members.items()}
    directions = {name: one["higher_is_better"] for name, one in metadata.items()}
    ranked = summary["explainers"] | (summary["controls"] if scored.rank_controls else {})
    means = {name: {metric: value["mean"] for metric, value in table.items()} for name, table in ranked.items()}
    measured = {metric: members[metric] for metric in next(iter(means.values()))}
    counted = {metric: directions[metric] for metric in ranked_metrics(measured) if directions[metric] is not None}
    points = borda_count(means, counted)
    with atomic_write(folder / "summary.json") as file:
        head = {"target": quality, "checkpoint": checkpoint, "seed": cfg.seed, "settings": settings, "logged": logged}
        borda = {"borda": points, "borda_metrics": list(counted)}
        json.dump(head | summary | borda | {"metrics": metadata, "references": scored.references}, file, indent=2)
    print(f"\n{format_table(summary, directions)}\n")
    if len(points) > 1:
        count = ", ".join(f"{name} {value:g}" for name, value in points.items())
        print(f"Borda count over {', '.join(counted)}: {count}\n")
    if logged:
        values = ", ".join(f"{name} {value:.3f}" for name, value in logged.items())
        print(f"{next(iter(scored.results))} on the test images: {values}\n")
    files = {"Figures": folder / "maps", "Per image": folder / "per_image.csv", "Summary": folder / "summary.json"}
    if checkpoint is not None:
        files["Checkpoint"] = Path(checkpoint)
    print("\n".join(f"{what:<12} {where}" for what, where in files.items()))
