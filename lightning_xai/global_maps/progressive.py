"""PEPPR: the same pixels of every aligned image are hidden, or shown again, and the model is scored at every step.

Engelmann, Storkey & Bernabeu, arXiv 2112.09591. Their code was not published: this is our reconstruction.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_xai.functional.files import atomic_write
from lightning_xai.functional.finite import check_outputs, naming_images
from lightning_xai.functional.segmentation import overlap_and_total, predicted_pixels, reference_pixels
from lightning_xai.functional.tensors import as_plain_tensor
from lightning_xai.global_maps.aggregation import present_labels
from lightning_xai.global_maps.pixel_orders import Survey, curves_of, data_baseline, survey
from lightning_xai.global_maps.result import PEPPRResult
from lightning_xai.perturbation.baselines import hide_pixels
from lightning_xai.perturbation.context import PerturbationContext
from lightning_xai.perturbation.evaluator import Evaluator, output_of_inputs
from lightning_xai.perturbation.perturbations import FixedMasks
from lightning_xai.structures import Query
from lightning_xai.targets import Target
from lightning_xai.targets.outputs import TargetOutput

TENTHS = tuple(step / 10 for step in range(11))
#: Images ``(B, C, *S)`` -> the same with some pixels hidden.
Hide = Callable[[Tensor], Tensor]


def peppr(
    target: Target,
    batches: Iterable[dict[str, Any]],
    ranking: Tensor,
    fractions: Sequence[float] = TENTHS,
    fill: str = "channel_mean",
    random_orders: int = 5,
    block_size: int = 1,
    seed: int = 0,
    chunk_size: int = 64,
    others: Mapping[str, Tensor] | None = None,
    retrain: Callable[[Hide], Target] | None = None,
    cache_dir: str | Path | None = None,
) -> PEPPRResult:
    """Progressive erasing plus progressive restoration: hide, or show, the same pixels of every image, in one order.

    The data are read once, and once more for every step: a fraction of pixels in one order. Steps that show the same
    pixels are one step, whichever curves they belong to.

    Args:
        target: A classifier, judged by the AUC of each label, or a segmenter, judged by the Dice of each class.
        batches: Batch dicts with ``image (B, C, *S)`` and ``label (B,)`` or multi-hot ``(B, K)``; for a segmenter with
            ``mask (B, 1, *S)``; intervals are over the groups in ``group``, if any. Iterated anew for every step, in
            the same order.
        ranking: A map ``(*S)`` on the target's device, high = important; equal pixels are ordered by a fixed random
            key.
        fractions: Fractions of pixels, from 0 to 1.
        fill: What hidden pixels show, one image for all images: ``"channel_mean"`` or ``"mean_image"`` of the data,
            ``"noise"`` of the data's mean and deviation, ``"black"``; or ``"blur"``, of each image.
        random_orders: Random orders for comparison.
        block_size: Side, in pixels, of the blocks that the random orders keep together. Holes of single pixels are
            noise that no model has seen, and hurt more than one large hole: fair is about the block size of the map.
        seed: Of the random orders and the noise.
        chunk_size: Largest number of inputs per forward pass.
        others: Further maps ``(*S)`` by name, for comparison: with one a label, :meth:`PEPPRResult.specificity` tells
            whether each is best for its label.
        retrain: ``hide -> target``: fits a new model on training images of which ``hide`` hides the pixels, before
            each step but the first. Needed to claim that pixels hold information, rather than that the model uses
            them.
        cache_dir: Folder where the outputs of every step are kept, so that a killed run goes on where it stopped.

    Returns:
        The curves; see :class:`PEPPRResult`.

    Raises:
        ValueError: If the baseline is unknown, the fractions do not reach from 0 to 1, maps do not fit, or there is no
            label to score.
    """
    fractions = tuple(sorted(set(fractions)))
    if fractions[0] != 0 or fractions[-1] != 1 or min(random_orders, block_size) < 1:
        raise ValueError(
            f"fractions are {tuple(fractions)}, random_orders {random_orders}, block_size {block_size}; reach from "
            "0 to 1, with at least one order and blocks of at least one pixel."
        )
    statistics = survey(batches)
    if tuple(ranking.shape) != tuple(statistics.mean.shape[1:]):
        raise ValueError(
            f"The ranking is {tuple(ranking.shape)}, but the images are {tuple(statistics.mean.shape[1:])}."
        )
    if target.dense:
        # A pass settles what a segmenter's single logit means, which is part of the name of the cache.
        target.finite_logits(statistics.mean.float().unsqueeze(0).to(ranking.device))
    baseline = None if fill == "blur" else data_baseline(statistics, fill, seed).to(ranking.device)
    curves = curves_of(ranking, others or {}, fractions, random_orders, seed, block_size)
    folder = (
        None if cache_dir is None else Path(cache_dir) / cache_key(target, statistics, baseline, retrain is not None)
    )
    outputs: dict[bytes, Tensor] = {}
    for shown in (mask for masks in curves.values() for mask in masks):
        step = shown.numpy().tobytes()
        if step in outputs:
            continue
        file = None if folder is None else folder / f"{hashlib.sha256(step).hexdigest()[:24]}.npy"
        if file is not None and file.is_file():
            outputs[step] = torch.from_numpy(np.load(file))
            continue
        visible, model = shown.to(ranking.device), target
        if retrain is not None and not shown.all():
            model = retrain(partial(hide_everywhere, shown=visible, baseline=baseline))
        outputs[step] = outputs_of_images(model, batches, visible, baseline, chunk_size)
        if file is not None:
            with atomic_write(file, "wb") as opened:
                np.save(opened, outputs[step].numpy())
    values = {
        name: torch.stack([outputs[mask.numpy().tobytes()] for mask in masks], 2) for name, masks in curves.items()
    }
    return judge(target, statistics, fractions, values)


def hide_everywhere(images: Tensor, shown: Tensor, baseline: Tensor | None) -> Tensor:
    """Hide all pixels of images ``(B, C, *S)`` but ``shown (*S)`` behind a baseline image, ``None``: a blur."""
    return hide_pixels(images, shown, "blur" if baseline is None else baseline)


@torch.no_grad()
def outputs_of_images(
    target: Target,
    batches: Iterable[dict[str, Any]],
    shown: Tensor,
    baseline: Tensor | None,
    chunk_size: int,
) -> Tensor:
    """The outputs of a model for all images with some of their pixels hidden.

    Where a classifier's images are hidden wholly by one image, that is evaluated once, so that rounding cannot rank
    what is equal.

    Args:
        target: The model: a classifier's probabilities are read, or the Dice of each class of a segmenter.
        batches: See :func:`peppr`.
        shown: The pixels that are shown, ``(*S)``, where the inputs are computed.
        baseline: What the others show, ``(1, C, *S)``; ``None``: a blur of each image.
        chunk_size: Largest number of inputs per forward pass.

    Returns:
        ``(N, K)`` float32 on the CPU; NaN where the model gives NaN, and for a Dice whose reference has none of the
        class.

    Raises:
        NotFiniteError: If a segmenter gives NaN for a whole image.
    """
    same = None
    if baseline is not None and not shown.any() and not target.dense:
        same = target.predict(baseline).cpu()
    outputs = []
    for batch in batches:
        if same is not None:
            outputs.append(same.expand(len(batch["image"]), -1))
            continue
        images = as_plain_tensor(batch["image"]).to(shown.device)
        query = every_query(target, images, batch.get("mask"))
        output = nan_for_nan(dice_of_labeled if target.dense else target.output("probability"))
        evaluator = Evaluator(output_of_inputs(target, output, query), chunk_size)
        masks = FixedMasks(lambda index, _: shown.view(1, 1, *shown.shape), 1, "blur" if baseline is None else baseline)
        values = evaluator(PerturbationContext.of_queries(images, query.shape[1]), {"shown": masks})["shown"][..., 0]
        if target.dense and shown.all():  # a Dice that is NaN says that the reference has none of the class
            with naming_images(batch):
                check_outputs(values)
        outputs.append(values.masked_fill(~query.defined(), float("nan")).cpu())
    return torch.cat(outputs).float()


def nan_for_nan(output: TargetOutput) -> TargetOutput:
    """The output, but NaN for a query about an input for which the model gives NaN: a Dice would read it as nothing."""

    def read(target: Target, logits: Tensor, query: Query) -> Tensor:
        broken = logits.flatten(1).isnan().any(dim=1, keepdim=True)
        return output(target, logits, query).masked_fill(broken, float("nan"))

    return read


def dice_of_labeled(target: Target, logits: Tensor, query: Query) -> Tensor:
    """The Dice ``(B, K)`` of a query about every class, over the pixels of any class: masks ignore the others."""
    assert query.regions is not None
    labeled = query.regions.any(dim=1, keepdim=True)
    predicted = predicted_pixels(logits, query.targets, target.activation) & labeled
    overlap, total = overlap_and_total(predicted.flatten(2), query.regions.flatten(2))
    return overlap / total.clamp(min=1)


def every_query(target: Target, images: Tensor, masks: Any) -> Query:
    """The query about every class; for a segmenter, about the pixels that the masks ``(B, 1, *S)`` label as it.

    Raises:
        ValueError: If there are no masks for a segmenter.
    """
    classes = target.every_class(images)
    if not target.dense:
        return Query(classes)
    if not isinstance(masks, Tensor):
        raise ValueError("PEPPR judges a segmenter by its Dice, but the batches have no mask; give data with masks.")
    return Query(classes, reference_pixels(as_plain_tensor(masks).to(images.device), classes))


def cache_key(target: Target, statistics: Survey, baseline: Tensor | None, retrained: bool) -> str:
    """A hash of all that determines the outputs of a step besides its pixels."""
    content = b"blur" if baseline is None else baseline.cpu().numpy().tobytes()
    parts = (
        target.fingerprint(),
        str(target.mean),
        str(target.std),
        target.activation,
        statistics.digest,
        str(retrained),
    )
    return hashlib.sha256("|".join(parts).encode() + content).hexdigest()[:16]


def judge(
    target: Target, statistics: Survey, fractions: tuple[float, ...], values: Mapping[str, Tensor]
) -> PEPPRResult:
    """Score the outputs ``(N, K, P)`` of every curve, for the labels that can be scored.

    Raises:
        ValueError: If there are no labels, or none of them can be judged.
    """
    whole = values["erase"][..., 0]
    if target.dense:
        truth = ~whole.isnan()
        counts = {k: int(count) for k, count in enumerate(truth.sum(dim=0)) if k != target.background}
        labels = [k for k, count in counts.items() if count]
        undefined = "The masks show no class but the background, so no Dice is defined; give images of objects."
    else:
        if statistics.truth is None:
            raise ValueError("PEPPR judges a classifier by its AUC, but the batches have no label; give labeled data.")
        truth = present_labels(statistics.truth, whole.shape[1])
        counts = {k: int(count) for k, count in enumerate(truth.sum(dim=0))}
        labels = [k for k, count in counts.items() if 0 < count < len(truth)]
        undefined = "No label has both positive and negative images, so no AUC is defined; give a mixed split."
    if not labels:
        raise ValueError(undefined)
    return PEPPRResult(
        fractions=fractions,
        labels=labels,
        skipped={k: count for k, count in counts.items() if k not in labels},
        metric="dice" if target.dense else "auc",
        truth=truth[:, labels],
        values={name: outputs[:, labels] for name, outputs in values.items()},
        units=statistics.units,
    )
