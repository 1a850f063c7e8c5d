"""PCIM's options: targets without gradients, baselines, constraints, readouts, resolution, wrong names."""

import itertools
import logging

import pytest
import torch

from lightning_xai import ClassifierTarget
from lightning_xai.explainers import PCIM
from lightning_xai.explainers.pcim import CONSTRAINTS, PRESETS, READOUTS
from lightning_xai.perturbation.baselines import baseline_images
from tests.helpers import cnn, linear_net, mlp
from tests.planted import Spy, SquareFinder, squares

# ------------------------------------------------------------------ without gradients


@pytest.fixture
def no_autograd(monkeypatch):
    """Any backward pass fails."""

    def refuse(*args, **kwargs):
        raise AssertionError("spsa ran a backward pass")

    monkeypatch.setattr(torch.autograd, "grad", refuse)
    monkeypatch.setattr(torch.autograd, "backward", refuse)
    monkeypatch.setattr(torch.Tensor, "backward", refuse)


class Guarded:
    """A callable, as an ONNX session would be: no module, no gradient, numbers in and numbers out."""

    def __init__(self, net):
        self.net, self.calls = net, 0

    def __call__(self, images):
        assert not images.requires_grad, "the target was handed images with a gradient"
        self.calls += 1
        with torch.no_grad():
            return torch.from_numpy(self.net(torch.from_numpy(images.detach().numpy())).numpy())


@pytest.mark.parametrize("preset", PRESETS)
def test_spsa_explains_a_plain_callable_without_a_backward_pass(no_autograd, preset):
    target = Guarded(cnn().eval())
    explainer = PCIM(ClassifierTarget(target), preset=preset, gradient="spsa", steps=4)
    maps = explainer.explain(torch.rand(2, 1, 8, 8), torch.tensor([[0, 1]] * 2))
    assert maps.shape == (2, 2, 8, 8) and maps.isfinite().all() and maps.std() > 0
    assert target.calls > 4


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_spsa_explains_a_torchscript_model_without_a_backward_pass(no_autograd):
    script = torch.jit.trace(cnn().eval(), torch.rand(1, 1, 8, 8))
    maps = PCIM(ClassifierTarget(script), gradient="spsa", steps=4).explain(torch.rand(2, 1, 8, 8))
    assert maps.shape == (2, 1, 8, 8) and maps.std() > 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_backprop_explains_a_torchscript_model_too():
    script = torch.jit.trace(cnn().eval(), torch.rand(1, 1, 8, 8))
    images = torch.rand(2, 1, 8, 8)
    maps = [PCIM(ClassifierTarget(net), steps=5).explain(images) for net in (script, cnn())]
    assert torch.allclose(*maps, atol=1e-3)


def test_spsa_finds_the_planted_square_better_than_chance(no_autograd):
    images, masks = squares(8, contrast=0.9, square=6)
    target = ClassifierTarget(Guarded(SquareFinder()))
    maps = PCIM(target, gradient="spsa").explain(images, torch.ones(8, dtype=torch.long))
    inside = torch.stack([row[mask].mean() - row[~mask].mean() for row, mask in zip(maps, masks, strict=True)])
    spread = maps.flatten(1).std(dim=1)
    assert (inside / spread).mean() > 0.5, "pixels of the square do not stand out"
    assert (inside > 0).float().mean() >= 0.75


# ------------------------------------------------------------------ baselines


def test_each_baseline_reaches_the_objective():
    target, images = ClassifierTarget(cnn(channels=2)), torch.rand(2, 2, 8, 8)
    tensor = torch.rand(2, 1, 1)
    cases = {name: (name, [baseline_images(images, name)]) for name in ("zero", "median", "channel_mean", "blur")}
    cases["tensor"] = (tensor, [tensor.expand(2, 2, 8, 8)])
    cases["function"] = (lambda images: images.flip(-1), [images.flip(-1)])
    cases["in turn"] = (
        ["channel_mean", "zero"],
        [baseline_images(images, "channel_mean"), baseline_images(images, "zero")],
    )
    for name, (baseline, expected) in cases.items():
        spy = Spy(target, preset="literal", steps=5, baseline=baseline)
        spy.explain(images)
        for call, (_, seen, step) in enumerate(spy.calls):
            assert step == call
            assert torch.equal(seen, expected[step % len(expected)]), f"{name}, step {step}"


@pytest.mark.parametrize("preset", PRESETS)
def test_auto_is_the_presets_baseline(preset):
    images = torch.rand(2, 1, 8, 8)
    auto, named = (
        PCIM(ClassifierTarget(cnn()), preset=preset, steps=5, baseline=baseline).explain(images)
        for baseline in ("auto", PRESETS[preset].baseline)
    )
    assert torch.equal(auto, named)
    parts = PRESETS[preset].baseline
    assert "median" in ([parts] if isinstance(parts, str) else parts), "auto stands for the background's median"


def test_baselines_differ_in_what_they_find():
    images = torch.rand(2, 1, 8, 8)
    target = ClassifierTarget(cnn())
    maps = [
        PCIM(target, preset="literal", constraint="signed", steps=5, baseline=name).explain(images)
        for name in ("zero", "median", "channel_mean", "blur")
    ]
    for first, second in itertools.combinations(maps, 2):
        assert not torch.allclose(first, second, atol=1e-3)


def test_p_baseline_is_among_the_extras():
    target, images = ClassifierTarget(cnn()), torch.rand(3, 1, 8, 8)
    asked = torch.tensor([[0, 1], [2, 0], [1, 1]])
    found = PCIM(target, steps=1, baseline="median").explanation(images, asked).extras["p_baseline"]
    assert torch.allclose(found, target.probability(baseline_images(images, "median"), asked))
    assert found.shape == (3, 2) and not found.requires_grad
    several = PCIM(target, steps=1, baseline=["median", "zero", "zero"]).explanation(images, asked)
    each = [target.probability(baseline_images(images, name), asked) for name in ("median", "zero")]
    assert torch.allclose(several.extras["p_baseline"], torch.maximum(*each)), "of several fills the worst counts"


def test_a_baseline_image_of_the_queried_class_is_a_warning_said_once(caplog):
    sure = ClassifierTarget(linear_net(torch.zeros(2, 16), torch.tensor([0.0, 3.0])))
    explainer = PCIM(sure, steps=1)
    with caplog.at_level(logging.WARNING, logger="lightning_xai"):
        for _ in range(2):
            explainer.explanation(torch.rand(2, 1, 4, 4), torch.tensor([[0, 1]] * 2))
        PCIM(sure, steps=1).explanation(torch.rand(2, 1, 4, 4), torch.tensor([0, 0]))
    (record,) = caplog.records
    assert record.getMessage().startswith(
        "2 of 4 queries are about a class that the baseline image already has (p > 0.5)"
    )


# ------------------------------------------------------------------ constraints, readouts, resolution


def test_every_constraint_holds():
    images = torch.randn(3, 1, 8, 8)
    target = ClassifierTarget(cnn())
    maps = {
        name: PCIM(target, preset="literal", constraint=name, steps=15, lr=0.2, readout="alpha").explain(images)
        for name in CONSTRAINTS
    }
    assert maps["unit"].min() > 0 and maps["unit"].max() < 1
    assert maps["nonneg"].min() == 0 and maps["nonneg"].max() > 0
    assert maps["softmax"].min() > 0 and torch.allclose(maps["softmax"].sum(dim=(2, 3)), torch.tensor(64.0))
    assert maps["signed"].min() < 0 < maps["signed"].max()
    assert all(value.flatten(1).std(dim=1).gt(0).all() for value in maps.values())


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("constraint", CONSTRAINTS)
def test_readouts_show_one_and_the_same_alpha(preset, constraint):
    images = torch.rand(2, 3, 8, 8)
    target = ClassifierTarget(cnn(channels=3))
    settings = {"preset": preset, "constraint": constraint, "steps": 6, "baseline": "channel_mean"}
    alpha, alpha_x, alpha_delta = (PCIM(target, **settings, readout=name).explain(images) for name in READOUTS)
    distance = (images - baseline_images(images, "channel_mean")).square().sum(dim=1, keepdim=True).sqrt()
    assert torch.allclose(alpha_x, alpha * distance, atol=1e-5)
    start = PCIM(target, **(settings | {"steps": 0}), readout="alpha").explain(images)
    assert start.flatten().unique().numel() == 1, "the start must be constant"
    assert torch.allclose(alpha_delta, alpha - start, atol=1e-6)


def test_several_baselines_in_turn_fraction_one_distance():
    images = torch.rand(2, 2, 8, 8)
    settings = {"preset": "sparse", "steps": 6, "baseline": ["zero", "channel_mean"]}
    target = ClassifierTarget(cnn(channels=2))
    alpha, alpha_x = (PCIM(target, **settings, readout=name).explain(images) for name in ("alpha", "alpha_x"))
    squared = [
        (images - baseline_images(images, name)).square().sum(dim=1, keepdim=True) for name in ("zero", "channel_mean")
    ]
    assert torch.allclose(alpha_x, alpha * torch.stack(squared).mean(dim=0).sqrt(), atol=1e-5)


def test_per_channel_weights_tell_channels_apart():
    """Channel 1 alone is evidence: only its weights rise, and the map is the mean over channels."""
    weight = torch.zeros(2, 3, 16)
    weight[1, 1] = 1.0
    target = ClassifierTarget(linear_net(weight.flatten(1)))
    images = torch.rand(2, 3, 4, 4)
    settings = {"preset": "literal", "baseline": "zero", "steps": 10}
    spy = Spy(target, **settings, per_channel=True)
    maps = spy.explain(images, torch.tensor([1, 1]))
    last = spy.calls[-1][0]
    assert last.shape == (2, 3, 4, 4) and not last[:, [0, 2]].any() and (last[:, 1] > 0).all()
    shared = PCIM(target, **settings).explain(images, torch.tensor([1, 1]))
    assert maps.shape == shared.shape == (2, 1, 4, 4)
    assert torch.allclose(maps, shared / 3, atol=0.02)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("readout", READOUTS)
def test_per_channel_goes_with_every_preset_and_readout(preset, readout):
    explainer = PCIM(ClassifierTarget(cnn(channels=2)), preset=preset, steps=3, per_channel=True, readout=readout)
    maps = explainer.explain(torch.rand(2, 2, 8, 8))
    assert maps.shape == (2, 1, 8, 8) and maps.isfinite().all()


@pytest.mark.parametrize("dims", [2, 3])
def test_a_coarse_grid_is_upsampled(dims):
    shape = (12, 8, 6)[:dims]
    spy = Spy(ClassifierTarget(cnn(dims)), preset="literal", constraint="signed", steps=6, grid=4, tv=0.0)
    images = torch.rand(2, 1, *shape)
    maps = spy.explain(images)
    assert maps.shape == (2, 1, *shape)
    assert spy.calls[-1][0].shape == (2, 1, *(4,) * dims)
    one = PCIM(ClassifierTarget(cnn(dims)), preset="literal", constraint="signed", steps=6, grid=1).explain(images)
    assert torch.allclose(one, one.flatten(2).mean(dim=2).view(2, 1, *(1,) * dims).expand_as(one), atol=1e-6)


def test_a_grid_finer_than_the_image_is_the_image():
    images = torch.rand(2, 1, 8, 8)
    full, finer = (PCIM(ClassifierTarget(cnn()), steps=5, grid=grid).explain(images) for grid in (None, 50))
    assert torch.equal(full, finer)


# ------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"preset": "faithfull"}, "Unknown preset 'faithfull'; use one of faithful, sparse, literal"),
        ({"constraint": "box"}, "constraint is 'box'; use one of unit, nonneg, softmax, signed"),
        ({"readout": "beta"}, "readout is 'beta'; use one of alpha, alpha_x, alpha_delta"),
        ({"gradient": "none"}, "gradient is 'none'; use one of backprop, spsa"),
    ],
)
def test_wrong_names_are_answered_with_the_right_ones(settings, message):
    with pytest.raises(ValueError, match=message):
        PCIM(ClassifierTarget(mlp()), **settings)


def test_an_unknown_baseline_is_named_when_it_is_needed():
    with pytest.raises(ValueError, match="Unknown fill 'gray'; use one of zero, median"):
        PCIM(ClassifierTarget(mlp()), baseline="gray", steps=1).explain(torch.rand(1, 1, 8, 8))


def test_backprop_through_a_callable_points_to_spsa():
    target = ClassifierTarget(lambda images: images.flatten(1)[:, :2])
    with pytest.raises(ValueError, match=r"plain callable without gradients; use PCIM\(gradient='spsa'\)"):
        PCIM(target)
