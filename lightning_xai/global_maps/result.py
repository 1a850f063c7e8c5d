"""The result of PEPPR: curves of every label, their areas, the fraction that suffices, intervals, and a figure."""

from dataclasses import dataclass, field
from functools import cached_property

import torch
from matplotlib.figure import Figure
from torch import Tensor

from lightning_xai.metrics.functional.curves import trapezoid
from lightning_xai.metrics.functional.evidence import sort_evidence
from lightning_xai.metrics.functional.localization import pixel_auc

#: Fraction of the full score that the restored one must reach for its pixels to be enough.
ENOUGH = 0.99
SCORES = {"auc": "AUC", "dice": "Dice"}
#: Score of a model that sees nothing.
CHANCE = {"auc": 0.5, "dice": 0.0}


@dataclass(frozen=True)
class PEPPRResult:
    """Scores of every label while more and more pixels of all images are hidden, or shown again.

    Attributes:
        fractions: Fractions of pixels ``P``.
        labels: The labels ``L`` that can be judged (both kinds of images; for Dice, any of the class).
        skipped: Label -> number of positive images, for the others.
        metric: ``"auc"`` of a classifier, ``"dice"`` of a segmenter.
        truth: ``(N, L)`` bool, which image has which label.
        values: What the scores are computed from, ``(N, L, P)`` for every curve: probabilities, or the Dice of each
            image. The curves are ``erase``, ``restore`` and ``erase_reversed`` of the map, ``erase_random_<r>``,
            ``erase:center`` and ``restore:center``, and the same for every other map.
        curves: The scores ``(L, P)`` of every curve.
    """

    fractions: tuple[float, ...]
    labels: list[int]
    skipped: dict[int, int]
    metric: str
    truth: Tensor = field(repr=False)
    values: dict[str, Tensor] = field(repr=False)

    @cached_property
    def curves(self) -> dict[str, Tensor]:
        """Score of each label at each fraction, ``(L, P)`` by curve."""
        return {name: score(values, self.truth, self.metric) for name, values in self.values.items()}

    @property
    def erase(self) -> Tensor:
        """Scores ``(L, P)`` with the most important pixels hidden."""
        return self.curves["erase"]

    @property
    def restore(self) -> Tensor:
        """Scores ``(L, P)`` with only the most important pixels shown."""
        return self.curves["restore"]

    @property
    def erase_reversed(self) -> Tensor:
        """Scores ``(L, P)`` with the least important pixels hidden."""
        return self.curves["erase_reversed"]

    @property
    def erase_random(self) -> Tensor:
        """Scores ``(R, L, P)`` with random pixels hidden, for each random order."""
        return torch.stack([curve for name, curve in self.curves.items() if name.startswith("erase_random_")])

    @property
    def others(self) -> list[str]:
        """Names of the other maps, the distance to the center first."""
        return [name.removeprefix("erase:") for name in self.curves if name.startswith("erase:")]

    def summary(self) -> dict[str, float]:
        """Summarize the mean over labels: areas under the curves, and the fraction of pixels that suffices.

        Returns:
            ``full``: the score of whole images; ``area_erase`` (low is good), ``area_restore`` (high is good), their
            ``difference``, ``area_random`` and ``area_reversed`` (erased), ``difference_center`` of the distance to the
            center, ``random_minus_erase``, ``reversed_minus_random``, and ``sufficient``: the smallest fraction of
            pixels whose restored score is 99 % of the full one; NaN where that is no more than chance (an AUC of .5, a
            Dice of 0), which no pixel is needed for.
        """
        return self._numbers({name: curve.mean(dim=0) for name, curve in self.curves.items()})

    def per_label(self) -> dict[int, dict[str, float]]:
        """The :meth:`summary` of every label by itself."""
        return {
            label: self._numbers({name: curve[row] for name, curve in self.curves.items()})
            for row, label in enumerate(self.labels)
        }

    def specificity(self) -> dict[str, list[float]]:
        """Restored minus erased area of every label ``(L,)``, for every other map: is a map about its own label?"""
        return {
            name: (self._area(self.curves[f"restore:{name}"]) - self._area(self.curves[f"erase:{name}"])).tolist()
            for name in self.others
        }

    def bootstrap(self, samples: int = 200, level: float = 0.95, seed: int = 0) -> dict[str, tuple[float, float]]:
        """Compute percentile intervals of every number of the :meth:`summary`, over images.

        Resamples in which a label cannot be scored are taken again.
        """
        rows = [self._numbers(curves) for curves in self._resampled(samples, seed)]
        tail = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
        columns = {name: torch.tensor([row[name] for row in rows], dtype=torch.float64) for name in rows[0]}
        ends = {name: column.quantile(tail) for name, column in columns.items()}
        return {name: (float(low), float(high)) for name, (low, high) in ends.items()}

    def bands(self, samples: int = 200, level: float = 0.95, seed: int = 0) -> dict[str, Tensor]:
        """Compute the lower and upper ends ``(2, P)`` of the curves of the mean over labels, over resampled images."""
        resampled = self._resampled(samples, seed)
        tail = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
        return {
            name: torch.stack([curves[name] for curves in resampled]).quantile(tail, dim=0) for name in resampled[0]
        }

    def plot(self, samples: int = 200) -> Figure:
        """Plot the mean over labels: erased, restored, erased in reverse and from the center, with bands.

        Args:
            samples: Resamples for the 95 % bands of the curves; that of the random orders is their range.
        """
        figure = Figure(figsize=(7.2, 4.4), layout="constrained")
        axes = figure.subplots()
        percent, bands = [100 * fraction for fraction in self.fractions], self.bands(samples)
        random = self.erase_random.mean(dim=1)
        low, high = random.amin(dim=0).tolist(), random.amax(dim=0).tolist()
        axes.plot(percent, random.mean(dim=0).tolist(), color="tab:gray", label="erase random pixels")
        axes.fill_between(percent, low, high, color="tab:gray", alpha=0.4, linewidth=0)
        for name, label, color, style in (
            ("erase", "erase most important first", "tab:red", "-"),
            ("erase_reversed", "erase least important first", "tab:blue", "-"),
            ("restore", "restore most important first", "tab:green", "-"),
            ("erase:center", "erase from the center", "tab:purple", ":"),
        ):
            axes.plot(percent, self.curves[name].mean(dim=0).tolist(), color=color, label=label, linestyle=style)
            if style == "-":
                axes.fill_between(percent, *bands[name].tolist(), color=color, alpha=0.15, linewidth=0)
        if self.metric == "auc":
            axes.axhline(0.5, color="black", linewidth=0.5)
        axes.set(
            xlabel="pixels erased or restored (%)", ylabel=f"{SCORES[self.metric]}, mean over labels", xlim=(0, 100)
        )
        axes.grid(alpha=0.2)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", fontsize=8, frameon=False)
        return figure

    def _area(self, curve: Tensor) -> Tensor:
        return trapezoid(curve, self.fractions)

    def _numbers(self, curves: dict[str, Tensor]) -> dict[str, float]:
        """The summary of curves ``(P,)``."""
        full = float(curves["erase"][0])
        random = torch.stack([curve for name, curve in curves.items() if name.startswith("erase_random_")]).mean(dim=0)
        erase, restore, area = (float(self._area(curve)) for curve in (curves["erase"], curves["restore"], random))
        reverse, center = float(self._area(curves["erase_reversed"])), self._area(curves["restore:center"])
        bar = ENOUGH * full
        enough = (curves["restore"] >= bar).nonzero().flatten().tolist() if bar > CHANCE[self.metric] else []
        return {
            "full": full,
            "area_erase": erase,
            "area_restore": restore,
            "difference": restore - erase,
            "area_random": area,
            "area_reversed": reverse,
            "difference_center": float(center - self._area(curves["erase:center"])),
            "random_minus_erase": area - erase,
            "reversed_minus_random": reverse - area,
            "sufficient": self.fractions[enough[0]] if enough else float("nan"),
        }

    @cached_property
    def _resamples(self) -> dict[tuple[int, int], list[dict[str, Tensor]]]:
        """Earlier resamples by their number and seed: intervals and bands are of the same images."""
        return {}

    def _resampled(self, samples: int, seed: int) -> list[dict[str, Tensor]]:
        """Curves ``(P,)`` of the mean over labels for resampled images; other maps than the center are left out."""
        if (samples, seed) not in self._resamples:
            self._resamples[samples, seed] = self._resample(samples, seed)
        return self._resamples[samples, seed]

    def _resample(self, samples: int, seed: int) -> list[dict[str, Tensor]]:
        """Sample images with replacement until every label has both kinds, ``samples`` times."""
        names = [name for name in self.values if ":" not in name or name.endswith(":center")]
        stacked = torch.cat([self.values[name] for name in names], dim=2)
        generator, count = torch.Generator().manual_seed(seed), len(self.truth)
        resampled: list[dict[str, Tensor]] = []
        while len(resampled) < samples:
            pick = torch.randint(count, (count,), generator=generator)
            truth = self.truth[pick]
            if (truth.any(dim=0) & (~truth.all(dim=0) | (self.metric == "dice"))).all():
                means = score(stacked[pick], truth, self.metric).mean(dim=0)
                resampled.append(dict(zip(names, means.view(len(names), -1), strict=True)))
        return resampled


def score(values: Tensor, truth: Tensor, metric: str) -> Tensor:
    """Compute the AUC, or the mean Dice, of every label.

    Args:
        values: ``(N, L, P)``, probabilities or the Dice of each image.
        truth: ``(N, L)`` bool.
        metric: ``"auc"`` or ``"dice"``.

    Returns:
        ``(L, P)`` float64.
    """
    if metric == "auc":
        return label_auc(values, truth)
    # Only images with the class count; the Dice of one of them that is NaN makes the mean NaN.
    total = values.double().masked_fill(~truth.unsqueeze(2), 0.0).sum(dim=0)
    return total / truth.sum(dim=0).unsqueeze(1)


def label_auc(values: Tensor, truth: Tensor) -> Tensor:
    """AUC of every label: probabilities ``(N, L, P)`` and truth ``(N, L)`` -> ``(L, P)``; equal images give .5.

    NaN where a probability is NaN, and for a label without both kinds of images.

    Example:
        >>> label_auc(torch.tensor([[[0.1]], [[0.9]]]), torch.tensor([[False], [True]])).item()
        1.0
    """
    flat = values.movedim(0, -1).contiguous()  # (L, P, N)
    auc = pixel_auc(sort_evidence(flat, truth.T.unsqueeze(1).expand_as(flat)))
    both = (truth.any(dim=0) & ~truth.all(dim=0)).unsqueeze(1)
    # Scores that are all equal are undefined as a ranking of pixels, but rank images as chance does.
    return auc.masked_fill(both & (flat.amin(dim=2) == flat.amax(dim=2)), 0.5)
