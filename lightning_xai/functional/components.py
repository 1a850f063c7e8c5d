"""Connected components of a mask."""

import numpy as np
from scipy import ndimage


def connected_component(region: np.ndarray, which: str) -> np.ndarray:
    """The ``"largest"`` or ``"smallest"`` connected component of a boolean mask ``(*S)``; an empty mask as it is."""
    labels, count = ndimage.label(region)
    if not count:
        return region
    sizes = np.bincount(labels.ravel())[1:]
    component: np.ndarray = labels == 1 + (sizes.argmax() if which == "largest" else sizes.argmin())
    return component
