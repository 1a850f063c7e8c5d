"""PCIM: one optimized blending weight per pixel."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm.auto import tqdm
from typing_extensions import override

from lightning_xai.explainers.base import Explainer
from lightning_xai.explainers.query_policy import QueryPolicy
from lightning_xai.functional.resize import resize
from lightning_xai.functional.spsa import spsa_gradient
from lightning_xai.perturbation.soft_masks import (
    Baseline,
    area_fraction,
    baselines,
    blend,
    distinct,
    smooth_noise,
    top_fraction,
    total_variation,
    two_sided,
)
from lightning_xai.structures import Query
from lightning_xai.targets import Target

log = logging.getLogger(__name__)

#: Softness of the faithful preset's masks, in standard deviations of the map.
SOFTNESS = 0.1
#: Size of the smooth random shift that the first step's order gets: without it the weights settle on single pixels.
EXPLORATION = 1.0
#: Steps after which it is checked whether an image has settled, and the gain or move below which it has.
WINDOW, SETTLED = 60, 1e-3
CONSTRAINTS = ("unit", "nonneg", "softmax", "signed")
READOUTS = ("alpha", "alpha_x", "alpha_delta")


@dataclass(frozen=True)
class Preset:
    """Settings of one variant of PCIM.

    Attributes:
        two_sided: Area-sampled keep-and-lose objective instead of cross-entropy.
        constraint: What alpha may be.
        start: Constant that alpha starts from (before the constraint's map).
        steps: Optimizer steps at most.
        lr: Adam's learning rate.
        l1: Weight of ``mean |alpha|``.
        tv: Weight of the total variation.
        readout: What the map shows.
        baseline: What ``"auto"`` stands for.
    """

    two_sided: bool
    constraint: str
    start: float
    steps: int
    lr: float
    l1: float
    tv: float
    readout: str
    baseline: Baseline


PRESETS = {
    "faithful": Preset(True, "unit", 0.0, 300, 0.1, 0.0, 10.0, "alpha", ("median", "zero")),
    "sparse": Preset(False, "nonneg", 1.0, 300, 0.05, 0.5, 0.0, "alpha_x", "median"),
    "literal": Preset(False, "nonneg", 0.0, 300, 0.05, 0.0, 0.0, "alpha", "median"),
}


class PCIM(Explainer):
    """Pixel-wise channel isolation mixing: optimizes one blending weight per pixel of each image.

    ``blend(x; alpha) = b + alpha (x - b)`` mixes the channels that isolate one pixel each. Siegismund et al.,
    arXiv 2412.02275. The paper gives no equations: the objective, the presets and their numbers are our reading.

    * ``faithful``: at each step an area fraction ``s`` is drawn; the soft mask of the top ``s`` must keep the class and
      its complement must lose it, ``(1 - p(keep)) + p(rest)``, plus total variation. Every fill takes its turn.
      Smooth noise shifts the order of the pixels, less at every step: it averages out what only one mask feels.
    * ``sparse``: start at 1, cross-entropy + ``l1 mean|alpha|``: localizes.
    * ``literal``: start at 0, cross-entropy alone: the paper's words.

    A pixel equal to the baseline gets no gradient and keeps its start: hence the ``alpha_x`` readout of ``sparse``.

    Args:
        target: The frozen target.
        preset: ``"faithful"``, ``"sparse"`` or ``"literal"``; ``None`` in the arguments below is the preset's value.
        steps: Optimizer steps at most; an image that has settled stops earlier.
        lr: The optimizer's learning rate.
        baseline: What absent pixels show: ``"auto"`` (the preset's), a fill of :mod:`lightning_xai.reveal`, a tensor,
            or a list of fills that are drawn in turn.
        constraint: ``"unit"`` (sigmoid), ``"nonneg"`` (clamped each step), ``"softmax"`` (times N) or ``"signed"``.
        readout: ``"alpha"``, ``"alpha_x"`` (``alpha ||x - b||``) or ``"alpha_delta"`` (alpha minus its start).
        l1: Weight of ``mean |alpha|``.
        tv: Weight of the total variation of alpha; less of it finds single pixels that trick the model.
        per_channel: One weight per pixel and channel; the map is their mean.
        gradient: ``"backprop"``, or ``"spsa"`` for targets that cannot be differentiated (forward passes only).
        grid: Side of a coarser alpha grid, upsampled linearly; ``None``: full resolution (``spsa``: 16).
        optimizer: A first-order ``torch.optim`` class, called with ``lr``.
        query_policy: See :class:`Explainer`.

    Raises:
        ValueError: If a name is unknown, or ``backprop`` is wanted of a target without gradients.

    Example:
        >>> from lightning_xai import ClassifierTarget
        >>> target = ClassifierTarget(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2)))
        >>> PCIM(target, steps=5).explain(torch.rand(3, 1, 4, 4)).shape
        torch.Size([3, 1, 4, 4])
    """

    def __init__(
        self,
        target: Target,
        preset: str = "faithful",
        steps: int | None = None,
        lr: float | None = None,
        baseline: Baseline = "auto",
        constraint: str | None = None,
        readout: str | None = None,
        l1: float | None = None,
        tv: float | None = None,
        per_channel: bool = False,
        gradient: str = "backprop",
        grid: int | None = None,
        optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
        query_policy: QueryPolicy | None = None,
    ) -> None:
        super().__init__(target, query_policy)
        if preset not in PRESETS:
            raise ValueError(f"Unknown preset {preset!r}; use one of {', '.join(PRESETS)}.")
        given = PRESETS[preset]
        self.two_sided, self.start = given.two_sided, given.start
        self.steps = given.steps if steps is None else steps
        self.lr = given.lr if lr is None else lr
        self.baseline: Baseline = given.baseline if isinstance(baseline, str) and baseline == "auto" else baseline
        self.constraint = chosen("constraint", constraint or given.constraint, CONSTRAINTS)
        self.readout = chosen("readout", readout or given.readout, READOUTS)
        self.l1 = given.l1 if l1 is None else l1
        self.tv = given.tv if tv is None else tv
        self.per_channel = per_channel
        self.warned = False
        self.optimizer = optimizer
        self.gradient = chosen("gradient", gradient, ("backprop", "spsa"))
        self.grid = 16 if grid is None and gradient == "spsa" else grid
        if gradient == "backprop" and not target.differentiable:
            raise ValueError("The target is a plain callable without gradients; use PCIM(gradient='spsa').")

    @override
    def attribute(self, images: Tensor, query: Query) -> Tensor:
        """Every query is a row with an alpha of its own."""
        rows, row_query = self.rows(images, query)
        fills = baselines(rows, self.baseline)
        start = self.start_of(rows)
        alpha = self.optimize(start, rows, fills, row_query)
        return self.read(alpha, rows, fills, start).view(*query.shape, *images.shape[2:])

    def rows(self, images: Tensor, query: Query) -> tuple[Tensor, Query]:
        """One row per query: images ``(R, C, *S)``, and queries ``(R, 1)``."""
        return images.repeat_interleave(query.shape[1], dim=0), query.rows()

    def weights(self, raw: Tensor, size: torch.Size) -> Tensor:
        """Blending weights ``(R, 1 or C, *size)`` of raw parameters ``(R, 1 or C, *grid)``."""
        raw = resize(raw, size)
        if self.constraint == "unit":
            return raw.sigmoid()
        if self.constraint == "softmax":
            return (raw.flatten(1).softmax(dim=1) * raw[0].numel()).view_as(raw)
        return raw

    def exploration(self, step: int, images: Tensor) -> Tensor:
        """A smooth random shift of the order ``(1, 1, *S)``, the same for every row, that fades over the steps."""
        noise = smooth_noise(1, images.shape[2:], images.device, torch.Generator().manual_seed(step))
        return EXPLORATION * (1 - step / self.steps) * noise

    def objective(self, raw: Tensor, images: Tensor, baseline: Tensor, query: Query, step: int) -> Tensor:
        """Loss per row, ``(R,)``: its sum does not depend on how rows are batched."""
        alpha = self.weights(raw, images.shape[2:])
        if self.two_sided:
            order = resize(raw, images.shape[2:]) + self.exploration(step, images)
            mask = top_fraction(order, area_fraction(step), SOFTNESS)
            loss = two_sided(self.target, images, baseline, mask, query)
        else:
            blended = blend(images, baseline, alpha)
            loss = -self.target.log_probability(blended, query.targets, query.regions)[:, 0]
        if self.l1:
            loss = loss + self.l1 * alpha.abs().flatten(1).mean(dim=1)
        return loss + self.tv * total_variation(alpha) if self.tv else loss

    def start_of(self, rows: Tensor) -> Tensor:
        """Constant start (a random one leaks into the map): ``(R, 1 or C, *grid)``."""
        channels = rows.shape[1] if self.per_channel else 1
        size = rows.shape[2:] if self.grid is None else [min(self.grid, side) for side in rows.shape[2:]]
        return rows.new_full((len(rows), channels, *size), self.start)

    def optimize(self, start: Tensor, rows: Tensor, fills: list[Tensor], query: Query) -> Tensor:
        """Run the optimizer on every row until it has settled or the steps are used up.

        A loss that stays the same function has settled when its mean over a window gains nothing. The two-sided one
        has another area, fill and softness at every step: there a row has settled when its weights stand still.
        """
        final = start.clone()
        active = torch.arange(len(rows), device=rows.device)
        raw, mark = start.clone(), start.clone()
        optimizer = self.optimizer([raw], lr=self.lr)
        recent, best = rows.new_zeros(len(rows)), rows.new_full((len(rows),), float("inf"))
        for step in tqdm(range(self.steps), desc=type(self).__name__, leave=False, disable=self.steps < 50):
            raw.grad, losses = self._gradient(raw, rows, fills[step % len(fills)], query, step)
            optimizer.step()
            if self.constraint == "nonneg":
                raw.clamp_(min=0)
            recent += losses / WINDOW
            if (step + 1) % WINDOW:
                continue
            gain = (raw - mark).abs().flatten(1).amax(dim=1) if self.two_sided else best - recent
            going = gain > SETTLED
            final[active] = raw
            if not going.any():
                return final
            if not going.all():
                active, raw = active[going], keep_rows(optimizer, going)
                rows, query, fills = rows[going], query[going], [fill[going] for fill in fills]
            mark, recent, best = raw.clone(), torch.zeros_like(recent[going]), torch.minimum(best, recent)[going]
        final[active] = raw
        return final

    def _gradient(
        self, raw: Tensor, images: Tensor, baseline: Tensor, query: Query, step: int
    ) -> tuple[Tensor, Tensor]:
        """Gradient of each row's loss to its alpha, and the losses."""
        if self.gradient == "spsa":
            return spsa_gradient(lambda values: self.objective(values, images, baseline, query, step), raw, step)
        raw = raw.detach().requires_grad_(True)
        losses = self.objective(raw, images, baseline, query, step)
        (gradient,) = torch.autograd.grad(losses.sum(), raw)
        return gradient, losses.detach()

    def read(self, alpha: Tensor, rows: Tensor, fills: list[Tensor], start: Tensor) -> Tensor:
        """Maps ``(R, *S)`` of optimized weights."""
        size = rows.shape[2:]
        maps = self.weights(alpha, size)
        if self.readout == "alpha_delta":
            maps = maps - self.weights(start, size)
        if self.readout == "alpha_x":
            distance = torch.stack([(rows - fill).square() for fill in fills]).mean(dim=0)
            maps = maps * (distance.sqrt() if self.per_channel else distance.sum(dim=1, keepdim=True).sqrt())
        return maps.mean(dim=1)

    @torch.no_grad()
    def extras(self, images: Tensor, query: Query) -> dict[str, Tensor]:
        """``p_baseline``: each class's probability for the baseline image; warns where that already is the class."""
        fills = distinct(baselines(images, self.baseline))
        each = [self.target.probability(fill, query.targets, query.regions) for fill in fills]
        highest = torch.stack(each).amax(dim=0)
        count = int((highest > 0.5).sum())
        if count and not self.warned:
            self.warned = True
            log.warning(
                "%d of %d queries are about a class that the baseline image already has (p > 0.5): deletion and "
                "insertion say little there, so judge with two fills and per class. (Said once; every map has its "
                "p_baseline.)",
                count,
                highest.numel(),
            )
        return {"p_baseline": highest}


def keep_rows(optimizer: torch.optim.Optimizer, going: Tensor) -> Tensor:
    """Drop settled rows from an optimizer's one parameter and from its state; returns the smaller parameter."""
    group = optimizer.param_groups[0]
    old = group["params"][0]
    new: Tensor = old[going]
    state = optimizer.state.pop(old, {})
    optimizer.state[new] = {
        name: value[going] if isinstance(value, Tensor) and value.shape == old.shape else value
        for name, value in state.items()
    }
    group["params"] = [new]
    return new


def chosen(name: str, value: str, allowed: tuple[str, ...]) -> str:
    """Return ``value`` if it is allowed, else say what is."""
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; use one of {', '.join(allowed)}.")
    return value
