"""A model that raises in the middle of a pass, as one that runs out of memory does, finds itself as it was.

The model has fuses: modules that pass on what they get, and blow in a forward or a backward pass of a given number.
"""

import pytest
import torch
from lightning import Trainer
from torch import nn

from tests.contract.explainers import CLASSES, KINDS, MADE_FOR, batches_of, explainer_of, images_of
from tests.contract.test_explainers import LEARNS, trainer_in
from tests.helpers import assert_untouched, state_of, state_of_module


class Counter:
    """Counts how often values go through the fuses; blows from a number on, until it is mended."""

    def __init__(self):
        self.counts, self.blows = {"forward": 0, "backward": 0}, {}

    def __call__(self, way):
        self.counts[way] += 1
        if way in self.blows and self.counts[way] >= self.blows[way]:
            raise RuntimeError(f"blown in the {way} pass")


class Fuse(nn.Module):
    """The identity, counted on the way there and on the way back."""

    def __init__(self, counter):
        super().__init__()
        self.counter = counter

    def forward(self, values):
        self.counter("forward")
        values = values.view_as(values)
        if values.requires_grad:
            values.register_hook(lambda gradient: self.counter("backward"))
        return values


def fused(name, kind):
    """An explainer whose model has a fuse in its middle and one before its last layer, and the fuses' counter."""
    counter = Counter()
    layers = list(KINDS[kind][1](2, classes=CLASSES))
    for place in (len(layers) - 1, 1):
        layers.insert(place, Fuse(counter))
    return explainer_of(name, kind, 2, nn.Sequential(*layers)), counter


def mark(model):
    """What nobody may tidy up: a part in train mode, and a weight with a gradient of its owner's."""
    next(module for module in model if isinstance(module, nn.ReLU)).train()
    model[0].weight.requires_grad_(True)
    model[0].weight.grad = torch.ones_like(model[0].weight)


def numbers_of(count):
    """The first pass, one in the middle, and the last."""
    return sorted({1, (count + 1) // 2, count}) if count else []


def ask(explainer):
    """All that a call gives: maps of two queries an image, logits, further values."""
    return explainer.explanation(images_of(2), torch.tensor([[0, 1], [2, 0]]))


@pytest.mark.parametrize(("name", "kind"), MADE_FOR)
def test_a_call_that_fails_leaves_the_model_as_it_was_and_the_next_one_gives_the_same_maps(name, kind):
    whole, counter = fused(name, kind)
    mark(whole.target.model)
    expected = ask(whole)
    assert counter.counts["forward"], "no pass went through the model"
    for way, count in counter.counts.items():
        for number in numbers_of(count):
            explainer, fuses = fused(name, kind)
            mark(explainer.target.model)
            before, own = state_of(explainer.target), state_of_module(explainer)
            fuses.blows = {way: number}
            with pytest.raises(RuntimeError, match=f"blown in the {way} pass"):
                ask(explainer)
            assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
            assert_untouched(before, state_of(explainer.target))
            assert_untouched(own, state_of_module(explainer))
            fuses.blows = {}
            found = ask(explainer)
            assert torch.equal(found.maps, expected.maps) and torch.equal(found.logits, expected.logits), (way, number)
            assert_untouched(before, state_of(explainer.target))


@pytest.mark.parametrize(("name", "kind"), [pair for pair in MADE_FOR if pair[0] in LEARNS])
def test_a_fit_that_fails_leaves_the_model_as_it_was_and_the_next_one_learns(name, kind, tmp_path):
    def trainer() -> Trainer:
        return trainer_in(tmp_path, max_epochs=1, limit_train_batches=1)

    whole, counter = fused(name, kind)
    trainer().fit(whole, batches_of(2), batches_of(2))
    for way, count in counter.counts.items():
        for number in numbers_of(count):
            explainer, fuses = fused(name, kind)
            before = state_of(explainer.target)
            fuses.blows = {way: number}
            with pytest.raises(RuntimeError, match=f"blown in the {way} pass"):
                trainer().fit(explainer, batches_of(2), batches_of(2))
            assert_untouched(before, state_of(explainer.target))
            fuses.blows = {}
            run = trainer()
            run.fit(explainer, batches_of(2), batches_of(2))
            assert run.callback_metrics["train/loss"].isfinite() and run.callback_metrics["val/loss"].isfinite()
            assert_untouched(before, state_of(explainer.target))
