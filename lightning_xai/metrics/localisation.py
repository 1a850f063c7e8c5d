"""Localisation: does the map lie on the evidence that an expert marked?"""

from typing import Any

from torch import Tensor

from lightning_xai.metrics.base import MapMetric


class PointingGame(MapMetric):
    """Whether the map's maximum lies on the evidence (Zhang et al. 2018); the share of maxima where several tie.

    Undefined for an empty mask and for a constant map.
    """

    family = "localisation"
    needs_masks = True
    higher_is_better = True

    def score(self, *, maps: Tensor, masks: Tensor, **_: Any) -> Tensor:
        """See :meth:`MapMetric.score`."""
        flat, inside = maps.flatten(2), evidence(maps, masks)
        top = flat == flat.amax(dim=2, keepdim=True)
        hits = (top & inside).sum(dim=2).double() / top.sum(dim=2)
        undefined = ~inside.any(dim=2) | (flat.amax(dim=2) == flat.amin(dim=2))
        return hits.masked_fill(undefined, float("nan"))


class RelevanceMass(MapMetric):
    """Share of the map's positive mass that lies on the evidence (Arras et al. 2022); a random map gets the area share.

    Undefined for an empty mask and for a map without positive mass.
    """

    family = "localisation"
    needs_masks = True
    higher_is_better = True

    def score(self, *, maps: Tensor, masks: Tensor, **_: Any) -> Tensor:
        """See :meth:`MapMetric.score`."""
        mass, inside = maps.flatten(2).double().clamp(min=0), evidence(maps, masks)
        total = mass.sum(dim=2)
        share = (mass * inside).sum(dim=2) / total
        return share.masked_fill(~inside.any(dim=2) | (total == 0), float("nan"))


def evidence(maps: Tensor, masks: Tensor) -> Tensor:
    """Masks ``(B, 1 or T, *S)`` as booleans ``(B, T, N)``.

    Raises:
        ValueError: If the masks do not fit the maps.
    """
    if masks.shape[2:] != maps.shape[2:] or masks.shape[0] != maps.shape[0] or masks.shape[1] not in (1, maps.shape[1]):
        raise ValueError(
            f"Masks {tuple(masks.shape)} do not fit maps {tuple(maps.shape)}; masks must be (B, 1 or T, *S)."
        )
    return (masks > 0).flatten(2).expand(-1, maps.shape[1], -1)
