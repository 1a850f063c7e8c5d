"""Pixel flipping and ROAD: closed forms, mirror images, direct imputation, and the ends of every curve."""

import pickle
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_xai import ClassifierTarget
from lightning_xai.metrics import (
    ROAD,
    BaselineProbability,
    DeletionAUC,
    InsertionAUC,
    InsertionDeletionGap,
    MetricSuite,
    PixelFlipping,
)
from lightning_xai.metrics.functional import normalized_curve, trapezoid
from lightning_xai.perturbation.baselines import NeighborBaseline, baseline_images, hide_pixels
from lightning_xai.perturbation.imputation import neighbor_imputation
from tests.helpers import CountingTarget, cnn
from tests.metric_cases import (
    MEAN,
    STD,
    assert_batches_do_not_matter,
    assert_depth_one_does_not_matter,
    assert_precision_does_not_matter,
    assert_queries_do_not_matter,
    assert_refused,
    linear_case,
    linear_output,
    noisy_segments,
    part,
    scored,
    top,
)

ORDERS = ["most_first", "least_first", "gap"]
AREAS = [DeletionAUC, InsertionAUC, InsertionDeletionGap, PixelFlipping]
FRACTIONS = (0.1, 0.3, 0.8)  # not symmetric: the areas of mirrored curves are equal


def cnn_case(dims=2, normalized=False):
    mean, std = (MEAN[:1], STD[:1]) if normalized else (None, None)
    target, images = (
        CountingTarget(cnn(dims), mean=mean, std=std),
        torch.rand(4, 1, *((8, 5) if dims == 2 else (5, 4, 3))),
    )
    targets = torch.tensor([[0, 1], [1, 2], [2, 0], [0, 2]])
    return {"target": target, "images": images, "maps": torch.rand(4, 2, *images.shape[2:]), "targets": targets}


def outputs_of(case, inputs_of):
    """Outputs ``(B, T)`` of a linear target about ``inputs_of(b, t) (C, *S)``."""
    values = torch.zeros(case["targets"].shape, dtype=torch.float64)
    for b, row in enumerate(case["targets"]):
        for t, target_class in enumerate(row):
            values[b, t] = linear_output(case["target"], inputs_of(b, t).unsqueeze(0), target_class.view(1))[0]
    return values


def linear_area(case, steps, baseline, order, output=lambda value: value):
    """Area ``(B, T)`` under the outputs while pixels go, one input at a time."""
    pixels, curve = case["maps"][0, 0].numel(), []
    for step in range(steps + 1):
        count = step * pixels // steps
        hidden = (
            (lambda b, t, n=count: top(case["maps"][b, t], n))
            if order == "most_first"
            else (lambda b, t, n=count: ~top(case["maps"][b, t], pixels - n))
        )
        curve.append(
            outputs_of(case, lambda b, t, gone=hidden: torch.where(gone(b, t), baseline[b], case["images"][b]))
        )
    curve = torch.stack(curve)
    return ((curve[1:] + curve[:-1]) / 2).mean(dim=0)


# ------------------------------------------------------------------ closed forms


@pytest.mark.parametrize("fill", ["zero", "input_zero", "channel_mean"])
@pytest.mark.parametrize("steps", [1, 4, 20])
def test_closed_form_on_a_linear_model(fill, steps):
    case = linear_case()
    images = case["images"]
    baseline = case["target"].input_zero(images) if fill == "input_zero" else baseline_images(images, fill)
    most, least = (linear_area(case, steps, baseline, order) for order in ORDERS[:2])
    values = {order: scored(PixelFlipping(order, steps=steps, fill=fill), **case) for order in ORDERS}
    assert torch.allclose(values["most_first"], most, atol=1e-4)
    assert torch.allclose(values["least_first"], least, atol=1e-4)
    assert torch.allclose(values["gap"], least - most, atol=1e-4)
    assert torch.allclose(values["gap"], values["least_first"] - values["most_first"], atol=1e-5)
    if steps > 1:
        assert (values["gap"].abs() > 1e-3).all(), "a case in which the order changes nothing tests nothing"


def test_the_contributions_of_a_linear_model_flip_best():
    case = linear_case(normalized=False)
    weight = case["target"].model[1].weight.view(3, 2, 4, 5)[case["targets"]]
    best = {**case, "maps": (weight * case["images"].unsqueeze(1)).sum(dim=2)}
    top_gap = scored(PixelFlipping(), **best)
    for _ in range(5):
        assert (top_gap > scored(PixelFlipping(), **{**case, "maps": torch.rand(4, 2, 4, 5)})).all()
    assert torch.allclose(scored(PixelFlipping(), **{**best, "maps": -best["maps"]}), -top_gap, atol=1e-5)


def test_a_normalized_curve():
    case = linear_case()
    baseline = torch.zeros_like(case["images"])
    full, empty = (outputs_of(case, lambda b, t, of=of: of[b]) for of in (case["images"], baseline))
    expected = (linear_area(case, 10, baseline, "most_first") - empty) / (full - empty)
    values = scored(PixelFlipping("most_first", steps=10, normalize=True), **case)
    assert torch.allclose(values, expected, rtol=1e-3, atol=1e-3)


# ------------------------------------------------------------------ mirror images


@pytest.mark.parametrize("fill", ["zero", "blur", "input_zero"])
@pytest.mark.parametrize("steps", [7, 20])
def test_least_first_is_insertion_mirrored(fill, steps):
    """What is left when the least important pixels are gone is what insertion shows first."""
    case = cnn_case(normalized=True)
    insertion = scored(InsertionAUC(steps, fill), **case)
    assert torch.allclose(scored(PixelFlipping("least_first", steps=steps, fill=fill), **case), insertion, atol=1e-6)
    deletion = scored(DeletionAUC(steps, fill), **case)
    assert torch.allclose(scored(PixelFlipping("most_first", steps=steps, fill=fill), **case), deletion, atol=1e-6)
    gap = scored(InsertionDeletionGap(steps, fill), **case)
    assert torch.allclose(scored(PixelFlipping(steps=steps, fill=fill), **case), gap, atol=1e-6)
    assert (insertion - deletion).abs().max() > 1e-4


def test_deletion_of_a_ranking_is_insertion_of_its_reverse_mirrored():
    case = cnn_case()
    reverse = {**case, "maps": -case["maps"]}
    # 40 pixels: at 10 steps no count is rounded.
    assert torch.allclose(scored(DeletionAUC(10), **case), scored(InsertionAUC(10), **reverse), atol=1e-6)
    assert torch.allclose(scored(InsertionAUC(10), **case), scored(DeletionAUC(10), **reverse), atol=1e-6)
    for make in (partial(PixelFlipping, steps=10), partial(ROAD, noise=0)):
        gap, turned = scored(make("gap"), **case), scored(make("gap"), **reverse)
        assert torch.allclose(turned, -gap, atol=1e-6) and gap.abs().max() > 1e-4, make
        most, least = scored(make("most_first"), **case), scored(make("least_first"), **reverse)
        assert torch.allclose(most, least, atol=1e-6), make


def test_flipping_costs_nothing_beside_deletion_and_insertion():
    case = cnn_case()
    plain = MetricSuite({"deletion": DeletionAUC(), "insertion": InsertionAUC()})
    suite = MetricSuite({**plain.members(), **{order: PixelFlipping(order) for order in ORDERS}})
    assert suite.passes(queries=2) == plain.passes(queries=2) == {"passes": 2 * 2 * 19 + 2, "explanations": 0}
    suite.update(**case)
    assert sum(case["target"].chunks) == 4 * (2 * 2 * 19 + 2)


# ------------------------------------------------------------------ ROAD


def imputed(case, fraction, order):
    """Probabilities ``(B, T)`` with a fraction of the pixels replaced by their neighbors' mean, an input at a time."""
    pixels, target = case["maps"][0, 0].numel(), case["target"]
    count = round(fraction * pixels)
    values = torch.zeros(case["targets"].shape, dtype=torch.float64)
    for b, row in enumerate(case["targets"]):
        for t, target_class in enumerate(row):
            ranked = case["maps"][b, t]
            visible = ~top(ranked, count) if order == "most_first" else top(ranked, pixels - count)
            perturbed = neighbor_imputation(case["images"][b : b + 1], visible.view(1, 1, *visible.shape))
            values[b, t] = target.probability(perturbed, target_class.view(1))[0, 0]
    return values


@pytest.mark.parametrize("dims", [2, 3])
def test_road_against_direct_imputation(dims):
    case = cnn_case(dims)
    most, least = (
        torch.stack([imputed(case, fraction, order) for fraction in FRACTIONS]).mean(0) for order in ORDERS[:2]
    )
    values = {order: scored(ROAD(order, FRACTIONS, noise=0), **case) for order in ORDERS}
    assert torch.allclose(values["most_first"], most, atol=1e-5)
    assert torch.allclose(values["least_first"], least, atol=1e-5)
    assert torch.allclose(values["gap"], least - most, atol=1e-5) and values["gap"].abs().max() > 1e-3
    assert torch.allclose(values["gap"], values["least_first"] - values["most_first"], atol=1e-6)


def test_road_at_one_fraction_and_at_none():
    case = cnn_case()
    assert torch.allclose(scored(ROAD("most_first", [0.3], 0), **case), imputed(case, 0.3, "most_first"), atol=1e-5)
    whole = case["target"].probability(case["images"], case["targets"]).double()
    assert torch.allclose(scored(ROAD("most_first", [0.0]), **case), whole, atol=1e-6)
    assert (scored(ROAD("gap", [0.0, 1.0]), **case).abs() < 1e-6).all(), "all pixels or none: no order matters"


def test_the_noise_of_road_is_the_same_every_time():
    case = cnn_case()
    first, again = scored(ROAD(noise=0.3), **case), scored(ROAD(noise=0.3), **case)
    assert torch.equal(first, again)
    torch.rand(1)
    alone = scored(ROAD(noise=0.3), **part(case, [2]))
    assert torch.allclose(alone[0], first[2], atol=1e-6), "noise depends on the batch around the image"
    assert (first - scored(ROAD(noise=0), **case)).abs().max() > 1e-4, "there is no noise"
    assert (first - scored(ROAD(noise=0.01), **case)).abs().max() > 1e-4, "its size changes nothing"


def test_the_noise_of_road_is_on_the_removed_pixels_only():
    images, visible = torch.rand(3, 2, 6, 5), torch.rand(3, 1, 6, 5) > 0.5
    clean, noisy = (hide_pixels(images, visible, NeighborBaseline(noise)) for noise in (0.0, 0.1))
    shown = visible.expand_as(images)
    assert torch.equal(noisy[shown], images[shown]) and (noisy != clean)[~shown].all()
    deviation = (noisy - clean)[~shown].std() / images.std()
    assert 0.07 < deviation < 0.13


# ------------------------------------------------------------------ the ends of the curves


@pytest.mark.parametrize("fill", ["zero", "input_zero", "median", "blur", "noise", "neighbors", "tensor"])
@pytest.mark.parametrize("kind", [*AREAS, ROAD])
def test_references_are_the_outputs_for_the_whole_and_the_baseline_image(kind, fill):
    case = cnn_case(normalized=True)
    images, target = case["images"], case["target"]
    tensor = torch.rand(1, 1, 8, 5)
    if kind is ROAD:
        metric, fill = ROAD(), "neighbors"
    else:
        metric = kind(steps=3, fill=tensor if fill == "tensor" else fill)
    if fill == "neighbors":
        baseline = hide_pixels(images, torch.zeros(4, 1, 8, 5, dtype=torch.bool), metric.fill)
    else:
        known = {"tensor": tensor, "input_zero": torch.full((1, 1, 1, 1), 0.4)}
        baseline = baseline_images(images, known.get(fill, fill))
    scored(metric, **case)
    for name, inputs in (("full", images), ("blank", baseline)):
        expected = target.probability(inputs, case["targets"]).double()
        assert torch.allclose(metric.per_image(name), expected, atol=1e-6), name
        assert metric.reference_means()[name] == pytest.approx(expected.mean().item(), abs=1e-6)
    assert (metric.per_image("full") - metric.per_image("blank")).abs().max() > 1e-4
    if isinstance(metric.fill, str | torch.Tensor):
        values = scored(BaselineProbability(metric.fill), **case)
        assert torch.allclose(values, metric.per_image("blank"), atol=1e-6)


@pytest.mark.parametrize("kind", AREAS)
def test_input_zero_is_the_targets_mean(kind):
    case = linear_case()
    mean = torch.tensor(MEAN).view(1, 2, 1, 1)
    values = scored(kind(fill="input_zero"), **case)
    assert torch.allclose(values, scored(kind(fill=mean), **case), atol=1e-5)
    assert not torch.allclose(values, scored(kind(fill="zero"), **case), atol=1e-3)
    plain = linear_case(normalized=False)
    zeros = scored(kind(fill="zero"), **plain)
    assert torch.allclose(scored(kind(fill="input_zero"), **plain), zeros, atol=1e-5), "without a mean it is black"


@pytest.mark.parametrize("normalized", [True, False])
def test_what_a_suite_says_it_costs_is_what_it_costs(normalized):
    """Also with the same black under two names, where the target subtracts no mean."""
    case = cnn_case(normalized=normalized)
    suite = MetricSuite({"zero": DeletionAUC(), "input_zero": DeletionAUC(fill="input_zero")})
    suite.update(**case)
    fills = 2 if normalized else 1
    assert sum(case["target"].chunks) == 4 * (1 + fills * (2 * 19 + 1))
    assert suite.passes(2, case["target"])["passes"] == 1 + fills * (2 * 19 + 1)


def test_segmenters_flip_too():
    case = noisy_segments(masks=False)
    for output in ("probability", "score", "dice"):
        most, least, gap = (scored(PixelFlipping(order, output=output), **case) for order in ORDERS)
        assert torch.allclose(gap, least - most, atol=1e-5) and gap.abs().max() > 1e-3, output
        assert torch.allclose(least, scored(InsertionAUC(output=output), **case), atol=1e-6), output


# ------------------------------------------------------------------ functions


def test_areas_of_numbers():
    curve = torch.tensor([[0.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
    assert trapezoid(curve).tolist() == [0.5, 1]
    assert trapezoid(curve, (0.2, 0.4, 1.0)).tolist() == pytest.approx([0.5, 1])
    assert trapezoid(torch.tensor([0.0, 1.0, 1.0]), (0.0, 0.5, 2.0)).item() == pytest.approx(0.875)


SIGNED = st.integers(-100, 100).map(lambda percent: percent / 100)


@settings(max_examples=50)
@given(SIGNED, SIGNED, st.integers(0, 100))
def test_normalizing_puts_the_ends_at_0_and_1(full, baseline, seed):
    full, baseline = torch.tensor(full, dtype=torch.float64), torch.tensor(baseline, dtype=torch.float64)
    between = torch.rand(5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    values = normalized_curve(torch.cat([baseline.view(1), full.view(1), between]), full, baseline)
    if full == baseline:
        assert values.isnan().all()
    else:
        assert values[:2].tolist() == [0, 1]
        assert torch.allclose(
            values * (full - baseline), torch.cat([baseline[None], full[None], between]) - baseline, atol=1e-9
        )


# ------------------------------------------------------------------ what must not matter


FLIPS = [*(partial(PixelFlipping, order, steps=6) for order in ORDERS), ROAD]
NAMES = [*ORDERS, "ROAD"]


@pytest.mark.parametrize("make", FLIPS, ids=NAMES)
@pytest.mark.parametrize("dims", [2, 3])
def test_batches_and_queries(make, dims):
    case = cnn_case(dims)
    assert_batches_do_not_matter(make, case)
    assert_queries_do_not_matter(make, case)


@pytest.mark.parametrize("make", FLIPS, ids=NAMES)
def test_a_volume_of_one_slice_and_short_floats(make):
    assert_depth_one_does_not_matter(make, linear_case(), atol=1e-4)
    assert_precision_does_not_matter(make, linear_case(), atol=1e-4)


@settings(max_examples=20)
@given(
    st.permutations(range(4)),
    st.sampled_from([torch.exp, torch.sigmoid, torch.asinh, lambda maps: 7 * maps - 3, lambda maps: maps**3]),
    st.integers(0, 100),
)
def test_order_of_images_and_monotone_transforms(order, transform, seed):
    torch.manual_seed(seed)
    case = cnn_case()
    case["maps"] = torch.stack([torch.randperm(40) for _ in range(8)]).view(4, 2, 8, 5).double() / 10 - 1.5
    for make in (FLIPS[2], FLIPS[3]):
        values = scored(make(), **case)
        assert torch.equal(scored(make(), **{**case, "maps": transform(case["maps"])}), values), make
        permuted = scored(make(), **part(case, list(order)))
        assert torch.allclose(permuted, values[list(order)], atol=1e-6), make


@settings(max_examples=20)
@given(st.integers(0, 100))
def test_values_are_in_range(seed):
    torch.manual_seed(seed)
    case = cnn_case()
    for make, order in zip(FLIPS, [*ORDERS, "gap"], strict=True):
        values = scored(make(), **case)
        assert ((-1 if order == "gap" else 0) <= values).all() and (values <= 1).all(), order


@pytest.mark.parametrize("make", FLIPS, ids=NAMES)
def test_constant_and_nan_maps_are_undefined(make):
    case = cnn_case()
    case["maps"][0, 1], case["maps"][2, 0], case["maps"][3, 1, 0, 0] = 0.5, float("nan"), float("nan")
    metric = make()
    assert scored(metric, **case).isnan().nonzero().tolist() == [[0, 1], [2, 0], [3, 1]]
    assert metric.counts() == (8, 3)
    assert not metric.per_image("full").isnan().any(), "what the model says is known all the same"


def test_normalizing_is_undefined_where_nothing_changes():
    case = {**cnn_case(), "target": ClassifierTarget(cnn())}
    with torch.no_grad():
        case["target"].model[-1].weight.zero_()
    for make in (*FLIPS,):
        assert scored(make(normalize=True), **case).isnan().all(), make
        assert not scored(make(), **case).isnan().any(), make


# ------------------------------------------------------------------ settings


def test_clear_errors():
    for kind in (PixelFlipping, ROAD):
        assert_refused(partial(kind, "both"), "order", "'both'", "most_first, least_first, gap")
        assert_refused(partial(kind, output="loss"), "output", "'loss'", "probability, score, dice")
    for kind in AREAS:
        assert_refused(partial(kind, steps=0), "steps is 0", "at least 1")
        assert_refused(partial(kind, output="loss"), "output", "'loss'")
        assert_refused(partial(kind, fill="pink"), "'pink'", "neighbors", "input_zero")
    assert_refused(partial(BaselineProbability, fill="pink"), "'pink'", "input_zero")


@pytest.mark.parametrize("fractions", [(), (0.5, 1.5), (-0.1,)])
def test_fractions_that_are_no_fractions_are_refused_at_once(fractions):
    assert_refused(lambda: ROAD(fractions=fractions), "fractions", "between 0 and 1")


def test_metadata_and_directions():
    assert [PixelFlipping(order).higher_is_better for order in ORDERS] == [False, True, True]
    assert [ROAD(order).higher_is_better for order in ORDERS] == [False, True, True]
    assert [PixelFlipping(order, steps=5).metadata()["passes"] for order in ORDERS] == [6, 6, 10]
    # Four fractions, the whole and the baseline image.
    assert [ROAD(order).metadata()["passes"] for order in ORDERS] == [6, 6, 10]
    options = {"order": "gap", "steps": 7, "fill": "blur", "normalize": True, "output": "score"}
    assert PixelFlipping(**options).metadata()["options"] == options
    options = {"order": "gap", "fractions": (0.1, 0.9), "noise": 0.2, "normalize": True, "output": "score"}
    assert ROAD(**options).metadata()["options"] == options
    assert ROAD(fractions=[0.1, 0.9]).metadata()["options"]["fractions"] == (0.1, 0.9)


@pytest.mark.parametrize("make", FLIPS, ids=NAMES)
def test_settings_survive_pickling(make):
    metric, case = make(), cnn_case()
    other = pickle.loads(pickle.dumps(metric))
    assert other.metadata() == metric.metadata()
    assert torch.equal(scored(other, **case), scored(metric, **case))
