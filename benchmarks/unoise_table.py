"""Visibility of U-Noise on pancreas slices: sizes, starts and objectives, beside CAMs, occlusion and the bounds.

Usage: ``LIGHTNING_XAI_DATA=... python benchmarks/unoise_table.py [--sizes small] [--epochs 10] [key=value]``.
Prints the Dice per image at each fraction of visible pixels, what is left with another image's content under the same
mask (leak), the paired 95 % interval over patients to the best row that learns nothing, and the time an image takes.
Trained networks are kept in ``runs/bench/unoise`` and used again.
"""

import argparse
import logging
import time
from itertools import product
from pathlib import Path

import torch
from _real_data import config_of, stop_without_data, target_and_data
from hydra.utils import instantiate
from lightning import seed_everything
from omegaconf import DictConfig

from lightning_xai.cli.target_cache import target_key
from lightning_xai.data import ImageDataModule
from lightning_xai.explainers import CaptumExplainer, Explainer, GradCAM, HiResCAM, RandomMap, UNoise
from lightning_xai.explainers.reference import BlurredReference, Reversed
from lightning_xai.explainers.unoise import SIZES
from lightning_xai.functional.groups import batch_groups
from lightning_xai.metrics import MetricSuite, VisibilityCurve, VisibilityLeak
from lightning_xai.report.statistics import Rows, paired_bootstrap, per_image_means
from lightning_xai.targets import SegmenterTarget

FRACTIONS = (0.1, 0.2, 0.5, 0.7)
#: Of the segmenter: the bottleneck (4 x 4 places at 128 pixels), and decoder layers of 16 x 16 and 64 x 64.
LAYERS = ("auto", "decoder.blocks.1", "decoder.blocks.3")
KEPT = Path("runs/bench/unoise")
#: The paper's preset, its noise starting at 0 with a higher price, and the improved objective.
OBJECTIVES = {
    "paper": {},
    "min0": {"min_scale": 0.0, "noise_weight": 1e-2},
    "visibility": {"objective": "visibility"},
}


def fitted(cfg: DictConfig, target: SegmenterTarget, data: ImageDataModule, row: tuple[str, str, str]) -> UNoise:
    """A U-Noise of a size, a start and an objective: read where it was trained before, else trained and kept."""
    size, start, objective = row
    weights = small_segmenter(cfg, size) if start == "pretrained" else None
    seed_everything(cfg.seed, workers=True, verbose=False)
    options = OBJECTIVES[objective] | {"size": size, "lr": 1e-3 if weights else 3e-3, "init_from": weights}
    explainer = UNoise(target, channels=data.channels, classes=cfg.data_info.classes, reference="mask", **options)
    file = KEPT / f"{size}_{start}_{objective}_{cfg.trainer.max_epochs}_{target.fingerprint()[:8]}.pt"
    if file.is_file():
        explainer.load_state_dict(torch.load(file, weights_only=True))
    else:
        quiet = {"logger": False, "callbacks": [], "enable_checkpointing": False, "limit_val_batches": 0}
        began = time.perf_counter()
        instantiate(cfg.trainer, **quiet, enable_progress_bar=False).fit(explainer, datamodule=data)
        print(f"{' '.join(row)}: trained in {time.perf_counter() - began:.0f} s", flush=True)
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(explainer.state_dict(), file)
    return explainer.eval()


def small_segmenter(cfg: DictConfig, size: str) -> str:
    """Weights of a segmenter of the noise network's own size, trained on the masks."""
    words = ["target=unet_unoise", f"target.model.depth={SIZES[size]}", "target_trainer.module.lr=0.003"]
    own = config_of("unoise_pancreas", cfg.seed, *words, f"target_trainer.trainer.max_epochs={cfg.trainer.max_epochs}")
    target_and_data(own)
    return str(Path(own.target_dir) / f"{target_key(own)}.ckpt")


def scored(explainer: Explainer, data: ImageDataModule, batches: int) -> tuple[MetricSuite, float]:
    """The curves of an explainer over the test batches, and its seconds an image."""
    curves = {"dice": VisibilityCurve(scope="image", steps=10)}
    leaks = {content: VisibilityLeak(content, scope="image", steps=10) for content in ("swapped", "noise")}
    suite, spent, count = MetricSuite(curves | leaks), 0.0, 0
    for batch in list(data.test_dataloader())[:batches]:
        images, masks, target = batch["image"], batch["mask"], explainer.target
        query = target.query(images)
        targets, pixels = query.targets, query.regions
        asked = target.evidence(masks, targets) if isinstance(explainer, BlurredReference) else pixels
        began = time.perf_counter()
        maps = explainer.explain(images, targets, asked)
        spent, count = spent + time.perf_counter() - began, count + len(images)
        suite.update(
            target=target,
            images=images,
            maps=maps,
            ids=batch["id"],
            targets=targets,
            pixels=pixels,
            masks=masks,
            groups=batch_groups(batch),
        )
    return suite, spent / count


def at_fractions(suite: MetricSuite, metric: str) -> dict[float, Rows]:
    """Rows of a metric of the suite at the fractions of the table."""
    curve = suite.members()[metric]
    assert isinstance(curve, VisibilityCurve)
    rows = curve.rows_at_fractions()
    return {fraction: rows[fraction] for fraction in FRACTIONS}


def mean(rows: Rows) -> float:
    """Mean over images."""
    return float(torch.tensor(list(per_image_means(rows).values())).nanmean())


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", default=list(SIZES))
    parser.add_argument("--starts", nargs="+", default=["plain", "pretrained"])
    parser.add_argument("--objectives", nargs="+", default=list(OBJECTIVES))
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batches", type=int, default=99)
    parser.add_argument("--seed", type=int, default=0)
    arguments, overrides = parser.parse_known_args()
    stop_without_data()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    cfg = config_of("unoise_pancreas", arguments.seed, f"trainer.max_epochs={arguments.epochs}", *overrides)
    target, data = target_and_data(cfg)
    assert isinstance(target, SegmenterTarget)
    others: dict[str, Explainer] = {
        "random": RandomMap(target),
        **{f"Seg-Grad-CAM {layer}": GradCAM(target, layer) for layer in LAYERS},
        **{f"Seg-HiRes {layer}": HiResCAM(target, layer) for layer in LAYERS},
        "occlusion": CaptumExplainer(target, "Occlusion", baseline="zero", patch=16),
    }
    results = {name: scored(explainer, data, arguments.batches) for name, explainer in others.items()}
    results["oracle"] = scored(BlurredReference(target), data, arguments.batches)
    rivals = {
        fraction: max((at_fractions(results[name][0], "dice")[fraction] for name in others), key=mean)
        for fraction in FRACTIONS
    }
    curve = results["random"][0].members()["dice"]
    patients = curve.image_groups()
    print(f"{len(curve.per_image())} test slices of {len(set(patients.values()))} patients")
    head = " ".join(f"{f'{fraction:.0%} visible':>34}" for fraction in FRACTIONS)
    print(f"{'Dice (leak) difference':<30} {head} {'ms/image':>9}")
    for name, result in results.items():
        line(name, *result)
    for row in product(arguments.sizes, arguments.starts, arguments.objectives):
        explainer = fitted(cfg, target, data, row)
        result = scored(explainer, data, arguments.batches)
        line(" ".join(row), *result, rivals)
        if row[2] == "visibility" and row[1] == "plain":
            line(f"{row[0]} reversed", *scored(Reversed(explainer), data, arguments.batches))


def line(name: str, suite: MetricSuite, seconds: float, rivals: dict[float, Rows] | None = None) -> None:
    """Print a row of the table."""
    dice, leak = at_fractions(suite, "dice"), at_fractions(suite, "swapped")
    cells = []
    for fraction in FRACTIONS:
        cell = f"{mean(dice[fraction]):.2f} ({mean(leak[fraction]):.2f})"
        if rivals is not None:
            gap = paired_bootstrap(dice[fraction], rivals[fraction], suite.members()["dice"].image_groups())
            cell += f" {gap.mean:+.2f} [{gap.low:+.2f}, {gap.high:+.2f}]"
        cells.append(f"{cell:>34}")
    print(f"{name:<30} {' '.join(cells)} {1000 * seconds:>9.1f}", flush=True)


if __name__ == "__main__":
    main()
