"""Does the model work sensibly in general? PEPPR erases and restores the same pixels of every aligned image.

Engelmann, Storkey & Bernabeu, arXiv 2112.09591. The paper's code was not published: this is our reading of its text.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from lightning_xai.fills import blur_fill, mean_image, noise_field
from lightning_xai.metrics.functional.curves import trapezoid
from lightning_xai.metrics.functional.evidence import sort_evidence
from lightning_xai.metrics.functional.localisation import pixel_auc
from lightning_xai.pictures import AnyFill, Curve, Scene
from lightning_xai.reveal import reveal
from lightning_xai.targets import Target

PEPPR_FILLS = ("channel_mean", "mean_image", "noise", "blur", "zero")
TENTHS = tuple(step / 10 for step in range(11))


@dataclass(frozen=True)
class PEPPRResult:
    """AUC per label while the same pixels of all images go, and come back.

    Attributes:
        fractions: Shares of pixels ``P``.
        labels: The labels ``L`` that have both kinds of images; the others are in ``skipped``.
        skipped: Label -> number of positive images, for labels of one kind only.
        erase: ``(L, P)``, the most important pixels hidden.
        restore: ``(L, P)``, only the most important pixels shown.
        erase_reversed: ``(L, P)``, the least important pixels hidden.
        erase_random: ``(R, L, P)``, random pixels hidden.
        probabilities: ``{"erase": (N, L, P), "restore": ..., "truth": (N, L)}``, what the AUCs were computed from.
    """

    fractions: tuple[float, ...]
    labels: list[int]
    skipped: dict[int, int]
    erase: Tensor
    restore: Tensor
    erase_reversed: Tensor
    erase_random: Tensor
    probabilities: dict[str, Tensor] = field(repr=False)

    def summary(self) -> dict[str, float | None]:
        """Macro AUC areas and what suffices.

        Returns:
            ``area_erase`` (low is good), ``area_restore`` (high is good), their ``difference``, ``area_random``,
            ``area_reversed``, and ``sufficient``: the smallest share whose restored AUC is 99 % of the full one.
        """
        areas = {
            f"area_{name}": float(trapezoid(curve.mean(dim=0), self.fractions))
            for name, curve in (
                ("erase", self.erase),
                ("restore", self.restore),
                ("reversed", self.erase_reversed),
                ("random", self.erase_random.mean(dim=0)),
            )
        }
        restored, full = self.restore.mean(dim=0), float(self.erase[:, 0].mean())
        enough = [share for share, auc in zip(self.fractions, restored.tolist(), strict=True) if auc >= 0.99 * full]
        difference = areas["area_restore"] - areas["area_erase"]
        return areas | {"difference": difference, "sufficient": min(enough) if enough else None}

    def plot(self) -> Figure:
        """Macro AUC over the share of pixels: erased, restored, erased in reverse, and the band of random orders."""
        figure = Figure(figsize=(6, 4), layout="constrained")
        axes = figure.subplots()
        percent = [100 * share for share in self.fractions]
        random = self.erase_random.mean(dim=1).cpu()
        low, high = random.amin(dim=0).tolist(), random.amax(dim=0).tolist()
        axes.fill_between(percent, low, high, color="tab:grey", alpha=0.4, label="erase random pixels")
        for name, curve, style in (
            ("erase most important first", self.erase, "tab:red"),
            ("erase least important first", self.erase_reversed, "tab:blue"),
            ("restore most important first", self.restore, "tab:green"),
        ):
            axes.plot(percent, curve.mean(dim=0).tolist(), color=style, label=name)
        axes.axhline(0.5, color="black", linewidth=0.5)
        axes.set(xlabel="pixels erased or restored (%)", ylabel="AUC, mean over labels", xlim=(0, 100))
        axes.legend()
        return figure

    def bootstrap(self, samples: int = 200, level: float = 0.95, seed: int = 0) -> dict[str, tuple[float, float]]:
        """Percentile intervals over images of ``area_erase``, ``area_restore`` and their ``difference``.

        Resamples in which a label has one kind of images only are drawn again.
        """
        generator = torch.Generator().manual_seed(seed)
        truth = self.probabilities["truth"].cpu()
        drawn: dict[str, list[float]] = {"area_erase": [], "area_restore": [], "difference": []}
        while len(drawn["difference"]) < samples:
            pick = torch.randint(len(truth), (len(truth),), generator=generator)
            if not (truth[pick].any(dim=0) & ~truth[pick].all(dim=0)).all():
                continue
            curves = (label_auc(self.probabilities[name].cpu()[pick], truth[pick]) for name in ("erase", "restore"))
            areas = [float(trapezoid(curve.mean(dim=0), self.fractions)) for curve in curves]
            for name, value in zip(drawn, (*areas, areas[1] - areas[0]), strict=True):
                drawn[name].append(value)
        ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
        intervals = {name: torch.tensor(values, dtype=torch.float64).quantile(ends) for name, values in drawn.items()}
        return {name: (float(low), float(high)) for name, (low, high) in intervals.items()}


def peppr(
    target: Target,
    batches: Iterable[dict[str, Any]],
    ranking: Tensor,
    fractions: Sequence[float] = TENTHS,
    fill: str = "channel_mean",
    random_orders: int = 5,
    seed: int = 0,
    chunk_size: int = 64,
) -> PEPPRResult:
    """Progressive erasing plus progressive restoration: the same pixels of every image go, or come, in one order.

    Args:
        target: A classifier.
        batches: Batch dicts with ``image (B, C, *S)`` and ``label (B,)`` or multi-hot ``(B, K)``; iterated twice.
        ranking: A map ``(*S)``, high = important; equal pixels are ordered by a fixed random key.
        fractions: Shares of pixels, from 0 to 1.
        fill: What hidden pixels show, one picture for all images: ``"channel_mean"`` or ``"mean_image"`` of the data,
            ``"noise"`` of the data's mean and deviation, ``"zero"``; or ``"blur"``, each image's own.
        random_orders: Random orders for comparison.
        seed: Of the random orders and the noise.
        chunk_size: Pictures per forward pass.

    Returns:
        The curves; see :class:`PEPPRResult`.

    Raises:
        ValueError: If the fill is unknown, the fractions do not reach from 0 to 1, or there is no label to score.
    """
    if fill not in PEPPR_FILLS:
        raise ValueError(f"Unknown fill {fill!r}; use one of {', '.join(PEPPR_FILLS)}.")
    shares = tuple(sorted(set(fractions)))
    if shares[0] != 0 or shares[-1] != 1 or random_orders < 1:
        raise ValueError(
            f"fractions are {tuple(fractions)}, random_orders {random_orders}; reach from 0 to 1, at least one order."
        )
    hide = blur_fill if fill == "blur" else data_fill(batches, fill, seed)
    orders = pixel_orders(ranking, random_orders, seed)
    answers = [(erasing(target, batch["image"], orders, shares, hide, chunk_size), batch["label"]) for batch in batches]
    told = {name: torch.cat([part[name] for part, _ in answers]) for name in answers[0][0]}
    truth = multi_hot(torch.cat([label for _, label in answers]).to(told["erase"].device), told["erase"].shape[-1])
    both = truth.any(dim=0) & ~truth.all(dim=0)
    if not both.any():
        raise ValueError("No label has both positive and negative images, so no AUC is defined; give a mixed split.")
    told = {name: values[..., both] for name, values in told.items()}
    curves = {name: label_auc(values, truth[:, both]) for name, values in told.items()}
    return PEPPRResult(
        fractions=shares,
        labels=both.nonzero()[:, 0].tolist(),
        skipped={int(label): int(truth[:, label].sum()) for label in (~both).nonzero()[:, 0]},
        erase=curves["erase"],
        restore=curves["restore"],
        erase_reversed=curves["erase_reversed"],
        erase_random=curves["erase_random"].transpose(0, 1),
        probabilities={"erase": told["erase"], "restore": told["restore"], "truth": truth[:, both]},
    )


def erasing(
    target: Target, images: Tensor, orders: Tensor, shares: tuple[float, ...], fill: AnyFill, chunk_size: int
) -> dict[str, Tensor]:
    """Class probabilities of a batch along the orders ``(1 + R, *S)``, the map's own first.

    The whole and the blank image are the same for all orders: they are asked once, and a fill that is one picture for
    all images answers for its blank once and for all, so that rounding cannot rank what is equal.

    Returns:
        ``erase``, ``erase_reversed`` and ``restore`` ``(B, P, K)``, ``erase_random`` ``(B, R, P, K)``.
    """

    def score(pictures: Tensor, rows: Tensor, which: Tensor | None = None) -> Tensor:
        return target.predict(pictures)

    own, others = (part.expand(len(images), *part.shape) for part in (orders[:1], orders[1:]))
    inner = shares[1:-1]
    requests = {"whole": Curve((0.0,), "erase", fill)}
    curves = {
        "erase": Curve(inner, "erase", fill),
        "erase_reversed": Curve(inner, "erase", fill, "least_first"),
        "restore": Curve(inner, "reveal", fill),
    }
    requests |= curves if inner else {}
    if not isinstance(fill, Tensor):
        requests["blank"] = Curve((1.0,), "erase", fill)
    told = {name: values[:, 0] for name, values in reveal(score, Scene(images, own), requests, chunk_size).items()}
    whole = told["whole"]
    blank = told.get("blank")
    if isinstance(fill, Tensor):
        with torch.no_grad():
            blank = target.predict(fill.to(images)).unsqueeze(0).expand_as(whole)
    middle = dict.fromkeys((*curves, "random"), whole[:, :0]) | told
    if inner:
        random = reveal(score, Scene(images, others), {"random": Curve(inner, "erase", fill)}, chunk_size)["random"]
    else:
        random = whole[:, None, :0].expand(-1, others.shape[1], -1, -1)
    assert blank is not None
    ends = {"erase": (whole, blank), "erase_reversed": (whole, blank), "restore": (blank, whole)}
    answers = {name: torch.cat([first, middle[name], last], dim=1) for name, (first, last) in ends.items()}
    whole, blank = (end.unsqueeze(1).expand(-1, others.shape[1], -1, -1) for end in (whole, blank))
    return answers | {"erase_random": torch.cat([whole, random, blank], dim=2)}


def data_fill(batches: Iterable[dict[str, Any]], fill: str, seed: int) -> Tensor:
    """One picture ``(1, C, *S)`` that hides pixels of all images alike; see :func:`peppr`."""
    mean = mean_image(batches)
    axes = tuple(range(2, mean.ndim))
    if fill == "mean_image":
        return mean
    if fill == "zero":
        return torch.zeros_like(mean)
    level = mean.mean(dim=axes, keepdim=True).expand_as(mean)
    if fill == "channel_mean":
        return level.clone()
    squares = mean_image({"image": batch["image"].double().square()} for batch in batches)
    deviation = (squares.mean(dim=axes, keepdim=True) - level.square()).clamp(min=0).sqrt()
    return level + deviation * noise_field(mean.shape[1:], seed)


def pixel_orders(ranking: Tensor, random_orders: int, seed: int) -> Tensor:
    """Maps ``(1 + R, *S)`` without ties: the ranking, then random ones; the first random order also breaks its ties.

    Raises:
        ValueError: If the ranking holds NaN.
    """
    if ranking.isnan().any():
        raise ValueError("The ranking holds NaN; leave out undefined maps before they are averaged.")
    generator = torch.Generator().manual_seed(seed)
    keys = torch.stack([torch.randperm(ranking.numel(), generator=generator) for _ in range(random_orders)])
    keys = keys.to(ranking.device)
    by_key = keys[0].argsort(descending=True)
    order = by_key[ranking.flatten()[by_key].argsort(descending=True, stable=True)]
    own = torch.empty_like(order)
    own[order] = torch.arange(len(order), device=order.device).flip(0)
    return torch.stack([own, *keys]).view(-1, *ranking.shape)


def label_auc(values: Tensor, truth: Tensor) -> Tensor:
    """AUC of every label: probabilities ``(N, ..., L)`` and truth ``(N, L)`` -> ``(L, ...)``; equal images give .5.

    Example:
        >>> label_auc(torch.tensor([[0.1], [0.9]]), torch.tensor([[False], [True]])).item()
        1.0
    """
    flat = values.movedim(0, -1).movedim(-2, 0)  # (L, ..., N)
    shape = flat.shape[:-1]
    flat = flat.reshape(len(flat), -1, flat.shape[-1])
    auc = pixel_auc(sort_evidence(flat, truth.T.unsqueeze(1).expand_as(flat)))
    # Both kinds of images are there, so only scores that are all equal are undefined as a ranking of pixels.
    return auc.nan_to_num(0.5).view(shape)


def multi_hot(labels: Tensor, classes: int) -> Tensor:
    """Labels ``(N,)`` or ``(N, L)`` as booleans ``(N, L)``."""
    if labels.ndim == 2:
        return labels.bool()
    return labels.unsqueeze(1) == torch.arange(classes, device=labels.device)
