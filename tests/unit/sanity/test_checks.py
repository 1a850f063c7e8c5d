"""Sanity checks: who passes, who fails, and by which check."""

import math
from functools import partial

import pytest
import torch

from lightning_xai import ClassifierTarget, Explainer, SegmenterTarget
from lightning_xai.explainers import CaptumExplainer, CenterPrior, EdgeMap, RandomMap
from lightning_xai.sanity.checks import alive, compare, format_checks, passes, sanity_checks
from lightning_xai.structures import Query
from tests.helpers import GradientMap, LearnedMap, assert_untouched, cnn, mlp, segmenter, state_of

THRESHOLDS = {"alive": 0.9, "spearman": 0.8, "ssim": 0.8}
SETTINGS = {"thresholds": THRESHOLDS, "stages": 3, "label_steps": 5, "batch_size": 4}
NAMES = ["alive", "head", "cascade_2", "whole_model", "random_labels", "other_image"]


def classifier(dims):
    """A target of many different maps, six test images, and labeled ones."""
    shape = (6, 1, *(8,) * dims)
    return ClassifierTarget(cnn(dims)), torch.rand(shape), (torch.rand(shape), torch.arange(6) % 3)


def pixels(dims):
    """The same for a segmenter."""
    shape = (6, 1, *(8,) * dims)
    return SegmenterTarget(segmenter(dims)), torch.rand(shape), (torch.rand(shape), torch.randint(3, shape))


def verdicts(checks):
    return {check.name: check.passed for check in checks}


class Constant(Explainer):
    """Says the same about every pixel."""

    def attribute(self, images, query):
        targets = query.targets
        return images.new_full((*targets.shape, *images.shape[2:]), 0.5)


class Broken(GradientMap):
    """A NaN in every map."""

    def attribute(self, images, query):
        maps = super().attribute(images, query)
        maps[..., 0] = torch.nan
        return maps


class Noise(Explainer):
    """Noise of the global generator, which neither model nor image seeds."""

    def attribute(self, images, query):
        targets = query.targets
        return torch.rand(*targets.shape, *images.shape[2:])


class SteadyGradient(GradientMap):
    """The gradient at a fixed image: looks at the model, not at the image."""

    def attribute(self, images, query):
        fixed = torch.linspace(0, 1, images[:1].numel()).view_as(images[:1]).expand_as(images)
        return super().attribute(fixed, Query(torch.zeros_like(query.targets), query.regions))


@pytest.mark.parametrize("make", [GradientMap, partial(CaptumExplainer, method="InputXGradient")])
@pytest.mark.parametrize("case", [classifier, pixels])
@pytest.mark.parametrize("dims", [2, 3])
def test_gradients_pass_and_the_original_stays(make, case, dims):
    target, images, labeled = case(dims)
    before, mark, state = state_of(target), target.fingerprint(), torch.get_rng_state()
    checks = sanity_checks(make, target, images, labeled, **SETTINGS)
    assert_untouched(before, state_of(target))
    assert target.fingerprint() == mark and torch.equal(torch.get_rng_state(), state)
    # Two convolutions of noise: their gradient show little but the region, which the queries about both images have.
    expected = {"alive", "whole_model", "random_labels"} | ({"other_image"} if case is classifier else set())
    assert expected <= {name for name, passed in verdicts(checks).items() if passed}, format_checks(checks)
    assert verdicts(checks)["head"] is None and checks[-1].values["spearman"] < 0.95
    assert all(math.isfinite(value) for check in checks for value in check.values.values())


@pytest.mark.parametrize(
    ("make", "failing"),
    [
        (EdgeMap, {"whole_model", "random_labels"}),
        (RandomMap, {"whole_model", "random_labels"}),
        (CenterPrior, {"whole_model", "random_labels", "other_image"}),
        (Noise, {"whole_model", "random_labels", "other_image"}),
        (SteadyGradient, {"other_image"}),
        (Broken, {"alive", "whole_model", "random_labels", "other_image"}),
        (Constant, {"alive", "whole_model", "random_labels", "other_image"}),
    ],
)
@pytest.mark.parametrize("dims", [2, 3])
def test_what_ignores_model_or_image_fails(make, failing, dims):
    checks = sanity_checks(make, *classifier(dims), **SETTINGS)
    assert {name for name, passed in verdicts(checks).items() if passed is False} == failing
    assert not passes(checks)


@pytest.mark.parametrize("make", [EdgeMap, CenterPrior, RandomMap])
def test_what_ignores_the_segmenter_fails(make):
    checks = sanity_checks(make, *pixels(2), **SETTINGS)
    assert not passes(checks) and verdicts(checks)["whole_model"] is False


def test_a_map_without_the_model_stays_exactly_as_it_is():
    checks = {check.name: check for check in sanity_checks(EdgeMap, *classifier(2), **SETTINGS)}
    assert list(checks) == NAMES
    for name in NAMES[1:-1]:
        assert checks[name].values == pytest.approx({"spearman": 1.0, "ssim": 1.0, "undefined": 0}, abs=1e-12)
    assert checks["alive"].values == {"alive": 1.0}
    assert checks["head"].passed is None and checks["cascade_2"].passed is None


def test_every_map_is_about_the_query_of_the_original():
    queries = []

    class Spy(GradientMap):
        def attribute(self, images, query):
            queries.append((self.target.fingerprint(), query.targets, query.regions))
            return super().attribute(images, query)

    for case in (classifier, pixels):
        queries.clear()
        target, images, labeled = case(2)
        checks = sanity_checks(Spy, target, images, labeled, **SETTINGS | {"batch_size": 6})
        query = target.query(images, None, None)
        classes, expected_regions = query.targets, query.regions
        assert len(queries) == len(checks), "one pass for the original, one a copy, one for the other images"
        assert len({mark for mark, *_ in queries}) == len(queries) - 1
        assert all(torch.equal(targets, classes) for _, targets, _ in queries)
        assert all(
            query_regions is expected_regions is None or torch.equal(query_regions, expected_regions)
            for *_, query_regions in queries
        )


def test_a_classs_pixels_that_are_not_there_do_not_count():
    target, images, labeled = pixels(2)
    with torch.no_grad():
        target.model[-1].bias[2] -= 1e3
    check = sanity_checks(GradientMap, target, images, labeled, **SETTINGS)[0]
    assert check.values["alive"] == 1.0, "maps of class 2 are zero because their regions are empty"


def test_a_learned_explainer_is_fitted_around_every_target():
    target, images, labeled = classifier(2)
    fitted = []

    def fit(explainer):
        fitted.append(explainer.target.fingerprint())
        assert explainer.net.requires_grad and torch.equal(explainer.net, torch.zeros(1, 1, 8, 8))
        with torch.no_grad():
            explainer.net.copy_(torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(len(fitted))))

    checks = sanity_checks(LearnedMap, target, images, labeled, **SETTINGS, fit=fit)
    assert len(set(fitted)) == len(fitted) == 5 and fitted[0] == target.fingerprint()
    assert verdicts(checks) == {
        "alive": True,
        "head": None,
        "cascade_2": None,
        "whole_model": True,
        "random_labels": True,
        "other_image": False,
    }, "one map for all images, but another one for each model"


def test_a_learned_explainer_without_fit_is_refused():
    with pytest.raises(ValueError, match="LearnedMap learns, so it must be trained around every randomized target"):
        sanity_checks(LearnedMap, *classifier(2), **SETTINGS)


def test_one_image_is_not_enough():
    target, images, labeled = classifier(2)
    with pytest.raises(ValueError, match="compare maps of different images, but got 1; give at least 2"):
        sanity_checks(GradientMap, target, images[:1], labeled, **SETTINGS)


def test_a_scripted_model_is_refused():
    _, images, labeled = classifier(2)
    target = ClassifierTarget(torch.jit.script(mlp()))
    with pytest.raises(ValueError, match="layers cannot be randomized"):
        sanity_checks(EdgeMap, target, images, labeled, **SETTINGS)


@pytest.mark.parametrize(("dead", "passed"), [(0, True), (1, True), (2, False)])
def test_a_tenth_of_the_maps_may_be_dead(dead, passed):
    maps = torch.rand(10, 1, 5, 5)
    maps[:dead] = 3.0
    check = alive(maps, 0.9)
    assert (check.passed, check.values["alive"]) == (passed, 1 - dead / 10)


def test_either_statistic_can_fail_a_check_and_undefined_pairs_are_counted():
    maps, references = torch.rand(4, 1, 12, 12), torch.rand(4, 1, 12, 12)
    references[0] = 1.0
    check = compare("x", maps, references, {"spearman": 0.5, "ssim": 0.5})
    assert check.passed and check.values["undefined"] == 1
    assert not compare("x", maps, references, {"spearman": -0.9, "ssim": 0.5}).passed
    assert not compare("x", maps, references, {"spearman": 0.5, "ssim": -0.9}).passed
    assert not compare("x", maps, torch.ones(4, 1, 12, 12), {"spearman": 0.5, "ssim": 0.5}).passed, "nothing compared"


def test_the_table_lines_up():
    lines = format_checks(sanity_checks(EdgeMap, *classifier(2), **SETTINGS)).splitlines()
    assert lines[0].split() == ["sanity", "alive", "spearman", "ssim", "undefined", "verdict"]
    assert [line.split()[0] for line in lines[1:]] == NAMES
    assert [line.split()[-1] for line in lines[1:]] == ["pass", "-", "-", "FAIL", "FAIL", "pass"]
    assert "1.000 (>= 0.9)" in lines[1] and "1.000 (<= 0.8)" in lines[4] and "<=" not in lines[2]
    assert {line.index("1.000") for line in lines[2:5]} == {lines[0].index("spearman")}
