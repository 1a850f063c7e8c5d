"""What every fuzzed reader promises: a right result, or one sentence of ours, and no hang."""

import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from hypothesis import strategies as st

from lightning_xai.cli.errors import sentence_of
from lightning_xai.data.module import ImageDataModule

#: Seconds after which an example counts as a hang.
LIMIT = 60
#: How many examples ended in which way.
OUTCOMES: Counter[str] = Counter()


@contextmanager
def promised(*named: str) -> Iterator[None]:
    """Check that a block ends well, or with an error that is one sentence of ours, within the limit.

    Args:
        named: Words of which the sentence must have one, such as the name of the file.
    """

    def hangs(*_: Any) -> None:
        raise AssertionError(f"no end within {LIMIT} s")

    before = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(LIMIT)
    outcome = "right"
    try:
        yield
    except Exception as error:
        outcome = "sentence"
        sentence = sentence_of(error) or ""
        assert isinstance(error, ValueError | OSError), f"{type(error).__name__} reaches the user: {error}"
        assert sentence.startswith("train.py: ") and "may be a bug" not in sentence, sentence
        assert "\n" not in sentence and len(sentence) < 2000, sentence
        assert not named or any(word in sentence for word in named), f"does not name {named}: {sentence}"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    OUTCOMES[outcome] += 1


def check_batches(data: ImageDataModule) -> None:
    """What a data module that was set up must give: finite images, and labels of its classes."""
    for batch in data.train_dataloader() if data.split_items.get("train") else data.test_dataloader():
        assert torch.isfinite(batch["image"]).all() and batch["image"].dtype == torch.float32
        assert len(batch["id"]) == len(batch["image"])
        if "label" in batch and not data.multilabel:
            assert 0 <= int(batch["label"].min()) <= int(batch["label"].max()) < data.num_classes


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """A file as it is, cut off, with other bytes in it, or nothing but noise."""
    content = bytearray(whole)
    kind = draw(st.sampled_from(["cut", "bytes", "bytes", "bytes", "insert", "noise"]))
    if kind == "noise":
        return draw(st.binary(max_size=200))
    if kind == "cut":
        return bytes(content[: draw(st.integers(0, len(content)))])
    if kind == "insert":
        place = draw(st.integers(0, len(content)))
        return bytes(content[:place]) + draw(st.binary(max_size=40)) + bytes(content[place:])
    head = draw(st.booleans())  # where most of what a file claims stands
    for _ in range(draw(st.integers(1, 6))):
        place = draw(st.integers(0, min(len(content), 400 if head else len(content)) - 1))
        content[place] = draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]) | st.integers(0, 255))
    return bytes(content)
