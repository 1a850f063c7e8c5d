"""The loaders of the splits of a data set that was read."""

import math
from collections.abc import Callable, Collection
from typing import Any

from lightning import LightningDataModule
from monai.data.dataloader import DataLoader
from monai.data.dataset import Dataset
from torch.utils.data import Subset

from lightning_xai.data.batches import EqualSizes, batched
from lightning_xai.data.cache import SampleCache
from lightning_xai.data.geometry import Geometry
from lightning_xai.data.items import Item
from lightning_xai.data.loaders import choose_workers, make_loader, make_training_loader


class SplitLoaders(LightningDataModule):
    """Gives the splits of a data set in batches; a subclass sets the attributes.

    Attributes:
        image_shape: Channels and spatial size (C, *S) of every image; of the largest on each axis where sizes differ.
        geometry: Where the pixels of each image were in its file.
    """

    where: str
    batch_size: int
    seed: int
    _cache: SampleCache | None
    num_workers: int | None
    augment: list[Callable[..., Any]]
    image_shape: tuple[int, ...]
    geometry: Geometry
    split_items: dict[str, list[Item]]
    _datasets: dict[str, Dataset | EqualSizes]
    _plain: dict[str, Dataset | EqualSizes]

    def train_dataloader(self) -> DataLoader:
        """Return the training images, shuffled and augmented."""
        return self._loader("train")

    def val_dataloader(self) -> DataLoader:
        """Return the validation images in order."""
        return self._loader("val")

    def test_dataloader(self) -> DataLoader:
        """Return the test images in order."""
        return self._loader("test")

    def predict_dataloader(self) -> DataLoader:
        """Return every image of the source in order if `predict` was set up first, else the test images."""
        return self._loader("predict" if "predict" in self._datasets else "test")

    def rest_dataloader(self, done: Collection[str]) -> DataLoader | None:
        """Return what :meth:`predict_dataloader` does, without images that are done; `None` if none is left.

        Args:
            done: Ids of images.
        """
        split = "predict" if "predict" in self._datasets else "test"
        items = self.split_items[split]
        left = [row for row, item in enumerate(items) if item.id not in done]
        if not left:
            return None
        whole = self._datasets[split]
        samples: Any = Subset(whole.dataset if isinstance(whole, EqualSizes) else whole, left)
        self._datasets["rest"] = batched(samples, self.geometry.sizes_of([items[row] for row in left]), self.batch_size)
        return self._loader("rest")

    def plain_dataloader(self, split: str) -> DataLoader:
        """Return the images of a split in order, without augmentation."""
        return self._loader(split, plain=True)

    def _loader(self, split: str, plain: bool = False) -> DataLoader:
        dataset, workers = (self._plain if plain else self._datasets)[split], self.num_workers
        if workers is None:
            # From the cache, only augmenting large images is work enough to pay for sending them between processes.
            kept = self._cache is not None and not self._cache.full
            light = kept and (not self.augment or math.prod(self.image_shape) <= 512 * 512)
            workers = choose_workers(light, 1 if self.trainer is None else self.trainer.num_devices)
        if not len(dataset):
            remedy = "; a target with weights and an explainer without training need none" if split == "train" else ""
            raise ValueError(f"The {split} split of {self.where} ends up empty; give it images{remedy}.")
        setattr(dataset, "grids", self.geometry.grids)  # noqa: B010  # MONAI's class does not know it
        if split == "train" and not plain:
            return make_training_loader(dataset, self.batch_size, workers, self.seed, self.trainer)
        return make_loader(dataset, self.batch_size, workers, self.seed)
