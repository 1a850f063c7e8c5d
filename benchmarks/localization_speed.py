"""The whole family of localization metrics against one ROC AUC per image by scikit-learn, in one thread.

Usage: ``python benchmarks/localization_speed.py``. Medians of alternating repetitions in one run.
"""

import statistics
import time
from collections.abc import Callable

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from lightning_xai.metrics.functional.evidence import sort_evidence
from lightning_xai.metrics.functional.localization import (
    best_iou,
    box_energy,
    fixed_iou,
    pixel_auc,
    pixel_average_precision,
    pointing_game,
    relevance_mass,
    relevance_rank,
    top_k_intersection,
)

IMAGES, SIDE, REPEATS = 64, 224, 15


def scikit_learn(maps: Tensor, masks: Tensor) -> list[float]:
    """One ROC AUC per image."""
    rows = zip(masks.flatten(1).numpy(), maps.flatten(1).numpy(), strict=True)
    return [float(roc_auc_score(inside, values)) for inside, values in rows]


def auc_alone(maps: Tensor, masks: Tensor) -> Tensor:
    """Our ROC AUC with the sort that it needs."""
    return pixel_auc(sort_evidence(maps.flatten(2), masks.flatten(2)))


def family(maps: Tensor, masks: Tensor) -> list[Tensor]:
    """Every metric of the module, from one sort."""
    flat, inside = maps.flatten(2), masks.flatten(2)
    ranked = sort_evidence(flat, inside)
    return [
        pointing_game(ranked),
        relevance_mass(flat, inside),
        relevance_rank(ranked),
        top_k_intersection(ranked, k=1000),
        pixel_auc(ranked),
        pixel_average_precision(ranked),
        best_iou(ranked),
        fixed_iou(ranked, threshold=0.5),
        box_energy(maps, masks),
    ]


def milliseconds(work: Callable[[], object]) -> float:
    """Processor time of one call, in one thread: what else runs on the machine does not count."""
    start = time.process_time()
    work()
    return 1000 * (time.process_time() - start)


def parts(maps: Tensor, masks: Tensor) -> dict[str, Callable[[], object]]:
    """The sort, and what every metric adds to it."""
    flat, inside = maps.flatten(2), masks.flatten(2)
    ranked = sort_evidence(flat, inside)
    return {
        "sort": lambda: sort_evidence(flat, inside),
        "pointing game": lambda: pointing_game(ranked),
        "relevance mass": lambda: relevance_mass(flat, inside),
        "relevance rank": lambda: relevance_rank(ranked),
        "top-k intersection": lambda: top_k_intersection(ranked, k=1000),
        "ROC AUC": lambda: pixel_auc(ranked),
        "average precision": lambda: pixel_average_precision(ranked),
        "best IoU": lambda: best_iou(ranked),
        "fixed IoU": lambda: fixed_iou(ranked, threshold=0.5),
        "box energy": lambda: box_energy(maps, masks),
    }


def main() -> None:
    """Print the ratios, then what each part takes."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(IMAGES, 1, SIDE, SIDE, generator=generator)
    masks = torch.rand(IMAGES, 1, SIDE, SIDE, generator=generator) < 0.2
    runs = [
        [milliseconds(lambda work=work: work(maps, masks)) for work in (family, auc_alone, scikit_learn)]
        for _ in range(REPEATS)
    ]
    ours, alone, theirs = (statistics.median(column) for column in zip(*runs, strict=True))
    print(f"{IMAGES} maps of {SIDE} px, medians of {REPEATS}; scikit-learn's ROC AUC {theirs:.1f} ms")
    print(f"  whole family  {ours:6.1f} ms  {statistics.median(run[2] / run[0] for run in runs):5.2f} times faster")
    print(f"  ROC AUC alone {alone:6.1f} ms  {statistics.median(run[2] / run[1] for run in runs):5.2f} times faster")
    for name, work in parts(maps, masks).items():
        print(f"    {name:18s} {statistics.median(milliseconds(work) for _ in range(REPEATS)):6.1f} ms")


if __name__ == "__main__":
    main()
