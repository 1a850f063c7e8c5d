"""Training on what a frozen model gives, computed once."""

import hashlib
import logging
import os
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lightning_xai.data.loaders import make_training_loader
from lightning_xai.data.module import ImageDataModule
from lightning_xai.targets import Target

log = logging.getLogger(__name__)

CACHES = ("auto", "memory", "file")
#: Features of more bytes go to a file.
MEMORY_BYTES = 2 << 30


class Encoder(Protocol):
    """What computes the features."""

    @property
    def target(self) -> Target:
        """The frozen model."""

    @property
    def device(self) -> torch.device:
        """Where it is."""

    def features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features ``(B, D, *N)`` and logits ``(B, K)``."""


class CachedFeatures(LightningDataModule):
    """Training batches of features and logits instead of images; everything else comes from the data beneath.

    The features are those of the training images without augmentation. A file of them is used again for the same data,
    size and target, and only then.

    Args:
        data: The data beneath, an :class:`ImageDataModule`.
        encoder: Gives features and logits.
        cache: ``"memory"``, ``"file"``, or ``"auto"``: a file above 2 GiB.
        folder: Where the files are.

    Raises:
        ValueError: If the cache is unknown, or the data has no training images that can be read without augmentation.
    """

    def __init__(self, data: LightningDataModule, encoder: Encoder, cache: str, folder: str | Path) -> None:
        super().__init__()
        if cache not in CACHES:
            raise ValueError(f"cache is {cache!r}; use {', '.join(CACHES)}, or null to compute features in every step.")
        if not isinstance(data, ImageDataModule):
            raise ValueError(
                f"Features of {type(data).__name__} cannot be cached; use an ImageDataModule, or cache=null."
            )
        self.data = data
        self.encoder = encoder
        self.cache = cache
        self.folder = Path(folder)
        self._kept: dict[str, Any] = {}

    def setup(self, stage: str) -> None:
        """Set up the data beneath."""
        self.data.setup(stage)

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches of ``features``, ``logits``, ``id`` and, where there are, ``label``; shuffled."""
        if self.data.geometry.mixed:
            raise ValueError(
                "Features of images of different sizes cannot be cached; set data.size=auto to bring them to one, or "
                "explainer.cache=null to compute features in every step."
            )
        key = self.key()
        if key not in self._kept:
            self._kept = {key: self._features(key)}
        features, logits = self._kept[key]
        rows = FeatureRows(features, logits, self.data.split_items["train"])
        return make_training_loader(rows, self.data.batch_size, 0, self.data.seed, self.trainer)

    def val_dataloader(self) -> Any:
        """Images; see the data beneath."""
        return self.data.val_dataloader()

    def key(self) -> str:
        """Hash of all that the features depend on."""
        target, data = self.encoder.target, self.data
        statistics = [None if value is None else value.tolist() for value in (target.mean, target.std)]
        data_info = data.data_info()  # its mean and deviation tell crops and other preparations apart
        seen = (data_info["fingerprint"], data.image_shape, data_info["mean"], data_info["std"])
        parts = (target.fingerprint(), seen, statistics)
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]

    def _features(self, key: str) -> tuple[Any, Any]:
        paths = [self.folder / f"{key}_{name}.npy" for name in ("features", "logits")]
        if self._known(paths):
            log.info("Features of the training images: %s.", paths[0])
            return np.load(paths[0], mmap_mode="r"), np.load(paths[1])
        encoded = self._encoded()
        parts = next(encoded)
        first, encoded = parts[0], chain([parts], encoded)
        count = len(self.data.split_items["train"])
        size = count * first[0].numel() * first.element_size()
        log.info("Computing the features of %d training images once (%.0f MB).", count, size / 1e6)
        if self.cache == "memory" or (self.cache == "auto" and size <= MEMORY_BYTES):
            features, logits = zip(*encoded, strict=True)
            return torch.cat(features).numpy(), torch.cat(logits).numpy()
        if self.trainer is None or self.trainer.is_global_zero:
            self._write(paths, (count, *first.shape[1:]), encoded)
        if self.trainer is not None:
            self.trainer.strategy.barrier("features")
        return np.load(paths[0], mmap_mode="r"), np.load(paths[1])

    def _known(self, paths: list[Path]) -> bool:
        """Whether the files are there; all ranks decide as rank zero does, which may be the one that writes them."""
        known = self.cache != "memory" and all(path.is_file() for path in paths)
        return known if self.trainer is None else bool(self.trainer.strategy.broadcast(known))

    def _encoded(self) -> Iterator[tuple[Tensor, ...]]:
        """Features and logits, batch by batch, float32 on the CPU."""
        for batch in self.data.plain_dataloader("train"):
            yield tuple(
                values.float().cpu() for values in self.encoder.features(batch["image"].to(self.encoder.device))
            )

    def _write(self, paths: list[Path], shape: tuple[int, ...], encoded: Iterable[tuple[Tensor, ...]]) -> None:
        """Both files, whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        parts = [path.with_suffix(f".{os.getpid()}.part") for path in paths]
        try:
            store, row, all_logits = np.lib.format.open_memmap(parts[0], "w+", np.float32, shape), 0, []
            for features, logits in encoded:
                store[row : row + len(features)] = features.numpy()
                row += len(features)
                all_logits.append(logits)
            store.flush()
            with parts[1].open("wb") as file:
                np.save(file, torch.cat(all_logits).numpy())
            for part, path in zip(reversed(parts), reversed(paths), strict=True):
                part.replace(path)
        finally:
            for part in parts:
                part.unlink(missing_ok=True)


class FeatureRows(Dataset[dict[str, Any]]):
    """One image a row: its features, logits, id and, where it has one, label."""

    def __init__(self, features: Any, logits: Any, items: Any) -> None:
        self.features, self.logits, self.items = features, logits, items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, row: int) -> dict[str, Any]:
        item = self.items[row]
        sample = {"features": torch.from_numpy(np.array(self.features[row])), "id": item.id}
        sample["logits"] = torch.from_numpy(np.array(self.logits[row]))
        return sample if item.label is None else sample | {"label": torch.tensor(item.label)}
