"""PCIM against controls and classical maps on real data: the insertion - deletion gap of three fills, and localization.

PCIM trains on zero and median; blur it never saw.

Usage: ``LIGHTNING_XAI_DATA=... python benchmarks/pcim_faithfulness.py [experiment ...] [--seeds 0 1] [--images 100]
[--methods "PCIM faithful" random]``. A seed decides the target's training and, where the split is made, the split; all
methods see the same images, evenly spaced over the test set. Intervals are of the first method's paired differences.
"""

import argparse
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from _real_data import BASELINES, stop_without_data, target_of, test_images

from lightning_xai.explainers import PCIM, CaptumExplainer, CenterPrior, EdgeMap, RandomMap
from lightning_xai.metrics import InsertionDeletionGap, MetricSuite, PointingGame, RelevanceMass
from lightning_xai.report.statistics import Rows
from lightning_xai.report.tables import format_table, summarize
from lightning_xai.targets import Target

METHODS = {
    "PCIM faithful": PCIM,
    "PCIM sparse": partial(PCIM, preset="sparse"),
    "HiResCAM": partial(CaptumExplainer, method="LayerGradientXActivation", layer="features"),
    "integrated gradients": partial(CaptumExplainer, baseline="zero", internal_batch_size=64),
    "gradient x input": partial(CaptumExplainer, method="InputXGradient"),
    "random": RandomMap,
    "center": CenterPrior,
    "edge": EdgeMap,
}


def score(target: Target, images: dict[str, Any], seed: int, methods: Sequence[str]) -> dict[str, dict[str, Rows]]:
    """Rows of every method and metric for one seed."""
    results = {}
    for name in methods:
        explainer, start = METHODS[name](target), time.perf_counter()
        maps = torch.cat([explainer.explain(chunk) for chunk in images["image"].split(32)])
        seconds = time.perf_counter() - start
        suite = MetricSuite(
            {
                **{f"gap_{fill}": InsertionDeletionGap(fill=fill) for fill in BASELINES},
                "pointing_game": PointingGame(),
                "relevance_mass": RelevanceMass(),
            }
        )
        targets = target.query(images["image"]).targets
        ids = [f"{seed}-{index}" for index in range(len(maps))]
        suite.update(
            target=target, images=images["image"], maps=maps, targets=targets, masks=images.get("mask"), ids=ids
        )
        results[name] = {metric: value.rows() for metric, value in suite.items() if value.update_called}
        gaps = [f"{metric} {suite[metric].compute():+.3f}" for metric in suite if metric.startswith("gap")]
        print(f"  seed {seed}  {name:22s} {' '.join(gaps)}  {1000 * seconds / len(maps):8.1f} ms an image", flush=True)
    return results


def main() -> None:
    """Print the table of every data set that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("experiments", nargs="*", default=["pcim_fluorescence", "pcim_brightfield"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    args = parser.parse_args()
    stop_without_data()
    for experiment in args.experiments:
        pooled: dict[str, dict[str, Rows]] = {}
        groups: dict[str, str] = {}
        for seed in args.seeds:
            target, data = target_of(experiment, seed)
            images = test_images(data, args.images)
            # An image that several seeds test, and all images of its group, are one unit.
            for index, (name, group) in enumerate(zip(images["id"], images["group"], strict=True)):
                groups[f"{seed}-{index}"] = f"group {group}" if group else name
            print(f"  {len(images['image'])} test images", flush=True)
            for name, scores in score(target, images, seed, args.methods).items():
                for metric, rows in scores.items():
                    pooled.setdefault(name, {}).setdefault(metric, []).extend(rows)
        table = format_table(summarize(pooled, groups), dict.fromkeys(pooled[args.methods[0]], True))
        print(f"\n{experiment}, {len(args.seeds)} seeds pooled\n{table}\n")


if __name__ == "__main__":
    main()
