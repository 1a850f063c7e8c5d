"""One map for every image: how alike maps are, and who is warned of."""

import logging

import numpy as np
import pytest
import torch
from lightning import Trainer

from lightning_xai import ClassifierTarget
from lightning_xai.callbacks import MapVariety
from lightning_xai.callbacks.map_variety import Likeness
from lightning_xai.explainers import CenterPrior, RandomMap
from tests.helpers import Blobs, LearnedMap, cnn


def likeness(maps, targets):
    measured = Likeness()
    for chunk, asked in zip(maps.split(7), targets.split(7), strict=True):
        measured.update(chunk, asked)
    return measured


def noisy(count, noise, side=16, classes=1, seed=0):
    """One random map a class plus noise of its own in every image."""
    generator = torch.Generator().manual_seed(seed)
    shapes = torch.randn(classes, side, side, generator=generator)
    targets = torch.arange(count) % classes
    maps = shapes[targets] + noise * torch.randn(count, side, side, generator=generator)
    return maps.unsqueeze(1), targets.unsqueeze(1)


@pytest.mark.parametrize("noise", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("classes", [1, 3])
def test_it_is_the_correlation_with_the_mean_map_of_the_class(noise, classes):
    maps, targets = noisy(300, noise, classes=classes)
    expected = []
    for target in range(classes):
        mine = maps[targets[:, 0] == target, 0].flatten(1).numpy()
        expected += [np.corrcoef(one, mine.mean(0))[0, 1] for one in mine]
    measured = likeness(maps * torch.rand(300, 1, 1, 1) * 50 + 3, targets)  # scale and offset of a map say nothing
    assert measured.count == 300
    assert measured.compute() == pytest.approx(np.mean(expected), abs=0.01)


def test_few_maps_that_fraction_nothing_are_not_alike():
    values = [likeness(*noisy(5, 1e6, seed=seed)).compute() for seed in range(20)]
    assert np.mean(values) < 0.15


def test_one_map_a_class_is_alike_within_it_alone():
    maps, _ = noisy(40, 1e-6, classes=4)
    assert likeness(maps, torch.arange(40)[:, None] % 4).compute() > 0.999
    assert likeness(maps, torch.zeros(40, 1, dtype=torch.long)).compute() < 0.6


def test_queries_volumes_and_sizes():
    maps = torch.rand(6, 1, 100, 30).repeat(1, 2, 1, 1)
    maps[:, 1] = maps[0, 0]
    asked = torch.tensor([[0, 1]]).repeat(6, 1)
    both = likeness(maps, asked)
    assert both.count == 12 and 0.6 < both.compute() < 0.8, "one of the two classes has one map"
    volume = torch.rand(1, 1, 6, 7, 8).repeat(5, 1, 1, 1, 1)
    assert likeness(volume, torch.zeros(5, 1, dtype=torch.long)).compute() == pytest.approx(1, abs=1e-6)


def test_constant_and_undefined_maps_are_left_out():
    maps, targets = noisy(10, 0.0)
    maps[3], maps[4], maps[5, 0, 2, 2] = 0, 7, float("nan")
    assert likeness(maps, targets).count == 7
    alone = likeness(maps[:1], targets[:1])
    assert alone.count == 0 and np.isnan(alone.compute())


def run(explainer, callback, count=12):
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=[callback])
    trainer.test(explainer, Blobs(count), verbose=False)


class Bar(LearnedMap):
    """One learned map, which is a bar."""

    def __init__(self, target):
        super().__init__(target)
        self.net.data[..., 3:5] = 5.0


def test_one_learned_map_is_named(caplog):
    callback = MapVariety()
    with caplog.at_level(logging.WARNING, "lightning_xai"):
        run(Bar(ClassifierTarget(cnn())), callback)
        run(Bar(ClassifierTarget(cnn())), callback)
    said = [text for text in caplog.messages if "hardly differ between images" in text]
    assert len(said) == 2 and "The maps of Bar" in said[0] and "correlation with their mean 1.00, 12 maps" in said[1]


@pytest.mark.parametrize("explainer", [RandomMap, CenterPrior])
def test_maps_of_noise_and_those_that_are_constant_by_construction_are_not(explainer, caplog):
    with caplog.at_level(logging.WARNING, "lightning_xai"):
        run(explainer(ClassifierTarget(cnn())), MapVariety())
    assert "hardly differ" not in caplog.text


def test_few_images_are_no_reason(caplog):
    with caplog.at_level(logging.WARNING, "lightning_xai"):
        run(Bar(ClassifierTarget(cnn())), MapVariety(), count=4)
    assert "hardly differ" not in caplog.text


def test_maps_of_different_sizes_are_not_compared():
    likeness = Likeness()
    for size in ((6, 8), (8, 6), (6, 8)):
        likeness.update(torch.arange(48.0).view(1, 1, *size), torch.zeros(1, 1, dtype=torch.long))
    assert likeness.count == 2 and likeness.compute() == pytest.approx(1)
