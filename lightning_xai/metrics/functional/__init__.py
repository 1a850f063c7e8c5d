"""The formulas behind the metrics as functions: tensors in, tensors out, no model and no state."""

from lightning_xai.metrics.functional.chance import (
    random_auc,
    random_average_precision,
    random_box_energy,
    random_fixed_iou,
    random_fraction,
)
from lightning_xai.metrics.functional.curves import (
    area_between,
    baseline_probability,
    mean_over_fractions,
    normalized_curve,
    trapezoid,
)
from lightning_xai.metrics.functional.evidence import Sorted, sort_evidence
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
from lightning_xai.metrics.functional.masking import (
    adcc,
    average_drop,
    coherency,
    complexity,
    increase_in_confidence,
    top_iou,
)
from lightning_xai.metrics.functional.segmentation import (
    boundary,
    boundary_reliance,
    context_reliance,
    dice_drop,
    off_target_leakage,
)
from lightning_xai.metrics.functional.similarity import pearson, spearman, ssim, tied_ranks
from lightning_xai.metrics.functional.stability import (
    infidelity,
    largest_distance,
    max_sensitivity,
    mean_correlation,
    noise_stability,
    predicted_change,
    relative_distance,
)
from lightning_xai.metrics.functional.visibility import (
    counts_at_fraction,
    dice_of_counts,
    fractions_above,
    visibility_dice,
)

__all__ = [
    "Sorted",
    "adcc",
    "area_between",
    "average_drop",
    "baseline_probability",
    "best_iou",
    "boundary",
    "boundary_reliance",
    "box_energy",
    "coherency",
    "complexity",
    "context_reliance",
    "counts_at_fraction",
    "dice_drop",
    "dice_of_counts",
    "fixed_iou",
    "fractions_above",
    "increase_in_confidence",
    "infidelity",
    "largest_distance",
    "max_sensitivity",
    "mean_correlation",
    "mean_over_fractions",
    "noise_stability",
    "normalized_curve",
    "off_target_leakage",
    "pearson",
    "pixel_auc",
    "pixel_average_precision",
    "pointing_game",
    "predicted_change",
    "random_auc",
    "random_average_precision",
    "random_box_energy",
    "random_fixed_iou",
    "random_fraction",
    "relative_distance",
    "relevance_mass",
    "relevance_rank",
    "sort_evidence",
    "spearman",
    "ssim",
    "tied_ranks",
    "top_iou",
    "top_k_intersection",
    "trapezoid",
    "visibility_dice",
]
