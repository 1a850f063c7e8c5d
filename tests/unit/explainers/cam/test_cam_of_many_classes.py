"""Gradient CAMs of many classes at once: the maps of one backward pass a class, however many share a pass."""

import pytest
import torch
from monai.networks.nets import BasicUNet, ResNet
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_xai import ClassifierTarget, SegmenterTarget
from lightning_xai.explainers import GradCAM, GradCAMPlusPlus, HiResCAM, LayerCAM, XGradCAM, XResCAM
from lightning_xai.functional import gradients
from lightning_xai.structures import Query
from tests.helpers import Doubled, assert_untouched, cnn, state_of, vit

GRADIENT = (GradCAM, HiResCAM, XResCAM, GradCAMPlusPlus, XGradCAM, LayerCAM)
CLASSES = 5
#: Two images are asked about every class, about one of them twice, in orders of their own.
ASKED = torch.tensor([[0, 1, 2, 3, 4, 2], [4, 0, 0, 3, 2, 1]])
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


def resnet(dims):
    """MONAI's ResNet, a sixteenth as wide."""
    net = ResNet("basic", [1, 1, 1, 1], [4, 6, 6, 8], dims, n_input_channels=1, num_classes=CLASSES)
    with torch.no_grad():
        net.fc.weight.mul_(20)
    return net


def unet(dims):
    return BasicUNet(dims, 1, CLASSES, (4, 4, 6, 6, 8, 4))


#: A model of each kind and dimension, layers far from the end and near to it, and a side of its images.
CASES = {
    "classifier-2": (lambda: resnet(2), ClassifierTarget, ("layer4", "layer2"), (64, 48)),
    "classifier-3": (lambda: resnet(3), ClassifierTarget, ("layer4", "layer2"), (32, 16, 16)),
    "tokens": (lambda: vit(classes=CLASSES), ClassifierTarget, ("3", "0"), (8, 8)),
    "segmenter-2": (lambda: unet(2), SegmenterTarget, ("upcat_1", "down_4"), (32, 48)),
    "segmenter-3": (lambda: unet(3), SegmenterTarget, ("upcat_1", "down_4"), (32, 16, 16)),
}


def case_of(name, dtype):
    make, kind, layers, size = CASES[name]
    torch.manual_seed(0)
    target = kind(make()).to(dtype)
    images, sets = torch.rand(2, 1, *size, dtype=dtype), torch.rand(2, ASKED.shape[1], *size) < 0.4
    return target, layers, images, None if kind is ClassifierTarget else sets


def one_by_one(explainer, layers, images, asked, sets):
    """For each layer the maps ``(B, T, *s)``: a forward and a backward pass a query."""
    maps = []
    for column in range(asked.shape[1]):
        outputs = {}

        def keep(module, _, output, outputs=outputs):
            outputs[module] = output.detach().requires_grad_(True) if not output.requires_grad else output
            return outputs[module].clone()

        hooks = [layer.register_forward_hook(keep) for layer in layers]
        pixels = None if sets is None else sets[:, column : column + 1]
        score = explainer.target.score(images, asked[:, column : column + 1], pixels)
        for hook in hooks:
            hook.remove()
        features = [outputs[layer] for layer in layers]
        gradients = torch.autograd.grad(score.sum(), features)
        sign, row = -1 if explainer.negative else 1, []
        for values, gradient in zip(features, gradients, strict=True):
            values, gradient = (explainer.grid(part.detach(), images) for part in (values, gradient))
            row.append(explainer.combine(values, sign * gradient))
        maps.append(row)
    return [torch.stack(values, dim=1) for values in zip(*maps, strict=True)]


@pytest.fixture(autouse=True)
def two_are_enough(monkeypatch):
    monkeypatch.setattr(gradients, "FEWEST", 2)


@pytest.fixture
def passes(monkeypatch):
    """How many queries each of the shared backward passes was for."""
    counts, together = [], gradients._together

    def noted(model, inputs, use, seeds):
        maps = together(model, inputs, use, seeds)
        counts.append(len(seeds))
        return maps

    monkeypatch.setattr(gradients, "_together", noted)
    return counts


def assert_same(maps, expected, tolerance):
    for own, other in zip(maps, expected, strict=True):
        assert own.shape == other.shape
        largest = other.flatten(2).abs().amax(dim=2)
        assert largest.min() > 0, "a zero map shows nothing"
        assert ((own - other).flatten(2).abs().amax(dim=2) <= tolerance * largest).all()


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("cam", GRADIENT)
def test_maps_are_those_of_a_pass_a_class(cam, case, dtype, passes, monkeypatch):
    monkeypatch.setattr(gradients, "LARGEST", 10**7)
    target, names, images, sets = case_of(case, dtype)
    explainer = cam(target, names)
    layers = explainer.modules_of(images, ASKED)
    maps = explainer.maps_by_layer(layers, images, Query(ASKED, sets))
    assert passes == [6], "nothing was batched"
    assert_same(maps, one_by_one(explainer, layers, images, ASKED, sets), TOLERANCE[dtype])


@pytest.mark.parametrize(("size", "shared"), [(1, []), (2, [2, 2, 2]), (4, [4, 2]), (5, [5, 1]), (6, [6]), (7, [6])])
def test_the_size_of_chunks_changes_nothing(size, shared, passes, monkeypatch):
    target, names, images, _ = case_of("classifier-2", torch.float64)
    explainer = HiResCAM(target, names, negative=True)
    layers = explainer.modules_of(images, ASKED)
    monkeypatch.setattr(gradients, "columns_at_once", lambda *_: size)
    maps = explainer.maps_by_layer(layers, images, Query(ASKED))
    assert passes == shared
    assert_same(maps, one_by_one(explainer, layers, images, ASKED, None), 1e-10)


class WithFunction(nn.Module):
    def forward(self, values):
        return Doubled.apply(values)


@pytest.mark.parametrize("cam", GRADIENT)
def test_a_custom_function_after_the_layer_has_a_pass_a_class(cam, passes):
    net = cnn(classes=CLASSES)
    plain = ClassifierTarget(net).double()
    custom = ClassifierTarget(nn.Sequential(*net[:3], WithFunction(), *net[3:]))
    images = torch.rand(2, 1, 8, 9, dtype=torch.float64)
    before = state_of(custom)
    explainer = cam(custom, "2")
    maps = explainer.maps_by_layer([net[2]], images, Query(ASKED))
    assert passes == [], "its backward is not made for batches"
    assert_same(maps, one_by_one(explainer, [net[2]], images, ASKED, None), 1e-10)
    if cam is HiResCAM:
        torch.testing.assert_close(explainer.explain(images, ASKED), 2 * cam(plain, "2").explain(images, ASKED))
    assert_untouched(before, state_of(custom))


class Reading(GradCAM):
    """Reads numbers of its gradients, which a batch of them has not."""

    def combine(self, features, gradients):
        return super().combine(features, gradients) * float(gradients.abs().max() > 0)


def test_a_method_that_reads_numbers_has_a_pass_a_class(passes):
    target, _, images, _ = case_of("classifier-2", torch.float64)
    maps = Reading(target, "layer4").explain(images, ASKED)
    assert passes == []
    torch.testing.assert_close(maps, GradCAM(target, "layer4").explain(images, ASKED))


class Refuses(GradCAM):
    def combine(self, features, gradients):
        raise KeyError("not today")


@pytest.mark.parametrize("trainable", [False, True])
def test_nothing_is_left_behind(trainable):
    target, names, images, _ = case_of("classifier-2", torch.float32)
    for parameter in target.model.parameters():
        parameter.requires_grad_(trainable)
    before = state_of(target)
    GradCAM(target, names).explain(images, ASKED)
    assert_untouched(before, state_of(target))
    with pytest.raises(KeyError, match="not today"):
        Refuses(target, names).explain(images, ASKED)
    assert_untouched(before, state_of(target))


class Largest(TorchDispatchMode):
    """The most elements of a tensor that an operator made."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.size = max([self.size, *(part.numel() for part in (out,) if isinstance(part, torch.Tensor))])
        return out


def test_memory_does_not_grow_with_the_classes(monkeypatch):
    """Of 400 classes not one tensor is made that has the gradients of all of them."""
    net = cnn(classes=400)
    target, images = ClassifierTarget(net), torch.rand(1, 1, 8, 9)
    explainer, asked = HiResCAM(target, "2"), torch.arange(400).unsqueeze(0)
    features = 6 * 8 * 9
    monkeypatch.setattr(gradients, "LARGEST", 10 * features)
    with Largest() as largest:
        explainer.explain(images, asked)
    assert largest.size == 400 * 8 * 9, "the maps themselves are the largest"
    assert largest.size < 400 * features / 5
