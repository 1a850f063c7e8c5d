"""The base class of all explainers: images and queries in, explanations out."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import lightning
import torch
from torch import Tensor

from lightning_xai.explainers.fitting import Fitting
from lightning_xai.explainers.query_policy import QueryPolicy
from lightning_xai.functional.finite import naming_images
from lightning_xai.functional.tensors import as_plain_tensor
from lightning_xai.structures import Explanation, Query
from lightning_xai.targets import Target
from lightning_xai.targets.sliding_window import by_window, fits

Attribute = Callable[[Tensor, Query], Tensor | Explanation]
#: Completes a query from the logits of the whole images; they are ``None`` where the query does not follow from them.
Complete = Callable[[Tensor | None], Query]


class Explainer(Fitting):
    """A ``LightningModule`` that turns images and queries into explanations of a frozen target.

    A subclass writes :meth:`attribute` and, if it learns, :meth:`loss` and its parameters. ``fit``, ``validate``,
    ``test`` and ``predict`` work for every explainer, learned or not.

    Args:
        target: The frozen model that is explained.
        query_policy: Which classes and pixels ``fit``, ``validate``, ``test`` and ``predict`` explain; default: the
            model's own prediction.

    Raises:
        ValueError: If the method is not made for the task of the target.
    """

    #: The task of the targets that the method is made for; ``None``: any.
    explains: str | None = None

    def __init__(self, target: Target, query_policy: QueryPolicy | None = None) -> None:
        super().__init__(target)
        if self.explains not in (None, target.task):
            raise ValueError(
                f"{type(self).__name__} explains {self.explains}, but a {type(target).__name__} does {target.task}; "
                "choose another explainer."
            )
        self.query_policy = query_policy or QueryPolicy()

    @property
    def learned(self) -> bool:
        """Whether there is anything to fit."""
        return any(parameter.requires_grad for parameter in self.parameters())

    @property
    def settings(self) -> dict[str, str]:
        """What the method chose by itself and a reader of its maps must know, such as the layer; by name."""
        return {}

    @property
    def title(self) -> str:
        """The method's name and its settings, for figures and pages."""
        return ", ".join([type(self).__name__, *(f"{name} {value}" for name, value in self.settings.items())])

    def attribute(self, images: Tensor, query: Query) -> Tensor | Explanation:
        """Compute the maps; gradients are enabled, the query is complete.

        Args:
            images: ``(B, C, *S)`` float, natural units, a plain tensor without history.
            query: Class indices ``(B, T)``, and the regions ``(B, T, *S)`` of a segmenter.

        Returns:
            ``(B, T, *S)``, raw and signed where the method is signed; or an :class:`Explanation` where the method has
            more to say (extras, alternatives).
        """
        raise NotImplementedError(f"{type(self).__name__} has no attribute() method.")

    def extras(self, images: Tensor, query: Query) -> dict[str, Tensor]:
        """Further values ``(B, T)`` that cost passes of their own; maps alone, and validation, go without."""
        return {}

    def fit_data(self, data: lightning.LightningDataModule) -> lightning.LightningDataModule:
        """What ``fit`` reads; an explainer that learns from features that can be computed once wraps it."""
        return data

    def alternatives(self) -> dict[str, "Explainer"]:
        """The same fitted explainer with another of its maps, by the names of :attr:`Explanation.alternatives`."""
        return {}

    def explain(self, images: Tensor, targets: Tensor | None = None, pixels: Tensor | None = None) -> Tensor:
        """Explain images, whatever gradient context the caller is in.

        Args:
            images: ``(B, C, *S)`` in natural units.
            targets: ``None`` (a classifier's most probable class, a segmenter's foreground classes), ``(B,)`` or
                ``(B, T)``.
            pixels: For segmenters: ``None`` (the pixels predicted as each class) or boolean ``(B, T or 1, *S)``.

        Returns:
            ``(B, T, *S)`` float32, detached, at image resolution. A query about no pixel gives a zero map.

        Raises:
            ValueError: If the query does not fit the images or the model.
        """
        with differentiable():
            images, complete = self._completed(images, targets, pixels)
            wanted = self.target.needs_logits(images, targets, pixels)
            return self.explain_with(images, complete, wanted).maps

    def explanation(self, images: Tensor, targets: Tensor | None = None, pixels: Tensor | None = None) -> Explanation:
        """The maps of :meth:`explain` with the query, the logits of the same pass, extras and alternative maps.

        Args:
            images: See :meth:`explain`.
            targets: See :meth:`explain`.
            pixels: See :meth:`explain`.
        """
        with differentiable():
            images, complete = self._completed(images, targets, pixels)
            return self._with_extras(images, self.explain_with(images, complete))

    def _with_extras(self, images: Tensor, found: Explanation) -> Explanation:
        return replace(found, extras=found.extras | self.extras(images, found.query))

    def _completed(self, images: Tensor, targets: Tensor | None, pixels: Tensor | None) -> tuple[Tensor, Complete]:
        images = as_plain_tensor(images)
        targets, pixels = (None if value is None else as_plain_tensor(value) for value in (targets, pixels))
        return images, lambda logits: self.target.query(images, targets, pixels, logits)

    def explain_with(self, images: Tensor, complete: Complete, logits_wanted: bool = True) -> Explanation:
        """Explain images about a query that follows from their logits; gradients are enabled.

        A method whose own pass gives the logits overrides this, so that the model runs once.

        Args:
            images: ``(B, C, *S)``, a plain tensor.
            complete: Gives the query.
            logits_wanted: Whether the explanation must carry the logits.
        """
        logits = self.target.finite_logits(images) if logits_wanted else None
        query = complete(logits)
        return finished(self.in_windows(self.attribute, images, query), query, logits)

    def in_windows(self, attribute: Attribute, images: Tensor, query: Query) -> Tensor | Explanation:
        """Maps of images that the target takes at once, else of one window after the other.

        A window's query is about the pixels of the region that it shows; windows are averaged with the weights of the
        logits.
        """
        if query.regions is None or fits(images.shape[2:], self.target.window):
            return attribute(images, query)
        channels = images.shape[1]
        maps = []
        for image, targets, regions in zip(images, query.targets, query.regions, strict=True):

            def in_window(part: Tensor, targets: Tensor = targets) -> Tensor:
                shown = Query(targets.expand(len(part), -1), part[:, channels:] > 0)
                return maps_of(attribute(part[:, :channels], shown)).detach().contiguous()

            both = torch.cat([image, regions.to(image)]).unsqueeze(0)
            maps.append(by_window(in_window, both, self.target.window))
        return torch.cat(maps)

    def reference_maps(self, explanation: Explanation, batch: dict[str, Any]) -> Tensor:
        """Maps ``(B, T, *S)`` for the query of another explainer's explanation, to be judged with its maps."""
        with differentiable():
            images, query = as_plain_tensor(batch["image"]), explanation.query
            return finished(self.in_windows(self.attribute, images, query), query, explanation.logits).maps

    def explain_batch(self, batch: dict[str, Any], with_extras: bool = True) -> Explanation:
        """Explain a batch about the query of :attr:`query_policy`.

        Args:
            batch: With ``image``.
            with_extras: Whether :meth:`extras` are added.

        Raises:
            NotFiniteOutputError: If the target's logits for the images are NaN or infinite; it names the images.
        """
        with naming_images(batch), differentiable():
            images = as_plain_tensor(batch["image"])

            def complete(logits: Tensor | None) -> Query:
                assert logits is not None
                return self.query_policy(self.target, batch, logits)

            found = self.explain_with(images, complete)
            return self._with_extras(images, found) if with_extras else found

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> Explanation:  # type: ignore[override]
        """Log the loss of an explainer that learns, and hand the maps to the callbacks.

        The loss gets the explanation's logits and extras in its batch: the target runs once on the whole images.

        Raises:
            NotFiniteError: If the loss is NaN or infinite.
        """
        found = self.explain_batch(batch, with_extras=False)
        if self.learned:
            self.log_losses("val", with_outputs(batch, found), batch_idx)
        return found

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> Explanation:  # type: ignore[override]
        """Hand the maps to the callbacks."""
        return self.explain_batch(batch)

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> Explanation:
        """The maps of a batch."""
        return self.explain_batch(batch)


def with_outputs(batch: dict[str, Any], explanation: Explanation) -> dict[str, Any]:
    """Add the logits and extras of an explanation to its batch, so that a loss needs no pass of the whole images."""
    return {**batch, "image": as_plain_tensor(batch["image"]), "logits": explanation.logits, **explanation.extras}


@contextmanager
def differentiable() -> Iterator[None]:
    """Gradients, whatever context the caller is in."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def maps_of(result: Tensor | Explanation) -> Tensor:
    """The maps of what :meth:`Explainer.attribute` returned."""
    return result.maps if isinstance(result, Explanation) else result


def finished(result: Tensor | Explanation, query: Query, logits: Tensor | None) -> Explanation:
    """What :meth:`Explainer.attribute` returned, made whole: detached, and zero where a query is about no pixel."""
    found = result if isinstance(result, Explanation) else Explanation(result, query)
    defined = query.defined()

    def tidy(maps: Tensor) -> Tensor:
        maps = maps.detach().float()
        if query.regions is not None:
            maps = torch.where(defined.view(*defined.shape, *(1,) * (maps.ndim - 2)), maps, 0.0)
        return maps.contiguous()

    return replace(
        found,
        maps=tidy(found.maps),
        query=query,
        logits=found.logits if logits is None else logits.detach(),
        alternatives={name: tidy(maps) for name, maps in found.alternatives.items()},
    )
