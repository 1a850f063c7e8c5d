"""Masking at once: average drop, increase in confidence, coherency, complexity, ADCC, overlap of the top classes."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from lightning_xai.functional.tensors import min_max
from lightning_xai.metrics.base import MapMetric
from lightning_xai.metrics.baselines import checked_baseline, input_baseline
from lightning_xai.metrics.batch import MapBatch
from lightning_xai.metrics.functional import masking
from lightning_xai.metrics.readouts import Readout
from lightning_xai.perturbation.batch_size import ChunkSize
from lightning_xai.perturbation.context import AnyBaseline
from lightning_xai.perturbation.sets import Blend, Curve

ADCC_PAPER = "Poppi et al. 2021, Revisiting the evaluation of class activation mapping, arXiv 2104.10252"
WHOLE = Curve((1.0,), "reveal")


class MaskingMetric(MapMetric):
    """Score what happens when the image is multiplied by its map; base of such metrics.

    Two choices change the values and are recorded with every result: whose confidence, and where the map was scaled.

    Args:
        head: Whose confidence: the ``"target"``'s, or that of the ``"explainer"``'s own head.
        scaled: ``"after"``: maps are brought to [0, 1] as they come, after upsampling; ``"before"``: they were scaled
            on their own grid and come between 0 and 1.
        fill: What a weight of 0 shows; by default what the model receives as zero. See
            :class:`~lightning_xai.metrics.curves.CurveMetric`.
        chunk_size: Perturbed inputs per pass.

    Raises:
        ValueError: If an option is unknown.
    """

    family = "masking"
    plot_lower_bound, plot_upper_bound = 0.0, 1.0
    options: ClassVar[tuple[str, ...]] = ("head", "scaled", "fill")

    def __init__(
        self,
        head: str = "target",
        scaled: str = "after",
        fill: AnyBaseline = "input_zero",
        chunk_size: ChunkSize = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(chunk_size, **kwargs)
        if head not in ("target", "explainer") or scaled not in ("after", "before"):
            raise ValueError(
                f"head is {head!r}, scaled {scaled!r}; use head=target | explainer, scaled=after | before."
            )
        self.head = head
        self.scaled = scaled
        self.fill = checked_baseline(fill)

    def blend(self, part: str, target: Any) -> Blend:
        """Name the image times the map (``"map"``), or times 1 - map (``"rest"``), as a perturbation."""
        return Blend(part, input_baseline(self.fill, target), prescaled=self.scaled == "before")

    @property
    def confidence(self) -> str:
        """The output of the class's probability."""
        return "probability" if self.head == "target" else "head"

    @property
    def needs_explainer(self) -> bool:  # type: ignore[override]
        """Only where the confidence is that of its own head."""
        return self.head == "explainer"

    def scaled_maps(self, batch: MapBatch) -> Tensor:
        """Scale the maps to ``E`` ``(B, T, *S)``, between 0 and 1."""
        return min_max(batch.maps) if self.scaled == "after" else batch.maps

    @override
    def score(self, batch: MapBatch, outputs: Mapping[str, Tensor]) -> Tensor:
        """A constant map, or one with NaN, cannot be scaled and is undefined.

        Raises:
            ValueError: If maps that should come scaled are not between 0 and 1.
        """
        if self.scaled == "before" and (batch.maps.min() < 0 or batch.maps.max() > 1):
            raise ValueError(
                f"scaled is 'before', but the maps reach from {float(batch.maps.min()):.3g} to "
                f"{float(batch.maps.max()):.3g}; give maps between 0 and 1, or scaled='after'."
            )
        return batch.where_defined(self.value(batch, {name: value[..., 0] for name, value in outputs.items()}))

    @abstractmethod
    def value(self, batch: MapBatch, outputs: Mapping[str, Tensor]) -> Tensor:
        """Compute values ``(B, T)`` from outputs ``(B, T)``."""


class AverageDrop(MaskingMetric):
    """Compute the fraction of the confidence that is lost when the image is multiplied by its map; low is good."""

    higher_is_better = False
    paper = "Chattopadhay et al. 2018, Grad-CAM++, arXiv 1710.11063"

    @override
    def readouts(self, target: Any = None) -> dict[str, Readout]:
        return {"whole": Readout(WHOLE, self.confidence), "kept": Readout(self.blend("map", target), self.confidence)}

    @override
    def value(self, batch: MapBatch, outputs: Mapping[str, Tensor]) -> Tensor:
        return masking.average_drop(outputs["whole"], outputs["kept"])


class IncreaseInConfidence(AverageDrop):
    """Compute how often the confidence rises when the image is multiplied by its map; high is good."""

    higher_is_better = True

    @override
    def value(self, batch: MapBatch, outputs: Mapping[str, Tensor]) -> Tensor:
        return masking.increase_in_confidence(outputs["whole"], outputs["kept"])


class AverageDropInDeletion(MaskingMetric):
    """Compute the fraction of the confidence that is lost when the image is multiplied by 1 - map; high is good."""

    higher_is_better = True
    paper = "Jung & Oh 2021, LIFT-CAM, arXiv 2102.05228"

    @override
    def readouts(self, target: Any = None) -> dict[str, Readout]:
        return {"whole": Readout(WHOLE, self.confidence), "rest": Readout(self.blend("rest", target), self.confidence)}

    @override
    def value(self, batch: MapBatch, outputs: Mapping[str, Tensor]) -> Tensor:
        return masking.average_drop(outputs["whole"], outputs["rest"])


class Complexity(MaskingMetric):
    """Compute the mean of the map between 0 and 1, the fraction of the image that it keeps; low is good.

    Costs no pass.
    """

    higher_is_better = False
    paper = ADCC_PAPER
    options = ("scaled",)

    @override
    def value(self, batch: MapBatch, outputs: Mapping[str, Tensor]) -> Tensor:
        return masking.complexity(self.scaled_maps(batch))


class Coherency(MaskingMetric):
    """Correlate the map with the map of the image times the map; high is good.

    Costs one explanation.
    """

    higher_is_better = True
    paper = ADCC_PAPER
    needs_explainer = True
    options = ("scaled", "fill")

    @override
    def readouts(self, target: Any = None) -> dict[str, Readout]:
        return {"coherence": Readout(self.blend("map", target), "coherence")}

    @override
    def value(self, batch: MapBatch, outputs: Mapping[str, Tensor]) -> Tensor:
        return outputs["coherence"]


class ADCC(AverageDrop):
    """Compute the harmonic mean of coherency, 1 - complexity and 1 - average drop of each image; high is good."""

    higher_is_better = True
    paper = ADCC_PAPER
    needs_explainer = True

    @override
    def readouts(self, target: Any = None) -> dict[str, Readout]:
        return super().readouts(target) | {"coherence": Readout(self.blend("map", target), "coherence")}

    @override
    def value(self, batch: MapBatch, outputs: Mapping[str, Tensor]) -> Tensor:
        drop = super().value(batch, outputs)
        return masking.adcc(outputs["coherence"], masking.complexity(self.scaled_maps(batch)), drop)


class TopClassesIoU(MapMetric):
    """Compute the overlap of the map with that of the strongest other class; low where maps differ between classes.

    For the predicted class these are the two most probable classes (Chowdhury et al. 2024, CAPE: mIoU). Costs one
    explanation.

    Args:
        threshold: Fraction of each map's maximum, above which a pixel counts.
        scaled: ``"raw"``: maps as they are, evidence against a class never counts; ``"min_max"``: as the paper does,
            brought to [0, 1] first, which lets a map with much evidence against a class count almost everywhere.
        chunk_size: Perturbed inputs per pass.
    """

    family = "masking"
    higher_is_better = False
    plot_lower_bound, plot_upper_bound = 0.0, 1.0
    needs_explainer = True
    extra_explanations = 1
    paper = "Chowdhury et al. 2024, CAPE, arXiv 2404.02388"
    options = ("threshold", "scaled")

    def __init__(
        self, threshold: float = 0.2, scaled: str = "raw", chunk_size: ChunkSize = None, **kwargs: Any
    ) -> None:
        super().__init__(chunk_size, **kwargs)
        if not 0 <= threshold < 1:
            raise ValueError(f"threshold is {threshold}; give a fraction of the maximum, at least 0 and below 1.")
        if scaled not in ("raw", "min_max"):
            raise ValueError(f"scaled is {scaled!r}; use raw or min_max.")
        self.threshold = threshold
        self.scaled = scaled

    @override
    def readouts(self, target: Any = None) -> dict[str, Readout]:
        return {"rival": Readout(WHOLE, "rival")}

    @override
    def score(self, batch: MapBatch, outputs: Mapping[str, Tensor]) -> Tensor:
        """A constant map is undefined."""
        rivals = outputs["rival"][..., 0].long()
        explain = batch.explainer.explain
        # Once for all metrics of this kind: the rival is the same.
        maps = batch.context.once("rivals", lambda: torch.as_tensor(explain(batch.images, rivals, batch.query.regions)))
        both = batch.maps, maps
        first, second = both if self.scaled == "raw" else map(min_max, both)
        return batch.where_defined(masking.top_iou(first, second, self.threshold))
