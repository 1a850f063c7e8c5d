"""State of a metric as tensors that ranks can exchange: values with the ids of their images."""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

ID_BYTES = 96


class State(NamedTuple):
    """The values of a metric as columns, with one row for each image and query.

    Attributes:
        values: ``(R,)``.
        reference_values: ``(R, D)``, what is recorded with each value.
        targets: ``(R,)`` class indices.
        query_index: ``(R,)``, the number of the query about its image.
        ids: ``(R, ID_BYTES)``.
        groups: ``(R, ID_BYTES)``, the group of the image, such as its patient; zeros: none.
    """

    values: Tensor
    reference_values: Tensor
    targets: Tensor
    query_index: Tensor
    ids: Tensor
    groups: Tensor

    def unique(self) -> "State":
        """Return the rows, each image and query once."""
        keys = torch.cat([self.ids.long(), self.query_index.unsqueeze(1)], dim=1)
        keep, _ = first_appearance(keys)
        return State(*(column[keep] for column in self))


def empty_state(references: int, device: torch.device) -> State:
    """The state of a metric that has scored nothing, with ``D`` recorded references."""
    values, numbers = torch.zeros(0, dtype=torch.float64), torch.zeros(0, dtype=torch.long)
    names = torch.zeros(0, ID_BYTES, dtype=torch.uint8)
    columns = (values, torch.zeros(0, references, dtype=torch.float64), numbers, numbers, names, names)
    return State(*(column.to(device) for column in columns))


def first_appearance(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Find the row of each distinct key's first appearance, and for each row the number of its key in that order."""
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
    """Encode ids as rows of ``ID_BYTES`` bytes, a tensor that ranks can exchange; a longer id ends in its hash."""
    rows = []
    for image_id in ids:
        raw = image_id.encode()
        if len(raw) > ID_BYTES:
            # Cut by bytes: drop a character that the cut leaves incomplete.
            head = raw[: ID_BYTES - 17].decode(errors="ignore").encode()
            raw = head + b"~" + hashlib.blake2b(raw, digest_size=8).hexdigest().encode()
        rows.append(raw.ljust(ID_BYTES, b"\0"))
    # Through NumPy, which also takes an empty buffer.
    return torch.from_numpy(np.frombuffer(bytearray(b"".join(rows)), np.uint8).reshape(-1, ID_BYTES))


def decode_ids(table: Tensor) -> list[str]:
    """Decode what :func:`encode_ids` encodes.

    Example:
        >>> decode_ids(encode_ids(["cell_1", "Zelle ä"]))
        ['cell_1', 'Zelle ä']
    """
    return [bytes(row.tolist()).rstrip(b"\0").decode() for row in table.cpu()]
