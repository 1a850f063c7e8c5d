"""Infidelity, sensitivity and stability under noise: closed forms, shared explanations, what must not change them."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_xai import ClassifierTarget, SegmenterTarget
from lightning_xai.explainers.controls import RandomMap
from lightning_xai.metrics import Infidelity, MaxSensitivity, MetricSuite, NoiseStability
from lightning_xai.metrics.functional.stability import infidelity
from lightning_xai.pictures import Noisy
from tests.helpers import CountingTarget, GradientMap, cnn, segmenter
from tests.scenes import (
    STD,
    MapOf,
    assert_batches_do_not_matter,
    assert_depth_one_does_not_matter,
    assert_precision_does_not_matter,
    assert_questions_do_not_matter,
    assert_refused,
    linear_scene,
    planned,
    scored,
    shown,
    weighted,
)

EXPLAINED = [MaxSensitivity, NoiseStability]
ALL = [Infidelity, *EXPLAINED]


def gradients(scene):
    """The exact gradient of a linear target for its images, ``(K, C, *S)``."""
    weight = scene["target"].model[1].weight.view(-1, *scene["images"].shape[1:])
    if scene["target"].std is None:
        return weight
    return weight / torch.tensor(STD).view(-1, *(1,) * (weight.ndim - 2))


def gradient_scene(**settings):
    scene = linear_scene(**settings)
    return {**scene, "maps": gradients(scene)[scene["targets"]].sum(dim=2)}


def product_scene(**settings):
    """Explained by weight times image."""
    scene = linear_scene(**settings)
    scene["explainer"] = MapOf(scene["target"], weighted(gradients(scene)))
    return {**scene, "maps": scene["explainer"].explain(scene["images"], scene["targets"])}


def cnn_scene(dims=2):
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


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("reading", ["score", "probability"])
def test_the_gradient_of_a_linear_model_accounts_for_every_change(normalised, reading):
    """The answer of the linear target is its logit, also where it is called a probability."""
    scene = gradient_scene(normalised=normalised)
    exact = scored(Infidelity(scale=False, reading=reading), **scene)
    other = scored(Infidelity(scale=False, reading=reading), **{**scene, "maps": scene["maps"].flip(2)})
    assert (exact < 1e-9).all() and (other > 0.01).all()


@settings(max_examples=30)
@given(st.floats(0.01, 100))
def test_scaling_forgives_a_positive_factor(factor):
    scene = gradient_scene()
    scaled = scored(Infidelity(samples=10), **{**scene, "maps": factor * scene["maps"]})
    assert (scaled < 1e-9).all()
    plain = scored(Infidelity(samples=10, scale=False), **{**scene, "maps": factor * scene["maps"]})
    change = told_by(scene, scene["maps"], samples=10)
    assert torch.allclose(plain, (factor - 1) ** 2 * change.square().mean(dim=2), rtol=1e-3, atol=1e-6)


def told_by(scene, maps, samples=50, level=0.2):
    """What maps say of the changes under the noise, ``(B, T, J)``."""
    noise = noise_on(scene["images"], samples, level, "gaussian", False).double()
    # One number a pixel, however many channels: the map is their sum already.
    return torch.einsum("btn,bjn->btj", maps.double().flatten(2), noise[:, :, 0].flatten(2))


def test_infidelity_of_a_wrong_map_is_the_square_of_what_it_gets_wrong():
    scene = gradient_scene()
    wrong = torch.randn(scene["maps"].shape)
    values = scored(Infidelity(scale=False), **{**scene, "maps": scene["maps"] + wrong})
    assert torch.allclose(values, told_by(scene, wrong).square().mean(dim=2), rtol=1e-4)


def test_infidelity_of_a_map_without_information_is_the_mean_square_of_the_change():
    scene = gradient_scene()
    change = told_by(scene, scene["maps"])
    nothing = {**scene, "maps": 1e-9 * torch.randn(scene["maps"].shape)}
    assert torch.allclose(scored(Infidelity(scale=False), **nothing), change.square().mean(dim=2), rtol=1e-4)
    # The best factor takes away what a random map happens to tell.
    told = told_by(scene, nothing["maps"])
    cosine = (told * change).sum(dim=2).square() / told.square().sum(dim=2) / change.square().sum(dim=2)
    expected = change.square().mean(dim=2) * (1 - cosine)
    assert torch.allclose(scored(Infidelity(), **nothing), expected, rtol=1e-4) and (cosine > 0).all()


def test_infidelity_of_a_segmenter_is_about_the_logit_mass_of_the_whole_images_set():
    net = torch.nn.Conv2d(1, 2, 1)
    target, images = SegmenterTarget(net, background=None), torch.rand(2, 1, 5, 5)
    targets, pixels = target.questions(images, torch.tensor([[0, 1]] * 2), None)
    exact = net.weight.view(1, 2, 1, 1) * pixels
    maps = exact + torch.randn(exact.shape)
    scene = {"target": target, "images": images, "targets": targets}
    asked = pixels.flatten(2).any(dim=2)
    assert asked.any()
    values = scored(Infidelity(scale=False), **scene, maps=maps)
    expected = told_by(scene, maps - exact).square().mean(dim=2)
    assert torch.allclose(values, expected, rtol=1e-3)
    assert torch.allclose(scored(Infidelity(scale=False), **scene, maps=maps, pixels=pixels), values)


def test_infidelity_of_numbers():
    told, change = torch.tensor([[1.0, 2], [0, 0]]).double(), torch.tensor([[1.0, 0], [3, 4]]).double()
    assert infidelity(told, change).tolist() == [2, 12.5]
    # The factor of the first is 1 / 5; nothing scales the zeros of the second.
    assert infidelity(told, change, scale=True).tolist() == pytest.approx([0.4, 12.5])


@given(st.integers(0, 1000))
def test_the_best_factor_is_the_best(seed):
    generator = torch.Generator().manual_seed(seed)
    told, change = torch.randn(2, 7, dtype=torch.float64, generator=generator)
    best = infidelity(told, change, scale=True)
    for factor in (-2, 0, 0.5, 1, 3):
        assert best <= infidelity(factor * told, change) + 1e-12, factor
    assert infidelity(-4 * told, change, scale=True).item() == pytest.approx(best.item())


# ------------------------------------------------------------------ sensitivity and stability


@pytest.mark.parametrize("samples", [1, 6])
@pytest.mark.parametrize("radius", [0.02, 0.3])
@pytest.mark.parametrize("seed", [0, 5])
def test_sensitivity_of_weight_times_image(samples, radius, seed):
    scene = product_scene()
    noise = noise_on(scene["images"], samples, radius, "uniform", True, seed)
    weight = gradients(scene)[scene["targets"]].double()
    moved = torch.einsum("btcn,bjcn->btjn", weight.flatten(3), noise.double().flatten(3))
    expected = moved.norm(dim=3) / scene["maps"].double().flatten(2).norm(dim=2, keepdim=True)
    values = scored(MaxSensitivity(samples, radius, seed), **scene)
    assert torch.allclose(values, expected.amax(dim=2), rtol=1e-4)


def test_more_samples_find_no_smaller_change_and_the_radius_bounds_it():
    scene = {**linear_scene(), "targets": torch.zeros(4, 1, dtype=torch.long)}
    explainer = MapOf(scene["target"], lambda images, targets: images[:, :1])
    scene |= {"maps": scene["images"][:, :1], "explainer": explainer}
    values = [scored(MaxSensitivity(samples, 0.1), **scene) for samples in (1, 4, 16)]
    assert (values[0] <= values[1]).all() and (values[1] <= values[2]).all() and (values[0] < values[2]).any()
    flat = scene["images"].flatten(1)
    box = 0.1 * (flat.amax(dim=1) - flat.amin(dim=1)) * 20**0.5 / scene["maps"].flatten(1).norm(dim=1)
    assert (values[2][:, 0] <= box).all() and (values[2][:, 0] > box / 3).all()


def test_an_explainer_that_ignores_the_image_is_stable():
    scene, table = linear_scene(), torch.randn(3, 4, 5)
    table[2] = 1
    scene |= {"explainer": MapOf(scene["target"], planned(table)), "maps": table[scene["targets"]]}
    constant = scene["targets"] == 2
    assert constant.any() and not constant.all()
    assert (scored(MaxSensitivity(), **scene) == 0).all(), "the map does not change"
    stability = NoiseStability()
    values = scored(stability, **scene)
    assert values[~constant].tolist() == pytest.approx([1.0] * int((~constant).sum()))
    assert values[constant].isnan().all() and stability.counts() == (8, int(constant.sum()))


def test_random_maps_are_not_stable():
    target, images = ClassifierTarget(cnn()), torch.rand(6, 1, 12, 12)
    explainer, targets = RandomMap(target), torch.zeros(6, 1, dtype=torch.long)
    scene = {"target": target, "images": images, "targets": targets, "explainer": explainer}
    scene["maps"] = explainer.explain(images, targets)
    # 10 correlations of 144 numbers each: deviation 1 / 12 / sqrt(10).
    assert (scored(NoiseStability(), **scene).abs() < 0.12).all()
    # Two uniform maps: the expected square of the distance is 1 / 6, that of the size 1 / 3.
    assert ((scored(MaxSensitivity(), **scene) - 0.5**0.5).abs() < 0.2).all()


def test_a_reversed_map_has_stability_minus_1():
    scene, table = linear_scene(), torch.randn(3, 4, 5)
    scene |= {"explainer": MapOf(scene["target"], planned(-table)), "maps": table[scene["targets"]]}
    assert torch.allclose(scored(NoiseStability(), **scene), -torch.ones(4, 2, dtype=torch.float64))
    assert torch.allclose(scored(MaxSensitivity(), **scene), torch.full((4, 2), 2.0, dtype=torch.float64))


def test_a_copy_whose_map_is_constant_is_left_out_of_the_stability():
    scene = linear_scene(questions=1)
    table, seen = torch.randn(3, 4, 5), []

    def some(images, targets):
        even = (1000 * images.flatten(1).sum(dim=1)).long() % 2 == 0
        seen.extend(even.tolist())
        return torch.where(even.view(-1, 1, 1, 1), table[targets], 0.0)

    scene |= {"explainer": MapOf(scene["target"], some), "maps": table[scene["targets"]]}
    values = scored(NoiseStability(samples=12), **scene)
    assert 10 < sum(seen) < 38, "about half of the copies have a map"
    assert torch.allclose(values, torch.ones_like(values)), "and it is the same as the image's"


def test_undefined():
    scene = product_scene()
    scene["maps"][0, 0], scene["maps"][1, 1], scene["maps"][2, 0, 1, 1] = 0, 0.5, float("nan")
    undefined = {
        MaxSensitivity: [[0, 0], [2, 0]],
        NoiseStability: [[0, 0], [1, 1], [2, 0]],
        Infidelity: [[0, 0], [1, 1], [2, 0]],
    }
    for kind, places in undefined.items():
        metric = kind()
        assert scored(metric, **scene).isnan().nonzero().tolist() == places, kind
        assert metric.counts() == (8, len(places)), kind


# ------------------------------------------------------------------ cost


def test_explanations_are_shared_by_metrics_and_questions():
    scene = product_scene()
    scene["explainer"].calls.clear()
    suite = MetricSuite({"sensitivity": MaxSensitivity(6), "stability": NoiseStability(6)}, chunk_size=5)
    suite.update(**scene)
    calls = scene["explainer"].calls
    assert sum(pictures for pictures, _ in calls) == 4 * 6, "not one explanation for each noisy copy of an image"
    assert {questions for _, questions in calls} == {2}, "a noisy copy is not explained for both questions at once"
    assert [pictures for pictures, _ in calls] == [5, 5, 5, 5, 4], "chunks are not full"
    assert suite.passes(questions=2) == {"passes": 0, "explanations": 6}
    for name, alone in (("sensitivity", MaxSensitivity(6)), ("stability", NoiseStability(6))):
        assert torch.allclose(suite[name].per_image(), scored(alone, **scene), atol=1e-6), name


@pytest.mark.parametrize("other", [{"samples": 5}, {"radius": 0.1}, {"seed": 1}])
def test_other_noise_is_explained_for_itself(other):
    scene = product_scene()
    scene["explainer"].calls.clear()
    metrics = {"sensitivity": MaxSensitivity(6), "stability": NoiseStability(**({"samples": 6} | other))}
    suite = MetricSuite(metrics)
    suite.update(**scene)
    total = 6 + other.get("samples", 6)
    assert sum(pictures for pictures, _ in scene["explainer"].calls) == 4 * total
    assert suite.passes() == {"passes": 0, "explanations": total}


def test_infidelity_asks_each_noisy_picture_once_for_all_questions():
    scene = gradient_scene()
    metric = Infidelity(samples=7, chunk_size=4)
    scored(metric, **scene)
    assert scene["target"].chunks == [4] * 8, "4 images, each whole and with 7 noises"
    assert metric.metadata()["passes"] == 8 and metric.metadata()["explanations"] == 0


def test_metadata():
    for kind in EXPLAINED:
        data = kind(3, 0.1, 2).metadata()
        assert (data["passes"], data["explanations"], data["family"]) == (0, 3, "stability"), kind
        assert data["options"] == {"samples": 3, "radius": 0.1, "seed": 2}, kind
    expected = {"samples": 9, "level": 0.5, "scale": False, "reading": "probability", "seed": 4}
    assert Infidelity(9, 0.5, False, "probability", 4).metadata()["options"] == expected
    assert [kind.higher_is_better for kind in ALL] == [False, False, True]


def test_clear_errors():
    assert_refused(partial(Infidelity, reading="dice"), "'dice'", "score | probability")
    for kind in ALL:
        assert_refused(partial(kind, samples=0), "0 samples", "at least one")
    assert_refused(partial(MaxSensitivity, radius=0.0), "level 0.0", "above 0")
    assert_refused(partial(Infidelity, level=-1.0), "level -1.0", "above 0")
    for kind in EXPLAINED:
        assert_refused(lambda kind=kind: scored(kind(), **linear_scene()), kind.__name__, "explainer=")


def test_a_suite_without_an_explainer_leaves_out_what_needs_one():
    suite = MetricSuite({kind.__name__: kind() for kind in ALL})
    suite.update(**gradient_scene())
    assert [suite[kind.__name__].counts() for kind in ALL] == [(8, 0), (0, 0), (0, 0)]


# ------------------------------------------------------------------ what must not matter


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("dims", [2, 3])
def test_batches_and_questions(kind, dims):
    scene, make = cnn_scene(dims), partial(kind, samples=3)
    assert_batches_do_not_matter(make, scene, atol=1e-4)
    assert_questions_do_not_matter(make, scene, atol=1e-4)


@pytest.mark.parametrize("kind", ALL)
def test_a_volume_of_one_slice_and_short_floats(kind):
    scene = linear_scene()
    scene |= {"explainer": MapOf(scene["target"], shown), "maps": shown(scene["images"], scene["targets"])}
    assert_depth_one_does_not_matter(kind, scene, atol=1e-5)
    assert_precision_does_not_matter(kind, scene, atol=1e-5)


@pytest.mark.parametrize("kind", ALL)
def test_the_same_seed_gives_the_same_values_and_another_seed_others(kind):
    scene = cnn_scene()
    first, again, other = (scored(kind(samples=3, seed=seed), **scene) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.allclose(first, other)


@settings(max_examples=25)
@given(st.integers(0, 100))
def test_values_are_in_range(seed):
    torch.manual_seed(seed)
    target, images = CountingTarget(cnn(seed=seed % 5)), torch.rand(2, 1, 5, 5)
    explainer, targets = GradientMap(target), torch.randint(0, 3, (2, 2))
    scene = {"target": target, "images": images, "targets": targets, "explainer": explainer}
    scene["maps"] = explainer.explain(images, targets)
    for kind, low, high in ((Infidelity, 0, torch.inf), (MaxSensitivity, 0, torch.inf), (NoiseStability, -1, 1)):
        values = scored(kind(samples=2), **scene)
        assert ((low <= values) & (values <= high)).all(), (kind, values)


@given(st.sampled_from([torch.exp, torch.asinh, lambda maps: 7 * maps - 3, lambda maps: maps**3]))
def test_stability_is_one_of_ranks(transform):
    scene = product_scene()
    explainer = MapOf(scene["target"], lambda *asked: transform(weighted(gradients(scene))(*asked)))
    moved = {**scene, "maps": transform(scene["maps"]), "explainer": explainer}
    assert torch.allclose(scored(NoiseStability(), **moved), scored(NoiseStability(), **scene), atol=1e-3)


@pytest.mark.parametrize("kind", ALL)
def test_the_set_of_a_segmenter_is_that_of_the_whole_image(kind):
    """Noise must not change which pixels are asked about, whether the default sets are given or left to the metric."""
    target, images = SegmenterTarget(segmenter(seed=1)), torch.rand(3, 1, 8, 8)
    explainer = GradientMap(target)
    targets, pixels = target.questions(images, torch.tensor([[0, 1]] * 3), None)
    scene = {"target": target, "images": images, "targets": targets, "explainer": explainer}
    scene["maps"] = explainer.explain(images, targets, pixels)
    given = scored(kind(samples=3), **scene, pixels=pixels)
    assert not given.isnan().any()
    assert torch.allclose(scored(kind(samples=3), **scene), given, atol=1e-6)
