"""Sanity checks: does a map change when the model, the labels it learned or the image change?

After Adebayo et al. 2018, "Sanity Checks for Saliency Maps" (arXiv 1810.03292): a map that stays as it is when the
model's weights are initialized anew shows something else than the model. Maps are compared as they are, with their
signs: where the background is flat, as around a digit, most methods give it exact zeros, and absolute values of any two
such maps agree about the zeros and little else (rank correlation 0.99 between integrated gradients of a trained and of
a random model of digits; 0.02 with signs).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from lightning_xai.explainers.base import Explainer
from lightning_xai.metrics.functional.similarity import spearman, ssim
from lightning_xai.report.tables import columns
from lightning_xai.sanity.randomization import cascade, random_labels, randomize
from lightning_xai.targets import Target

Make = Callable[[Target], Explainer]
Fit = Callable[[Explainer], None]


@dataclass(frozen=True)
class Check:
    """One sanity check.

    Attributes:
        name: What was changed.
        values: ``alive``, the fraction of maps that are finite and not constant; or ``spearman`` and ``ssim`` with the
            maps of the trained model, means over images and queries, and how many of them are ``undefined``.
        thresholds: What ``alive`` must reach, and the others must not exceed.
        passed: The verdict; ``None`` where none is taken. A mean over nothing fails.
    """

    name: str
    values: dict[str, float]
    thresholds: dict[str, float]
    passed: bool | None


@dataclass(frozen=True)
class Probe:
    """Explains the same queries with the same random numbers each time, so that maps differ by model or image alone.

    Attributes:
        make: Makes an explainer of a target.
        fit: Trains an explainer that learns.
        targets: ``(B, T)``, the classes that the trained model predicts.
        regions: ``(B, T, *S)``, the pixels that a trained segmenter predicts as them; ``None`` for a classifier.
        batch_size: Images that are explained at once.
        seed: Of the explainers' weights and of their noise.
    """

    make: Make
    fit: Fit | None
    targets: Tensor
    regions: Tensor | None
    batch_size: int
    seed: int

    def explainer(self, target: Target) -> Explainer:
        """An explainer of the target, trained around it if it learns.

        Raises:
            ValueError: If it learns and there is no ``fit``.
        """
        with isolate_rng():
            torch.manual_seed(self.seed)
            explainer = self.make(target)
            if explainer.learned:
                if self.fit is None:
                    raise ValueError(
                        f"{type(explainer).__name__} learns, so it must be trained around every randomized target: "
                        "give fit=, a function that trains an explainer."
                    )
                self.fit(explainer)
        return explainer.to(self.targets.device).eval()

    def maps(self, explainer: Explainer, images: Tensor) -> Tensor:
        """The maps of the queries, as ``(n, 1, *S)``; a segmenter's queries about no pixel are left out."""
        with isolate_rng():
            torch.manual_seed(self.seed)
            chunks = [slice(first, first + self.batch_size) for first in range(0, len(images), self.batch_size)]
            parts = [explainer.explain(images[rows], *self._queries(rows)) for rows in chunks]
        maps = torch.cat(parts)
        if self.regions is None:
            return maps.flatten(0, 1).unsqueeze(1)
        return maps[self.regions.flatten(2).any(dim=2)].unsqueeze(1)

    def _queries(self, rows: slice) -> tuple[Tensor, Tensor | None]:
        return self.targets[rows], None if self.regions is None else self.regions[rows]


def sanity_checks(
    make: Make,
    target: Target,
    images: Tensor,
    labeled: tuple[Tensor, Tensor],
    thresholds: Mapping[str, float],
    stages: int = 4,
    label_steps: int = 200,
    batch_size: int = 32,
    seed: int = 0,
    fit: Fit | None = None,
) -> list[Check]:
    """Compare the maps of a target with those of randomized copies of it, and with those of other images.

    The queries are those that the target itself predicts. An explainer that learns is trained once around the target
    and once around every copy: exchanging the target alone would leave its network, and its maps, as they were.

    * ``alive``: the maps are finite and not constant.
    * ``head`` to ``whole_model``: the weights are initialized anew, from the head down. All stages are reported; the
      verdict is taken where the whole model is random, since a lucky initialization of the head alone may leave much
      in place.
    * ``random_labels``: the model starts anew and learns permuted labels.
    * ``other_image``: each map against that of the next image, about the same class.

    Args:
        make: Makes an explainer of a target.
        target: It is left as it is; on the device of the images.
        images: ``(B, C, *S)`` in natural units, at least two.
        labeled: Training images and their labels, see :func:`lightning_xai.sanity.randomization.random_labels`.
        thresholds: ``alive``, at least; ``spearman`` and ``ssim``, at most.
        stages: Stages of the cascade.
        label_steps: Training steps on permuted labels.
        batch_size: Images at once.
        seed: Of everything random.
        fit: Trains an explainer that learns.

    Raises:
        ValueError: If there is one image only, the model's layers cannot be randomized, or ``fit`` is missing.
    """
    if len(images) < 2:
        raise ValueError(f"The sanity checks compare maps of different images, but got {len(images)}; give at least 2.")
    names = cascade(target, images, stages)
    queries = [target.query(chunk) for chunk in torch.split(images, batch_size)]
    regions = [query.regions for query in queries if query.regions is not None]
    targets = torch.cat([query.targets for query in queries])
    probe = Probe(make, fit, targets, torch.cat(regions) if regions else None, batch_size, seed)
    explainer = probe.explainer(target)
    maps = probe.maps(explainer, images)
    limits = {name: thresholds[name] for name in ("spearman", "ssim")}

    def against(name: str, twin: Target, judged: bool) -> Check:
        return compare(name, maps, probe.maps(probe.explainer(twin), images), limits if judged else {})

    checks = [alive(maps, thresholds["alive"])]
    for stage, layers in enumerate(names, 1):
        whole = stage == len(names)
        name = "whole_model" if whole else "head" if stage == 1 else f"cascade_{stage}"
        checks.append(against(name, randomize(target, layers, images[:batch_size], seed), whole))
    checks.append(against("random_labels", random_labels(target, *labeled, label_steps, batch_size, seed), True))
    return [*checks, compare("other_image", maps, probe.maps(explainer, images.roll(-1, 0)), limits)]


def alive(maps: Tensor, least: float) -> Check:
    """Check that at least a fraction ``least`` of maps ``(n, 1, *S)`` is finite and not constant."""
    flat = maps.flatten(1)
    fraction = float((flat.isfinite().all(dim=1) & (flat != flat[:, :1]).any(dim=1)).double().mean())
    return Check("alive", {"alive": fraction}, {"alive": least}, fraction >= least)


def compare(name: str, maps: Tensor, references: Tensor, limits: dict[str, float]) -> Check:
    """Compare maps ``(n, 1, *S)`` with as many references, one by one; without limits no verdict is taken."""
    likeness = {"spearman": spearman(maps, references), "ssim": ssim(maps, references)}
    values = {statistic: float(value.nanmean()) for statistic, value in likeness.items()}
    passed = all(values[statistic] <= limit for statistic, limit in limits.items()) if limits else None
    return Check(name, values | {"undefined": int(likeness["spearman"].isnan().sum())}, limits, passed)


def passes(checks: Sequence[Check]) -> bool:
    """Whether every check that takes a verdict passes."""
    return all(check.passed is not False for check in checks)


def format_checks(checks: Sequence[Check]) -> str:
    """Format the checks as a text table: a row each, a dash where there is no value or no verdict."""
    statistics = ("alive", "spearman", "ssim", "undefined")
    verdicts = {True: "pass", False: "FAIL", None: "-"}
    rows = [
        [check.name, *(_cell(check, statistic) for statistic in statistics), verdicts[check.passed]] for check in checks
    ]
    return "\n".join(columns([["sanity", *statistics, "verdict"], *rows]))


def _cell(check: Check, statistic: str) -> str:
    if statistic not in check.values:
        return "-"
    value = check.values[statistic]
    if statistic not in check.thresholds:
        return str(value) if statistic == "undefined" else f"{value:.3f}"
    sign = ">=" if statistic == "alive" else "<="
    return f"{value:.3f} ({sign} {check.thresholds[statistic]:g})"
