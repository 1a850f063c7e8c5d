"""Callbacks that read the maps of the finished batch."""

from lightning_xai.callbacks.attribution_maps import AttributionMaps
from lightning_xai.callbacks.contributions import Contributions
from lightning_xai.callbacks.faithfulness import Faithfulness
from lightning_xai.callbacks.global_maps import SaveGlobalMaps
from lightning_xai.callbacks.last_checkpoint import LastCheckpoint
from lightning_xai.callbacks.map_variety import MapVariety
from lightning_xai.callbacks.prediction_table import PredictionTable
from lightning_xai.callbacks.save_maps import SaveMaps

__all__ = [
    "AttributionMaps",
    "Contributions",
    "Faithfulness",
    "LastCheckpoint",
    "MapVariety",
    "PredictionTable",
    "SaveGlobalMaps",
    "SaveMaps",
]
