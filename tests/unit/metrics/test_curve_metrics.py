"""Deletion and insertion: closed forms, normalization, undefined maps, and what must not change them."""

import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_xai import ClassifierTarget, SegmenterTarget
from lightning_xai.metrics import BaselineProbability, DeletionAUC, InsertionAUC, InsertionDeletionGap, InsertionLeak
from lightning_xai.metrics.functional import trapezoid
from lightning_xai.perturbation.baselines import baseline_images
from tests.helpers import CountingTarget, GradientMap, LogitTarget, cnn, linear_net, segmenter

CURVES = [DeletionAUC, InsertionAUC, InsertionDeletionGap]


def scored(metric, target, images, maps, targets, **kwargs):
    metric.update(target=target, images=images, maps=maps, targets=targets, **kwargs)
    return metric.per_image()


def linear_case(fill="zero", batch=3, queries=2, side=5):
    """A linear target whose output is its logit, and per query the running sums along its ranking."""
    weight = torch.randn(3, side * side)
    images, maps = torch.rand(batch, 1, side, side), torch.randn(batch, queries, side, side)
    targets = torch.randint(0, 3, (batch, queries))
    baseline = baseline_images(images, fill).flatten(1).double()
    flat, order = images.flatten(1).double(), maps.flatten(2).argsort(2, descending=True)
    rows = weight.double()[targets]
    gains = (rows * (flat - baseline).unsqueeze(1)).gather(2, order).cumsum(2)
    gains = torch.cat([torch.zeros_like(gains[..., :1]), gains], 2)
    full, empty = (rows * flat.unsqueeze(1)).sum(2), (rows * baseline.unsqueeze(1)).sum(2)
    return LogitTarget(linear_net(weight)), images, maps, targets, gains, full, empty


@pytest.mark.parametrize("fill", ["zero", "channel_mean"])
@pytest.mark.parametrize("steps", [1, 5, 25])
def test_closed_form_on_a_linear_model(fill, steps):
    target, images, maps, targets, gains, full, empty = linear_case(fill)
    gains = gains[..., [round(step / steps * 25) for step in range(steps + 1)]]
    area = ((gains[..., :-1] + gains[..., 1:]) / 2).mean(2)
    query = (target, images, maps, targets)
    assert torch.allclose(scored(DeletionAUC(steps, fill), *query), full - area, atol=1e-5)
    assert torch.allclose(scored(InsertionAUC(steps, fill), *query), empty + area, atol=1e-5)
    assert torch.allclose(scored(InsertionDeletionGap(steps, fill), *query), empty + 2 * area - full, atol=1e-5)
    assert torch.allclose(scored(BaselineProbability(fill), *query), empty, atol=1e-5)


def test_normalized_closed_form():
    target, images, maps, targets, gains, full, empty = linear_case()
    gains = gains[..., [round(step / 20 * 25) for step in range(21)]]
    area = ((gains[..., :-1] + gains[..., 1:]) / 2).mean(2) / (full - empty)
    query = (target, images, maps, targets)
    assert torch.allclose(scored(DeletionAUC(normalize=True), *query), 1 - area, atol=1e-4)
    assert torch.allclose(scored(InsertionAUC(normalize=True), *query), area, atol=1e-4)


def test_normalizing_is_undefined_where_the_blank_image_has_the_same_probability():
    target, images, maps = (
        ClassifierTarget(linear_net(torch.zeros(3, 64))),
        torch.rand(2, 1, 8, 8),
        torch.rand(2, 1, 8, 8),
    )
    query = (target, images, maps, torch.tensor([0, 1]))
    assert scored(DeletionAUC(normalize=True), *query).isnan().all()
    assert torch.allclose(scored(DeletionAUC(), *query), torch.full((2, 1), 1 / 3).double())


@pytest.mark.parametrize("fill", ["zero", "median", "channel_mean", "blur"])
def test_gap_is_insertion_minus_deletion(fill):
    target, images, maps = ClassifierTarget(cnn()), torch.rand(3, 1, 12, 12), torch.rand(3, 2, 12, 12)
    query = (target, images, maps, torch.tensor([[0, 1]] * 3))
    deletion, insertion, gap = (scored(kind(fill=fill), *query) for kind in CURVES)
    assert torch.allclose(gap, insertion - deletion, atol=1e-6)
    assert gap.abs().max() > 1e-4, "a case in which every map is alike tests nothing"


def test_blank_probability_is_that_of_the_blank_image():
    target, images, maps = ClassifierTarget(cnn()), torch.rand(3, 1, 8, 8), torch.rand(3, 1, 8, 8)
    targets = torch.tensor([0, 1, 2])
    for fill in ("zero", "median"):
        expected = target.probability(baseline_images(images, fill), targets)
        assert torch.allclose(
            scored(BaselineProbability(fill), target, images, maps, targets), expected.double(), atol=1e-6
        )


def test_the_gradient_of_a_linear_model_orders_best():
    """Pixels in the order of their contribution: no ranking has a lower deletion or a higher insertion."""
    weight = torch.randn(2, 36)
    target, images = LogitTarget(linear_net(weight)), torch.rand(4, 1, 6, 6)
    targets = torch.zeros(4, 1, dtype=torch.long)
    best = images * weight[0].view(1, 1, 6, 6)
    for kind, sign in ((DeletionAUC, -1), (InsertionAUC, 1), (InsertionDeletionGap, 1)):
        top = scored(kind(), target, images, best, targets)
        for _ in range(5):
            assert (sign * (top - scored(kind(), target, images, torch.rand(4, 1, 6, 6), targets)) > 0).all(), kind
        assert (sign * (top - scored(kind(), target, images, -best, targets)) > 0).all(), kind


# ------------------------------------------------------------------ undefined


@pytest.mark.parametrize("kind", CURVES)
def test_constant_and_nan_maps_rank_nothing(kind):
    target, images, maps = ClassifierTarget(cnn()), torch.rand(4, 1, 8, 8), torch.rand(4, 1, 8, 8)
    maps[1], maps[2], maps[3, 0, 2, 2] = 0.3, float("nan"), float("nan")
    metric = kind()
    values = scored(metric, target, images, maps, torch.tensor([0, 1, 2, 0]))
    assert values.isnan().flatten().tolist() == [False, True, True, True]
    assert metric.counts() == (4, 3) and metric.compute() == values[0, 0]


def test_a_class_that_a_segmenter_does_not_predict_is_undefined():
    net = segmenter()
    with torch.no_grad():
        net[2].bias[2] -= 1000
    explainer, images = GradientMap(SegmenterTarget(net)), torch.rand(2, 1, 8, 8)
    query = explainer.target.query(images, None, None)
    targets, pixels = query.targets, query.regions
    maps = explainer.explain(images, targets, pixels)
    values = scored(InsertionDeletionGap(), explainer.target, images, maps, targets, pixels=pixels)
    assert values.isnan().tolist() == [[False, True]] * 2


# ------------------------------------------------------------------ segmenters


@pytest.mark.parametrize("kind", CURVES)
def test_the_set_of_a_segmenter_is_that_of_the_whole_image(kind):
    target, images = SegmenterTarget(segmenter(seed=1)), torch.rand(2, 1, 8, 8)
    query = target.query(images, torch.tensor([[0, 1]] * 2), None)
    targets, pixels = query.targets, query.regions
    assert pixels.flatten(2).any(2).all()
    maps = torch.rand(2, 2, 8, 8)
    given = scored(kind(), target, images, maps, targets, pixels=pixels)
    assert torch.equal(scored(kind(), target, images, maps, targets), given)
    assert not torch.equal(scored(kind(), target, images, maps, targets, pixels=torch.ones_like(pixels)), given)


def test_one_set_for_all_queries_of_a_segmenter():
    target, images, maps = SegmenterTarget(segmenter()), torch.rand(2, 1, 8, 8), torch.rand(2, 3, 8, 8)
    targets, one = torch.tensor([[0, 1, 2]] * 2), torch.rand(2, 1, 8, 8) > 0.5
    values = scored(DeletionAUC(), target, images, maps, targets, pixels=one)
    assert torch.equal(values, scored(DeletionAUC(), target, images, maps, targets, pixels=one.expand(-1, 3, -1, -1)))


# ------------------------------------------------------------------ what must not matter


@given(st.permutations(range(4)))
def test_permuting_a_batch_permutes_the_values(order):
    target, images, maps = ClassifierTarget(cnn()), torch.rand(4, 1, 6, 6), torch.rand(4, 2, 6, 6)
    targets, ids = torch.tensor([[0, 1], [1, 2], [2, 0], [0, 2]]), [f"i{number}" for number in range(4)]
    straight = scored(InsertionDeletionGap(steps=6), target, images, maps, targets, ids=ids)
    moved = InsertionDeletionGap(steps=6)
    values = scored(moved, target, images[order], maps[order], targets[order], ids=[ids[index] for index in order])
    assert torch.allclose(values, straight[order], atol=1e-6)
    assert [row[0] for row in moved.rows()][::2] == [ids[index] for index in order]


@given(
    st.sampled_from([torch.exp, torch.sigmoid, torch.asinh, lambda maps: 7 * maps - 3, lambda maps: maps**3]),
    st.integers(0, 20),
)
def test_monotone_transforms_of_a_map_change_nothing(transform, seed):
    generator = torch.Generator().manual_seed(seed)
    # Whole numbers, far enough apart to stay apart in float64.
    maps = torch.stack([torch.randperm(36, generator=generator) for _ in range(2)]).view(2, 1, 6, 6).double() / 10 - 1.8
    target, images, targets = ClassifierTarget(cnn()), torch.rand(2, 1, 6, 6), torch.tensor([0, 2])
    for kind in CURVES:
        plain = scored(kind(steps=9), target, images, maps, targets)
        assert torch.equal(scored(kind(steps=9), target, images, transform(maps), targets), plain), kind


@pytest.mark.parametrize("kind", CURVES)
def test_batches_chunks_and_three_dimensions(kind):
    target, images, maps = ClassifierTarget(cnn()), torch.rand(5, 1, 8, 8), torch.rand(5, 1, 8, 8)
    targets = torch.tensor([0, 1, 2, 0, 1])
    whole = scored(kind(chunk_size=7), target, images, maps, targets)
    pieces = kind()
    for part in (slice(0, 2), slice(2, 5)):
        pieces.update(target=target, images=images[part], maps=maps[part], targets=targets[part])
    assert torch.allclose(pieces.per_image(), whole, atol=1e-6)
    deep = ClassifierTarget(cnn(3))
    values = scored(kind(), deep, torch.rand(2, 1, 4, 5, 6), torch.rand(2, 1, 4, 5, 6), torch.tensor([0, 1]))
    assert values.shape == (2, 1) and not values.isnan().any()


def test_cost_is_the_distinct_images():
    target, images, maps = CountingTarget(cnn()), torch.rand(3, 1, 8, 8), torch.rand(3, 2, 8, 8)
    scored(InsertionDeletionGap(chunk_size=32), target, images, maps, torch.tensor([[0, 1]] * 3))
    # Both queries share the whole and the baseline image.
    assert sum(target.chunks) == 3 * (2 * 2 * 19 + 2) and set(target.chunks[:-1]) == {32}


def test_settings_survive_pickling():
    metric = pickle.loads(pickle.dumps(InsertionDeletionGap(steps=7, fill="median", normalize=True)))
    assert (len(metric.fractions), metric.fill, metric.normalize) == (8, "median", True)


def test_trapezoid_is_exact_in_float64():
    curve = torch.rand(4, 21)
    expected = torch.trapezoid(curve.double(), torch.linspace(0, 1, 21, dtype=torch.float64), dim=1)
    assert trapezoid(curve).dtype == torch.float64 and torch.allclose(trapezoid(curve), expected, atol=1e-14)


def test_directions_of_better():
    assert [kind.higher_is_better for kind in (*CURVES, BaselineProbability)] == [False, True, True, None]


@pytest.mark.parametrize("content", ["shifted", "swapped"])
def test_the_leak_is_the_insertion_of_another_content(content):
    target, images, maps, targets = linear_case(side=6)[:4]
    other = images.roll((3, 3), dims=(2, 3)) if content == "shifted" else images.roll(1, dims=0)
    value = scored(InsertionLeak(content), target, images, maps, targets)
    assert torch.allclose(value, scored(InsertionAUC(), target, other, maps, targets), atol=1e-6)
    assert not torch.allclose(value, scored(InsertionAUC(), target, images, maps, targets), atol=1e-3)


def test_a_mask_that_draws_the_class_leaks_and_one_that_shows_it_does_not():
    """The class shows in how much of the left half is bright: on bright content the mask alone gives it away."""
    weight = torch.zeros(2, 8, 8)
    weight[1, :, :4] = 1.0
    target, images = LogitTarget(linear_net(weight.flatten(1))), torch.zeros(2, 1, 8, 8)
    images[:, :, :, :4] = 1.0
    maps, targets = images.clone(), torch.tensor([[1], [1]])
    assert (scored(InsertionLeak("shifted"), target, images, maps, targets) == 0).all(), "the content carries it"
    bright = torch.ones(2, 1, 8, 8)
    drawn = scored(InsertionLeak("shifted"), target, bright, maps, targets)
    assert torch.equal(drawn, scored(InsertionAUC(), target, bright, maps, targets)), "the mask carries it"


def test_impossible_leaks():
    target, images, maps, targets = linear_case(batch=1)[:4]
    assert scored(InsertionLeak("swapped"), target, images, maps, targets).isnan().all()
    with pytest.raises(ValueError, match="content is 'own'; use shifted | swapped | noise"):
        InsertionLeak("own")
