"""Write ssim_values.json: what scikit-image says about the maps of :func:`pairs`.

Run it by hand from the repository root, where scikit-image 0.26 is installed (nothing else of this project needs it)::

    python -m tests.unit.metrics.ssim_values
"""

import json
from pathlib import Path

import numpy as np

SHAPES = {"square": (28, 28), "oblong": (17, 40), "window": (11, 11), "volume": (14, 15, 13)}


def pairs(shape: tuple[int, ...]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Two pairs of signed maps: noise and more noise; and sparse maps on a flat ground."""
    rng = np.random.default_rng(sum(shape))
    first, second, ground = rng.random(shape) - 0.5, rng.random(shape), rng.random(shape)
    noisy = (first, 3 * first + second)
    return [noisy, tuple(np.where(ground > 0.8, values, 0.0) for values in noisy)]


def similarity(a: np.ndarray, b: np.ndarray) -> float:
    """scikit-image's value of two maps that are scaled to [0, 1] first."""
    from skimage.metrics import structural_similarity

    first, second = ((values - values.min()) / (values.max() - values.min()) for values in (a, b))
    return float(
        structural_similarity(
            first, second, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1
        )
    )


def main() -> None:
    """Write the file."""
    values = {name: [similarity(a, b) for a, b in pairs(shape)] for name, shape in SHAPES.items()}
    Path(__file__).with_suffix(".json").write_text(json.dumps(values, indent=2) + "\n")


if __name__ == "__main__":
    main()
