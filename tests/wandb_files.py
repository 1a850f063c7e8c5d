"""Read what an offline W&B run has written."""

import struct
from collections.abc import Iterator
from pathlib import Path

from wandb.proto.wandb_internal_pb2 import Record


def wandb_records(path: Path) -> Iterator[Record]:
    """The records of a .wandb file: LevelDB's log format, chunks in 32 KiB blocks, headed by checksum, length, type."""
    data, position, record = path.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while position + 7 <= len(data):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        record += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last chunk
            yield Record.FromString(record)
            record = b""


def read_wandb(folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Config and history of the only offline run below ``folder/wandb``; values as JSON, the last one of each key."""
    config, history = {}, {}
    for record in wandb_records(next(folder.glob("wandb/offline-run-*/*.wandb"))):
        config.update({item.key: item.value_json for item in (*record.run.config.update, *record.config.update)})
        history.update({"/".join(item.nested_key): item.value_json for item in record.history.item})
    return config, history
