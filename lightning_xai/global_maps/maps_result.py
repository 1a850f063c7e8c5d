"""The global maps of a data set."""

from dataclasses import dataclass

from torch import Tensor


@dataclass
class GlobalMapsResult:
    """The global maps of a data set; ``None`` where no image has given one.

    Attributes:
        labels: Names of the ``L`` labels.
        label_wise: A map ``(*S)`` for each label, float64.
        overall: ``(*S)``, float64.
        count: Number of maps that each label's is computed from.
        label_units: Number of groups (patients, wells or sites) that those are of; an image without one counts as one.
        skipped: Maps of each label that were left out because they are all zero, or not finite.
        standard_error: ``(*S)`` for each label: of the mean map over groups, whatever the reduction.
        stability: For each label the rank correlation of the mean maps of two halves of the groups.
        overall_stability: The same for the overall map.
        mean_image: ``(C, *S)``, the mean of the images that gave a map.
        images: How many those are.
        units: Number of groups that they are of.
        unit: ``"groups"``, or ``"images"`` where no image has a group.
    """

    labels: list[str]
    label_wise: list[Tensor | None]
    overall: Tensor | None
    count: list[int]
    label_units: list[int]
    skipped: list[int]
    standard_error: list[Tensor | None]
    stability: list[float | None]
    overall_stability: float | None
    mean_image: Tensor | None
    images: int
    units: int
    unit: str

    def found(self) -> dict[str, Tensor]:
        """The label-wise maps that are not ``None``, by name."""
        pairs = zip(self.labels, self.label_wise, strict=True)
        return {name: values for name, values in pairs if values is not None}
