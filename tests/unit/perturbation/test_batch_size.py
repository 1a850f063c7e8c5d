"""How many inputs fit: more memory needed, fewer inputs."""

import torch
from torch import nn

from lightning_xai.metrics import DeletionAUC, MetricSuite
from lightning_xai.perturbation import batch_size as chunks
from lightning_xai.perturbation.batch_size import fitting_chunk
from tests.helpers import CountingTarget, cnn


def free(monkeypatch, size):
    monkeypatch.setattr(chunks, "free_bytes", lambda device: size)


def test_the_chunk_halves_with_the_memory(monkeypatch):
    net, images = nn.Conv2d(1, 16, 3, padding=1), torch.rand(2, 1, 32, 32)
    needed = 4 * 32 * 32 * (16 + 6)
    for count in (1, 2, 8, 32):
        free(monkeypatch, 2 * count * needed)
        assert fitting_chunk(net, images) == count
        free(monkeypatch, 2 * count * needed - 2)
        assert fitting_chunk(net, images) == max(1, count // 2)


def test_a_cpu_takes_no_more_than_64(monkeypatch):
    free(monkeypatch, 10**15)
    assert fitting_chunk(nn.Conv2d(1, 4, 3), torch.rand(1, 1, 8, 8)) == 64


def test_only_what_is_alive_at_once_counts_and_with_gradients_everything(monkeypatch):
    """Ten layers in a row hold two activations at a time, or all of them where they are kept for the way back."""
    deep, images = nn.Sequential(*[nn.Conv2d(4, 4, 1) for _ in range(10)]), torch.rand(1, 4, 16, 16)
    plane = images.nbytes
    free(monkeypatch, 2 * 16 * (2 + 6) * plane)
    assert fitting_chunk(deep, images) == 16
    free(monkeypatch, 2 * 16 * (2 * 10 + 6) * plane)
    assert fitting_chunk(deep, images, gradients=True) == 16


def test_a_suite_finds_its_chunk_at_the_first_batch(monkeypatch):
    target = CountingTarget(cnn())
    batch = {"images": torch.rand(2, 1, 8, 8), "maps": torch.rand(2, 1, 8, 8), "targets": torch.tensor([0, 1])}
    suite = MetricSuite({"deletion": DeletionAUC()}, chunk_size="auto")
    monkeypatch.setattr("lightning_xai.metrics.collection.fitting_chunk", lambda *_, **__: 8)
    suite.update(target=target, **batch)
    assert target.chunks[:-1] == [8] * 5 and sum(target.chunks) == 2 * 21
