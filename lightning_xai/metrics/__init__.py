"""Metrics of maps: one family a file, all per image, all exact under DDP; ``functional`` has their formulas."""

from lightning_xai.metrics.base import MapMetric
from lightning_xai.metrics.batch import MapBatch
from lightning_xai.metrics.collection import MetricSuite
from lightning_xai.metrics.curves import (
    BaselineProbability,
    CurveMetric,
    DeletionAUC,
    InsertionAUC,
    InsertionDeletionGap,
    InsertionLeak,
)
from lightning_xai.metrics.flipping import ROAD, PixelFlipping
from lightning_xai.metrics.localization import (
    BestIoU,
    BoxEnergy,
    FixedIoU,
    LocalizationMetric,
    PixelAUC,
    PixelAveragePrecision,
    PointingGame,
    RelevanceMass,
    RelevanceRank,
    TopKIntersection,
)
from lightning_xai.metrics.masking import (
    ADCC,
    AverageDrop,
    AverageDropInDeletion,
    Coherency,
    Complexity,
    IncreaseInConfidence,
    MaskingMetric,
    TopClassesIoU,
)
from lightning_xai.metrics.readouts import Readout
from lightning_xai.metrics.segmentation import BoundaryReliance, ContextReliance, DiceDrop, OffTargetLeakage
from lightning_xai.metrics.stability import Infidelity, MaxSensitivity, NoiseStability, StabilityMetric
from lightning_xai.metrics.visibility import VisibilityCurve, VisibilityLeak

__all__ = [
    "ADCC",
    "ROAD",
    "AverageDrop",
    "AverageDropInDeletion",
    "BaselineProbability",
    "BestIoU",
    "BoundaryReliance",
    "BoxEnergy",
    "Coherency",
    "Complexity",
    "ContextReliance",
    "CurveMetric",
    "DeletionAUC",
    "DiceDrop",
    "FixedIoU",
    "IncreaseInConfidence",
    "Infidelity",
    "InsertionAUC",
    "InsertionDeletionGap",
    "InsertionLeak",
    "LocalizationMetric",
    "MapBatch",
    "MapMetric",
    "MaskingMetric",
    "MaxSensitivity",
    "MetricSuite",
    "NoiseStability",
    "OffTargetLeakage",
    "PixelAUC",
    "PixelAveragePrecision",
    "PixelFlipping",
    "PointingGame",
    "Readout",
    "RelevanceMass",
    "RelevanceRank",
    "StabilityMetric",
    "TopClassesIoU",
    "TopKIntersection",
    "VisibilityCurve",
    "VisibilityLeak",
]
