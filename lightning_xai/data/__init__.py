"""Data modules: real images from a user's files as plain dict batches."""

from lightning_xai.data.alignment import CornerTag, MirrorSided
from lightning_xai.data.base import ImageDataModule
from lightning_xai.data.decathlon import DecathlonData
from lightning_xai.data.embedded import EmbeddedDigits
from lightning_xai.data.folder import FolderData
from lightning_xai.data.items import Item
from lightning_xai.data.manifest import ManifestData
from lightning_xai.data.npz import NpzData
from lightning_xai.data.reading import BadImageError, TiffReader

__all__ = [
    "BadImageError",
    "CornerTag",
    "DecathlonData",
    "EmbeddedDigits",
    "FolderData",
    "ImageDataModule",
    "Item",
    "ManifestData",
    "MirrorSided",
    "NpzData",
    "TiffReader",
]
