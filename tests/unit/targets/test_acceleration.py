"""A compiled model, and one with its channels last, give the outputs and maps of the model as it is."""

import copy
import shutil

import pytest
import torch
from torch import nn

from lightning_xai import ClassifierTarget, SegmenterTarget
from lightning_xai.explainers import GradCAM, HiResCAM, RandomMap
from lightning_xai.targets.acceleration import CompilationError
from lightning_xai.targets.layers.hooks import capture_outputs
from tests.contract import explainers as made
from tests.helpers import cnn, segmenter, state_of_module, vit

compiles = pytest.mark.skipif(shutil.which("g++") is None and shutil.which("clang++") is None, reason="no C++ compiler")
#: Largest difference of maps, as a fraction of their largest value: float32 is summed in another order.
SAME = 1e-4


def alike(maps, expected):
    return (maps - expected).abs().max() <= SAME * expected.abs().max()


# ------------------------------------------------------------------ channels last


def is_channels_last(values):
    return values.is_contiguous(memory_format=(torch.channels_last, torch.channels_last_3d)[values.ndim - 4])


@pytest.mark.parametrize(("name", "kind", "dims"), made.BRIEF, ids=["-".join(map(str, case)) for case in made.BRIEF])
def test_maps_with_channels_last_are_the_maps(name, kind, dims):
    """Two channels, since one is last and first at once."""
    if name == "captum_kernel_shap":
        pytest.skip("fits a regression to differences that rounding decides")
    wrap, net = made.KINDS[kind]
    images = torch.rand(2, 2, *made.SIZES[dims], generator=torch.Generator().manual_seed(dims))
    found = []
    for last in (False, True):
        target = wrap(net(dims, 2, made.CLASSES), class_names=["a", "b", "c"], channels_last=last)
        torch.manual_seed(1)
        explainer = made.instantiate(made.config_of(name, dims))(target).eval()
        query = target.query(images, torch.tensor([[1, 2]] * 2))
        found.append(explainer.explain(images, query.targets, query.regions))
    assert alike(found[1], found[0])


@pytest.mark.parametrize("dims", [2, 3])
def test_the_model_gets_its_channels_last_and_its_weights_back(dims):
    net, seen = segmenter(dims, 2), []
    before = state_of_module(net)
    layout = [value.stride() for value in net.parameters()]
    net[0].register_forward_pre_hook(lambda _, arguments: seen.append(is_channels_last(arguments[0])))
    target = SegmenterTarget(net, channels_last=True)
    logits = target.logits(torch.rand(2, 2, *(8,) * dims))
    assert seen == [True] and is_channels_last(net[0].weight) and logits.is_contiguous()
    assert target.fingerprint() == SegmenterTarget(segmenter(dims, 2)).fingerprint()
    target.release()
    assert [value.stride() for value in net.parameters()] == layout
    assert all(torch.equal(value, before[0][name]) for name, value in net.state_dict().items())


# ------------------------------------------------------------------ compiled


class Eager:
    """torch.compile that compiles nothing: counts its passes."""

    def __init__(self, monkeypatch):
        self.passes = 0
        monkeypatch.setattr(torch, "compile", self)

    def __call__(self, model):
        def run(values):
            self.passes += 1
            return model(values)

        return run


def test_a_pass_that_hooks_into_the_model_runs_it_as_it_is(monkeypatch):
    compiled, images = Eager(monkeypatch), torch.rand(2, 1, 8, 8)
    target, plain = ClassifierTarget(cnn(), compile=True), ClassifierTarget(cnn())
    targets = torch.tensor([1, 2])
    target.logits(images)
    assert compiled.passes == 1
    for kind in (GradCAM, HiResCAM):
        assert alike(kind(target, layer="2").explain(images, targets), kind(plain, layer="2").explain(images, targets))
    passes = compiled.passes
    with capture_outputs([target.model[0]]) as outputs:
        target.logits(images)
    assert outputs and compiled.passes == passes, "hooks would be passed over"
    target.logits(images)
    assert compiled.passes == passes + 1, "without hooks it is compiled again"


def test_a_model_with_hooks_of_its_own_is_compiled(monkeypatch):
    compiled, net = Eager(monkeypatch), cnn()
    net[0].register_forward_hook(lambda *_: None)
    ClassifierTarget(net, compile=True).logits(torch.rand(1, 1, 8, 8))
    assert compiled.passes == 1


def test_a_copy_of_the_target_runs_its_own_weights(monkeypatch):
    compiled, images = Eager(monkeypatch), torch.rand(2, 1, 8, 8)
    target = ClassifierTarget(cnn(), compile=True)
    before = target.logits(images)
    twin = copy.deepcopy(target)
    with torch.no_grad():
        twin.model[-1].weight.zero_()
    assert not torch.equal(twin.logits(images), before) and torch.equal(target.logits(images), before)
    assert compiled.passes == 3


def test_only_a_module_is_compiled():
    with pytest.raises(ValueError, match=r"compile=True compiles an nn\.Module, but the model is a function; leave it"):
        ClassifierTarget(lambda images: images.flatten(1), compile=True)


@compiles
@pytest.mark.parametrize("net", [lambda: cnn(), vit], ids=["cnn", "vit"])
def test_compiled_logits_gradients_and_maps_are_those_of_the_model(net):
    target, plain = ClassifierTarget(net(), compile=True), ClassifierTarget(net())
    images, targets = torch.rand(3, 1, 8, 8), torch.tensor([[0, 1]] * 3)
    for count in (3, 2):
        assert alike(target.logits(images[:count]), plain.logits(images[:count]))
    gradients = []
    for one in (target, plain):
        leaf = images.clone().requires_grad_(True)
        gradients.append(torch.autograd.grad(one.score(leaf, targets).sum(), leaf)[0])
    assert alike(*gradients) and gradients[0].abs().max() > 0
    assert RandomMap(target).explain(images, targets).shape == (3, 2, 8, 8)


@compiles
def test_what_a_compiled_model_does_not_take_is_said_as_without():
    messages = []
    for compile in (False, True):
        with pytest.raises(ValueError) as caught:
            ClassifierTarget(nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(2)), compile=compile).logits(
                torch.rand(1, 4, 8, 8)
            )
        messages.append(str(caught.value))
    assert messages[0] == messages[1] and "4 channels" in messages[0]


def test_a_missing_compiler_is_one_sentence(monkeypatch):
    def refuse(graph, inputs):
        raise RuntimeError("no compiler here\nand more lines")

    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model: compile_(model, backend=refuse))
    target = SegmenterTarget(segmenter(), compile=True)
    with pytest.raises(
        CompilationError, match=r"^torch\.compile cannot compile the model: .*target\.compile=false\)\.$"
    ):
        target.logits(torch.rand(1, 1, 8, 8))
