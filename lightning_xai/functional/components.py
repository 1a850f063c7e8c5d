"""Connected components."""

import numpy as np
from scipy import ndimage


def connected_component(pixels: np.ndarray, which: str) -> np.ndarray:
    """One component ``(*S)``; nothing of nothing."""
    labels, count = ndimage.label(pixels)
    if not count:
        return pixels
    sizes = np.bincount(labels.ravel())[1:]
    found: np.ndarray = labels == 1 + (sizes.argmax() if which == "largest" else sizes.argmin())
    return found
