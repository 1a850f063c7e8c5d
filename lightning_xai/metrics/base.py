"""Per-image metric state: values with their ids, exact under DDP."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

ID_BYTES = 96


class MapMetric(Metric, ABC):
    """A metric that scores maps and keeps one value per image and question.

    Undefined values are NaN: they are left out of the mean and counted. State syncs by gathering, and an image that a
    sampler repeated to even out the ranks counts once (equal ids).
    """

    is_differentiable = False
    full_state_update = False
    #: "faithfulness", "localisation", ...
    family: ClassVar[str]
    #: Whether :meth:`score` needs evidence masks.
    needs_masks: ClassVar[bool] = False

    values: list[Tensor]
    classes: list[Tensor]
    order: list[Tensor]
    names: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name in ("values", "classes", "order", "names"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    @abstractmethod
    def score(self, *args: Any, **batch: Any) -> Tensor:
        """The values ``(B, T)`` of a batch, NaN where undefined."""

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
        **shared: Any,
    ) -> None:
        """Score the maps of a batch.

        Args:
            maps: ``(B, T, *S)``.
            target: The :class:`~lightning_xai.targets.Target` that the maps explain.
            images: ``(B, C, *S)``, natural units.
            targets: ``(B,)`` or ``(B, T)`` asked classes; ``None``: the target's default questions.
            masks: ``(B, 1 or T, *S)``, above 0 = evidence.
            ids: One unique id an image; numbered when left out.
            pixels: ``(B, T, *S)`` pixel sets of a segmenter's questions.
            shared: Results that several metrics share, computed by :class:`~lightning_xai.metrics.MetricSuite`.

        Raises:
            ValueError: If masks are needed and missing, or shapes disagree.
        """
        if self.needs_masks and masks is None:
            raise ValueError(
                f"{type(self).__name__} needs masks of the evidence; give a data set with masks or leave it out."
            )
        if targets is None and target is not None and images is not None:
            targets, pixels = target.questions(images, None, pixels)
        questions = checked_questions(maps, images, targets)
        if ids is not None and len(ids) != len(maps):
            raise ValueError(f"{len(ids)} ids for {len(maps)} images; give one id an image.")
        values = self.score(
            target=target, images=images, maps=maps, targets=questions, masks=masks, pixels=pixels, **shared
        )
        if ids is None:
            seen = sum(len(block) for block in self.values)
            ids = [f"{self._rank()}-{seen + index:08d}" for index in range(len(maps))]
        self.values.append(values.double().flatten())
        self.classes.append(questions.flatten())
        self.order.append(torch.arange(maps.shape[1], device=maps.device).repeat(len(maps)))
        self.names.append(encode_ids(ids).to(maps.device).repeat_interleave(maps.shape[1], dim=0))

    def compute(self) -> Tensor:
        """Mean over the defined values, float64; NaN if there is none."""
        return self._unique()[0].nanmean()

    def per_image(self) -> Tensor:
        """Values ``(N, T)``, images in the order of their first appearance, NaN where undefined or not asked."""
        with self.sync_context():
            values, _, order, names = self._unique()
        if not len(values):
            return values.view(0, 0)
        _, image = _first_appearance(names)
        table = values.new_full((int(image.max()) + 1, int(order.max()) + 1), float("nan"))
        table[image, order] = values
        return table

    def rows(self) -> list[tuple[str, int, float]]:
        """``(id, class, value)`` of every image and question."""
        with self.sync_context():
            values, classes, _, names = self._unique()
        return list(zip(decode_ids(names), classes.tolist(), values.tolist(), strict=True))

    def counts(self) -> tuple[int, int]:
        """How many questions were asked, and for how many the metric is undefined."""
        with self.sync_context():
            values = self._unique()[0]
        return len(values), int(values.isnan().sum())

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather the state of all ranks; a rank without images takes part with empty state."""
        self._fill_empty()
        super().sync(*args, **kwargs)

    def _fill_empty(self) -> None:
        """Give an empty state its types and shapes."""
        if isinstance(self.values, list) and not self.values:
            self.values.append(torch.zeros(0, dtype=torch.float64, device=self.device))
            self.classes.append(torch.zeros(0, dtype=torch.long, device=self.device))
            self.order.append(torch.zeros(0, dtype=torch.long, device=self.device))
            self.names.append(torch.zeros(0, ID_BYTES, dtype=torch.uint8, device=self.device))

    def _rank(self) -> int:
        return (
            torch.distributed.get_rank()
            if torch.distributed.is_available() and torch.distributed.is_initialized()
            else 0
        )

    def _unique(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """State as tensors ``values, classes, order, names``, each image and question once."""
        self._fill_empty()
        values, classes, order, names = (
            dim_zero_cat(state) for state in (self.values, self.classes, self.order, self.names)
        )
        key = torch.cat([names.long(), order.unsqueeze(1)], dim=1)
        keep, _ = _first_appearance(key)
        return values[keep], classes[keep], order[keep], names[keep]


def checked_questions(maps: Tensor, images: Tensor | None, targets: Tensor | None) -> Tensor:
    """Asked classes as ``(B, T)``, zeros where nothing says; raises a ``ValueError`` if the shapes disagree."""
    if images is not None and (len(maps) != len(images) or maps.shape[2:] != images.shape[2:]):
        raise ValueError(f"Maps {tuple(maps.shape)} do not fit images {tuple(images.shape)}; maps must be (B, T, *S).")
    if targets is None:
        return torch.zeros(maps.shape[:2], dtype=torch.long, device=maps.device)
    questions = targets.unsqueeze(1) if targets.ndim == 1 else targets
    if questions.shape != maps.shape[:2]:
        raise ValueError(f"Maps {tuple(maps.shape)} do not fit questions {tuple(targets.shape)}; one map a question.")
    return questions


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
