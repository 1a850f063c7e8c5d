"""How many inputs fit: more memory needed, fewer inputs."""

import pytest
import torch
from torch import nn

from lightning_xai.explainers import RISE
from lightning_xai.metrics import DeletionAUC, MetricSuite
from lightning_xai.perturbation import batch_size as chunks
from lightning_xai.perturbation.batch_size import fitting_chunk, inputs_per_pass
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


class Elsewhere(torch.Tensor):
    """Images that say they are on a GPU."""

    @property
    def device(self):
        return torch.device("cuda")


def test_a_suite_measures_once_for_a_shape_whatever_the_number_of_suites(monkeypatch):
    target, measured = CountingTarget(cnn()), []
    monkeypatch.setattr(chunks, "fitting_chunk", lambda _, images, gradients: measured.append(images.shape) or 8)
    for side in (8, 8, 10):
        images, maps = torch.rand(2, 1, side, side), torch.rand(2, 1, side, side)
        for suite in [MetricSuite({"deletion": DeletionAUC()}, chunk_size="auto") for _ in range(2)]:
            target.chunks.clear()
            suite.update(target=target, images=images, maps=maps, targets=torch.tensor([0, 1]))
            assert target.chunks[:-1] == [8] * 5 and sum(target.chunks) == 2 * 21
    assert measured == [(2, 1, 8, 8), (2, 1, 10, 10)]


def test_without_a_number_a_cpu_takes_64_and_another_device_what_fits(monkeypatch):
    monkeypatch.setattr(chunks, "fitting_chunk", lambda *_: 8)
    target, images = CountingTarget(cnn()), torch.rand(2, 1, 8, 8)
    elsewhere = images.as_subclass(Elsewhere)
    assert [inputs_per_pass(size, target, images) for size in (None, "auto", 3)] == [64, 8, 3]
    assert [inputs_per_pass(size, target, elsewhere) for size in (None, "auto", 3)] == [8, 8, 3]


def test_gradients_need_a_measure_of_their_own(monkeypatch):
    monkeypatch.setattr(chunks, "fitting_chunk", lambda _, images, gradients: 4 if gradients else 8)
    target, images = CountingTarget(cnn()), torch.rand(2, 1, 8, 8)
    assert [inputs_per_pass("auto", target, images, gradients) for gradients in (False, True, False)] == [8, 4, 8]


@pytest.mark.parametrize("size", [0, -3, "all", 1.5, True])
def test_other_sizes_are_refused_in_one_sentence(size):
    for make in (lambda: MetricSuite({}, size), lambda: RISE(CountingTarget(cnn()), chunk_size=size)):
        with pytest.raises(
            ValueError, match=r"^chunk_size is .*; give a number of inputs, at least 1, 'auto', or None"
        ):
            make()
