"""Data modules: images from a user's files as batches that are plain dicts."""

from lightning_xai.data.items import Item
from lightning_xai.data.module import ImageDataModule
from lightning_xai.data.reading import BadImageError
from lightning_xai.data.sources.decathlon import DecathlonData
from lightning_xai.data.sources.embedded import EmbeddedDigits
from lightning_xai.data.sources.folder import FolderData
from lightning_xai.data.sources.manifest import ManifestData
from lightning_xai.data.sources.npz import NpzData
from lightning_xai.data.tiff import TiffReader
from lightning_xai.data.transforms import CornerTag, MirrorSided

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
