"""Metrics of maps: one family a file, all per image, all exact under DDP."""

from lightning_xai.metrics.base import MapMetric
from lightning_xai.metrics.curves import BlankProbability, CurveMetric, DeletionAUC, InsertionAUC, InsertionDeletionGap
from lightning_xai.metrics.localisation import PointingGame, RelevanceMass
from lightning_xai.metrics.suite import MetricSuite

__all__ = [
    "BlankProbability",
    "CurveMetric",
    "DeletionAUC",
    "InsertionAUC",
    "InsertionDeletionGap",
    "MapMetric",
    "MetricSuite",
    "PointingGame",
    "RelevanceMass",
]
