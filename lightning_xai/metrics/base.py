"""Per-image metric state: values with their ids, exact under DDP."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lightning_xai.metrics.batch import Batch
from lightning_xai.metrics.readout import Readout, answer, passes
from lightning_xai.targets import SegmenterTarget

ID_BYTES = 96


class State(NamedTuple):
    """The rows of a metric: values ``(R,)``, references ``(R, D)``, asked classes, number of the query, ids."""

    values: Tensor
    reference_values: Tensor
    classes: Tensor
    place: Tensor
    names: Tensor


class MapMetric(Metric, ABC):
    """A metric that scores maps and keeps one value per image and query.

    Undefined values are NaN: they are left out of the mean and counted. State syncs by gathering, and an image that a
    sampler repeated to even out the ranks counts once (equal ids).

    Args:
        chunk_size: Pictures per pass where the metric readouts about pictures, and no suite readouts for it.
    """

    is_differentiable = False
    full_state_update = False
    #: "faithfulness", "localization", "segmentation" or "stability".
    family: ClassVar[str]
    #: Where the metric comes from.
    paper: ClassVar[str]
    #: Whether :meth:`score` needs evidence masks, the explainer, or a segmenter.
    needs_masks: ClassVar[bool] = False
    needs_explainer: ClassVar[bool] = False
    needs_segmenter: ClassVar[bool] = False
    #: Explanations a query that the metric readouts for itself, beside :meth:`readouts`.
    own_explanations: ClassVar[int] = 0
    #: Constructor arguments that change the value, recorded with every result.
    options: ClassVar[tuple[str, ...]] = ()
    #: Names of what is kept beside the value, per image and query.
    references: tuple[str, ...] = ()

    values: list[Tensor]
    reference_values: list[Tensor]
    classes: list[Tensor]
    place: list[Tensor]
    names: list[Tensor]

    def __init__(self, chunk_size: int = 64, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.chunk_size = chunk_size
        for name in ("values", "references", "classes", "place", "names"):
            # Persistent: a checkpoint in the middle of an epoch holds what was scored so far.
            self.add_state(name, default=[], dist_reduce_fx="cat", persistent=True)

    def readouts(self, target: Any = None) -> dict[str, Readout]:
        """What the metric readouts about pictures; its answers go to :meth:`score`."""
        return {}

    @abstractmethod
    def score(self, batch: Batch, answers: Mapping[str, Tensor]) -> Tensor | tuple[Tensor, Tensor]:
        """The values ``(B, T)`` of a batch, NaN where undefined, and the :attr:`references` ``(B, T, D)`` if there are.

        Args:
            batch: The maps, and what they were made for.
            answers: ``(B, T, steps)`` for each of :meth:`readouts`.
        """

    def lacks(self, batch: Batch) -> str | None:
        """Why the metric cannot score such a batch, as a sentence; ``None`` if it can."""
        name = type(self).__name__
        if self.needs_masks and batch.masks is None:
            return f"{name} needs masks of the evidence; give a data set with masks or leave it out."
        if self.needs_explainer and batch.explainer is None:
            return f"{name} explains pictures again; give explainer= to update() or leave it out."
        if self.needs_segmenter and not isinstance(batch.target, SegmenterTarget):
            return f"{name} compares segmentations; give a SegmenterTarget or leave it out."
        return None

    def update(
        self,
        *,
        maps: Tensor,
        target: Any = None,
        images: Tensor | None = None,
        targets: Tensor | None = None,
        masks: Tensor | None = None,
        ids: Sequence[str] | None = None,
        pixels: Tensor | None = None,
        explainer: Any = None,
        batch: Batch | None = None,
        answers: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Score the maps of a batch.

        Args:
            maps: ``(B, T, *S)``.
            target: The :class:`~lightning_xai.targets.Target` that the maps explain.
            images: ``(B, C, *S)``, natural units.
            targets: ``(B,)`` or ``(B, T)`` asked classes; ``None``: the target's default queries.
            masks: ``(B, 1 or T, *S)``, above 0 = evidence; see :meth:`lightning_xai.targets.Target.evidence`.
            ids: One unique id an image; numbered when left out.
            pixels: ``(B, T, *S)`` pixel sets of a segmenter's queries.
            explainer: The explainer that made the maps, for metrics that explain again.
            batch: All of the above together, where a :class:`~lightning_xai.metrics.MetricSuite` made it.
            answers: Likewise, the answers to :meth:`readouts`.

        Raises:
            ValueError: If masks are needed and missing, or shapes disagree.
        """
        if ids is not None and len(ids) != len(maps):
            raise ValueError(f"{len(ids)} ids for {len(maps)} images; give one id an image.")
        batch = batch or make_batch(maps, target, images, targets, masks, pixels, explainer)
        if reason := self.lacks(batch):
            raise ValueError(reason)
        told = self.score(
            batch, answer(batch, self.readouts(batch.target), self.chunk_size) if answers is None else answers
        )
        values, beside = told if isinstance(told, tuple) else (told, told.new_zeros(*told.shape, 0))
        if ids is None:
            seen = sum(len(block) for block in self.values)
            ids = [f"{self._rank()}-{seen + index:08d}" for index in range(len(maps))]
        self.values.append(values.double().flatten())
        self.reference_values.append(beside.double().flatten(0, 1))
        self.classes.append(batch.queries.flatten())
        self.place.append(torch.arange(maps.shape[1], device=maps.device).repeat(len(maps)))
        self.names.append(encode_ids(ids).to(maps.device).repeat_interleave(maps.shape[1], dim=0))

    def compute(self) -> Tensor:
        """Mean over the defined values, float64; NaN if there is none."""
        return self.unique().values.nanmean()

    def per_image(self, reference: str | None = None) -> Tensor:
        """Values ``(N, T)``, images in the order of their first appearance, NaN where undefined or not asked.

        Args:
            reference: One of :attr:`references`, instead of the value itself.
        """
        with self.sync_context():
            state = self.unique()
        values = state.values if reference is None else state.reference_values[:, self.references.index(reference)]
        if not len(values):
            return values.view(0, 0)
        _, image = _first_appearance(state.names)
        table = values.new_full((int(image.max()) + 1, int(state.place.max()) + 1), float("nan"))
        table[image, state.place] = values
        return table

    def per_class(self) -> dict[int, float]:
        """Mean over the defined values of each asked class."""
        with self.sync_context():
            state = self.unique()
        return {int(k): state.values[state.classes == k].nanmean().item() for k in torch.unique(state.classes)}

    def rows(self, reference: str | None = None) -> list[tuple[str, int, float]]:
        """``(id, class, value)`` of every image and query; see :meth:`per_image`."""
        with self.sync_context():
            state = self.unique()
        values = state.values if reference is None else state.reference_values[:, self.references.index(reference)]
        return list(zip(decode_ids(state.names), state.classes.tolist(), values.tolist(), strict=True))

    def reference_means(self) -> dict[str, float]:
        """Mean over the defined values of each of :attr:`references`."""
        with self.sync_context():
            means = self.unique().reference_values.nanmean(dim=0)
        return dict(zip(self.references, means.tolist(), strict=True))

    def counts(self) -> tuple[int, int]:
        """How many queries were asked, and for how many the metric is undefined."""
        with self.sync_context():
            values = self.unique().values
        return len(values), int(values.isnan().sum())

    def metadata(self) -> dict[str, Any]:
        """What a reader of a result must know: family, direction, paper, needs, options, and passes an image."""
        readouts = self.readouts()
        settings = {name: getattr(self, name) for name in self.options}
        return {
            "family": self.family,
            "higher_is_better": self.higher_is_better,
            "needs_masks": self.needs_masks,
            "needs_segmenter": self.needs_segmenter,
            "passes": sum(passes(readouts, source) for source in ("target", "head")),
            "explanations": passes(readouts, "maps") + self.own_explanations,
            "paper": self.paper,
            "options": {
                name: value if isinstance(value, str | int | float | tuple | None) else type(value).__name__
                for name, value in settings.items()
            },
        }

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather the state of all ranks; a rank without images takes part with empty state."""
        self._fill_empty()
        super().sync(*args, **kwargs)

    def _fill_empty(self) -> None:
        """Give an empty state its types and shapes."""
        if isinstance(self.values, list) and not self.values:
            self.values.append(torch.zeros(0, dtype=torch.float64, device=self.device))
            self.reference_values.append(torch.zeros(0, len(self.references), dtype=torch.float64, device=self.device))
            self.classes.append(torch.zeros(0, dtype=torch.long, device=self.device))
            self.place.append(torch.zeros(0, dtype=torch.long, device=self.device))
            self.names.append(torch.zeros(0, ID_BYTES, dtype=torch.uint8, device=self.device))

    def _rank(self) -> int:
        return (
            torch.distributed.get_rank()
            if torch.distributed.is_available() and torch.distributed.is_initialized()
            else 0
        )

    def unique(self) -> State:
        """The state as tensors, each image and query once."""
        self._fill_empty()
        state = State(*(dim_zero_cat(getattr(self, name)) for name in State._fields))
        key = torch.cat([state.names.long(), state.place.unsqueeze(1)], dim=1)
        keep, _ = _first_appearance(key)
        return State(*(column[keep] for column in state))


def make_batch(
    maps: Tensor,
    target: Any,
    images: Tensor | None,
    targets: Tensor | None,
    masks: Tensor | None,
    pixels: Tensor | None,
    explainer: Any,
) -> Batch:
    """A batch whose queries are complete; see :meth:`MapMetric.update`."""
    if targets is None and target is not None and images is not None:
        targets, pixels = target.queries(images, None, pixels)
    return Batch(maps, checked_queries(maps, images, targets), target, images, masks, pixels, explainer)


def checked_queries(maps: Tensor, images: Tensor | None, targets: Tensor | None) -> Tensor:
    """Asked classes as ``(B, T)``, zeros where nothing says; raises a ``ValueError`` if the shapes disagree."""
    if images is not None and (len(maps) != len(images) or maps.shape[2:] != images.shape[2:]):
        raise ValueError(f"Maps {tuple(maps.shape)} do not fit images {tuple(images.shape)}; maps must be (B, T, *S).")
    if targets is None:
        return torch.zeros(maps.shape[:2], dtype=torch.long, device=maps.device)
    queries = targets.unsqueeze(1) if targets.ndim == 1 else targets
    if queries.shape != maps.shape[:2]:
        raise ValueError(f"Maps {tuple(maps.shape)} do not fit queries {tuple(targets.shape)}; one map a query.")
    return queries


def _first_appearance(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Row index of the first appearance of each distinct key, and for each row the number of its key in that order."""
    position = torch.arange(len(keys), device=keys.device)
    if not len(keys):
        return position, position
    _, inverse = torch.unique(keys, dim=0, return_inverse=True)
    first = torch.full((int(inverse.max()) + 1,), len(keys), device=keys.device).scatter_reduce(
        0, inverse, position, "amin"
    )
    keep = first.sort().values
    number = torch.empty_like(first)
    number[inverse[keep]] = torch.arange(len(keep), device=keys.device)
    return keep, number[inverse]


def encode_ids(ids: Sequence[str]) -> Tensor:
    """Ids as rows of ``ID_BYTES`` bytes, which travel between ranks as a tensor; a longer id ends in its hash."""
    table = torch.zeros(len(ids), ID_BYTES, dtype=torch.uint8)
    for row, name in zip(table, ids, strict=True):
        raw = name.encode()
        if len(raw) > ID_BYTES:
            # Cut by bytes: drop a character that the cut leaves incomplete.
            head = raw[: ID_BYTES - 17].decode(errors="ignore").encode()
            raw = head + b"~" + hashlib.blake2b(raw, digest_size=8).hexdigest().encode()
        row[: len(raw)] = torch.frombuffer(bytearray(raw), dtype=torch.uint8)
    return table


def decode_ids(table: Tensor) -> list[str]:
    """Inverse of :func:`encode_ids`.

    Example:
        >>> decode_ids(encode_ids(["cell_1", "Zelle ä"]))
        ['cell_1', 'Zelle ä']
    """
    return [bytes(row.tolist()).rstrip(b"\0").decode() for row in table.cpu()]
