"""The page, the figures and the numbers that ``task=global`` leaves in the run folder."""

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
from lightning_xai.functional.text import title_on
from lightning_xai.global_maps.findings import Findings, counted, sentences, span
from lightning_xai.global_maps.result import SCORES
from lightning_xai.loggers import log_images
from lightning_xai.report import html as page
from lightning_xai.report.tables import number_of
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
    findings: Findings,
    trainer: lightning.Trainer,
    maps: NDArray[np.uint8],
) -> None:
    """Write ``global.html``, ``global.json`` and the figures, log them, and print the findings and where the files are.

    Args:
        cfg: ``global``, ``run_dir``, ``name`` and ``seed`` are read.
        data: The data module.
        explainer: The explainer of the maps.
        findings: What the page reports.
        trainer: Its loggers get the figures.
        maps: The figure of the maps, which the callback wrote.
    """
    folder, settings = Path(cfg.run_dir), cfg["global"]
    title = f"{explainer.title} of {cfg.name}"
    about = title_on(explainer.title, data)
    figures = draw_figures(data, settings, findings, about)
    for name, figure in figures.items():
        save_png(folder / "global" / f"{name}.png", figure, about)
        log_images(trainer, f"global/{name}", [figure])
    with atomic_write(folder / "global.json") as file:
        content = {"seed": cfg.seed, "explainer": explainer.title, "settings": OmegaConf.to_container(settings)}
        json.dump(numbers(findings) | content, file, indent=2)
    with atomic_write(folder / "global.html") as file:
        file.write(page.page(title, sections(settings, findings, figures | {"maps": maps})))
    print(f"\n{title}")
    print("\n".join(f"- {line}" for line in sentences(findings)))
    files = {"Page": "global.html", "Numbers": "global.json", "Maps": "global"}
    print("\n".join(f"{what:<8} {folder / where}" for what, where in files.items()))


def numbers(findings: Findings) -> dict[str, Any]:
    """All numbers of the report as plain values."""
    maps, names = findings.maps, findings.maps.labels
    keys = ("count", "units", "skipped", "stability")
    rows = zip(maps.count, maps.label_units, maps.skipped, maps.stability, strict=True)
    labels = {name: dict(zip(keys, row, strict=True)) for name, row in zip(names, rows, strict=True)}
    return {
        "reading": sentences(findings),
        "images": maps.images,
        "resampling": {"unit": maps.unit, "units": maps.units},
        "stability": maps.overall_stability,
        "labels": labels,
        "peppr": {
            "metric": findings.peppr.metric,
            "images": len(findings.peppr.truth),
            "resampling": findings.peppr.resampling,
            "rare": [names[label] for label in findings.peppr.rare],
            "fractions": list(findings.peppr.fractions),
            "summary": findings.peppr.summary(),
            "intervals": findings.intervals,
            "per_label": {names[label]: row for label, row in findings.peppr.per_label().items()},
            "skipped": {names[label]: count for label, count in findings.peppr.skipped.items()},
            "curves": {name: curve.tolist() for name, curve in findings.peppr.curves.items()},
            "specificity": findings.peppr.specificity(),
        },
        "biases": [asdict(bias) | {"found": bias.found} for bias in findings.biases],
    }


def draw_figures(
    data: ImageDataModule, settings: DictConfig, findings: Findings, heading: str
) -> dict[str, NDArray[np.uint8]]:
    """Draw all figures but that of the maps, by name, each with a heading."""
    peppr = findings.peppr.plot(settings.samples)
    peppr.suptitle(heading, fontsize=9)
    figures = {
        "peppr": render(peppr),
        "over_images": over_images(data, settings.peppr_split, findings.maps.overall, heading),
    }
    matrix = findings.peppr.specificity()
    names = [findings.maps.labels[label] for label in findings.peppr.labels]
    title = f"{heading}\nrestored minus erased area: map of the row, judged by the label of the column"
    figures["specificity"] = matrix_figure(np.array(list(matrix.values())), list(matrix), names, title)
    return figures


def over_images(data: ImageDataModule, split: str, overall: Tensor | None, heading: str) -> NDArray[np.uint8]:
    """Draw the overall map over the first images of a split, both mirrored back to how the images were taken."""
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
    return map_grid(images, maps, titles=[["overall map"]] * count, labels=titles, heading=heading)


def as_taken(data: ImageDataModule, values: Tensor, side: str | None) -> Tensor:
    """Mirror an aligned image or map ``(C, *S)`` back to how the image was taken."""
    for transform in reversed(data.prepare):
        if isinstance(transform, MirrorSided) and side is not None:
            values = transform.inverse({transform.keys[0]: values, "laterality": side})[transform.keys[0]]
    return values


def sections(settings: DictConfig, findings: Findings, figures: dict[str, NDArray[np.uint8]]) -> list[page.Part]:
    """The sections of the page, in order."""
    judged = f"the {counted(findings.peppr.resampling)} of the {settings.peppr_split} split"
    return [
        page.heading("What the numbers say"),
        page.bullets(sentences(findings)),
        page.heading("Where the model looks"),
        page.figure(
            figures["maps"],
            f"Maps of the {settings.maps_split} split over its mean image; outlined: the region where evidence can be.",
        ),
        labels_table(findings),
        page.figure(
            figures["over_images"],
            "The overall map over single images as they were taken, mirrored ones mirrored back.",
        ),
        page.heading("Is that so? PEPPR"),
        page.paragraph(
            f"The same pixels of all of {judged} are erased (or restored on an empty image) in the order of the "
            f"overall map, and the {SCORES[findings.peppr.metric]} is taken again. Hidden pixels show: {settings.fill}"
            f". Bands: 95 % over {findings.peppr.resampling['unit']}; of the random orders their range."
        ),
        page.figure(figures["peppr"], "PEPPR of the overall map."),
        *summary_table(findings),
        page.heading("Is each map about its own label?"),
        page.figure(figures["specificity"], "For every label (column) its own map (row) should do best."),
        page.heading("Does a label look at the wrong place?"),
        *bias_parts(findings),
        page.heading("About"),
        page.paragraph(ABOUT),
    ]


def labels_table(findings: Findings) -> page.Part:
    """The table of each label's map: how many maps it averages, and how stable it is."""
    outside = {bias.label: f"{100 * bias.outside:.0f} %" for bias in findings.biases}
    maps = findings.maps
    rows = [
        [name, count, units, skipped, "-" if r is None else f"{r:.2f}", outside.get(name, "-")]
        for name, count, units, skipped, r in zip(
            maps.labels, maps.count, maps.label_units, maps.skipped, maps.stability, strict=True
        )
    ]
    return page.table(
        ["label", "maps", maps.unit, "all-zero, left out", "halves correlate", "outside the region"], rows
    )


def summary_table(findings: Findings) -> list[page.Part]:
    """The table of PEPPR's numbers: mean over labels with intervals, and each label's."""
    names = findings.maps.labels
    summary, by_label = findings.peppr.summary(), findings.peppr.per_label()
    head = ["", "mean over labels", "95 % interval", *(names[label] for label in by_label)]
    rows = [
        [text, f"{summary[key]:.3f}", span(findings.intervals[key]), *(f"{row[key]:.3f}" for row in by_label.values())]
        for key, text in MEANING.items()
    ]
    notes = [
        f"{names[label]} has {number_of(count, 'positive images')}, so it cannot be judged."
        for label, count in findings.peppr.skipped.items()
    ]
    return [page.table(head, rows), *([page.bullets(notes)] if notes else [])]


def bias_parts(findings: Findings) -> list[page.Part]:
    """The table of how much of each label's map lies outside of the region, and the images that contribute most."""
    rows = [
        [
            f"{bias.label}{' (look at this)' if bias.found else ''}",
            f"{100 * bias.outside:.1f} %",
            f"{100 * bias.chance:.1f} %",
            ", ".join(f"{name} ({100 * fraction:.0f} %)" for name, fraction in bias.images),
        ]
        for bias in findings.biases
    ]
    return [page.table(["label", "map outside", "constant map", "images that contribute most"], rows)]
