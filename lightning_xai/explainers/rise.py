"""RISE: the average of random masks, weighted by how sure the model is of what they show."""

import torch
from torch import Tensor
from typing_extensions import override

from lightning_xai.explainers.base import Explainer
from lightning_xai.explainers.query_policy import QueryPolicy
from lightning_xai.functional.resize import resize
from lightning_xai.perturbation.baselines import BaselineFunction
from lightning_xai.perturbation.batch_size import ChunkSize, checked_chunk_size, inputs_per_pass
from lightning_xai.perturbation.context import PerturbationContext
from lightning_xai.perturbation.evaluator import Evaluator, output_of_inputs
from lightning_xai.perturbation.perturbations import FixedMasks
from lightning_xai.structures import Query
from lightning_xai.targets import Target


class RISE(Explainer):
    """Random masks weighted by the probability of the image that they show; needs no gradient and no layer.

    Petsiuk et al. 2018, arXiv 1806.07421, eq. 6: coarse binary grids, enlarged linearly and shifted at random. All
    queries share the passes, and the masks are the same for every image.

    Args:
        target: The frozen target.
        masks: Number of masks, each a pass of the image.
        cells: Cells of the grid along the image's longest side.
        keep: Probability that a cell is shown.
        baseline: What hidden pixels show; see :func:`lightning_xai.perturbation.baselines.baseline_images`.
        seed: Another seed draws other masks.
        chunk_size: Images per pass.
        output: What weighs a mask: the target's ``"probability"`` (of a segmenter, its mean over the region), its
            ``"score"`` (logits), or a segmenter's ``"dice"`` with the region.
        query_policy: See :class:`Explainer`.

    Raises:
        ValueError: If there are no masks or cells, ``keep`` is no probability, or the output is unknown.

    Example:
        >>> from lightning_xai import ClassifierTarget
        >>> from lightning_xai.networks.mask_net import SmallCNN
        >>> RISE(ClassifierTarget(SmallCNN(1, 3)), masks=20).explain(torch.rand(2, 1, 28, 28)).shape
        torch.Size([2, 1, 28, 28])
    """

    def __init__(
        self,
        target: Target,
        masks: int = 1000,
        cells: int = 7,
        keep: float = 0.5,
        baseline: str | Tensor | BaselineFunction = "zero",
        seed: int = 0,
        chunk_size: ChunkSize = None,
        output: str = "probability",
        query_policy: QueryPolicy | None = None,
    ) -> None:
        super().__init__(target, query_policy)
        if masks < 1 or cells < 1 or not 0 < keep < 1:
            raise ValueError(f"masks is {masks}, cells {cells}, keep {keep}; give at least 1, 1, and between 0 and 1.")
        self.masks = masks
        self.cells = cells
        self.keep = keep
        self.baseline = baseline
        self.seed = seed
        self.chunk_size = checked_chunk_size(chunk_size)
        self.output = target.output(output)

    @torch.no_grad()
    @override
    def attribute(self, images: Tensor, query: Query) -> Tensor:
        size = images.shape[2:]
        drawn, drawn_shifts, side = random_grids(self.masks, size, self.cells, self.keep, self.seed)
        grids, shifts = drawn.to(images.device), drawn_shifts.to(images.device)

        def masks_of(_: Tensor, numbers: Tensor) -> Tensor:
            return enlarged(grids[numbers], shifts[numbers], side, size).to(images)

        chunk_size = inputs_per_pass(self.chunk_size, self.target, images)
        evaluator = Evaluator(output_of_inputs(self.target, self.output, query), chunk_size)
        context = PerturbationContext.of_queries(images, query.shape[1])
        masks = FixedMasks(masks_of, self.masks, self.baseline, per_image=False)
        outputs = evaluator(context, {"masks": masks})["masks"].to(images)
        maps = images.new_zeros(*query.shape, *size)
        for numbers in torch.split(torch.arange(self.masks, device=images.device), chunk_size):
            maps += torch.einsum("btn,n...->bt...", outputs[..., numbers], masks_of(numbers, numbers)[:, 0])
        return maps / (self.masks * self.keep)


def random_grids(count: int, size: torch.Size, cells: int, keep: float, seed: int) -> tuple[Tensor, Tensor, int]:
    """Draw the masks, all at once: how they are divided into passes must not change them.

    Only the small grids are drawn on the CPU, so that a seed means the same on every device; they are enlarged there.

    Args:
        count: Number of masks.
        size: ``*S``.
        cells: Cells along the longest side.
        keep: Probability of a 1.
        seed: Of the random numbers.

    Returns:
        Grids ``(count, 1, *cells)`` of 0 and 1, shifts ``(count, dims)`` in pixels, and the side of a cell in pixels.
    """
    generator = torch.Generator().manual_seed(seed)
    side = -(-max(size) // cells)
    grid = [-(-length // side) + 1 for length in size]  # a cell more than fits, for the shift
    grids = (torch.rand(count, 1, *grid, generator=generator) < keep).float()
    return grids, torch.randint(side, (count, len(size)), generator=generator), side


def enlarged(grids: Tensor, shifts: Tensor, side: int, size: torch.Size) -> Tensor:
    """Grids enlarged linearly and shifted: masks ``(n, 1, *S)`` in [0, 1]; see :func:`random_grids`."""
    large = resize(grids, [side * length for length in grids.shape[2:]])
    # One gather an axis for all masks: a slice of each by itself would need its shift on the host.
    for axis, (shift, length) in enumerate(zip(shifts.unbind(dim=1), size, strict=True), start=2):
        index = shift.unsqueeze(1) + torch.arange(length, device=grids.device)
        index = index.view(len(index), *(length if other == axis else 1 for other in range(1, large.ndim)))
        large = large.gather(axis, index.expand(*large.shape[:axis], length, *large.shape[axis + 1 :]))
    return large
