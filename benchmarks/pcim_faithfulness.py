"""PCIM against controls and classical maps on real data: the insertion - deletion gap with two fills, and localisation.

Usage: ``LIGHTNING_XAI_DATA=... python benchmarks/pcim_faithfulness.py [experiment ...] [--seeds 0 1] [--images 100]``.
A seed decides the target's training and, where the split is made, the split; all methods see the same images.
"""

import argparse
import os
import time
from functools import partial
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from lightning_xai import ClassifierTarget, runs
from lightning_xai.explainers import PCIM, CaptumExplainer, CenterPrior, EdgeMap, RandomMap
from lightning_xai.metrics import InsertionDeletionGap, MetricSuite, PointingGame, RelevanceMass
from lightning_xai.report.statistics import Rows
from lightning_xai.report.table import format_table, summarise

METHODS = {
    "PCIM faithful": PCIM,
    "PCIM sparse": partial(PCIM, preset="sparse"),
    "PCIM literal": partial(PCIM, preset="literal"),
    "HiResCAM": partial(CaptumExplainer, method="LayerGradientXActivation", layer="features"),
    "integrated gradients": partial(CaptumExplainer, baseline="zero", internal_batch_size=64),
    "gradient x input": partial(CaptumExplainer, method="InputXGradient"),
    "random": RandomMap,
    "center": CenterPrior,
    "edge": EdgeMap,
}
CONFIGS = Path(__file__).parents[1] / "configs"


def target_and_images(
    experiment: str, seed: int, count: int
) -> tuple[ClassifierTarget, dict[str, torch.Tensor], float]:
    """The trained target of a seed, ``count`` test images, and its test accuracy."""
    with initialize_config_dir(str(CONFIGS.resolve()), version_base="1.3"):
        cfg = compose("train", [f"experiment={experiment}", f"seed={seed}", f"run_dir=runs/bench/{experiment}_{seed}"])
    data = instantiate(cfg.data)
    data.setup("fit")
    runs.note_facts(cfg, data)
    torch.manual_seed(seed)
    target, quality = runs.build_target(cfg, data)
    batches = list(data.test_dataloader())
    images = {
        key: torch.cat([batch[key] for batch in batches])[:count] for key in ("image", "mask") if key in batches[0]
    }
    return target, images, quality["target/accuracy"]


def score(target: ClassifierTarget, images: dict[str, torch.Tensor], seed: int) -> dict[str, dict[str, Rows]]:
    """Rows of every method and metric for one seed."""
    results = {}
    for name, make in METHODS.items():
        explainer, start = make(target), time.perf_counter()
        maps = torch.cat([explainer.explain(chunk) for chunk in images["image"].split(32)])
        seconds = time.perf_counter() - start
        suite = MetricSuite(
            {
                "gap_zero": InsertionDeletionGap(fill="zero"),
                "gap_median": InsertionDeletionGap(fill="median"),
                "pointing_game": PointingGame(),
                "relevance_mass": RelevanceMass(),
            }
        )
        targets, _ = target.questions(images["image"], None, None)
        ids = [f"{seed}-{index}" for index in range(len(maps))]
        suite.update(
            target=target, images=images["image"], maps=maps, targets=targets, masks=images.get("mask"), ids=ids
        )
        results[name] = {metric: value.rows() for metric, value in suite.items() if value.update_called}
        gaps = [f"{suite[metric].compute():+.3f}" for metric in ("gap_zero", "gap_median")]
        print(f"  seed {seed}  {name:22s} {' '.join(gaps)}  {1000 * seconds / len(maps):8.1f} ms an image", flush=True)
    return results


def main() -> None:
    """Print the table of every data set that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("experiments", nargs="*", default=["pcim_fluorescence", "pcim_brightfield"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--images", type=int, default=100)
    args = parser.parse_args()
    if "LIGHTNING_XAI_DATA" not in os.environ:
        print("LIGHTNING_XAI_DATA is not set: nothing to compare.")
        return
    for experiment in args.experiments:
        pooled: dict[str, dict[str, Rows]] = {}
        for seed in args.seeds:
            target, images, accuracy = target_and_images(experiment, seed, args.images)
            print(
                f"{experiment}, seed {seed}: target test accuracy {accuracy:.3f}, {len(images['image'])} test images",
                flush=True,
            )
            for name, table in score(target, images, seed).items():
                for metric, rows in table.items():
                    pooled.setdefault(name, {}).setdefault(metric, []).extend(rows)
        table = format_table(summarise(pooled), dict.fromkeys(pooled["random"], True))
        print(f"\n{experiment}, {len(args.seeds)} seeds pooled\n{table}\n")


if __name__ == "__main__":
    main()
