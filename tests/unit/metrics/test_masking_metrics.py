"""Masking at once: closed forms on a linear model, ADCC by its formula, rivals, and what must not change them."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_xai import ClassifierTarget, SegmenterTarget
from lightning_xai.metrics import (
    ADCC,
    AverageDrop,
    AverageDropInDeletion,
    Coherency,
    Complexity,
    IncreaseInConfidence,
    MetricSuite,
    TopClassesIoU,
)
from lightning_xai.metrics.functional import masking
from tests.helpers import GradientMap, LogitTarget, cnn, linear_net, segmenter
from tests.metric_cases import (
    MapOf,
    Planted,
    assert_batches_do_not_matter,
    assert_depth_one_does_not_matter,
    assert_precision_does_not_matter,
    assert_queries_do_not_matter,
    assert_refused,
    linear_case,
    linear_output,
    planned,
    scored,
    shown,
)

BLENDS = [AverageDrop, IncreaseInConfidence, AverageDropInDeletion]
WITH_MAPS = [Coherency, ADCC]
SCALED = [*BLENDS, *WITH_MAPS, Complexity]
ALL = [*SCALED, TopClassesIoU]


def scaled(maps):
    flat = maps.double().flatten(2)
    low, high = flat.amin(dim=2, keepdim=True), flat.amax(dim=2, keepdim=True)
    return ((flat - low) / (high - low)).view(maps.shape)


def confidences(case, fill, weights):
    """``y``, ``o``, ``d``, each ``(B, T)`` float64, where ``weights (B, T, *S)`` are the maps between 0 and 1."""
    outputs = torch.zeros(3, *case["maps"].shape[:2], dtype=torch.float64)
    baseline = fill.expand_as(case["images"]).double()
    for b, image in enumerate(case["images"].double()):
        for t, target_class in enumerate(case["targets"][b]):
            weight = weights[b, t].double()
            kept, rest = (baseline[b] + part * (image - baseline[b]) for part in (weight, 1 - weight))
            outputs[:, b, t] = linear_output(case["target"], torch.stack([image, kept, rest]), target_class.expand(3))
    return outputs


def with_explainer(case, function=shown):
    return {**case, "explainer": MapOf(case["target"], function)}


# ------------------------------------------------------------------ closed forms


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("fill", ["input_zero", "zero", "tensor"])
def test_closed_form_on_a_linear_model(fill, normalized):
    case = linear_case(batch=6, normalized=normalized)
    baselines = {
        "input_zero": case["target"].input_zero(case["images"]),
        "zero": torch.zeros(1, 2, 1, 1),
        "tensor": torch.rand(1, 2, 4, 5),
    }
    y, o, d = confidences(case, baselines[fill], scaled(case["maps"]))
    option = baselines["tensor"] if fill == "tensor" else fill
    drop, deletion = ((y - part).clamp(min=0) / y for part in (o, d))
    assert (y > 0).all() and (drop > 0).any() and (drop == 0).any() and (deletion > 0).any(), "the case tests little"
    assert torch.allclose(scored(AverageDrop(fill=option), **case), drop, atol=1e-5)
    assert torch.allclose(scored(AverageDropInDeletion(fill=option), **case), deletion, atol=1e-5)
    assert torch.equal(scored(IncreaseInConfidence(fill=option), **case), (y < o).double())


def test_the_default_fill_is_what_the_model_receives_as_zero():
    """With it the masked input of the network is E times its input, whatever mean and std are."""
    case = linear_case()
    y, o, _ = confidences(case, torch.tensor([0.4, 0.3]).view(1, 2, 1, 1), scaled(case["maps"]))
    assert torch.allclose(scored(AverageDrop(), **case), (y - o).clamp(min=0) / y, atol=1e-5)
    assert not torch.allclose(scored(AverageDrop(fill="zero"), **case), (y - o).clamp(min=0) / y, atol=1e-3)


def test_complexity_is_the_mean_of_the_scaled_map():
    case = linear_case()
    assert torch.allclose(scored(Complexity(), **case), scaled(case["maps"]).flatten(2).mean(dim=2), atol=1e-6)
    maps = torch.zeros(1, 1, 4, 4)
    maps[..., :2] = 3
    assert scored(Complexity(), maps=maps).item() == 0.5, "half of the map at its maximum, half at its minimum"


def test_coherency_of_a_map_that_shows_the_image():
    images = torch.rand(3, 1, 4, 4)
    target = LogitTarget(linear_net(torch.randn(2, 16)))
    case = {"target": target, "images": images, "maps": images, "targets": torch.tensor([0, 1, 0])}
    weights = scaled(images)
    again = (images.double() * weights).flatten(1).numpy()
    expected = [(np.corrcoef(a, b)[0, 1] + 1) / 2 for a, b in zip(again, weights.flatten(1).numpy(), strict=True)]
    values = scored(Coherency(), **with_explainer(case))[:, 0]
    assert values.tolist() == pytest.approx(expected, abs=1e-6) and values.min() > 0.5 and values.max() < 1


@pytest.mark.parametrize(("factor", "expected"), [(2.0, 1.0), (-2.0, 0.0), (0.0, float("nan"))])
def test_coherency_of_the_same_the_reversed_and_a_constant_map(factor, expected):
    case = linear_case(batch=1, queries=2)
    table = torch.zeros(3, 4, 5)
    table[case["targets"][0]] = factor * case["maps"][0] + 1
    values = scored(Coherency(), **with_explainer(case, planned(table)))
    assert values[0].tolist() == pytest.approx([expected] * 2, abs=1e-6, nan_ok=True)


def test_adcc_is_the_harmonic_mean_of_its_parts():
    case = with_explainer(linear_case(batch=6))
    coherency, complexity, drop = (scored(kind(), **case) for kind in (Coherency, Complexity, AverageDrop))
    expected = 3 / (1 / coherency + 1 / (1 - complexity) + 1 / (1 - drop.clamp(max=1)))
    values = scored(ADCC(), **case)
    assert torch.allclose(values, expected, atol=1e-6) and values.min() > 0 and values.max() < 1


def test_adcc_edges():
    nan = float("nan")
    parts = torch.tensor([[0, 0.5, 0.5], [1, 1, 0.5], [1, 0.5, 1], [0, 1, 1], [nan, 1, 0], [1, nan, 0], [1, 0, nan]])
    values = masking.adcc(*parts.double().unbind(1))
    assert values.tolist() == pytest.approx([0, 0, 0, 0, nan, nan, nan], nan_ok=True)
    assert masking.adcc(torch.ones(1), torch.zeros(1), torch.zeros(1)).item() == 1


def test_adcc_of_an_image_is_0_where_a_part_is_0_and_undefined_where_one_is():
    case = linear_case(batch=1, queries=1)
    table = torch.zeros(3, 4, 5)
    table[case["targets"][0, 0]] = -case["maps"][0, 0]
    assert scored(ADCC(), **with_explainer(case, planned(table))).item() == pytest.approx(0, abs=1e-6)
    values = scored(ADCC(), **with_explainer(case, planned(torch.ones(3, 4, 5))))
    assert values.isnan().all(), "the map of the masked image is constant, so coherency is undefined"


@given(*[st.floats(0, 1)] * 3)
def test_adcc_lies_between_its_smallest_part_and_three_times_it(coherency, complexity, drop):
    value = masking.adcc(*(torch.tensor(part, dtype=torch.float64) for part in (coherency, complexity, drop))).item()
    least = min(coherency, 1 - complexity, 1 - drop)
    assert least - 1e-12 <= value <= min(1, 3 * least) + 1e-12


@given(st.floats(0, 1), st.floats(0, 1))
def test_drops_and_increases_of_numbers(whole, kept):
    whole, kept = torch.tensor(whole, dtype=torch.float64), torch.tensor(kept, dtype=torch.float64)
    drop, rise = masking.average_drop(whole, kept).item(), masking.increase_in_confidence(whole, kept).item()
    assert rise == float(kept > whole)
    if whole == 0:
        assert np.isnan(drop), "a fraction of nothing"
    else:
        assert 0 <= drop <= 1 and (drop == 0) == bool(kept >= whole)


# ------------------------------------------------------------------ options


def test_maps_scaled_before_are_used_as_they_are():
    case = linear_case()
    case["maps"] = 0.2 + 0.4 * scaled(case["maps"]).float()
    fill = case["target"].input_zero(case["images"])
    y, o, d = confidences(case, fill, case["maps"])
    drop, deletion = ((y - part).clamp(min=0) / y for part in (o, d))
    for kind, expected in ((AverageDrop, drop), (AverageDropInDeletion, deletion)):
        assert torch.allclose(scored(kind(scaled="before"), **case), expected, atol=1e-5), kind
        assert not torch.allclose(scored(kind(scaled="after"), **case), expected, atol=1e-3), kind
    assert torch.equal(scored(IncreaseInConfidence(scaled="before"), **case), (y < o).double())
    mean = case["maps"].double().flatten(2).mean(dim=2)
    assert torch.allclose(scored(Complexity(scaled="before"), **case), mean, atol=1e-6)
    assert torch.allclose(scored(Complexity(), **case), (mean - 0.2) / 0.4, atol=1e-5)


@pytest.mark.parametrize("kind", SCALED)
@pytest.mark.parametrize("change", [0.5, -0.5])
def test_maps_scaled_before_must_lie_between_0_and_1(kind, change):
    case = with_explainer(linear_case())
    case["maps"] = scaled(case["maps"]).float() + change
    assert_refused(lambda: scored(kind(scaled="before"), **case), "before", "between 0 and 1")


class WithHead(MapOf):
    """Has a head of its own: the mean brightness for class 0, the rest for class 1 and 2."""

    def probabilities(self, images):
        bright = images.flatten(1).mean(dim=1)
        return torch.stack([bright, (1 - bright) / 2, (1 - bright) / 2], dim=1)


def test_the_confidence_of_the_explainers_own_head():
    case = linear_case(normalized=False)
    explainer = WithHead(case["target"], shown)
    weights = scaled(case["maps"]).unsqueeze(2)
    images = case["images"].double().unsqueeze(1)

    def head(inputs):
        bright = inputs.flatten(2).mean(dim=2).expand(case["targets"].shape)
        return torch.where(case["targets"] == 0, bright, (1 - bright) / 2)

    y, o, d = head(images), head(images * weights), head(images * (1 - weights))
    expected = {
        AverageDrop: (y - o).clamp(min=0) / y,
        IncreaseInConfidence: (y < o).double(),
        AverageDropInDeletion: (y - d).clamp(min=0) / y,
    }
    for kind, value in expected.items():
        metric = kind(head="explainer")
        assert torch.allclose(scored(metric, **case, explainer=explainer), value, atol=1e-5), kind
        assert metric.metadata()["passes"] == 2 and metric.metadata()["options"]["head"] == "explainer"
    assert case["target"].chunks == [], "the target was run for the head's confidence"
    parts = [scored(kind(), **case, explainer=explainer) for kind in (Coherency, Complexity)]
    adcc = scored(ADCC(head="explainer"), **case, explainer=explainer)
    assert torch.allclose(adcc, masking.adcc(*parts, expected[AverageDrop]), atol=1e-5)


def test_clear_errors():
    case = linear_case()
    for kind in (*BLENDS, ADCC):
        assert_refused(partial(kind, head="other"), "head", "'other'", "target | explainer")
        assert_refused(partial(kind, scaled="never"), "'never'", "after | before")
        assert_refused(partial(kind, fill="pink"), "'pink'", "input_zero")
    for threshold in (-0.1, 1.0):
        assert_refused(partial(TopClassesIoU, threshold=threshold), "threshold", str(threshold))
    assert_refused(partial(TopClassesIoU, scaled="after"), "scaled is 'after'", "raw or min_max")
    for kind in (*WITH_MAPS, TopClassesIoU):
        assert_refused(lambda kind=kind: scored(kind(), **case), kind.__name__, "explainer=")
    headless = with_explainer(case)
    assert_refused(lambda: scored(AverageDrop(head="explainer"), **headless), "MapOf", "head='target'")
    assert_refused(lambda: scored(AverageDrop(), maps=case["maps"]), "target=", "images=")


def test_an_explainer_without_a_head_is_named():
    case = linear_case()
    for kind in BLENDS:
        assert_refused(lambda kind=kind: scored(kind(head="explainer"), **case), "explainer=")


def test_options_are_recorded():
    fill = torch.rand(1, 2, 1, 1)
    for kind in (*BLENDS, ADCC):
        options = kind(scaled="before", fill=fill).metadata()["options"]
        assert options == {"head": "target", "scaled": "before", "fill": "Tensor"}, kind
    assert Coherency().metadata()["options"] == {"scaled": "after", "fill": "input_zero"}
    assert Complexity().metadata()["options"] == {"scaled": "after"}
    assert TopClassesIoU(0.3).metadata()["options"] == {"threshold": 0.3, "scaled": "raw"}


def test_directions_and_costs():
    expected = {
        AverageDrop: (False, 2, 0),
        IncreaseInConfidence: (True, 2, 0),
        AverageDropInDeletion: (True, 2, 0),
        Complexity: (False, 0, 0),
        Coherency: (True, 0, 1),
        ADCC: (True, 2, 1),
        TopClassesIoU: (False, 1, 1),
    }
    metadata = {kind: kind().metadata() for kind in expected}
    costs = {kind: (data["higher_is_better"], data["passes"], data["explanations"]) for kind, data in metadata.items()}
    assert costs == expected
    assert {data["family"] for data in metadata.values()} == {"masking"}


def test_a_suite_evaluates_once_what_several_share():
    case = with_explainer(linear_case())
    suite = MetricSuite({kind.__name__: kind() for kind in SCALED})
    suite.update(**case)
    # Per image the whole one, and per query what the map keeps and what it leaves; explaining them costs no pass here.
    assert sum(case["target"].chunks) == 4 * (1 + 2 * 2)
    assert sum(inputs for inputs, _ in case["explainer"].calls) == 4 * 2, "one masked input a query"
    assert suite.passes(queries=2) == {"passes": 5, "explanations": 2}
    for kind in SCALED:
        assert torch.allclose(suite[kind.__name__].per_image(), scored(kind(), **case), atol=1e-6), kind


# ------------------------------------------------------------------ undefined


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("bad", ["constant", "nan", "all nan"])
def test_constant_and_nan_maps_are_undefined(kind, bad):
    case = with_explainer(linear_case())
    if bad == "nan":
        case["maps"][1, 0, 2, 2] = float("nan")
    else:
        case["maps"][1, 0] = 0.5 if bad == "constant" else float("nan")
    metric = kind()
    values = scored(metric, **case)
    assert values.isnan().nonzero().tolist() == [[1, 0]] and metric.counts() == (8, 1)
    assert metric.compute().item() == pytest.approx(values.nanmean().item())


def test_a_fraction_of_no_confidence_is_undefined():
    case = with_explainer(linear_case(batch=2, queries=1))
    weight = torch.rand(3, 40)
    weight[1] = 0
    case |= {"target": LogitTarget(linear_net(weight)), "targets": torch.tensor([0, 1])}
    for kind in (AverageDrop, AverageDropInDeletion, ADCC):
        assert scored(kind(), **case).isnan().flatten().tolist() == [False, True], kind
    assert scored(IncreaseInConfidence(), **case).tolist() == [[0.0], [0.0]], "no input is more convincing"


# ------------------------------------------------------------------ the strongest other class


def half_maps():
    """Class 0 the left half, class 1 the right half, class 2 the left three quarters."""
    table = torch.zeros(3, 4, 4)
    table[0, :, :2] = table[1, :, 2:] = table[2, :, :3] = 1
    return table


@pytest.mark.parametrize(
    ("logits", "expected"),
    [
        # Asked 0, 1 and 2 in turn: the rival is the best of the others, also when that is the prediction.
        ([3.0, 2.0, 1.0], [0, 0, 8 / 12]),
        ([3.0, 1.0, 2.0], [8 / 12, 0, 8 / 12]),
        ([1.0, 3.0, 2.0], [0, 4 / 16, 4 / 16]),
        ([1.0, 2.0, 3.0], [8 / 12, 4 / 16, 4 / 16]),
    ],
)
def test_overlap_with_the_strongest_other_class(logits, expected):
    target, table = LogitTarget(linear_net(torch.zeros(3, 16), torch.tensor(logits))), half_maps()
    images, targets = torch.rand(2, 1, 4, 4), torch.tensor([[0, 1, 2]] * 2)
    explainer = MapOf(target, planned(table))
    maps = explainer.explain(images, targets)
    values = scored(TopClassesIoU(), target=target, images=images, maps=maps, targets=targets, explainer=explainer)
    assert values.tolist() == [pytest.approx(expected)] * 2


def test_each_image_has_its_own_rival():
    weight = torch.zeros(3, 16)
    weight[1, 0], weight[2, 0] = 1, -1
    target, table = LogitTarget(linear_net(weight, torch.tensor([9.0, 0, 0]))), half_maps()
    images = torch.zeros(2, 1, 4, 4)
    images[0, 0, 0, 0], images[1, 0, 0, 0] = 1, -1
    case = {"target": target, "images": images, "targets": torch.tensor([0, 0])}
    values = scored(TopClassesIoU(), **case, maps=table[[0, 0], None], explainer=MapOf(target, planned(table)))
    assert values.tolist() == [[0], [pytest.approx(8 / 12)]]


@pytest.mark.parametrize("given", [False, True])
def test_the_rival_of_a_segmenter_is_the_strongest_on_the_pixel_set(given):
    """Asked about the same pixels as the class, whether they are given or those predicted as it."""
    table = half_maps()
    images = torch.zeros(2, 2, 4, 4)
    images[:, 0, :2] = 2  # class 1 is the upper half ...
    images[0, 1, :2] = 1  # ... where class 2 comes next in the first image, and the background in the second.
    images[1, 1, 2:] = 5  # Elsewhere class 2 is strong, but the query is not about elsewhere.
    target = SegmenterTarget(Planted())
    query = target.query(images, torch.tensor([1, 1]), None)
    targets, pixels = query.targets, query.regions
    case = {"target": target, "images": images, "targets": targets, "maps": table[[1, 1], None]}
    case["pixels"] = pixels if given else None
    values = scored(TopClassesIoU(), **case, explainer=MapOf(target, planned(table)))
    assert values.tolist() == [[pytest.approx(4 / 16)], [0]]


def test_maps_may_be_scaled_before_they_are_cut():
    """Evidence against a class counts after scaling: -1 and 0 become 0 and 0.5."""
    target = LogitTarget(linear_net(torch.zeros(3, 16), torch.tensor([3.0, 2.0, 1.0])))
    table = torch.zeros(3, 4, 4)
    table[0, 0], table[1, 1], table[:, 3] = 1, 1, -1
    images, targets = torch.rand(2, 1, 4, 4), torch.tensor([[0]] * 2)
    case = {"target": target, "images": images, "targets": targets, "explainer": MapOf(target, planned(table))}
    for scaled, expected in {"raw": 0.0, "min_max": 1.0}.items():
        values = scored(TopClassesIoU(scaled=scaled), maps=table[[0, 0], None], **case)
        assert values.tolist() == [[expected]] * 2, scaled


def test_overlap_of_maps():
    first, second = torch.zeros(2, 1, 2, 5)
    first[0, 0] = torch.tensor([10.0, 5, 2, 1, 0])
    second[0, 0] = torch.tensor([0.0, 3, 3, 3, 3])
    first, second = first.view(2, 1, 1, 5), second.view(2, 1, 1, 5)
    # Above, not at, the fraction of the maximum; without a positive value there is nothing to compare.
    assert masking.top_iou(first, second, 0.2)[0].item() == pytest.approx(1 / 5)
    assert masking.top_iou(first, second, 0.1)[0].item() == pytest.approx(2 / 5)
    assert masking.top_iou(first, second, 0.0)[0].item() == pytest.approx(3 / 5)
    assert masking.top_iou(first, second)[1].isnan() and masking.top_iou(-first, -second)[0].isnan()
    assert masking.top_iou(first, -second)[0] == 0 and masking.top_iou(first, 7 * first)[0] == 1


@given(st.integers(0, 1000), st.floats(0, 0.99))
def test_overlap_is_symmetric_and_between_0_and_1(seed, threshold):
    first, second = torch.randn(2, 1, 2, 3, 3, generator=torch.Generator().manual_seed(seed)).unbind(0)
    value = masking.top_iou(first, second, threshold)
    assert torch.equal(value, masking.top_iou(second, first, threshold)) and (value >= 0).all() and (value <= 1).all()


# ------------------------------------------------------------------ what must not matter


@settings(max_examples=15)
@given(st.sampled_from([0.125, 0.5, 2.0, 16.0]), st.integers(-8, 8), st.integers(0, 100))
def test_affine_transforms_of_a_map_change_nothing(factor, offset, seed):
    """Whole numbers and powers of two, so that not even rounding differs."""
    case = with_explainer(linear_case(batch=2))
    generator = torch.Generator().manual_seed(seed)
    case["maps"] = torch.stack([torch.randperm(20, generator=generator) for _ in range(4)]).view(2, 2, 4, 5).float()
    moved = {**case, "maps": factor * case["maps"] + offset}
    for kind in SCALED:
        assert torch.equal(scored(kind(), **moved), scored(kind(), **case)), kind


@settings(max_examples=25)
@given(st.integers(0, 100))
def test_values_are_in_range(seed):
    torch.manual_seed(seed)
    target = ClassifierTarget(cnn(seed=seed % 5))
    images, targets = torch.rand(3, 1, 6, 6), torch.randint(0, 3, (3, 2))
    explainer = GradientMap(target)
    case = {"target": target, "images": images, "targets": targets, "explainer": explainer}
    case["maps"] = explainer.explain(images, targets)
    for kind in ALL:
        values = scored(kind(), **case)
        assert ((values >= 0) & (values <= 1)).all(), (kind, values)


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("dims", [2, 3])
def test_batches_and_queries(kind, dims):
    target = ClassifierTarget(cnn(dims))
    explainer, images = GradientMap(target), torch.rand(5, 1, *(5, 4, 3)[:dims])
    targets = torch.tensor([[0, 1], [1, 2], [2, 0], [0, 2], [1, 0]])
    case = {"target": target, "images": images, "targets": targets, "explainer": explainer}
    case["maps"] = explainer.explain(images, targets)
    assert_batches_do_not_matter(kind, case, atol=1e-4)
    assert_queries_do_not_matter(kind, case, atol=1e-4)


@pytest.mark.parametrize("kind", ALL)
def test_a_volume_of_one_slice_and_short_floats(kind):
    case = with_explainer(linear_case())
    assert_depth_one_does_not_matter(kind, case)
    assert_precision_does_not_matter(kind, case)


@pytest.mark.parametrize("kind", ALL)
def test_the_set_of_a_segmenter_is_that_of_the_whole_image(kind):
    """Whether the default pixel sets are given or left to the metric, the value is the same."""
    target, images = SegmenterTarget(segmenter(seed=1)), torch.rand(3, 1, 8, 8)
    explainer = GradientMap(target)
    query = target.query(images, torch.tensor([[0, 1]] * 3), None)
    targets, pixels = query.targets, query.regions
    maps = explainer.explain(images, targets, pixels)
    case = {"target": target, "images": images, "targets": targets, "maps": maps, "explainer": explainer}
    given = scored(kind(), **case, pixels=pixels)
    assert not given.isnan().all()
    assert torch.allclose(scored(kind(), **case), given, atol=1e-6, equal_nan=True)


def test_two_metrics_of_one_rival_explain_it_once():
    case = with_explainer(linear_case())
    suite = MetricSuite({"raw": TopClassesIoU(), "scaled": TopClassesIoU(scaled="min_max")})
    suite.update(**case)
    assert len(case["explainer"].calls) == 1, "the rival's maps were made for each metric"
    assert suite.passes(queries=2)["explanations"] == 2
    for name, metric in (("raw", TopClassesIoU()), ("scaled", TopClassesIoU(scaled="min_max"))):
        assert torch.equal(suite[name].per_image(), scored(metric, **case)), name
