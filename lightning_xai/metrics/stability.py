"""Stability: how much does a map change with the image, and does it account for the change of the output?"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from typing_extensions import override

from lightning_xai.metrics.base import MapMetric
from lightning_xai.metrics.batch import MapBatch
from lightning_xai.metrics.functional.stability import (
    infidelity,
    largest_distance,
    mean_correlation,
    predicted_change,
)
from lightning_xai.metrics.readouts import Readout
from lightning_xai.perturbation.batch_size import ChunkSize
from lightning_xai.perturbation.perturbations import Noisy
from lightning_xai.perturbation.sets import Curve


class StabilityMetric(MapMetric):
    """Score the maps of noisy copies of the image; base of such metrics.

    Those with equal settings share the explanations.

    Args:
        samples: Number of noisy copies.
        radius: Largest noise of a pixel and channel, uniform, as a fraction of the image's range.
        seed: Another seed gives other noise. The noise is the same for every image.
        chunk_size: Noisy copies per explanation.
    """

    family = "stability"
    needs_explainer = True
    options = ("samples", "radius", "seed")

    def __init__(
        self, samples: int = 10, radius: float = 0.02, seed: int = 0, chunk_size: ChunkSize = None, **kwargs: Any
    ) -> None:
        super().__init__(chunk_size, **kwargs)
        self.noise = Noisy(samples, radius, "uniform", per_channel=True, seed=seed)
        self.samples, self.radius, self.seed = samples, radius, seed


class MaxSensitivity(StabilityMetric):
    """Compute the largest relative change of the map under small noise on the image; low is good.

    Yeh et al. 2019, eq. 6, by sampling; ``captum.metrics.sensitivity_max`` for the same noise. Undefined for a zero
    map.
    """

    higher_is_better = False
    plot_lower_bound = 0.0
    paper = "Yeh et al. 2019, On the (in)fidelity and sensitivity of explanations, arXiv 1901.09392"

    @override
    def readouts(self, target: Any = None) -> dict[str, Readout]:
        return {"distance": Readout(self.noise, "distance")}

    @override
    def score(self, batch: MapBatch, outputs: Mapping[str, Tensor]) -> Tensor:
        return largest_distance(outputs["distance"])


class NoiseStability(StabilityMetric):
    """Compute the mean rank correlation of the map with those of noisy copies of the image; high is good.

    Undefined where the map is constant; a copy whose map is constant is left out.
    """

    higher_is_better = True
    plot_lower_bound, plot_upper_bound = -1.0, 1.0
    paper = "lightning_xai"

    @override
    def readouts(self, target: Any = None) -> dict[str, Readout]:
        return {"spearman": Readout(self.noise, "spearman")}

    @override
    def score(self, batch: MapBatch, outputs: Mapping[str, Tensor]) -> Tensor:
        return batch.where_defined(mean_correlation(outputs["spearman"]))


class Infidelity(MapMetric):
    """Compute the mean squared error of the output's change under noise as a map predicts it; low is good.

    Yeh et al. 2019, eq. 1; ``captum.metrics.infidelity`` for the same noise. The noise is shared by the channels, as
    the map is.

    Args:
        samples: Number of noisy copies.
        level: Standard deviation of the noise, as a fraction of the image's.
        scale: Multiply the map by the factor that fits best (Yeh et al. 2019, section 3): without it only maps in units
            of the output can be compared.
        output: ``"score"`` (the logit; a segmenter's logit mass) or ``"probability"``.
        seed: Another seed gives other noise. The noise is the same for every image.
        chunk_size: Noisy copies per forward pass.

    Raises:
        ValueError: If the output is unknown.
    """

    family = "stability"
    higher_is_better = False
    plot_lower_bound = 0.0
    paper = MaxSensitivity.paper
    options = ("samples", "level", "scale", "output", "seed")

    def __init__(
        self,
        samples: int = 50,
        level: float = 0.2,
        scale: bool = True,
        output: str = "score",
        seed: int = 0,
        chunk_size: ChunkSize = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(chunk_size, **kwargs)
        if output not in ("score", "probability"):
            raise ValueError(f"output is {output!r}; use score | probability.")
        self.noise = Noisy(samples, level, "gaussian", per_channel=False, seed=seed)
        self.samples, self.level, self.seed = samples, level, seed
        self.scale, self.output = scale, output

    @override
    def readouts(self, target: Any = None) -> dict[str, Readout]:
        return {"whole": Readout(Curve((1.0,), "reveal"), self.output), "noisy": Readout(self.noise, self.output)}

    @override
    def score(self, batch: MapBatch, outputs: Mapping[str, Tensor]) -> Tensor:
        """A constant map is undefined."""
        fields, size = self.noise.fields_and_size(batch.context)
        predicted = predicted_change(batch.maps, fields) * size.view(-1, 1, 1)
        change = outputs["noisy"] - outputs["whole"]
        return batch.where_defined(infidelity(predicted, change, self.scale))
