"""CAPE: contributions of regions that add up to the class probability."""

from lightning_xai.explainers.cape.cape import CAPE

__all__ = ["CAPE"]
