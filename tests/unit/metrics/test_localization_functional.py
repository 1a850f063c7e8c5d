"""The localization functions against scikit-learn, plain Python, simulation and what each must not depend on."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from lightning_xai.metrics.functional.chance import (
    random_auc,
    random_average_precision,
    random_box_energy,
    random_fixed_iou,
    random_fraction,
)
from lightning_xai.metrics.functional.evidence import sort_evidence
from lightning_xai.metrics.functional.localization import (
    best_iou,
    box_energy,
    fixed_iou,
    pixel_auc,
    pixel_average_precision,
    pointing_game,
    relevance_mass,
    relevance_rank,
    top_k_intersection,
)

RANKING = {
    "pointing": pointing_game,
    "rank": relevance_rank,
    "top 3": partial(top_k_intersection, k=3),
    "auc": pixel_auc,
    "average precision": pixel_average_precision,
    "best iou": best_iou,
}
#: Everything that takes a sort; of these only the fixed threshold depends on more than the order.
SORTED = RANKING | {"fixed iou": partial(fixed_iou, threshold=0.3)}
TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
seeds = st.integers(0, 10**6)


def made(seed=0, images=3, queries=2, pixels=30, levels=None):
    """Maps and evidence that has at least one pixel in and one outside; whole numbers where levels are given."""
    generator = torch.Generator().manual_seed(seed)
    shape = (images, queries, pixels)
    flat = torch.randn(shape, generator=generator) if levels is None else whole(shape, levels, generator)
    inside = torch.rand(shape, generator=generator) < 0.3
    inside[..., 0], inside[..., 1] = True, False
    flat[..., 2], flat[..., 3] = flat.amin() - 1, flat.amax() + 1  # no map is constant
    return flat, inside


def whole(shape, levels, generator):
    return torch.randint(-levels, levels, shape, generator=generator).float()


def everything(flat, inside):
    ranked = sort_evidence(flat, inside)
    return {name: function(ranked) for name, function in SORTED.items()} | {"mass": relevance_mass(flat, inside)}


def each(reference, flat, inside):
    """A plain Python reference of one map, for every map."""
    rows = zip(flat.flatten(0, 1).tolist(), inside.flatten(0, 1).tolist(), strict=True)
    return torch.tensor([reference(*row) for row in rows], dtype=torch.float64).view(flat.shape[:2])


def iou(shown, inside):
    both = sum(s and i for s, i in zip(shown, inside, strict=True))
    return both / (sum(shown) + sum(inside) - both)


def reference_top(values, inside, k):
    """Pixels surely among the k highest count fully, those tied with the k-th by the fraction of them that fits in."""
    border = sorted(values, reverse=True)[k - 1]
    above = [i for v, i in zip(values, inside, strict=True) if v > border]
    tied = [i for v, i in zip(values, inside, strict=True) if v == border]
    return (sum(above) + (k - len(above)) * sum(tied) / len(tied)) / k


def reference_best_iou(values, inside):
    return max(iou([v >= threshold for v in values], inside) for threshold in values)


def reference_fixed_iou(values, inside, threshold=0.3):
    border = min(values) + threshold * (max(values) - min(values))
    return iou([v >= border for v in values], inside)


def reference_pointing(values, inside):
    top = [i for v, i in zip(values, inside, strict=True) if v == max(values)]
    return sum(top) / len(top)


REFERENCES = {
    "pointing": reference_pointing,
    "rank": lambda values, inside: reference_top(values, inside, sum(inside)),
    "top 3": lambda values, inside: reference_top(values, inside, 3),
    "auc": lambda values, inside: roc_auc_score(inside, values),
    "average precision": lambda values, inside: average_precision_score(inside, values),
    "best iou": reference_best_iou,
    "fixed iou": reference_fixed_iou,
    "mass": lambda values, inside: (
        sum(max(v, 0) for v, i in zip(values, inside, strict=True) if i) / sum(max(v, 0) for v in values)
    ),
}


@pytest.mark.parametrize("levels", [None, 1, 2, 5, 40])
@pytest.mark.parametrize("name", REFERENCES)
def test_plain_references_with_and_without_ties(name, levels):
    flat, inside = made(images=40, levels=levels)
    expected = each(REFERENCES[name], flat, inside)
    torch.testing.assert_close(everything(flat, inside)[name], expected, rtol=0, atol=1e-10, msg=f"{name} is wrong")


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("pixels", [2**15 - 1, 2**15 + 1])
def test_curves_equal_scikit_learn_on_large_maps(pixels, dtype):
    flat, inside = made(images=1, pixels=pixels)
    flat = flat.to(dtype)
    ranked = sort_evidence(flat, inside)
    assert (ranked.values.diff(dim=2) <= 0).all(), f"{dtype} is not sorted"
    for ours, theirs in ((pixel_auc, roc_auc_score), (pixel_average_precision, average_precision_score)):
        expected = each(lambda v, i: theirs(i, v), flat.double(), inside)  # noqa: B023 - called at once
        torch.testing.assert_close(ours(ranked), expected, rtol=0, atol=1e-10, msg=f"{ours.__name__} of {dtype}")


def test_sorted_holds_what_it_says():
    flat = torch.tensor([[[0.0, 5.0, -0.0, -2.0, 5.0, 7.0]]])
    inside = torch.tensor([[[True, True, False, True, False, False]]])
    ranked = sort_evidence(flat, inside)
    assert ranked.values.tolist() == [[[7, 5, 5, 0, 0, -2]]]
    assert ranked.last.tolist() == [[[True, False, True, False, True, True]]], "zero and minus zero are tied"
    assert ranked.hits.tolist() == [[[0, 0, 1, 0, 2, 3]]] and ranked.positives.tolist() == [[3]]


@pytest.mark.parametrize("dtype", TYPES)
def test_every_kind_of_number_is_in_order(dtype):
    limits = torch.finfo(dtype)
    rising = [-float("inf"), limits.min, -1.0, -limits.tiny, -limits.smallest_normal / 2, 0.0]
    rising += [-number for number in reversed(rising[:-1])]
    flat = torch.tensor(rising, dtype=dtype)
    mixed = flat[torch.randperm(len(flat), generator=torch.Generator().manual_seed(0))].view(1, 1, -1)
    assert torch.equal(sort_evidence(mixed, mixed > 0).values[0, 0], flat.flip(0))


@pytest.mark.parametrize("levels", [None, 2])
def test_the_callers_order_is_used(levels):
    flat, inside = made(levels=levels)
    ours, theirs = sort_evidence(flat, inside), sort_evidence(flat, inside, flat.argsort(dim=2, descending=True))
    for name in ("values", "hits", "last", "positives"):
        assert torch.equal(getattr(theirs, name), getattr(ours, name)), f"{name} differs"
    rising = sort_evidence(flat, inside, flat.argsort(dim=2))
    assert torch.equal(rising.values, ours.values.flip(2)), "the order was ignored"


@given(seeds, st.sampled_from([lambda v: 3 * v - 7, torch.exp, lambda v: v**3, torch.atan]))
@settings(max_examples=30, deadline=None)
def test_ranking_sees_only_the_order(seed, rising):
    flat, inside = made(seed, levels=6)
    # Level by level: pixels that are equal stay equal, however exp() rounds.
    levels, level_index = flat.double().unique(return_inverse=True)
    before, after = sort_evidence(levels[level_index], inside), sort_evidence(rising(levels)[level_index], inside)
    for name, function in RANKING.items():
        assert torch.equal(function(after), function(before)), f"{name} changed with the values"


@given(seeds, st.sampled_from([None, 1, 4]))
@settings(max_examples=30, deadline=None)
def test_values_are_fractions(seed, levels):
    for name, value in everything(*made(seed, levels=levels)).items():
        assert value.dtype == torch.float64 and value.shape == (3, 2), name
        assert ((value >= 0) & (value <= 1)).all(), f"{name} is {value}"


@given(seeds, st.permutations(range(5)))
@settings(max_examples=20, deadline=None)
def test_permuting_a_batch_permutes_the_values(seed, order):
    flat, inside = made(seed, images=5, levels=6)
    straight, permuted = everything(flat, inside), everything(flat[order], inside[order])
    for name in straight:
        assert torch.equal(permuted[name], straight[name][order]), f"{name} mixes the images"


@given(seeds, st.permutations(range(30)))
@settings(max_examples=20, deadline=None)
def test_the_order_of_pixels_does_not_matter_even_with_ties(seed, order):
    flat, inside = made(seed, levels=3)
    straight, permuted = everything(flat, inside), everything(flat[..., order], inside[..., order])
    for name in straight:
        torch.testing.assert_close(permuted[name], straight[name], rtol=0, atol=1e-14, msg=f"{name} breaks ties")


def test_a_large_map_does_not_depend_on_its_batch():
    flat, inside = made(images=3, queries=1, pixels=2**15)
    together = everything(flat, inside)
    for name, value in everything(flat[1:2], inside[1:2]).items():
        torch.testing.assert_close(together[name][1:2], value, rtol=0, atol=1e-12, msg=name)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_maps_are_exact(dtype):
    flat, inside = made(images=20)
    half = flat.to(dtype)
    expected = everything(half.double(), inside)
    for name, value in everything(half, inside).items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-14, msg=f"{name} of {dtype}")


def test_a_wide_half_map_does_not_overflow():
    flat = torch.tensor([[[60000.0, 50000.0, 40000.0, -60000.0]]], dtype=torch.float16)
    inside = torch.tensor([[[True, True, False, False]]])
    assert fixed_iou(sort_evidence(flat, inside), 0.9).item() == 1
    assert relevance_mass(flat, inside).item() == pytest.approx(
        (flat[0, 0, :2].double().sum() / flat[0, 0, :3].double().sum()).item()
    )


def test_double_maps_keep_differences_that_floats_lose():
    flat = torch.tensor([[[1.0, 1.0 + 1e-12, 1.0 - 1e-12]]], dtype=torch.float64)
    inside = torch.tensor([[[False, True, False]]])
    assert pointing_game(sort_evidence(flat, inside)).item() == 1


def test_the_fixed_threshold_is_not_rounded_to_the_maps_type():
    flat = torch.tensor([[[0.0, 1.0, 1.0]]], dtype=torch.float16)
    flat[..., 1] = 0.3  # 0.30005 in half precision, and its neighbor below is 0.29980
    inside = torch.tensor([[[False, True, True]]])
    border = flat[0, 0, 1].item()
    assert fixed_iou(sort_evidence(flat, inside), border).item() == 1
    assert fixed_iou(sort_evidence(flat, inside), border + 1e-6).item() == 0.5, "the border was rounded down"
    assert fixed_iou(sort_evidence(flat, inside), border - 1e-6).item() == 1


def test_the_highest_threshold_keeps_the_maximum():
    _, inside = made(images=50)
    flat = torch.rand(inside.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    flat = 1.5 * flat - 0.8  # min + (max - min) is rounded above some of the maxima
    ranked = sort_evidence(flat, inside)
    first = flat.argmax(dim=2, keepdim=True)
    expected = inside.gather(2, first).squeeze(2) / inside.sum(dim=2).double()
    assert torch.equal(fixed_iou(ranked, 1.0), expected)
    assert torch.equal(fixed_iou(ranked, 0.0), random_fraction(inside)), "threshold 0 shows everything"


def test_a_perfect_map_gets_exactly_one():
    _, inside = made(images=20, pixels=2000)
    for name, value in everything(inside.float(), inside).items():
        assert (value == 1).all(), name
    noise = torch.rand(inside.shape, generator=torch.Generator().manual_seed(0)) / 2
    assert (pixel_average_precision(sort_evidence(inside + noise, inside)) == 1).all()


def test_a_box_that_is_everything_holds_no_more_than_everything():
    maps = torch.rand(300, 1, 30, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    values = box_energy(maps, torch.ones_like(maps, dtype=torch.bool))
    assert (values <= 1).all() and (values > 1 - 1e-14).all()


def reference_box(maps, mask):
    marked = mask.nonzero()
    low, high = marked.amin(dim=0), marked.amax(dim=0)
    positive = maps.double().clamp(min=0)
    box = tuple(slice(first, last + 1) for first, last in zip(low.tolist(), high.tolist(), strict=True))
    return (positive[box].sum() / positive.sum()).item()


@pytest.mark.parametrize("size", [(6, 7), (3, 5, 4)])
@given(seed=seeds)
@settings(max_examples=30, deadline=None)
def test_box_energy_is_the_fraction_inside_the_bounding_box(size, seed):
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(2, 2, *size, generator=generator)
    masks = torch.rand(2, 2, *size, generator=generator) < 0.07
    masks[:, :, 0, 1] = True
    expected = [[reference_box(maps[b, t], masks[b, t]) for t in range(2)] for b in range(2)]
    torch.testing.assert_close(box_energy(maps, masks), torch.tensor(expected).double(), rtol=0, atol=1e-6)


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_box_energy_of_depth_one_equals_two_dimensions(seed):
    generator = torch.Generator().manual_seed(seed)
    maps, masks = torch.randn(3, 2, 6, 7, generator=generator), torch.rand(3, 2, 6, 7, generator=generator) < 0.1
    flat = box_energy(maps, masks)
    for axis in (2, 3, 4):
        deep = box_energy(maps.unsqueeze(axis), masks.unsqueeze(axis))
        torch.testing.assert_close(deep, flat, rtol=0, atol=1e-14, equal_nan=True)
        assert torch.equal(
            random_box_energy(masks.unsqueeze(axis)).nan_to_num(-1), random_box_energy(masks).nan_to_num(-1)
        )


@pytest.mark.parametrize(
    ("case", "undefined"),
    [
        ("empty mask", {*SORTED, "mass"}),
        ("full mask", {"auc"}),
        ("constant map", set(SORTED)),
        ("map with NaN", {*SORTED, "mass"}),
        ("map with minus NaN", {*SORTED, "mass"}),
        ("all NaN", {*SORTED, "mass"}),
        ("negative map", {"mass"}),
        ("zero map", {*SORTED, "mass"}),
        ("infinite map", {"mass", "fixed iou"}),
        ("minus infinite map", {"fixed iou"}),
    ],
)
@pytest.mark.parametrize("dtype", TYPES)
def test_undefined_is_nan_and_stays_with_its_map(case, undefined, dtype):
    flat, inside = made()
    flat = flat.to(dtype)
    bad = (1, 1)
    match case:
        case "empty mask":
            inside[bad] = False
        case "full mask":
            inside[bad] = True
        case "constant map":
            flat[bad] = 0.5
        case "map with NaN":
            flat[(*bad, 7)] = float("nan")
        case "map with minus NaN":
            flat[(*bad, 7)] = -torch.tensor(float("nan"), dtype=dtype).abs()
        case "all NaN":
            flat[bad] = float("nan")
        case "negative map":
            flat[bad] = -flat[bad].abs() - 1
        case "zero map":
            flat[bad] = 0
            flat[(*bad, 5)] = -0.0
        case "infinite map":
            flat[(*bad, 7)] = float("inf")
        case "minus infinite map":
            flat[(*bad, 7)] = -float("inf")
    for name, value in everything(flat, inside).items():
        expected = torch.zeros(3, 2, dtype=torch.bool)
        expected[bad] = name in undefined
        assert torch.equal(value.isnan(), expected), f"{name} with {case} is {value}"


def test_a_full_mask_is_all_hits_but_no_curve():
    flat, _ = made()
    for name, value in everything(flat, torch.ones_like(flat, dtype=torch.bool)).items():
        if name not in ("auc", "fixed iou"):
            torch.testing.assert_close(value, torch.ones(3, 2).double(), rtol=0, atol=1e-15, msg=name)


def test_a_constant_positive_map_has_the_area_fraction_of_mass():
    flat, inside = made()
    torch.testing.assert_close(relevance_mass(torch.full_like(flat, 0.5), inside), random_fraction(inside))


def test_a_mass_that_overflows_is_undefined():
    maps = torch.tensor([[[[1.0, 1e308], [1e308, 0.0]]]], dtype=torch.float64)
    masks = torch.tensor([[[[True, False], [False, False]]]])
    assert relevance_mass(maps.flatten(2), masks.flatten(2)).isnan().all() and box_energy(maps, masks).isnan().all()


def test_undefined_boxes_are_nan():
    maps, masks = torch.rand(5, 1, 4, 4), torch.zeros(5, 1, 4, 4, dtype=torch.bool)
    masks[1:, :, 1:3, 1:3] = True
    maps[1], maps[2, 0, 0, 0], maps[3, 0, 0, 0] = -1, float("nan"), float("inf")
    assert box_energy(maps, masks).isnan().flatten().tolist() == [True, True, True, True, False]
    assert random_box_energy(masks).isnan().flatten().tolist() == [True, False, False, False, False]


@pytest.mark.parametrize("k", [0, -1, 31])
def test_a_k_that_no_map_has_is_refused(k):
    with pytest.raises(ValueError, match=f"k is {k}, but must be from 1 to the 30 pixels"):
        top_k_intersection(sort_evidence(*made()), k)


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_a_threshold_outside_the_range_is_refused(threshold):
    flat, inside = made()
    for function, argument in ((fixed_iou, sort_evidence(flat, inside)), (random_fixed_iou, inside)):
        with pytest.raises(ValueError, match="must be from 0 to 1"):
            function(argument, threshold)


@pytest.mark.parametrize("function", [sort_evidence, relevance_mass, box_energy])
def test_maps_and_evidence_that_do_not_fit_are_refused(function):
    flat, inside = made()
    for maps, masks in ((flat, inside[:, :1]), (flat, inside.long()), (flat.long(), inside)):
        with pytest.raises(ValueError, match="must be floats and booleans of one shape"):
            function(maps, masks)


def test_maps_with_gradients_and_views_are_taken_as_they_are():
    flat, inside = made()
    expected = everything(flat, inside)
    strided = torch.stack([flat, flat], dim=3).requires_grad_()[..., 0]
    ordered = sort_evidence(strided, inside, strided.argsort(dim=2, descending=True))
    assert torch.equal(pixel_auc(ordered), expected["auc"]), "with the caller's order"
    shared = inside[:, :1].expand_as(inside)
    for name, value in everything(strided, inside).items():
        assert torch.equal(value, expected[name]) and not value.requires_grad, name
    for name, value in everything(flat, shared).items():
        assert torch.equal(value, everything(flat, shared.clone())[name]), name


def simulated(positives=6, side=6, draws=6000, seed=0):
    """Uniformly random maps, and evidence that is the same in all of them."""
    maps = torch.rand(draws, 1, side, side, generator=torch.Generator().manual_seed(seed))
    inside = torch.zeros(side * side, dtype=torch.bool)
    inside[torch.randperm(side * side, generator=torch.Generator().manual_seed(seed))[:positives]] = True
    return maps, inside.view(1, 1, side, side).expand_as(maps)


@pytest.mark.parametrize("positives", [1, 6, 20])
def test_random_values_are_what_random_maps_get(positives):
    maps, masks = simulated(positives)
    flat, inside = maps.flatten(2), masks.flatten(2)
    values = everything(flat, inside) | {"box": box_energy(maps, masks)}
    expected = dict.fromkeys(("pointing", "mass", "rank", "top 3"), random_fraction(inside))
    expected |= {"auc": random_auc(inside), "average precision": random_average_precision(inside)}
    expected |= {"box": random_box_energy(masks)}
    for name, value in expected.items():
        error = values[name].std() / len(flat) ** 0.5
        assert abs(values[name].mean() - value[0, 0]) < 4 * error + 1e-12, f"{name}: {values[name].mean()}, {value[0]}"


@pytest.mark.parametrize("positives", [1, 2, 4])
def test_random_average_precision_is_the_mean_over_all_orders(positives):
    pixels = 5
    orders = torch.cartesian_prod(*[torch.arange(pixels)] * pixels)
    orders = orders[(orders.sort(dim=1).values == torch.arange(pixels)).all(dim=1)]
    inside = (torch.arange(pixels) < positives).expand(len(orders), 1, pixels)
    mean = pixel_average_precision(sort_evidence(orders.unsqueeze(1).double(), inside)).mean().item()
    assert random_average_precision(inside)[0, 0].item() == pytest.approx(mean, abs=1e-14)


@pytest.mark.parametrize("threshold", [0.0, 0.25, 0.8])
def test_random_ious_are_the_limits_of_large_maps(threshold):
    maps, masks = simulated(positives=9000, side=200, draws=4)
    ranked, inside = sort_evidence(maps.flatten(2), masks.flatten(2)), masks.flatten(2)
    torch.testing.assert_close(fixed_iou(ranked, threshold), random_fixed_iou(inside, threshold), rtol=0, atol=0.005)
    assert (best_iou(ranked) >= random_fraction(inside)).all()
    torch.testing.assert_close(best_iou(ranked), random_fraction(inside), rtol=0, atol=0.005)


def test_random_values_are_undefined_where_the_metric_is():
    inside = torch.tensor([[[False] * 4, [True] * 4, [True, False, False, False]]])
    undefined = {
        random_fraction: [True, False, False],
        random_average_precision: [True, False, False],
        partial(random_fixed_iou, threshold=0.5): [True, False, False],
        random_auc: [True, True, False],
    }
    for function, expected in undefined.items():
        assert function(inside)[0].isnan().tolist() == expected, function
    assert random_average_precision(inside)[0, 1].item() == pytest.approx(1, abs=1e-15)
