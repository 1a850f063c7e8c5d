"""The cache: what comes out is what went in, as small as the files, within its limit, once for all ranks."""

import copy
import logging
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_xai.data import cache as caches
from lightning_xai.data.cache import SampleCache, packed
from lightning_xai.data.items import Item
from lightning_xai.data.reading import read_image

Make = Callable[..., Any]
PIXELS = np.random.default_rng(0).integers(0, 256, (3, 9, 7))


@pytest.mark.parametrize(
    ("tensor", "bytes_each"),
    [
        (torch.from_numpy(read_image(PIXELS[0].astype(np.uint8))), 1),
        (torch.from_numpy(read_image((257 * PIXELS[0]).astype(np.uint16))), 1),
        (torch.from_numpy(read_image((101 * PIXELS[0] + 3).astype(np.uint16))), 2),
        (torch.from_numpy(read_image((PIXELS[0] - 1000).astype(np.int16))), 2),
        (torch.from_numpy(PIXELS[0]).float() * 100, 2),
        (torch.rand(3, 9, 7), 4),
        (torch.randn(3, 9, 7).double(), 8),
        (torch.tensor([[0.0, float("nan")]]), 4),
        (torch.tensor([[0, 1, 2]]), 1),
        (torch.tensor([[-1, 0, 2]]), 2),
        (torch.tensor([[0, 40000]]), 2),
        (torch.tensor([[0, 2**40]]), 8),
        (torch.tensor(3), 1),
        (torch.tensor([True, False]), 1),
        (torch.zeros(0, 4), 4),
    ],
)
def test_a_tensor_comes_back_to_the_last_bit_from_as_few_bytes_as_its_file(
    tensor: torch.Tensor, bytes_each: int
) -> None:
    small = packed(tensor)
    assert small.values is not None
    again = small.unpacked(small.values)
    assert again.dtype == tensor.dtype and again.shape == tensor.shape
    assert torch.equal(again.nan_to_num(7), tensor.nan_to_num(7))
    assert small.stored.itemsize == bytes_each


def samples_of(count: int = 3) -> list[dict[str, Any]]:
    images = [torch.from_numpy(read_image(PIXELS[:1].astype(np.uint8))) / (1 + (row == 2)) for row in range(count)]
    return [{"image": image, "id": f"i{row}", "label": torch.tensor(row)} for row, image in enumerate(images)]


def filled(samples: list[dict[str, Any]], **options: Any) -> SampleCache:
    cache = SampleCache(len(samples), **options)
    for sample in samples:
        cache.add(sample)
    return cache


def same(found: Any, sample: dict[str, Any]) -> bool:
    return found is not None and all(
        torch.equal(found[name], value) if torch.is_tensor(value) else found[name] == value
        for name, value in sample.items()
    )


def test_rows_have_an_order_of_their_own_and_are_not_the_caches_to_change() -> None:
    samples = samples_of()
    rows = filled(samples).rows(["i2", "i0"])
    assert rows is not None and len(rows) == 2 and same(rows[0], samples[2]) and same(rows[1], samples[0])
    rows[0]["image"].zero_()  # type: ignore[index]
    assert same(rows[0], samples[2])
    assert same(rows[1:][0], samples[0])


def test_the_size_is_said_before_the_second_image_is_read(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    cache = SampleCache(1000)
    cache.add({"id": "a", "image": torch.zeros(1, 1000, 1000), "mask": torch.zeros(1, 1000, 1000).long()})
    assert [record.getMessage() for record in caplog.records] == ["Cache: about 2.0 GB for 1000 images in memory."]


@pytest.mark.parametrize(("sides", "kept"), [((4, 4, 4, 4), True), ((4, 40, 4, 4), False), ((40, 4, 4, 4), False)])
def test_beyond_the_limit_nothing_is_kept(sides: tuple[int, ...], kept: bool, caplog: pytest.LogCaptureFixture) -> None:
    samples = [{"id": str(row), "image": torch.rand(1, side, side)} for row, side in enumerate(sides)]
    cache = filled(samples, limit=1e-6 * 0.5)
    assert (cache.rows(["0"]) is not None) == kept and cache.full != kept
    assert ("data.cache_limit" in caplog.text) != kept and not (cache.full and cache.samples)


@pytest.mark.parametrize("limit", [0, -1.0])
def test_a_limit_that_is_none_is_refused(limit: float) -> None:
    with pytest.raises(ValueError, match=r"data\.cache_limit is .*; give gigabytes above 0, or data\.cache=false"):
        SampleCache(1, limit)


def test_unasked_the_cache_takes_half_of_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caches, "free_memory", lambda: 2 * 3 * (63 + 1))
    ints = [sample | {"image": samples_of(1)[0]["image"]} for sample in samples_of()]
    assert not filled(ints).full
    monkeypatch.setattr(caches, "free_memory", lambda: 2 * 3 * (63 + 1) - 1)
    assert filled(ints).full


def test_a_module_beyond_its_limit_reads_the_same_batches_each_time_and_takes_workers(
    array_data: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(6)), raising=False)
    items = [Item(f"i{i}", PIXELS[i % 3].astype(np.uint8), i % 2) for i in range(20)]
    batches, workers = [], []
    for limit in (None, 1e-7):
        data = array_data(items, ["a", "b"], cache_limit=limit)
        data.setup()
        workers.append(data.test_dataloader().num_workers)
        batches.append([data.test_dataloader().dataset[row]["image"] for row in range(2)])
    assert all(torch.equal(*pair) for pair in zip(*batches, strict=True))
    assert workers == [0, 5]


# ------------------------------------------------------------------ ranks


@pytest.fixture
def ranks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(caches.tempfile, "gettempdir", lambda: str(tmp_path))
    return tmp_path


def test_ranks_share_one_file_that_one_of_them_writes(ranks: Path) -> None:
    samples = samples_of()
    first, second = SampleCache(3), SampleCache(3)
    for sample in samples:
        first.add(sample)
        second.add(sample)
    rows = second.rows(["i0", "i2"])
    assert rows is not None and rows[0] is None, "not whole yet: read it"
    assert same((first.rows(["i1"]) or [None])[0], samples[1])
    assert same(rows[0], samples[0]) and same(rows[1], samples[2])
    (file,) = ranks.iterdir()
    assert file.suffix == ".cache" and file.stat().st_size == second.size == 2 * 64 + (63 * 4 + 1)
    assert all(
        part.values is None for sample in second.samples.values() for part in sample.values() if part != sample["id"]
    )


def test_a_file_with_other_content_is_not_taken(ranks: Path) -> None:
    samples = samples_of()
    filled(samples).rows([])
    other = [dict(sample) for sample in samples]
    other[0]["image"] = other[0]["image"].flip(-1)
    (ranks / next(ranks.iterdir()).with_suffix(".part").name.rsplit("_", 1)[0]).with_suffix(".part").touch()
    rows = filled(other).rows(["i0"])
    assert rows is not None and rows[0] is None


def test_beyond_the_limit_no_file_is_left(ranks: Path) -> None:
    assert filled(samples_of(), limit=1e-9).full and not list(ranks.iterdir())


def test_a_cache_is_copied_and_pickled_without_its_content(ranks: Path) -> None:
    samples = samples_of()
    cache = filled(samples)
    rows = cache.rows(["i0"])
    assert rows is not None and same(rows[0], samples[0])
    assert len(pickle.dumps(cache)) < 5000
    for twin in (copy.deepcopy(rows), pickle.loads(pickle.dumps(rows))):
        assert same(twin[0], samples[0])


RANK = """
import os, torch
from lightning_xai.data.cache import SampleCache
cache = SampleCache(1)
cache.add({"id": "a", "image": torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(0))})
rows = cache.rows(["a"])
print(len(os.listdir(os.environ["TMPDIR"])), rows[0] is not None, flush=True)
input()
print(rows[0] is not None, flush=True)
input()
"""


def test_processes_of_one_parent_share_a_file_and_leave_none(tmp_path: Path) -> None:
    environment = os.environ | {"WORLD_SIZE": "2", "TMPDIR": str(tmp_path), "PYTHONPATH": os.getcwd()}
    started = [
        subprocess.Popen([sys.executable, "-c", RANK], stdin=-1, stdout=-1, text=True, env=environment)
        for _ in range(2)
    ]
    said = []
    for _ in range(2):
        said += [process.stdout.readline().split() for process in started]  # type: ignore[union-attr]
        for process in started:
            process.stdin.write("\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
    assert [process.wait(60) for process in started] == [0, 0]
    assert {files for files, _ in said[:2]} == {"1"} and "True" in (said[0][1], said[1][1])
    assert said[2:] == [["True"], ["True"]]
    assert not list(tmp_path.iterdir())
