"""The page, the pictures and the numbers that ``task=global`` leaves in the run folder."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from lightning_xai.data import ImageDataModule, MirrorSided
from lightning_xai.functional.files import atomic_write
from lightning_xai.global_maps.findings import Findings, reading, span
from lightning_xai.global_maps.result import SCORES
from lightning_xai.loggers import log_images
from lightning_xai.report import html as page
from lightning_xai.visualization.global_maps import matrix_figure
from lightning_xai.visualization.grid import map_grid, render, save_png

#: Single images that the overall map is drawn over.
SHOWN = 4
MEANING = {
    "full": "whole images",
    "area_erase": "area, most important erased first (low is good)",
    "area_random": "area, random pixels erased",
    "area_reversed": "area, least important erased first",
    "area_restore": "area, most important restored first (high is good)",
    "difference": "restored minus erased",
    "difference_center": "restored minus erased, distance to the center",
    "random_minus_erase": "random minus most important first",
    "reversed_minus_random": "least important first minus random",
    "sufficient": "fraction of the image that suffices",
}
ABOUT = (
    "After Engelmann, Storkey & Bernabeu, Global explainability in aligned image modalities, arXiv 2112.09591. Only "
    "its text was published: how maps are aggregated and how PEPPR is computed here is our reconstruction of it."
)


def write_report(
    cfg: DictConfig,
    data: ImageDataModule,
    explainer: Any,
    found: Findings,
    trainer: lightning.Trainer,
    maps: NDArray[np.uint8],
) -> None:
    """Write ``global.html``, ``global.json`` and the pictures, log them, and print what they say and where they are.

    Args:
        cfg: ``global``, ``run_dir``, ``name`` and ``seed`` are read.
        data: The data module.
        explainer: What made the maps.
        found: What was found.
        trainer: Its loggers get the pictures.
        maps: The picture of the maps, which the callback wrote.
    """
    folder, settings = Path(cfg.run_dir), cfg["global"]
    title = f"{explainer.title} of {cfg.name}"
    pictures = draw(data, settings, found)
    for name, picture in pictures.items():
        save_png(folder / "global" / f"{name}.png", picture)
        log_images(trainer, f"global/{name}", [picture])
    with atomic_write(folder / "global.json") as file:
        content = {"seed": cfg.seed, "explainer": explainer.title, "settings": OmegaConf.to_container(settings)}
        json.dump(numbers(found) | content, file, indent=2)
    with atomic_write(folder / "global.html") as file:
        file.write(page.page(title, sections(settings, found, pictures | {"maps": maps})))
    print(f"\n{title}")
    print("\n".join(f"- {line}" for line in reading(found)))
    places = {"Page": "global.html", "Numbers": "global.json", "Maps": "global"}
    print("\n".join(f"{what:<8} {folder / where}" for what, where in places.items()))


def numbers(found: Findings) -> dict[str, Any]:
    """Everything in the report as plain values."""
    maps, names = found.maps, found.maps.labels
    rows = zip(names, maps.count, maps.skipped, maps.stability, strict=True)
    labels = {name: {"count": count, "skipped": skipped, "stability": r} for name, count, skipped, r in rows}
    return {
        "reading": reading(found),
        "images": maps.images,
        "stability": maps.overall_stability,
        "labels": labels,
        "peppr": {
            "metric": found.peppr.metric,
            "images": len(found.peppr.truth),
            "fractions": list(found.peppr.fractions),
            "summary": found.peppr.summary(),
            "intervals": found.intervals,
            "per_label": {names[label]: row for label, row in found.peppr.per_label().items()},
            "skipped": {names[label]: count for label, count in found.peppr.skipped.items()},
            "curves": {name: curve.tolist() for name, curve in found.peppr.curves.items()},
            "specificity": found.peppr.specificity(),
        },
        "biases": [asdict(bias) | {"found": bias.found} for bias in found.biases],
    }


def draw(data: ImageDataModule, settings: DictConfig, found: Findings) -> dict[str, NDArray[np.uint8]]:
    """The pictures by name, but for that of the maps."""
    pictures = {
        "peppr": render(found.peppr.plot(settings.samples)),
        "over_images": over_images(data, settings.peppr_split, found.maps.overall),
    }
    matrix = found.peppr.specificity()
    names = [found.maps.labels[label] for label in found.peppr.labels]
    title = "restored minus erased area: map of the row, judged by the label of the column"
    pictures["specificity"] = matrix_figure(np.array(list(matrix.values())), list(matrix), names, title)
    return pictures


def over_images(data: ImageDataModule, split: str, overall: Tensor | None) -> NDArray[np.uint8]:
    """The overall map over the first images of a split, both turned back as the images were taken."""
    assert overall is not None
    batch = next(iter(data.plain_dataloader(split)))
    count, sides = min(SHOWN, len(batch["id"])), batch.get("laterality")
    pairs = []
    for number in range(count):
        side = None if sides is None else sides[number]
        pairs.append([as_taken(data, part, side) for part in (batch["image"][number], overall.float().cpu()[None])])
    images, maps = (torch.stack([torch.as_tensor(part) for part in parts]) for parts in zip(*pairs, strict=True))
    titles = [
        str(name)[-28:] + ("" if sides is None else f" ({sides[row]})") for row, name in enumerate(batch["id"][:count])
    ]
    return map_grid(images, maps, titles=[["overall map"]] * count, labels=titles)


def as_taken(data: ImageDataModule, values: Tensor, side: str | None) -> Tensor:
    """An aligned image or map ``(C, *S)`` as the image was before it was mirrored."""
    for transform in reversed(data.prepare):
        if isinstance(transform, MirrorSided) and side is not None:
            values = transform.inverse({transform.keys[0]: values, "laterality": side})[transform.keys[0]]
    return values


def sections(settings: DictConfig, found: Findings, pictures: dict[str, NDArray[np.uint8]]) -> list[page.Part]:
    """The parts of the page."""
    judged = f"the {len(found.peppr.truth)} images of the {settings.peppr_split} split"
    return [
        page.heading("What the numbers say"),
        page.bullets(reading(found)),
        page.heading("Where the model looks"),
        page.figure(
            pictures["maps"],
            f"Maps of the {settings.maps_split} split over its mean image; outlined: the region where evidence can be.",
        ),
        labels_table(found),
        page.figure(
            pictures["over_images"],
            "The overall map over single images as they were taken, mirrored ones mirrored back.",
        ),
        page.heading("Is that so? PEPPR"),
        page.paragraph(
            f"The same pixels of all of {judged} are erased (or restored on an empty image) in the order of the "
            f"overall map, and the {SCORES[found.peppr.metric]} is taken again. Hidden pixels show: {settings.fill}. "
            "Bands: 95 % over resampled images; of the random orders their range."
        ),
        page.figure(pictures["peppr"], "PEPPR of the overall map."),
        *summary_table(found),
        page.heading("Is each map about its own label?"),
        page.figure(pictures["specificity"], "For every label (column) its own map (row) should do best."),
        page.heading("Does a label look at the wrong place?"),
        *bias_parts(found),
        page.heading("About"),
        page.paragraph(ABOUT),
    ]


def labels_table(found: Findings) -> page.Part:
    """What each label's map is made of."""
    outside = {bias.label: f"{100 * bias.outside:.0f} %" for bias in found.biases}
    maps = found.maps
    rows = [
        [name, count, skipped, "-" if r is None else f"{r:.2f}", outside.get(name, "-")]
        for name, count, skipped, r in zip(maps.labels, maps.count, maps.skipped, maps.stability, strict=True)
    ]
    return page.table(["label", "maps", "all-zero, left out", "halves correlate", "outside the region"], rows)


def summary_table(found: Findings) -> list[page.Part]:
    """The numbers of PEPPR: mean over labels with intervals, and each label's."""
    names = found.maps.labels
    summary, by_label = found.peppr.summary(), found.peppr.per_label()
    head = ["", "mean over labels", "95 % interval", *(names[label] for label in by_label)]
    rows = [
        [text, f"{summary[key]:.3f}", span(found.intervals[key]), *(f"{row[key]:.3f}" for row in by_label.values())]
        for key, text in MEANING.items()
    ]
    notes = [
        f"{names[label]} has {count} positive images, so it cannot be judged."
        for label, count in found.peppr.skipped.items()
    ]
    return [page.table(head, rows), *([page.bullets(notes)] if notes else [])]


def bias_parts(found: Findings) -> list[page.Part]:
    """How much of each label's map lies outside of the region, and the images that contribute most."""
    rows = [
        [
            f"{bias.label}{' (look at this)' if bias.found else ''}",
            f"{100 * bias.outside:.1f} %",
            f"{100 * bias.chance:.1f} %",
            ", ".join(f"{name} ({100 * fraction:.0f} %)" for name, fraction in bias.images),
        ]
        for bias in found.biases
    ]
    return [page.table(["label", "map outside", "constant map", "images that contribute most"], rows)]
