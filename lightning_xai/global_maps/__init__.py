"""Global maps: the maps of many aligned images aggregated into one, and PEPPR, which tests whether it is faithful.

Engelmann, Storkey & Bernabeu, arXiv 2112.09591. The code of both was not published: how maps are aggregated, and how
PEPPR is computed, is our reconstruction from the paper's text.
"""

from lightning_xai.global_maps.maps_result import GlobalMapsResult
from lightning_xai.global_maps.metric import GlobalMaps
from lightning_xai.global_maps.progressive import peppr
from lightning_xai.global_maps.result import PEPPRResult

__all__ = ["GlobalMaps", "GlobalMapsResult", "PEPPRResult", "peppr"]
