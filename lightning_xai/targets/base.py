"""The base class of all targets: a frozen model, and the outputs of it that are explained."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lightning_xai.functional.finite import check_outputs
from lightning_xai.structures import Query
from lightning_xai.targets.checks import check_range, checked_targets
from lightning_xai.targets.confusion import confusion_fault, confusion_of
from lightning_xai.targets.frozen_model import FrozenModel
from lightning_xai.targets.outputs import Logit, LogProbability, Probability, TargetOutput
from lightning_xai.targets.probing import OutputWatch, classes_fault, constant_fault, statistics_fault
from lightning_xai.targets.sizes import names_of
from lightning_xai.typing import Scorer

log = logging.getLogger(__name__)


class Target(FrozenModel, ABC):
    """A frozen model, and the outputs of it that are explained; see :class:`FrozenModel` for the arguments."""

    #: ``"classification"`` or ``"segmentation"``.
    task: str
    #: The entry of a batch that the target should predict: ``"label"`` or ``"mask"``.
    reference_key: str
    #: What can be read from the logits, by name.
    outputs: Mapping[str, TargetOutput] = {"score": Logit(), "probability": Probability()}

    def output(self, name: str) -> TargetOutput:
        """Look up one of :attr:`outputs` by its name.

        Raises:
            ValueError: If there is none of that name.
        """
        if name not in self.outputs:
            raise ValueError(f"A {type(self).__name__} has no output {name!r}; use {' | '.join(self.outputs)}.")
        return self.outputs[name]

    def score(self, images: Tensor, targets: Tensor, pixels: Tensor | None = None) -> Tensor:
        """The scalar under explanation: the logit of each class, summed over the region for a segmenter.

        Args:
            images: ``(B, C, *S)``.
            targets: ``(B,)`` or ``(B, T)`` class indices.
            pixels: Regions ``(B, T or 1, *S)``, or ``None`` (segmenters: the pixels predicted as the class).

        Returns:
            ``(B, T)``.
        """
        return Logit()(self, *self._logits_and_query(images, targets, pixels))

    def log_probability(self, images: Tensor, targets: Tensor, pixels: Tensor | None = None) -> Tensor:
        """Logarithm of the probability of each class, ``(B, T)``; a segmenter gives its mean over the region."""
        return LogProbability()(self, *self._logits_and_query(images, targets, pixels))

    def probability(self, images: Tensor, targets: Tensor, pixels: Tensor | None = None) -> Tensor:
        """Probability ``(B, T)`` of each class; a segmenter gives its mean over the region."""
        return Probability()(self, *self._logits_and_query(images, targets, pixels))

    def scorer(self, images: Tensor, targets: Tensor, pixels: Tensor | None = None) -> Scorer:
        """Make the function ``score(images, rows)`` that :func:`lightning_xai.reveal.reveal_curve` takes.

        Args:
            images: ``(B, C, *S)``, whole: hiding pixels must not change a segmenter's default regions.
            targets: ``(B, T)`` class indices; row ``b * T + t`` is query ``t`` of image ``b``.
            pixels: ``(B, T or 1, *S)`` or ``None`` (segmenters: the pixels predicted as the class in the whole image).

        Returns:
            A function from hidden or revealed images ``(n, C, *S)`` and their rows ``(n,)`` to probabilities ``(n,)``.
        """
        query = self.query(images, targets, pixels)

        def score(images: Tensor, rows: Tensor) -> Tensor:
            queried = query.rows(rows)
            return self.probability(images, queried.targets, queried.regions)[:, 0]

        return score

    def check(
        self, images: Tensor, classes: int | Sequence[str] | None = None, labels: Tensor | None = None
    ) -> list[str]:
        """Run the model on a few images, and say what does not fit: output scale, classes, statistics, class order.

        Args:
            images: ``(B, C, *S)`` in natural units, some that differ.
            classes: The data's classes, their number or names in the order of the labels, if they have any.
            labels: True classes ``(B,)`` of a classifier's images, or masks ``(B, 1, *S)`` for a segmenter; with ten or
                more of them the order of the classes and the chance level are looked at too.

        Returns:
            A sentence for each thing that seems wrong, all of which are logged as warnings; empty if nothing does.

        Raises:
            ValueError: If the model does not take such images, returns no logits or another number of them than there
                are classes, or its outputs are no probabilities but the activation is ``"none"``.
            NotFiniteOutputError: If its outputs are NaN or infinite.
        """
        with torch.no_grad():
            logits = self.logits(images)
        check_outputs(logits)
        found = [
            OutputWatch(fewest=4)(self.given(logits), self.activation),
            classes_fault(self.num_classes, self.class_names, classes)
            or classes_fault(self.num_classes, names_of(self.model), classes or self.class_names),
            statistics_fault(self.normalize(images), self.mean is not None),
            constant_fault(images, logits),
        ]
        if labels is not None and labels.ndim != 2:
            truth = torch.as_tensor(labels, device=images.device)
            names = self.class_names or [str(number) for number in range(logits.shape[1])]
            found.append(confusion_fault(confusion_of(truth, self.predicted_classes(logits), len(names)), names))
        self._watch.settled = True  # what there is to say is said here
        sentences = [sentence for sentence in found if sentence is not None]
        for sentence in sentences:
            log.warning(sentence)
        return sentences

    def predicted_classes(self, logits: Tensor) -> Tensor:
        """The predicted class of each image ``(B,)``, or of each pixel ``(B, *S)``, from logits ``(B, K, *S)``."""
        return logits.argmax(dim=1)

    def evidence(self, masks: Tensor, targets: Tensor) -> Tensor:
        """The pixels that a reference mask marks as evidence for each query.

        Args:
            masks: ``(B, 1 or T, *S)``: above 0 = evidence. For a segmenter one channel of integers holds classes.
            targets: ``(B, T)``.

        Returns:
            Boolean ``(B, 1 or T, *S)``.
        """
        return masks > 0

    def every_class(self, images: Tensor) -> Tensor:
        """The indices of all classes, for each image: ``(B, K)``."""
        if self.num_classes is None:
            self.finite_logits(images[:1])
        return torch.arange(self.num_classes or 0, device=images.device).expand(len(images), -1)

    def query(
        self, images: Tensor, targets: Tensor | None = None, pixels: Tensor | None = None, logits: Tensor | None = None
    ) -> Query:
        """Complete a query: turn what :meth:`Explainer.explain` takes into class indices and regions.

        Args:
            images: ``(B, C, *S)``.
            targets: ``None`` (the default classes), ``(B,)`` or ``(B, T)`` class indices.
            pixels: ``None`` (a segmenter's predicted pixels) or boolean ``(B, T or 1, *S)``.
            logits: ``(B, K)`` or ``(B, K, *S)`` of the images, if they were computed already.

        Raises:
            ValueError: If the query does not fit the images or the model.
            NotFiniteOutputError: If the logits that it follows from are not finite.
        """
        if logits is None and self.needs_logits(images, targets, pixels):
            logits = self.finite_logits(images)
        targets = self.class_indices(images, targets, logits)
        return Query(targets, self.regions(images, targets, pixels, logits))

    def class_indices(self, images: Tensor, targets: Tensor | None, logits: Tensor | None) -> Tensor:
        """The class indices ``(B, T)`` of a query; see :meth:`query`."""
        if targets is None:  # in range by construction
            return checked_targets(images, self.default_targets(images, logits))
        targets = checked_targets(images, targets)
        check_range(targets, self.num_classes if logits is None else logits.shape[1])
        return targets

    def needs_logits(self, images: Tensor, targets: Tensor | None, pixels: Tensor | None) -> bool:
        """Whether completing a query needs a forward pass."""
        # Once for each shape before an explainer hooks into the model: a pass that fails would leave its hooks there.
        return targets is None or not self.knows(images)

    @abstractmethod
    def default_targets(self, images: Tensor, logits: Tensor | None) -> Tensor:
        """The classes ``(B,)`` or ``(B, T)`` of a query that names none."""

    def regions(self, images: Tensor, targets: Tensor, pixels: Tensor | None, logits: Tensor | None) -> Tensor | None:
        """The regions ``(B, T, *S)`` of a query to a segmenter; see :meth:`query`."""
        if pixels is not None:
            raise ValueError(
                "pixels were given, but a classifier has one output per image; use SegmenterTarget for regions."
            )
        return None

    def _logits_and_query(self, images: Tensor, targets: Tensor, pixels: Tensor | None) -> tuple[Tensor, Query]:
        targets = checked_targets(images, targets)
        logits = self.logits(images)
        return logits, Query(targets, self.regions(images, targets, pixels, logits))
