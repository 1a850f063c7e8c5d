"""Captum's attribution methods as explainers."""

import inspect
import math
import warnings
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_xai.explainers.base import Explainer
from lightning_xai.explainers.query_policy import QueryPolicy
from lightning_xai.perturbation.baselines import BaselineFunction, baseline_images
from lightning_xai.perturbation.batch_size import ChunkSize, checked_chunk_size, inputs_per_pass
from lightning_xai.structures import Query
from lightning_xai.targets import Target
from lightning_xai.targets.layers.find import named_layer
from lightning_xai.targets.layers.grid import to_image
from lightning_xai.targets.layers.hooks import hook_guard
from lightning_xai.targets.outputs import TargetOutput

#: Methods that draw random numbers.
RANDOM = ("GradientShap", "KernelShap", "Lime", "ShapleyValueSampling")
#: Methods that hide parts of the image and need no gradient.
HIDING = ("Occlusion", "FeatureAblation", "FeaturePermutation", "ShapleyValueSampling", "KernelShap", "Lime")
UNSEEN = (
    "DeepLIFT cannot see through this model: an activation is a function, a module that is called twice, or unknown to "
    "Captum; use IntegratedGradients."
)
#: Fraction of the change of the score by which DeepLIFT's attributions may miss it.
TOLERANCE = 0.02


class CaptumExplainer(Explainer):
    """A method of ``captum.attr`` that explains the target's score.

    The attributions of an image's channels are added up; where all channels were hidden at once they are one.

    Args:
        target: The frozen target.
        method: Name of the class in ``captum.attr``, such as ``"IntegratedGradients"``.
        layer: Name of a module inside the target's model, for Captum's ``Layer...`` methods. Their maps are upsampled
            linearly; ``"LayerGradientXActivation"`` is HiResCAM.
        baseline: Captum's baseline, where it takes one; see
            :func:`lightning_xai.perturbation.baselines.baseline_images`.
        patch: Side, in pixels, of the squares that a method hides: of occlusion, which moves on by half of it, and of
            the grid whose cells feature ablation and kernel SHAP take as features.
        smooth: Noisy copies of the image that the attributions are averaged over (SmoothGrad); 0: none.
        noise: Deviation of their noise, as a fraction of the image's range.
        chunk_size: Images per pass.
        output: What is explained: the target's ``"score"`` (logits), its ``"probability"``, or a segmenter's ``"dice"``
            with the region, which only methods that hide parts of the image can explain.
        query_policy: See :class:`Explainer`.
        options: Passed on to Captum's ``attribute``, such as ``n_steps`` or ``show_progress``.

    Raises:
        ValueError: If Captum has no such method, or the model no such layer.

    Example:
        >>> from lightning_xai import ClassifierTarget
        >>> target = ClassifierTarget(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2)))
        >>> CaptumExplainer(target, "InputXGradient").explain(torch.rand(3, 1, 4, 4)).shape
        torch.Size([3, 1, 4, 4])
    """

    def __init__(
        self,
        target: Target,
        method: str = "IntegratedGradients",
        layer: str | None = None,
        baseline: str | Tensor | BaselineFunction | None = None,
        patch: int | None = None,
        smooth: int = 0,
        noise: float = 0.15,
        chunk_size: ChunkSize = None,
        output: str = "score",
        query_policy: QueryPolicy | None = None,
        **options: Any,
    ) -> None:
        import captum.attr  # at first use: other explainers do without it

        super().__init__(target, query_policy)
        if not hasattr(captum.attr, method):
            raise ValueError(
                f"captum.attr has no {method!r}; give the name of one of its classes, such as 'IntegratedGradients'."
            )
        if patch is not None and patch < 1:
            raise ValueError(f"patch is {patch}; it is at least 1 pixel wide.")
        if output == "dice" and method not in HIDING:
            raise ValueError(f"The Dice has no gradient for {method}; use one of {', '.join(HIDING)}.")
        self.method = method
        self.layer = None if layer is None else named_layer(target, layer)
        self.baseline = baseline
        self.patch = patch
        self.smooth = smooth
        self.noise = noise
        self.chunk_size = checked_chunk_size(chunk_size)
        self.output = target.output(output)
        self.options = options

    @override
    def attribute(self, images: Tensor, query: Query) -> Tensor:
        size = 1 if self._draws else len(images)
        rows = []
        with hook_guard(self.target.model), warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="captum")
            for start in range(0, len(images), size):
                part = slice(start, start + size)
                rows.append(torch.cat([self._one(images[part], one) for one in single_queries(query[part])], dim=1))
        return torch.cat(rows)

    @property
    def _draws(self) -> bool:
        """Whether the method draws random numbers: image by image then, so that none depends on the others."""
        return self.smooth > 0 or self.method in RANDOM

    def _one(self, images: Tensor, query: Query) -> Tensor:
        """The map ``(B, 1, *S)`` of one query per image."""
        import captum.attr

        score = Score(self.target, self.output)
        method = getattr(captum.attr, self.method)(*((score,) if self.layer is None else (score, self.layer)))
        options = self._options(method, images)
        if self.smooth:
            method = captum.attr.NoiseTunnel(method)
            spread = float(images.max() - images.min())
            options |= {"nt_samples": self.smooth, "stdevs": self.noise * spread, "nt_type": "smoothgrad"}
            options |= {"nt_samples_batch_size": min(self.smooth, self._chunk(images))}
        extra = (query.targets,) if query.regions is None else (query.targets, query.regions)
        # Captum writes gradients of the images into .grad: it gets a copy of its own.
        inputs = images.clone()
        # DeepLIFT divides by differences of activations, which vanish in 16 bits.
        precise = torch.autocast(images.device.type, enabled=False) if self.method == "DeepLift" else nullcontext()
        with precise, torch.random.fork_rng(devices=[images.device] if images.is_cuda else [], enabled=self._draws):
            if self._draws:
                torch.manual_seed(0)
            try:
                maps = method.attribute(inputs, additional_forward_args=extra, **options)
            except RuntimeError as error:
                if "used more than once" not in str(error):
                    raise
                raise ValueError(UNSEEN) from error
        if self.method == "DeepLift":
            self._check(score, images, options.get("baselines"), extra, maps)
        shared = self._hides_all_channels(options, images.shape[1])
        maps = maps.mean(dim=1, keepdim=True) if shared else maps.sum(dim=1, keepdim=True)
        return maps if self.layer is None else to_image(self.target, maps, images)

    def _options(self, method: Any, images: Tensor) -> dict[str, Any]:
        """Arguments of Captum's ``attribute`` for these images."""
        known, options = inspect.signature(method.attribute).parameters, dict(self.options)
        if self.baseline is not None:
            options["baselines"] = baseline_images(images, self.baseline)
        if self.patch is not None:
            sides = [min(self.patch, side) for side in images.shape[2:]]
            if "sliding_window_shapes" in known:
                options["sliding_window_shapes"] = (images.shape[1], *sides)
                options["strides"] = (images.shape[1], *(max(1, side // 2) for side in sides))
            elif "feature_mask" in known:
                options["feature_mask"] = cells(images.shape[2:], sides).to(images.device)
        if "internal_batch_size" in known:
            options.setdefault("internal_batch_size", max(self._chunk(images), len(images)))
        if "perturbations_per_eval" in known:
            options.setdefault("perturbations_per_eval", max(1, self._chunk(images) // len(images)))
        return options

    def _chunk(self, images: Tensor) -> int:
        return inputs_per_pass(self.chunk_size, self.target, images, gradients=self.method not in HIDING)

    def _hides_all_channels(self, options: dict[str, Any], channels: int) -> bool:
        """Whether every channel carries the same attribution: that of all of them."""
        mask, window = options.get("feature_mask"), options.get("sliding_window_shapes")
        return (mask is not None and mask.shape[1] == 1) or (window is not None and window[0] == channels > 1)

    def _check(self, score: nn.Module, images: Tensor, fill: Tensor | None, extra: Any, maps: Tensor) -> None:
        """DeepLIFT's attributions add up to the change of the score, unless it missed a nonlinear step of the model.

        Raises:
            ValueError: If they do not.
        """
        with torch.no_grad():
            baseline = torch.zeros_like(images) if fill is None else fill
            change = score(images, *extra) - score(baseline, *extra)
        missed = (maps.flatten(1).sum(dim=1) - change).abs()
        if bool((missed > TOLERANCE * (1e-3 + maps.flatten(1).abs().sum(dim=1))).any()):
            raise ValueError(UNSEEN)


class Score(nn.Module):
    """The target's score as a module: DeepLIFT and guided backpropagation look for the layers inside.

    Args:
        target: The target.
        output: What is read from its logits.
    """

    def __init__(self, target: Target, output: TargetOutput) -> None:
        super().__init__()
        # Plain tuples hide the target from nn.Module's bookkeeping; its model is shown as it is.
        self._hidden = (target, output)
        if isinstance(target.model, nn.Module):
            self.model = target.model

    def forward(self, images: Tensor, targets: Tensor, *regions: Tensor) -> Tensor:
        """Scores ``(B,)``; Captum repeats the arguments along with the images where it needs copies of them."""
        target, output = self._hidden
        return output(target, target.logits(images), Query(targets, regions[0] if regions else None))[:, 0]


def single_queries(query: Query) -> list[Query]:
    """The queries about each image one by one: ``T`` of ``(B, 1)``."""
    return [query[:, index, None] for index in range(query.shape[1])]


def cells(size: torch.Size, sides: list[int]) -> Tensor:
    """A grid's cells, numbered: ``(1, 1, *S)``."""
    numbers = torch.zeros(1, 1, *size, dtype=torch.long)
    for axis, (length, side) in enumerate(zip(size, sides, strict=True), start=2):
        cell = (torch.arange(length) // side).view(-1, *(1,) * (len(size) + 1 - axis))
        numbers = numbers * math.ceil(length / side) + cell
    return numbers
