"""Infidelity, sensitivity and stability under noise: closed forms, shared explanations, what must not change them."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_xai import ClassifierTarget, SegmenterTarget
from lightning_xai.explainers.reference import RandomMap
from lightning_xai.metrics import Infidelity, MaxSensitivity, MetricSuite, NoiseStability
from lightning_xai.metrics.functional.stability import infidelity
from lightning_xai.perturbation.perturbations import Noisy
from tests.helpers import CountingTarget, GradientMap, cnn, segmenter
from tests.metric_cases import (
    STD,
    MapOf,
    assert_batches_do_not_matter,
    assert_depth_one_does_not_matter,
    assert_precision_does_not_matter,
    assert_queries_do_not_matter,
    assert_refused,
    linear_case,
    planned,
    scored,
    shown,
    weighted,
)

EXPLAINED = [MaxSensitivity, NoiseStability]
ALL = [Infidelity, *EXPLAINED]


def gradients(case):
    """The exact gradient of a linear target for its images, ``(K, C, *S)``."""
    weight = case["target"].model[1].weight.view(-1, *case["images"].shape[1:])
    if case["target"].std is None:
        return weight
    return weight / torch.tensor(STD).view(-1, *(1,) * (weight.ndim - 2))


def gradient_case(**settings):
    case = linear_case(**settings)
    return {**case, "maps": gradients(case)[case["targets"]].sum(dim=2)}


def product_case(**settings):
    """Explained by weight times image."""
    case = linear_case(**settings)
    case["explainer"] = MapOf(case["target"], weighted(gradients(case)))
    return {**case, "maps": case["explainer"].explain(case["images"], case["targets"])}


def cnn_case(dims=2):
    target = ClassifierTarget(cnn(dims))
    images, targets = torch.rand(5, 1, *(5, 4, 3)[:dims]), torch.tensor([[0, 1], [1, 2], [2, 0], [0, 2], [1, 0]])
    explainer = GradientMap(target)
    maps = explainer.explain(images, targets)
    return {"target": target, "images": images, "maps": maps, "targets": targets, "explainer": explainer}


def noise_on(images, samples, level, law, per_channel, seed=0):
    """The noise ``(B, J, C, *S)`` on each image, its size by hand."""
    fields = Noisy(samples, level, law, per_channel, seed).fields(images)
    flat = images.flatten(1)
    size = flat.std(dim=1) if law == "gaussian" else flat.max(dim=1).values - flat.min(dim=1).values
    return level * size.view(-1, *(1,) * images.ndim) * fields.expand(-1, *images.shape[1:])


# ------------------------------------------------------------------ infidelity


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("output", ["score", "probability"])
def test_the_gradient_of_a_linear_model_accounts_for_every_change(normalized, output):
    """The output of the linear target is its logit, also where it is called a probability."""
    case = gradient_case(normalized=normalized)
    exact = scored(Infidelity(scale=False, output=output), **case)
    other = scored(Infidelity(scale=False, output=output), **{**case, "maps": case["maps"].flip(2)})
    assert (exact < 1e-9).all() and (other > 0.01).all()


@settings(max_examples=30)
@given(st.floats(0.01, 100))
def test_scaling_forgives_a_positive_factor(factor):
    case = gradient_case()
    scaled = scored(Infidelity(samples=10), **{**case, "maps": factor * case["maps"]})
    assert (scaled < 1e-9).all()
    plain = scored(Infidelity(samples=10, scale=False), **{**case, "maps": factor * case["maps"]})
    change = predicted_by(case, case["maps"], samples=10)
    assert torch.allclose(plain, (factor - 1) ** 2 * change.square().mean(dim=2), rtol=1e-3, atol=1e-6)


def predicted_by(case, maps, samples=50, level=0.2):
    """What maps say of the changes under the noise, ``(B, T, J)``."""
    noise = noise_on(case["images"], samples, level, "gaussian", False).double()
    # One number a pixel, however many channels: the map is their sum already.
    return torch.einsum("btn,bjn->btj", maps.double().flatten(2), noise[:, :, 0].flatten(2))


def test_infidelity_of_a_wrong_map_is_the_square_of_what_it_gets_wrong():
    case = gradient_case()
    wrong = torch.randn(case["maps"].shape)
    values = scored(Infidelity(scale=False), **{**case, "maps": case["maps"] + wrong})
    assert torch.allclose(values, predicted_by(case, wrong).square().mean(dim=2), rtol=1e-4)


def test_infidelity_of_a_map_without_information_is_the_mean_square_of_the_change():
    case = gradient_case()
    change = predicted_by(case, case["maps"])
    nothing = {**case, "maps": 1e-9 * torch.randn(case["maps"].shape)}
    assert torch.allclose(scored(Infidelity(scale=False), **nothing), change.square().mean(dim=2), rtol=1e-4)
    # The best factor takes away what a random map happens to tell.
    predicted = predicted_by(case, nothing["maps"])
    cosine = (predicted * change).sum(dim=2).square() / predicted.square().sum(dim=2) / change.square().sum(dim=2)
    expected = change.square().mean(dim=2) * (1 - cosine)
    assert torch.allclose(scored(Infidelity(), **nothing), expected, rtol=1e-4) and (cosine > 0).all()


def test_infidelity_of_a_segmenter_is_about_the_logit_mass_of_the_whole_images_set():
    net = torch.nn.Conv2d(1, 2, 1)
    target, images = SegmenterTarget(net, background=None), torch.rand(2, 1, 5, 5)
    query = target.query(images, torch.tensor([[0, 1]] * 2), None)
    targets, pixels = query.targets, query.regions
    exact = net.weight.view(1, 2, 1, 1) * pixels
    maps = exact + torch.randn(exact.shape)
    case = {"target": target, "images": images, "targets": targets}
    not_empty = pixels.flatten(2).any(dim=2)
    assert not_empty.any()
    values = scored(Infidelity(scale=False), **case, maps=maps)
    expected = predicted_by(case, maps - exact).square().mean(dim=2)
    assert torch.allclose(values, expected, rtol=1e-3)
    assert torch.allclose(scored(Infidelity(scale=False), **case, maps=maps, pixels=pixels), values)


def test_infidelity_of_numbers():
    predicted, change = torch.tensor([[1.0, 2], [0, 0]]).double(), torch.tensor([[1.0, 0], [3, 4]]).double()
    assert infidelity(predicted, change).tolist() == [2, 12.5]
    # The factor of the first is 1 / 5; nothing scales the zeros of the second.
    assert infidelity(predicted, change, scale=True).tolist() == pytest.approx([0.4, 12.5])


@given(st.integers(0, 1000))
def test_the_best_factor_is_the_best(seed):
    generator = torch.Generator().manual_seed(seed)
    predicted, change = torch.randn(2, 7, dtype=torch.float64, generator=generator)
    best = infidelity(predicted, change, scale=True)
    for factor in (-2, 0, 0.5, 1, 3):
        assert best <= infidelity(factor * predicted, change) + 1e-12, factor
    assert infidelity(-4 * predicted, change, scale=True).item() == pytest.approx(best.item())


# ------------------------------------------------------------------ sensitivity and stability


@pytest.mark.parametrize("samples", [1, 6])
@pytest.mark.parametrize("radius", [0.02, 0.3])
@pytest.mark.parametrize("seed", [0, 5])
def test_sensitivity_of_weight_times_image(samples, radius, seed):
    case = product_case()
    noise = noise_on(case["images"], samples, radius, "uniform", True, seed)
    weight = gradients(case)[case["targets"]].double()
    moved = torch.einsum("btcn,bjcn->btjn", weight.flatten(3), noise.double().flatten(3))
    expected = moved.norm(dim=3) / case["maps"].double().flatten(2).norm(dim=2, keepdim=True)
    values = scored(MaxSensitivity(samples, radius, seed), **case)
    assert torch.allclose(values, expected.amax(dim=2), rtol=1e-4)


def test_more_samples_find_no_smaller_change_and_the_radius_bounds_it():
    case = {**linear_case(), "targets": torch.zeros(4, 1, dtype=torch.long)}
    explainer = MapOf(case["target"], lambda images, targets: images[:, :1])
    case |= {"maps": case["images"][:, :1], "explainer": explainer}
    values = [scored(MaxSensitivity(samples, 0.1), **case) for samples in (1, 4, 16)]
    assert (values[0] <= values[1]).all() and (values[1] <= values[2]).all() and (values[0] < values[2]).any()
    flat = case["images"].flatten(1)
    box = 0.1 * (flat.amax(dim=1) - flat.amin(dim=1)) * 20**0.5 / case["maps"].flatten(1).norm(dim=1)
    assert (values[2][:, 0] <= box).all() and (values[2][:, 0] > box / 3).all()


def test_an_explainer_that_ignores_the_image_is_stable():
    case, table = linear_case(), torch.randn(3, 4, 5)
    table[2] = 1
    case |= {"explainer": MapOf(case["target"], planned(table)), "maps": table[case["targets"]]}
    constant = case["targets"] == 2
    assert constant.any() and not constant.all()
    assert (scored(MaxSensitivity(), **case) == 0).all(), "the map does not change"
    stability = NoiseStability()
    values = scored(stability, **case)
    assert values[~constant].tolist() == pytest.approx([1.0] * int((~constant).sum()))
    assert values[constant].isnan().all() and stability.counts() == (8, int(constant.sum()))


def test_random_maps_are_not_stable():
    target, images = ClassifierTarget(cnn()), torch.rand(6, 1, 12, 12)
    explainer, targets = RandomMap(target), torch.zeros(6, 1, dtype=torch.long)
    case = {"target": target, "images": images, "targets": targets, "explainer": explainer}
    case["maps"] = explainer.explain(images, targets)
    # 10 correlations of 144 numbers each: deviation 1 / 12 / sqrt(10).
    assert (scored(NoiseStability(), **case).abs() < 0.12).all()
    # Two uniform maps: the expected square of the distance is 1 / 6, that of the size 1 / 3.
    assert ((scored(MaxSensitivity(), **case) - 0.5**0.5).abs() < 0.2).all()


def test_a_reversed_map_has_stability_minus_1():
    case, table = linear_case(), torch.randn(3, 4, 5)
    case |= {"explainer": MapOf(case["target"], planned(-table)), "maps": table[case["targets"]]}
    assert torch.allclose(scored(NoiseStability(), **case), -torch.ones(4, 2, dtype=torch.float64))
    assert torch.allclose(scored(MaxSensitivity(), **case), torch.full((4, 2), 2.0, dtype=torch.float64))


def test_a_copy_whose_map_is_constant_is_left_out_of_the_stability():
    case = linear_case(queries=1)
    table, seen = torch.randn(3, 4, 5), []

    def some(images, targets):
        even = (1000 * images.flatten(1).sum(dim=1)).long() % 2 == 0
        seen.extend(even.tolist())
        return torch.where(even.view(-1, 1, 1, 1), table[targets], 0.0)

    case |= {"explainer": MapOf(case["target"], some), "maps": table[case["targets"]]}
    values = scored(NoiseStability(samples=12), **case)
    assert 10 < sum(seen) < 38, "about half of the copies have a map"
    assert torch.allclose(values, torch.ones_like(values)), "and it is the same as the image's"


def test_undefined():
    case = product_case()
    case["maps"][0, 0], case["maps"][1, 1], case["maps"][2, 0, 1, 1] = 0, 0.5, float("nan")
    undefined = {
        MaxSensitivity: [[0, 0], [2, 0]],
        NoiseStability: [[0, 0], [1, 1], [2, 0]],
        Infidelity: [[0, 0], [1, 1], [2, 0]],
    }
    for kind, undefined_rows in undefined.items():
        metric = kind()
        assert scored(metric, **case).isnan().nonzero().tolist() == undefined_rows, kind
        assert metric.counts() == (8, len(undefined_rows)), kind


# ------------------------------------------------------------------ cost


def test_explanations_are_shared_by_metrics_and_queries():
    case = product_case()
    case["explainer"].calls.clear()
    suite = MetricSuite({"sensitivity": MaxSensitivity(6), "stability": NoiseStability(6)}, chunk_size=5)
    suite.update(**case)
    calls = case["explainer"].calls
    assert sum(inputs for inputs, _ in calls) == 4 * 6, "not one explanation for each noisy copy of an image"
    assert {queries for _, queries in calls} == {2}, "a noisy copy is not explained for both queries at once"
    assert [inputs for inputs, _ in calls] == [5, 5, 5, 5, 4], "chunks are not full"
    assert suite.passes(queries=2) == {"passes": 0, "explanations": 6}
    for name, alone in (("sensitivity", MaxSensitivity(6)), ("stability", NoiseStability(6))):
        assert torch.allclose(suite[name].per_image(), scored(alone, **case), atol=1e-6), name


@pytest.mark.parametrize("other", [{"samples": 5}, {"radius": 0.1}, {"seed": 1}])
def test_other_noise_is_explained_for_itself(other):
    case = product_case()
    case["explainer"].calls.clear()
    metrics = {"sensitivity": MaxSensitivity(6), "stability": NoiseStability(**({"samples": 6} | other))}
    suite = MetricSuite(metrics)
    suite.update(**case)
    total = 6 + other.get("samples", 6)
    assert sum(inputs for inputs, _ in case["explainer"].calls) == 4 * total
    assert suite.passes() == {"passes": 0, "explanations": total}


def test_infidelity_runs_each_noisy_copy_once_for_all_queries():
    case = gradient_case()
    metric = Infidelity(samples=7, chunk_size=4)
    scored(metric, **case)
    assert case["target"].chunks == [4] * 8, "4 images, each whole and with 7 noises"
    assert metric.metadata()["passes"] == 8 and metric.metadata()["explanations"] == 0


def test_metadata():
    for kind in EXPLAINED:
        data = kind(3, 0.1, 2).metadata()
        assert (data["passes"], data["explanations"], data["family"]) == (0, 3, "stability"), kind
        assert data["options"] == {"samples": 3, "radius": 0.1, "seed": 2}, kind
    expected = {"samples": 9, "level": 0.5, "scale": False, "output": "probability", "seed": 4}
    assert Infidelity(9, 0.5, False, "probability", 4).metadata()["options"] == expected
    assert [kind.higher_is_better for kind in ALL] == [False, False, True]


def test_clear_errors():
    assert_refused(partial(Infidelity, output="dice"), "'dice'", "score | probability")
    for kind in ALL:
        assert_refused(partial(kind, samples=0), "0 samples", "at least one")
    assert_refused(partial(MaxSensitivity, radius=0.0), "level 0.0", "above 0")
    assert_refused(partial(Infidelity, level=-1.0), "level -1.0", "above 0")
    for kind in EXPLAINED:
        assert_refused(lambda kind=kind: scored(kind(), **linear_case()), kind.__name__, "explainer=")


def test_a_suite_without_an_explainer_leaves_out_what_needs_one():
    suite = MetricSuite({kind.__name__: kind() for kind in ALL})
    suite.update(**gradient_case())
    assert [suite[kind.__name__].counts() for kind in ALL] == [(8, 0), (0, 0), (0, 0)]


# ------------------------------------------------------------------ what must not matter


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("dims", [2, 3])
def test_batches_and_queries(kind, dims):
    case, make = cnn_case(dims), partial(kind, samples=3)
    assert_batches_do_not_matter(make, case, atol=1e-4)
    assert_queries_do_not_matter(make, case, atol=1e-4)


@pytest.mark.parametrize("kind", ALL)
def test_a_volume_of_one_slice_and_short_floats(kind):
    case = linear_case()
    case |= {"explainer": MapOf(case["target"], shown), "maps": shown(case["images"], case["targets"])}
    assert_depth_one_does_not_matter(kind, case, atol=1e-5)
    assert_precision_does_not_matter(kind, case, atol=1e-5)


@pytest.mark.parametrize("kind", ALL)
def test_the_same_seed_gives_the_same_values_and_another_seed_others(kind):
    case = cnn_case()
    first, again, other = (scored(kind(samples=3, seed=seed), **case) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.allclose(first, other)


@settings(max_examples=25)
@given(st.integers(0, 100))
def test_values_are_in_range(seed):
    torch.manual_seed(seed)
    target, images = CountingTarget(cnn(seed=seed % 5)), torch.rand(2, 1, 5, 5)
    explainer, targets = GradientMap(target), torch.randint(0, 3, (2, 2))
    case = {"target": target, "images": images, "targets": targets, "explainer": explainer}
    case["maps"] = explainer.explain(images, targets)
    for kind, low, high in ((Infidelity, 0, torch.inf), (MaxSensitivity, 0, torch.inf), (NoiseStability, -1, 1)):
        values = scored(kind(samples=2), **case)
        assert ((low <= values) & (values <= high)).all(), (kind, values)


@given(st.sampled_from([torch.exp, torch.asinh, lambda maps: 7 * maps - 3, lambda maps: maps**3]))
def test_stability_is_one_of_ranks(transform):
    case = product_case()
    explainer = MapOf(case["target"], lambda *query: transform(weighted(gradients(case))(*query)))
    moved = {**case, "maps": transform(case["maps"]), "explainer": explainer}
    assert torch.allclose(scored(NoiseStability(), **moved), scored(NoiseStability(), **case), atol=1e-3)


@pytest.mark.parametrize("kind", ALL)
def test_the_set_of_a_segmenter_is_that_of_the_whole_image(kind):
    """Noise must not change which pixels the queries are about, given to the metric or left to it."""
    target, images = SegmenterTarget(segmenter(seed=1)), torch.rand(3, 1, 8, 8)
    explainer = GradientMap(target)
    query = target.query(images, torch.tensor([[0, 1]] * 3), None)
    targets, pixels = query.targets, query.regions
    case = {"target": target, "images": images, "targets": targets, "explainer": explainer}
    case["maps"] = explainer.explain(images, targets, pixels)
    given = scored(kind(samples=3), **case, pixels=pixels)
    assert not given.isnan().any()
    assert torch.allclose(scored(kind(samples=3), **case), given, atol=1e-6)
