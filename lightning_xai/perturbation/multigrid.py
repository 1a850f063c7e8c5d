"""Multigrid for the weighted mean of neighbors: grids, their operators, and one cycle down and up.

Values are kept flat, with one point of zeros around the grid: a step to a neighbor is then one shift of the whole
array, and the neighbors outside of the image add nothing.
"""

from collections.abc import Sequence
from itertools import product
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

#: A grid of no more points than this is solved directly.
DIRECT = 64


class Grid:
    """A grid of ``size``, its values stored as ``(n, C, L)`` with a border of zeros, and an operator ``A`` on it.

    Attributes:
        mask: ``(n, 1, L)``, 1 at the unknowns.
        inverse: ``(n, 1, L)``, ``damping`` over the diagonal of ``A``; 0 but at the unknowns.
        sweeps: Jacobi steps before and after the coarser grids.
        coarser: The next grid; without one, ``inverse`` is ``(n, N, N)``, that of the whole of ``A``.
    """

    mask: Tensor
    inverse: Tensor
    sweeps = 1
    coarser: "Coarse | None" = None

    def __init__(self, size: Sequence[int]):
        self.size = tuple(size)
        self.padded = tuple(side + 2 for side in size)
        self.strides = [prod(self.padded[axis + 1 :]) for axis in range(len(size))]
        self.margin = sum(self.strides)
        self.steps = list(product((-1, 0, 1), repeat=len(size)))
        # Full Jacobi steps smooth well with diagonal neighbors; on a line they would leave every zigzag as it is.
        self.damping = 1 if len(size) > 1 else 2 / 3

    def flat(self, values: Tensor) -> Tensor:
        """``(n, C, *size)`` to ``(n, C, L)``."""
        return F.pad(values, [1, 1] * len(self.size)).flatten(2)

    def square(self, values: Tensor) -> Tensor:
        """View ``(n, C, L)`` as ``(n, C, *padded)``."""
        return values.view(*values.shape[:2], *self.padded)

    def inner(self, values: Tensor, step: Sequence[int] | None = None) -> Tensor:
        """View ``(n, C, L)`` as ``(n, C, *size)``, shifted by ``step``."""
        view = self.square(values)
        for axis, ahead in enumerate(step or [0] * len(self.size)):
            view = view.narrow(2 + axis, 1 + ahead, self.size[axis])
        return view

    def core(self, values: Tensor, shift: int = 0) -> Tensor:
        """``(n, C, L)`` without the margins that no unknown lies in, shifted by ``shift`` points."""
        return values[..., self.margin + shift : values.shape[2] - self.margin + shift]

    def whole(self, core: Tensor) -> Tensor:
        """Give a core its margins of zeros back."""
        return F.pad(core, [self.margin, self.margin])

    def residual(self, right: Tensor, values: Tensor) -> Tensor:
        """``right - A values``, which is 0 but at the unknowns."""
        out = torch.zeros_like(right)
        torch.add(self.core(right), self.pull(values), out=self.core(out))
        return out

    def pull(self, values: Tensor) -> Tensor:
        """The core of ``-A values``."""
        raise NotImplementedError

    def links(self) -> Tensor:
        """``(n, 3^D, *size)``: by how much each neighbor raises ``-A`` at each point."""
        raise NotImplementedError

    def masked(self, links: Tensor) -> Tensor:
        """Cut the links to and from what is no unknown."""
        ends = torch.cat([self.inner(self.mask, step) for step in self.steps], dim=1)
        return ends.mul_(self.inner(self.mask)).mul_(links)

    def inverted(self) -> Tensor:
        """``(n, N, N)``: the inverse of ``A`` with ones on the diagonal where nothing is unknown."""
        points = prod(self.size)
        unit = self.flat(torch.eye(points).to(self.mask).view(1, points, *self.size))
        matrix = -self.inner(self.whole(self.pull(unit.expand(len(self.mask), -1, -1)))).flatten(2)
        inverse: Tensor = torch.linalg.inv(matrix + torch.diag_embed(1 - self.inner(self.mask).flatten(1)))
        return inverse


class Finest(Grid):
    """The neighbor weights themselves, times the integer that makes all of them exact."""

    def __init__(self, hidden: Tensor):
        super().__init__(hidden.shape[2:])
        self.mask = self.flat(hidden)
        self.around = self._around(self.flat(torch.ones_like(hidden[:1])))
        self.weights = [self._weight(step) for step in self.steps]
        self.degree = self.whole(self.around - self.weights[len(self.weights) // 2])
        self.inverse = self.damping * self.mask / self.degree.clamp_min(1)

    def _weight(self, step: Sequence[int]) -> int:
        """What :meth:`_around` gives the point that lies ``step`` away."""
        away = sum(map(abs, step))
        return (24, 12, 6, 4)[away] if len(self.size) == 3 else 2 ** (len(self.size) - away)

    def _around(self, values: Tensor) -> Tensor:
        """The core of the weighted sum of all neighbors and of the point itself, by sums along one axis at a time.

        In 2-D ``[1 2 1]`` along both axes has these weights; in 3-D it has, but for the corners.
        """
        total = values
        for stride in self.strides:
            total = total[..., :-stride] + total[..., stride:]
            total = total[..., :-stride] + total[..., stride:]
        if len(self.size) == 3:
            for stride in self.strides:
                values = values[..., : -2 * stride] + values[..., 2 * stride :]
            total = values.add_(total, alpha=3)
        return total

    @override
    def pull(self, values: Tensor) -> Tensor:
        pull = self._around(values).addcmul_(self.around, self.core(values), value=-1)
        return pull.mul_(self.core(self.mask))

    @override
    def links(self) -> Tensor:
        links = self.masked(self.mask.new_tensor(self.weights).view(-1, *[1] * len(self.size)))
        links[:, len(self.steps) // 2] = -self.inner(self.mask * self.degree)[:, 0]
        return links


class Coarse(Grid):
    """Every other point of a finer grid, with the Galerkin operator of linear interpolation between them."""

    def __init__(self, finer: Grid):
        # For an even side the last point lies one beyond the grid: without it the border would act as if visible.
        size = [side // 2 + 1 for side in finer.size]
        super().__init__(size)
        self.finer = finer
        beyond = [margin for side in reversed(finer.size) for margin in (0, 1 - side % 2)]
        mask = F.pad(finer.inner(finer.mask), beyond, mode="replicate")
        links = finer.links()
        links = links.view(len(mask), *[3] * len(size), *finer.size)
        for axis in range(len(size)):
            mask = _every_other(mask, 2 + axis, 0)
            links = _merge(links, len(size), axis)
        self.mask = self.flat(mask)
        self.kept = self.masked(links.flatten(1, len(size)))
        links = self.flat(self.kept)
        self.pulls = torch.split(self.core(links), 1, dim=1)
        middle = len(self.steps) // 2
        self.inverse = torch.where(self.mask > 0, -self.damping / links[:, middle : middle + 1], 0)
        # The small grids cost little, and a better solution on them saves a cycle.
        self.sweeps = 1 if isinstance(finer, Finest) else 2
        self.offsets = [sum(a * b for a, b in zip(step, self.strides, strict=True)) for step in self.steps]

    @override
    def links(self) -> Tensor:
        return self.kept

    @override
    def pull(self, values: Tensor) -> Tensor:
        total = self.pulls[0] * self.core(values, self.offsets[0])
        for pull, offset in zip(self.pulls[1:], self.offsets[1:], strict=True):
            total.addcmul_(pull, self.core(values, offset))
        return total

    def prolong(self, values: Tensor) -> Tensor:
        """``(n, C, *size)`` to ``(n, C, *finer.size)``: linear interpolation."""
        for axis, side in reversed(list(enumerate(self.finer.size, start=2))):
            even, odd = side - side // 2, side // 2
            finer = values.new_empty([*values.shape[:axis], side, *values.shape[axis + 1 :]])
            _every_other(finer, axis, 0).copy_(values.narrow(axis, 0, even))
            torch.lerp(values.narrow(axis, 0, odd), values.narrow(axis, 1, odd), 0.5, out=_every_other(finer, axis, 1))
            values = finer
        return values

    def restrict(self, values: Tensor) -> Tensor:
        """``(n, C, finer L)`` to ``(n, C, *size)``: the transpose of :meth:`prolong`."""
        values = self.finer.square(values)
        for axis, side in enumerate(self.size, start=2):
            # The border of zeros is point 0: the points to keep are the odd ones, each between two even ones.
            between = _every_other(values, axis, 0)
            after = between.shape[axis] - 1
            values = torch.add(_every_other(values, axis, 1), between.narrow(axis, 0, side), alpha=0.5)
            values.narrow(axis, 0, after).add_(between.narrow(axis, 1, after), alpha=0.5)
        return values


def _every_other(values: Tensor, axis: int, start: int) -> Tensor:
    return values.transpose(0, axis)[start::2].transpose(0, axis)


def _merge(links: Tensor, dims: int, axis: int) -> Tensor:
    """The links ``(n, 3, .., 3, *size)`` between every other point of one axis: ``I^T A I``."""
    side = links.shape[1 + dims + axis]
    even, odd = side - side // 2, side // 2
    shape = list(links.shape)
    shape[1 + dims + axis] = side // 2 + 1
    merged = links.new_zeros(shape)
    points = dims + axis
    before, center, after = merged.unbind(1 + axis)
    # The odd points go half to the one before, half to the one after; so do the links to them.
    low, middle, high = (_every_other(link, points, 0) for link in links.unbind(1 + axis))
    before.narrow(points, 0, even).copy_(low).mul_(0.5)
    after.narrow(points, 0, even).copy_(high).mul_(0.5)
    center.narrow(points, 0, even).copy_(middle).add_(low, alpha=0.5).add_(high, alpha=0.5)
    low, middle, high = (_every_other(link, points, 1) for link in links.unbind(1 + axis))
    low = torch.add(low, middle, alpha=0.5).mul_(0.5)
    high = torch.add(high, middle, alpha=0.5).mul_(0.5)
    before.narrow(points, 1, odd).add_(low)
    center.narrow(points, 0, odd).add_(low)
    center.narrow(points, 1, odd).add_(high)
    after.narrow(points, 0, odd).add_(high)
    return merged


def add_coarser(grid: Grid) -> None:
    """Build coarser and coarser grids below this one, down to one that is small enough to invert."""
    while prod(grid.size) > DIRECT:
        grid.coarser = Coarse(grid)
        grid = grid.coarser
    grid.inverse = grid.inverted()


def first_guess(grid: Grid, sums: Tensor, weights: Tensor) -> Tensor:
    """``(n, C, *size)``: the mean ``sums / weights`` and, where nothing is visible near, that of the coarser grids."""
    coarser = grid.coarser
    if coarser is None:
        axes = tuple(range(2, sums.ndim))
        below = sums.sum(dim=axes, keepdim=True) / weights.sum(dim=axes, keepdim=True)
    else:
        sums_below, weights_below = coarser.restrict(grid.flat(sums)), coarser.restrict(grid.flat(weights))
        below = coarser.prolong(first_guess(coarser, sums_below, weights_below))
    return torch.where(weights > 0, sums / weights, below)


def cycle(grid: Grid, right: Tensor) -> Tensor:
    """One multigrid V-cycle for ``A values = right``, symmetric as conjugate gradients need it."""
    coarser = grid.coarser
    if coarser is None:
        return grid.flat((grid.inner(right).flatten(2) @ grid.inverse).view(*right.shape[:2], *grid.size))
    values = grid.inverse * right
    for _ in range(grid.sweeps - 1):
        values.addcmul_(grid.inverse, grid.residual(right, values))
    below = coarser.flat(coarser.restrict(grid.residual(right, values)) * coarser.inner(coarser.mask))
    correction = coarser.prolong(coarser.inner(cycle(coarser, below)))
    grid.inner(values).addcmul_(correction, grid.inner(grid.mask))
    for _ in range(grid.sweeps):
        values.addcmul_(grid.inverse, grid.residual(right, values))
    return values
