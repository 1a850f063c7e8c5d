"""PCIM per image: what must hold whatever its numbers are."""

import itertools
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from lightning_xai import ClassifierTarget, SegmenterTarget
from lightning_xai.explainers import PCIM
from lightning_xai.explainers import pcim as module
from lightning_xai.explainers.pcim import PRESETS
from lightning_xai.perturbation.baselines import baseline_images
from lightning_xai.structures import Query
from tests.helpers import assert_untouched, cnn, linear_net, mlp, pixel_segmenter, segmenter, state_of, vit
from tests.planted import Spy, SquareFinder, correlation, mass, squares

# ------------------------------------------------------------------ shapes, models, queries


MODELS = {
    "cnn": lambda: (ClassifierTarget(cnn()), (2, 1, 8, 8)),
    "cnn_3d": lambda: (ClassifierTarget(cnn(3)), (2, 1, 4, 5, 6)),
    "vit": lambda: (ClassifierTarget(vit()), (2, 1, 8, 8)),
    "mlp": lambda: (ClassifierTarget(mlp()), (2, 1, 8, 8)),
    "multilabel": lambda: (ClassifierTarget(cnn(channels=3), activation="sigmoid"), (2, 3, 8, 8)),
    "one_logit": lambda: (ClassifierTarget(cnn(classes=1), activation="sigmoid"), (2, 1, 8, 8)),
    "segmenter": lambda: (SegmenterTarget(segmenter()), (2, 1, 8, 8)),
    "segmenter_3d": lambda: (SegmenterTarget(segmenter(3)), (2, 1, 4, 5, 6)),
}


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("model", MODELS)
def test_any_model_any_preset(model, preset):
    target, shape = MODELS[model]()
    images, before = torch.rand(shape), state_of(target)
    maps = PCIM(target, preset=preset, steps=12).explain(images)
    queries = maps.shape[1]
    assert maps.shape == (shape[0], queries, *shape[2:])
    assert maps.dtype == torch.float32 and maps.isfinite().all() and not maps.requires_grad
    assert maps.flatten(2).std(dim=2).gt(0).all(), "12 steps left a map flat"
    assert_untouched(before, state_of(target))


def test_preset_numbers_can_each_be_replaced():
    target = ClassifierTarget(mlp())
    for name, preset in PRESETS.items():
        plain = PCIM(target, preset=name)
        for field in ("two_sided", "constraint", "steps", "lr", "l1", "tv", "readout", "baseline"):
            assert getattr(plain, field) == getattr(preset, field), f"{name}.{field}"
    other = PCIM(target, steps=7, lr=0.5, baseline="blur", constraint="signed", readout="alpha_delta", l1=0.1, tv=0.2)
    got = (other.steps, other.lr, other.baseline, other.constraint, other.readout, other.l1, other.tv)
    assert got == (7, 0.5, "blur", "signed", "alpha_delta", 0.1, 0.2)
    zeroed = PCIM(target, preset="sparse", l1=0.0)
    assert zeroed.l1 == 0.0, "0 is a value, not 'the preset's'"


def test_no_steps_give_the_start():
    maps = PCIM(ClassifierTarget(mlp()), preset="literal", steps=0).explain(torch.rand(2, 1, 8, 8))
    assert torch.equal(maps, torch.zeros(2, 1, 8, 8))


def test_an_unlearned_explainer_has_nothing_to_fit_or_save():
    explainer = PCIM(ClassifierTarget(mlp()))
    assert not explainer.learned and not explainer.state_dict()


# ------------------------------------------------------------------ the definition


def test_alpha_one_asks_about_the_image_and_alpha_zero_about_the_baseline():
    target = ClassifierTarget(cnn())
    images, asked = torch.randint(0, 256, (3, 1, 8, 8)) / 255, torch.tensor([[0], [1], [2]])
    explainer = PCIM(target, preset="literal")
    for fill in ("zero", "median", "channel_mean", "blur"):
        baseline = baseline_images(images, fill)
        for value, seen in ((1.0, images), (0.0, baseline)):
            raw = torch.full((3, 1, 8, 8), value)
            expected = F.cross_entropy(target.logits(seen), asked[:, 0], reduction="none")
            loss = explainer.objective(raw, images, baseline, Query(asked), 0)
            assert torch.allclose(loss, expected, atol=1e-6), (fill, value)


def test_the_loss_adds_the_penalties_of_each_row():
    target, images = ClassifierTarget(cnn()), torch.rand(2, 1, 8, 8)
    asked, raw = torch.tensor([[0], [1]]), torch.randn(2, 1, 8, 8)
    settings = {"preset": "literal", "constraint": "signed"}
    bare, l1, tv = (
        PCIM(target, **settings, **extra).objective(raw, images, 0 * images, Query(asked), 0)
        for extra in ({}, {"l1": 0.5}, {"tv": 2.0})
    )
    assert torch.allclose(l1 - bare, 0.5 * raw.abs().flatten(1).mean(dim=1), atol=1e-5)
    neighbors = raw.diff(dim=2).abs().flatten(1).mean(dim=1) + raw.diff(dim=3).abs().flatten(1).mean(dim=1)
    assert torch.allclose(tv - bare, 2 * neighbors, atol=1e-5)


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 9, 20])
def test_nonneg_alpha_is_never_negative(steps):
    images = torch.randn(3, 1, 8, 8)
    maps = PCIM(ClassifierTarget(cnn()), preset="literal", steps=steps, lr=0.3).explain(images)
    assert maps.min() == 0 and maps.max() > 0


@pytest.mark.parametrize("preset", ["literal", "sparse"])
def test_nonneg_alpha_is_clamped_after_every_step(preset):
    spy = Spy(ClassifierTarget(cnn()), preset=preset, steps=15, lr=0.3, constraint="nonneg")
    spy.explain(torch.randn(3, 1, 8, 8))
    free = Spy(ClassifierTarget(cnn()), preset=preset, steps=15, lr=0.3, constraint="signed")
    free.explain(torch.randn(3, 1, 8, 8))
    assert len(spy.calls) == 15 and all((raw >= 0).all() for raw, _, _ in spy.calls)
    assert any((raw < 0).any() for raw, _, _ in free.calls), "nothing was there to clamp"


@pytest.mark.parametrize("preset", PRESETS)
def test_a_pixel_like_the_baseline_has_exactly_no_gradient(preset):
    """Without the penalties, which do not look at the image."""
    explainer = PCIM(ClassifierTarget(cnn(channels=2)), preset=preset, l1=0.0, tv=0.0)
    images = torch.rand(2, 2, 8, 8)
    baseline = baseline_images(images, "median").clone()
    baseline[..., :4] = images[..., :4]
    raw = torch.rand(2, 1, 8, 8, requires_grad=True)
    losses = explainer.objective(raw, images, baseline, Query(torch.tensor([[0], [1]])), 3)
    (gradient,) = torch.autograd.grad(losses.sum(), raw)
    assert not gradient[..., :4].any(), "a pixel that looks like the baseline has a gradient"
    assert gradient[..., 4:].count_nonzero() > 0.9 * gradient[..., 4:].numel()


def test_a_pixel_like_the_baseline_keeps_its_start_so_sparse_shows_it_as_zero():
    """The hazard: alpha starts at 1, and black background would look important."""
    images = torch.rand(2, 1, 8, 8)
    images[..., :4] = 0.0
    target = ClassifierTarget(cnn())
    shared = {"preset": "sparse", "baseline": "zero", "steps": 10}
    shown = PCIM(target, **shared).explain(images)
    assert not shown[..., :4].any() and shown[..., 4:].any()
    alone = PCIM(target, **shared, l1=0.0, readout="alpha").explain(images)
    assert (alone[..., :4] == 1).all(), "without sparsity the background keeps its start"
    literal = PCIM(target, preset="literal", baseline="zero", steps=10).explain(images)
    assert not literal[..., :4].any()


@pytest.mark.parametrize("constraint", ["signed", "nonneg"])
def test_one_sgd_step_on_a_linear_classifier_is_its_weights_times_the_image(constraint):
    weight, bias = torch.randn(2, 2 * 16), torch.tensor([0.3, -0.4])
    target = ClassifierTarget(linear_net(weight, bias))
    images = torch.randn(3, 2, 4, 4)
    settings = {"preset": "literal", "baseline": "zero", "steps": 1, "lr": 0.5, "constraint": constraint}
    explainer = PCIM(target, **settings, optimizer=torch.optim.SGD)
    maps = explainer.explain(images, torch.tensor([[0, 1]] * 3))
    p_other = bias.softmax(dim=0).flip(0)
    for asked in (0, 1):
        difference = (weight[asked] - weight[1 - asked]).view(2, 4, 4)
        expected = 0.5 * p_other[asked] * (difference * images).sum(dim=1)
        expected = expected.clamp(min=0) if constraint == "nonneg" else expected
        assert torch.allclose(maps[:, asked], expected, atol=1e-6), f"class {asked}"


# ------------------------------------------------------------------ batches


def separate(explainer, images, targets, pixels):
    """The same queries, each alone."""
    rows = []
    for image in range(len(images)):
        one = slice(image, image + 1)
        maps = [
            explainer.explain(images[one], targets[one, t : t + 1], None if pixels is None else pixels[one, t : t + 1])
            for t in range(targets.shape[1])
        ]
        rows.append(torch.cat(maps, dim=1))
    return torch.cat(rows)


@pytest.mark.parametrize("gradient", ["backprop", "spsa"])
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("kind", ["classifier", "segmenter"])
def test_images_and_queries_together_equal_each_alone(kind, preset, gradient):
    target = ClassifierTarget(cnn().double()) if kind == "classifier" else SegmenterTarget(segmenter().double())
    images = torch.rand(3, 1, 8, 8, dtype=torch.float64)
    targets, pixels = torch.tensor([[0, 2], [1, 0], [2, 2]]), None
    if kind == "segmenter":
        pixels = torch.rand(3, 2, 8, 8) < 0.5
    explainer = PCIM(target, preset=preset, steps=8, gradient=gradient)
    together = explainer.explain(images, targets, pixels)
    assert torch.allclose(together, separate(explainer, images, targets, pixels), atol=1e-4)


@pytest.mark.parametrize(
    ("optimizer", "lr"), [(torch.optim.Adam, 0.05), (partial(torch.optim.SGD, momentum=0.9), 5.0)], ids=["Adam", "SGD"]
)
def test_images_that_settle_early_leave_the_others_alone(optimizer, lr, monkeypatch):
    """One image is blank, so nothing can improve and it stops; the others go on as if it had never been there."""
    monkeypatch.setattr(module, "WINDOW", 5)
    target = ClassifierTarget(cnn().double())
    images = torch.rand(4, 1, 8, 8, dtype=torch.float64)
    images[1] = 0.0
    explainer = Spy(target, preset="literal", steps=30, lr=lr, baseline="zero", optimizer=optimizer)
    together = explainer.explain(images)
    rows = [len(raw) for raw, _, _ in explainer.calls]
    assert rows[0] == 4 and rows[-1] < 4 and rows == sorted(rows, reverse=True), f"rows at each step: {rows}"
    assert len(rows) > 10, "everything stopped at once, so the test shows nothing"
    alone = torch.cat([explainer.explain(image.unsqueeze(0)) for image in images])
    assert torch.allclose(together, alone, atol=1e-4)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_settled_image_stops_before_its_last_step(preset):
    """A constant image equals its median: no step changes the loss."""
    spy = Spy(ClassifierTarget(cnn()), preset=preset, steps=5 * module.WINDOW, baseline="median")
    maps = spy.explain(torch.full((2, 1, 8, 8), 0.4))
    assert len(spy.calls) < 5 * module.WINDOW
    assert maps.isfinite().all()


def test_the_faithful_order_is_shifted_less_at_every_step():
    images = torch.rand(3, 1, 16, 12)
    explainer = PCIM(ClassifierTarget(cnn()), steps=10)
    shifts = [explainer.exploration(step, images) for step in range(10)]
    sizes = [float(shift.std(correction=0)) for shift in shifts]
    assert sizes == pytest.approx([module.EXPLORATION * (1 - step / 10) for step in range(10)], rel=0.01)
    assert all(shift.shape == (1, 1, 16, 12) for shift in shifts), (
        "one shift for all rows, or a batch is not its images"
    )
    assert not torch.allclose(shifts[0] / sizes[0], shifts[1] / sizes[1], atol=0.1), "every step must ask elsewhere"


def test_the_same_map_twice_whatever_the_global_seed():
    images = torch.rand(2, 1, 8, 8)
    for preset, gradient in itertools.product(PRESETS, ("backprop", "spsa")):
        explainer = PCIM(ClassifierTarget(cnn()), preset=preset, steps=6, gradient=gradient)
        torch.manual_seed(1)
        first = explainer.explain(images)
        torch.manual_seed(2)
        assert torch.equal(first, explainer.explain(images)), (preset, gradient)


# ------------------------------------------------------------------ what maps must say


@pytest.mark.parametrize("model", ["cnn", "vit", "mlp"])
@pytest.mark.parametrize("preset", PRESETS)
def test_another_class_gives_another_map(model, preset):
    target, shape = MODELS[model]()
    maps = PCIM(target, preset=preset, steps=20).explain(torch.rand(shape), torch.tensor([[0, 1]] * 2))
    for first, second in maps:
        assert correlation(first, second) < 0.9


@pytest.mark.parametrize("preset", PRESETS)
def test_another_target_gives_another_map(preset):
    images, asked = torch.rand(2, 1, 8, 8), torch.tensor([0, 0])
    first, second = (
        PCIM(ClassifierTarget(mlp(seed=seed)), preset=preset, steps=20).explain(images, asked) for seed in (0, 1)
    )
    for a, b in zip(first, second, strict=True):
        assert correlation(a, b) < 0.6, "the map does not come from the target's weights"


def test_sparse_puts_its_mass_on_the_planted_square():
    images, masks = squares()
    maps = PCIM(ClassifierTarget(SquareFinder()), preset="sparse").explain(images, torch.ones(4, dtype=torch.long))
    assert mass(maps, masks).min() > 0.9


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_points_at_the_planted_square(preset):
    images, masks = squares()
    maps = PCIM(ClassifierTarget(SquareFinder()), preset=preset).explain(images, torch.ones(4, dtype=torch.long))
    assert masks.flatten(1).gather(1, maps.flatten(1).argmax(dim=1, keepdim=True)).all(), "the highest pixel is outside"
    top = maps.flatten(1).topk(9).indices  # as many pixels as the square has
    hits = masks.flatten(1).gather(1, top).float().mean(dim=1)
    assert (hits > 0.7).all(), f"fraction of the top pixels inside the square, per image: {hits.tolist()}"
    inside, outside = maps[masks].mean(), maps[~masks].mean()
    assert inside > outside


def test_a_segmenters_map_stays_in_its_pixel_set():
    """A 1 x 1 convolution looks at one pixel at a time: pixels outside the set cannot matter."""
    target = SegmenterTarget(pixel_segmenter(torch.tensor([[-4.0], [4.0]]), torch.tensor([2.0, -2.0])))
    images, pixels = 0.6 + 0.4 * torch.rand(2, 1, 8, 8), torch.zeros(2, 1, 8, 8, dtype=torch.bool)
    pixels[:, :, 2:5, 3:7] = True
    maps = PCIM(target, preset="literal", baseline="zero", steps=20).explain(images, torch.tensor([1, 1]), pixels)
    assert not maps[~pixels].any() and (maps[pixels] > 0).all()


def test_a_query_about_no_pixel_has_a_zero_map():
    target, images = SegmenterTarget(segmenter()), torch.rand(2, 1, 8, 8)
    pixels = torch.ones(2, 2, 8, 8, dtype=torch.bool)
    pixels[1, 0] = False
    maps = PCIM(target, steps=5).explain(images, torch.tensor([[0, 1]] * 2), pixels)
    assert not maps[1, 0].any() and maps[0, 0].any() and maps[1, 1].any()
