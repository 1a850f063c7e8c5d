"""The visibility curve, against direct hiding: one fraction of every image, or one threshold for all of a class."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_xai import SegmenterTarget
from lightning_xai.metrics import VisibilityCurve, VisibilityLeak
from lightning_xai.metrics.functional import counts_at_fraction, fractions_above
from tests.helpers import pixel_segmenter
from tests.metric_cases import (
    assert_batches_do_not_matter,
    assert_depth_one_does_not_matter,
    assert_precision_does_not_matter,
    assert_queries_do_not_matter,
    assert_refused,
    dice_of,
    noisy_segments,
    over_black,
    overlap_and_total,
    part,
    scored,
    top,
    two_objects,
)

SCOPES = ["split", "image"]


def parts(case, visible):
    """Overlap and total ``(B, T, 2)`` with each query's visible pixels ``(B, T, *S)``, one input at a time."""
    target, counts = case["target"], torch.zeros(*visible.shape[:2], 2, dtype=torch.float64)
    for b, t in torch.cartesian_prod(*(torch.arange(count) for count in visible.shape[:2])).tolist():
        target_class = case["targets"][b, t]
        inputs = over_black(target, case["images"][b], visible[b, t])
        reference = case["masks"][b, 0] == target_class
        counts[b, t] = torch.tensor(overlap_and_total(target, inputs, target_class, reference))
    return counts


def shown_by_rank(maps, count):
    return torch.stack([torch.stack([top(one, count) for one in row]) for row in maps])


def shown_by_threshold(maps, fraction):
    """The highest fraction of all pixels of each query's maps together."""
    pooled = maps.transpose(0, 1).flatten(1)
    lowest = pooled.sort(dim=1, descending=True).values[:, round(fraction * pooled.shape[1]) - 1]
    return maps >= lowest.view(1, -1, *(1,) * (maps.ndim - 2))


# ------------------------------------------------------------------ one fraction of every image


@pytest.mark.parametrize("size", [(6, 6), (3, 4, 3)])
@pytest.mark.parametrize("at", [0, 0.25, 0.5, 0.75, 1])
def test_the_same_fraction_of_every_image_against_direct_hiding(size, at):
    case = noisy_segments(size=size)
    common, total = parts(case, shown_by_rank(case["maps"], round(36 * at))).unbind(dim=2)
    metric = VisibilityCurve(at, "image", steps=12)
    assert torch.allclose(scored(metric, **case), common / total, atol=1e-9)
    assert metric.compute().item() == pytest.approx((common / total).mean().item())
    assert torch.equal(metric.per_image(f"overlap {at:g}"), common)
    assert torch.equal(metric.per_image(f"total {at:g}"), total)


@pytest.mark.parametrize(("kind", "count"), [(VisibilityCurve, 2), (VisibilityCurve, 11), (VisibilityLeak, 34)])
def test_a_fraction_between_the_steps_is_shown_itself(kind, count):
    case = noisy_segments()
    metric = kind(at=count / 36, scope="image", steps=4)
    values = scored(metric, **case)
    assert metric.fractions == tuple(sorted({0, 0.25, 0.5, 0.75, 1, count / 36}))
    finer = scored(kind(at=count / 36, scope="image", steps=36), **case)
    assert torch.allclose(values, finer, atol=1e-9)
    if kind is VisibilityCurve:
        common, total = parts(case, shown_by_rank(case["maps"], count)).unbind(dim=2)
        assert torch.allclose(values, common / total, atol=1e-9)
        assert f"dice at {count / 36:g}" in metric.reference_means()


def test_one_threshold_for_one_image_shows_the_fraction_between_the_steps():
    case = part(noisy_segments(), [0])
    values = [scored(VisibilityCurve(at=5 / 36, scope=scope, steps=2), **case) for scope in SCOPES]
    assert torch.allclose(*values, atol=1e-9)


def test_a_fraction_that_is_a_step_costs_nothing():
    assert VisibilityCurve(at=0.3, steps=10).fractions == VisibilityCurve(at=1 / 2, steps=10).fractions
    assert len(VisibilityCurve(at=0.1 + 0.2, steps=10).fractions) == 11


def test_points_between_unequal_fractions_are_interpolated():
    fractions = [0, 0.1, 0.5, 1]
    grid = torch.tensor(fractions, dtype=torch.float64)
    points = torch.stack([grid, torch.ones(4).double(), 10 - 10 * grid]).unsqueeze(0)
    for fraction in (0, 0.05, 0.1, 0.3, 0.7, 1):
        for groups in (None, torch.zeros(1)):
            assert counts_at_fraction(points, fraction, groups, fractions)[0, 0].item() == pytest.approx(fraction)
        above = fractions_above(points, torch.tensor(10 - 10 * fraction, dtype=torch.float64), fractions)
        assert above.item() == pytest.approx(fraction)


def test_the_curve_of_fractions_and_its_pooled_dice():
    case = noisy_segments()
    metric = VisibilityCurve(scope="image", steps=6)
    scored(metric, **case)
    curve, counts = (
        metric.curve(),
        torch.stack([parts(case, shown_by_rank(case["maps"], 6 * step)) for step in range(7)]),
    )
    assert torch.allclose(curve["fractions"], torch.linspace(0, 1, 7, dtype=torch.float64))
    assert torch.allclose(curve["dice"], (counts[..., 0] / counts[..., 1]).mean(dim=(1, 2)))
    pooled = counts.sum(dim=(1, 2))
    assert torch.allclose(curve["batch_dice"], pooled[:, 0] / pooled[:, 1])
    assert not torch.allclose(curve["dice"], curve["batch_dice"])
    means = metric.reference_means()
    assert list(means) == ["dice at 0", *(f"dice at {step / 6:g}" for step in range(1, 6)), "dice at 1"]
    assert list(means.values()) == pytest.approx(curve["dice"].tolist())


# ------------------------------------------------------------------ one threshold for all


def test_a_threshold_at_the_steps_of_every_image_is_exact():
    """Image b shows 8, 16, 24 and 32 of 64 pixels at .5, each with a pixel of that very value: together 80 of 256."""
    case = noisy_segments(size=(8, 8))
    for b, count in enumerate((8, 16, 24, 32)):
        for t in range(2):
            high, low = 0.5 + 0.4 * torch.rand(count), 0.45 * torch.rand(64 - count)
            high[0] = 0.5
            case["maps"][b, t] = torch.cat([high, low])[torch.randperm(64)].view(8, 8)
    common, total = parts(case, case["maps"] >= 0.5).unbind(dim=2)
    metric = VisibilityCurve(at=80 / 256, steps=8)
    assert torch.allclose(scored(metric, **case), common / total, atol=1e-9)
    other = scored(VisibilityCurve(at=80 / 256, scope="image", steps=8), **case)
    assert not torch.allclose(common / total, other, atol=1e-2), "every image shows the same fraction"


@pytest.mark.parametrize("at", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("spread", [0.0, 2.0])
def test_one_threshold_against_brute_force(at, spread):
    case = noisy_segments(size=(16, 16))
    case["maps"] += spread * torch.rand(4, 2, 1, 1)  # some images have more to show
    common, total = parts(case, shown_by_threshold(case["maps"], at)).unbind(dim=2)
    values = scored(VisibilityCurve(at, steps=256), **case)
    assert torch.allclose(values, common / total, atol=0.01)
    assert torch.allclose(values, scored(VisibilityCurve(at, steps=16), **case), atol=0.05)
    if spread:
        other = scored(VisibilityCurve(at, "image", steps=256), **case)
        assert (values - other).abs().max() > 0.05, "a case in which the scope changes nothing tests nothing"


def test_the_curve_of_thresholds_and_its_pooled_dice():
    case = noisy_segments(size=(16, 16))
    case["maps"] += torch.rand(4, 2, 1, 1)
    metric = VisibilityCurve(steps=64)
    scored(metric, **case)
    curve = metric.curve()
    for step in (16, 32, 48, 64):
        counts = parts(case, shown_by_threshold(case["maps"], step / 64))
        dice, pooled = (counts[..., 0] / counts[..., 1]).mean().item(), counts.sum(dim=(0, 1))
        assert curve["dice"][step].item() == pytest.approx(dice, abs=5e-3)
        assert curve["batch_dice"][step].item() == pytest.approx((pooled[0] / pooled[1]).item(), abs=5e-3)
    assert metric.compute().item() == pytest.approx(curve["dice"][32].item())


def test_one_image_has_one_threshold_and_one_fraction():
    case = part(noisy_segments(), [0])
    for at in (0.0, 0.25, 0.5, 0.75, 1.0):
        split, image = (scored(VisibilityCurve(at, scope, steps=4), **case) for scope in SCOPES)
        assert torch.allclose(split, image, atol=1e-9), at


def test_the_threshold_of_one_class_does_not_move_anothers():
    case = noisy_segments()
    values = scored(VisibilityCurve(steps=6), **case)
    moved = case["maps"].clone()
    moved[:, 1] = 100 * moved[:, 1] + torch.rand(4, 1, 1) * 50
    other = scored(VisibilityCurve(steps=6), **{**case, "maps": moved})
    assert torch.equal(other[:, 0], values[:, 0]) and not torch.allclose(other[:, 1], values[:, 1])
    # The threshold belongs to the class, wherever it stands among the queries.
    swapped = {**case, "maps": case["maps"].clone(), "targets": case["targets"].clone()}
    for name in ("maps", "targets"):
        swapped[name][2] = swapped[name][2].flip(0)
    again = scored(VisibilityCurve(steps=6), **swapped)
    again[2] = again[2].flip(0)
    assert torch.allclose(again, values, atol=1e-12)


@pytest.mark.parametrize("factor", [2.0**-70, 2.0**-40, 0.5, 64.0, 2.0**60])
@pytest.mark.parametrize("offset", [0, 1])
def test_the_unit_of_the_maps_does_not_matter(factor, offset):
    """Maps of probabilities, of gradients that all but vanish: their order decides."""
    case = noisy_segments()
    case["maps"] = case["maps"].double()
    values = scored(VisibilityCurve(steps=6), **case)
    moved = scored(VisibilityCurve(steps=6), **{**case, "maps": factor * (case["maps"] + offset)})
    assert torch.allclose(moved, values, atol=1e-6), factor


@pytest.mark.parametrize("extreme", [1e6, 1e20, float("inf"), -1e20, -float("inf")])
def test_one_extreme_pixel_does_not_move_the_threshold_of_all_images(extreme):
    """It was the highest, or the lowest, of its map before: no ranking changes."""
    case = noisy_segments()
    case["maps"] = case["maps"].double()
    values = scored(VisibilityCurve(steps=6), **case)
    first = case["maps"][0, 0].flatten()
    first[first.argmax() if extreme > 0 else first.argmin()] = extreme
    moved = scored(VisibilityCurve(steps=6), **case)
    assert torch.allclose(moved[1:], values[1:], atol=0.05), "the other images show other pixels"


def test_ties_show_the_fraction_that_is_wanted():
    """Half of each map is one value: where it is the threshold, only so many of those pixels count."""
    case, objects = two_objects(batch=2)
    maps = objects.float().expand(2, -1, -1, -1).clone()
    maps[:, :, :4, 4:] = maps[:, :, 4:, :4] = -1
    case["maps"] = maps.flip(1)  # the own class is in the middle of three levels, between 16 and 32 of 64 pixels
    own = [scored(VisibilityCurve(at, steps=8), **case) for at in (0.25, 0.3125, 0.375, 0.5)]
    assert (own[0] == 0).all() and torch.allclose(own[-1], torch.ones(2, 2, dtype=torch.float64), atol=1e-9)
    for fraction, values in zip((0.25, 0.5), own[1:3], strict=True):
        assert torch.allclose(values, torch.full_like(values, 2 * fraction / (1 + fraction)), atol=1e-9), fraction


# ------------------------------------------------------------------ must hold


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("masks", [True, False])
def test_everything_visible_gives_the_unmasked_dice_exactly(scope, masks):
    case = noisy_segments(masks=masks)
    expected = torch.ones(4, 2, dtype=torch.float64)
    if masks:
        for b, row in enumerate(case["targets"]):
            for t, target_class in enumerate(row):
                expected[b, t] = dice_of(
                    case["target"], case["images"][b], target_class, case["masks"][b, 0] == target_class
                )
        assert (expected < 1).all()
    metric = VisibilityCurve(at=1, scope=scope)
    assert torch.equal(scored(metric, **case), expected)
    for mean in (metric.compute(), metric.curve()["dice"][-1]):
        assert mean.item() == pytest.approx(expected.mean().item(), abs=1e-12)


@pytest.mark.parametrize("scope", SCOPES)
def test_nothing_visible_gives_the_dice_of_the_baseline_image(scope):
    case = noisy_segments()
    case["maps"] = case["maps"].double()
    common, total = parts(case, torch.zeros(4, 2, 6, 6, dtype=torch.bool)).unbind(dim=2)
    assert torch.allclose(scored(VisibilityCurve(0, scope), **case), common / total, atol=1e-9)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("dims", [2, 3])
def test_oracle_above_random_above_reversed(scope, dims):
    case, objects = two_objects(batch=3, dims=dims)
    noise = torch.rand(case["maps"].shape)
    means = {}
    for name, maps in (("oracle", objects + 0.1 * noise), ("random", noise), ("reversed", 0.1 * noise - 1.0 * objects)):
        metric = VisibilityCurve(at=0.25, scope=scope)
        means[name] = scored(metric, **{**case, "maps": maps}).mean().item()
        curve = metric.curve()["dice"]
        assert (curve.diff() >= -1e-9).all(), f"showing more of a planted object never hurts ({name})"
    # A quarter of the pixels: all of the object, about a quarter of it, nothing of it.
    assert means["oracle"] == pytest.approx(1, abs=0.05) and means["reversed"] == pytest.approx(0, abs=1e-6)
    assert means["random"] == pytest.approx(2 * 0.25 / 1.25, abs=0.1)


def points_of(seed, rows=4, steps=5, ties=False):
    """Points whose overlap is the visible fraction itself, and whose total is 1."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(rows, steps + 1, generator=generator, dtype=torch.float64)
    thresholds = ((3 * values).round() if ties else values).sort(dim=1, descending=True).values
    fractions = torch.linspace(0, 1, steps + 1, dtype=torch.float64).expand(rows, -1)
    return torch.stack([fractions, torch.ones_like(fractions), thresholds], dim=1)


@given(st.integers(0, 1000), st.booleans(), st.lists(st.floats(-1, 4), min_size=2, max_size=2).map(sorted))
def test_coverage_never_falls_with_the_threshold(seed, ties, thresholds):
    """The lower the threshold, the more is visible; from nothing above the highest value to all below the lowest."""
    points = points_of(seed, ties=ties)
    more, less = (fractions_above(points, torch.tensor(value, dtype=torch.float64)) for value in thresholds)
    assert (more >= less).all() and (less >= 0).all() and (more <= 1).all()
    lowest, highest = points[:, 2].min(), points[:, 2].max()
    assert (fractions_above(points, lowest) == 1).all() and (fractions_above(points, highest + 1) == 0).all()


@settings(max_examples=50)
@given(st.integers(0, 1000), st.booleans(), st.floats(0, 1))
def test_together_the_maps_show_the_fraction_that_is_wanted(seed, ties, fraction):
    points = points_of(seed, ties=ties)
    common, total = counts_at_fraction(points, fraction, groups=torch.zeros(4)).unbind(dim=1)
    assert common.mean().item() == pytest.approx(fraction, abs=1e-9) and (total == 1).all()
    assert torch.allclose(counts_at_fraction(points, fraction)[:, 0], torch.full((4,), fraction, dtype=torch.float64))


def test_fractions_at_the_values_of_the_steps():
    thresholds = torch.tensor([[9.0, 7, 5, 3, 1], [9, 9, 9, 2, 2]]).double()
    points = torch.stack([torch.zeros(2, 5).double(), torch.ones(2, 5).double(), thresholds], dim=1)
    expected = {7: [0.25, 7 / 12], 5: [0.5, 9 / 14], 4: [0.625, 19 / 28], 2: [0.875, 1], 1: [1, 1], 10: [0, 0]}
    # Between two steps the fraction is read off the line through both: of the second map from 9 at .5 to 2 at .75.
    expected[7][1], expected[5][1], expected[4][1] = 0.5 + 0.25 * 2 / 7, 0.5 + 0.25 * 4 / 7, 0.5 + 0.25 * 5 / 7
    for value, fractions in expected.items():
        above = fractions_above(points, torch.tensor(float(value), dtype=torch.float64))
        assert above.tolist() == pytest.approx(fractions), value


# ------------------------------------------------------------------ undefined


@pytest.mark.parametrize("scope", SCOPES)
def test_undefined_rows_are_left_out_and_counted(scope):
    case = noisy_segments()
    case["masks"][1][case["masks"][1] == 2] = 0
    case["maps"][2, 0], case["maps"][3, 1, 0, 0] = 0.5, float("nan")
    metric = VisibilityCurve(scope=scope, steps=6)
    values = scored(metric, **case)
    assert values.isnan().nonzero().tolist() == [[1, 1], [2, 0], [3, 1]] and metric.counts() == (8, 3)
    assert metric.compute().item() == pytest.approx(values.nanmean().item())
    # Without these rows at all: class 1 of images 0, 1, 3 and class 2 of images 0, 2.
    clean, alone = VisibilityCurve(scope=scope, steps=6), {}
    for t, images in ((0, [0, 1, 3]), (1, [0, 2])):
        some = part(case, images)
        some |= {"maps": some["maps"][:, t : t + 1], "targets": some["targets"][:, t]}
        clean.update(**some, ids=[f"{b}-{t}" for b in images])
        alone[t] = scored(VisibilityCurve(scope=scope, steps=6), **some)[:, 0]
    assert torch.allclose(values[[0, 1, 3], 0], alone[0]) and torch.allclose(values[[0, 2], 1], alone[1])
    for name, line in metric.curve().items():
        assert torch.allclose(line, clean.curve()[name], atol=1e-12) and not line.isnan().any(), name
    assert metric.per_class() == {
        1: pytest.approx(alone[0].mean().item()),
        2: pytest.approx(alone[1].mean().item()),
    }


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric:UserWarning")
@pytest.mark.parametrize("scope", SCOPES)
def test_without_a_defined_row(scope):
    case = noisy_segments()
    metric = VisibilityCurve(scope=scope, steps=3)
    assert metric.compute().isnan() and metric.curve()["dice"].isnan().all() and metric.counts() == (0, 0)
    scored(metric, **{**case, "maps": torch.ones(4, 2, 6, 6)})
    assert metric.compute().isnan() and metric.counts() == (8, 8)
    assert metric.curve()["dice"].isnan().all() and metric.curve()["batch_dice"].isnan().all()
    full = {**case, "masks": torch.ones(4, 1, 6, 6, dtype=torch.bool)}
    assert not scored(VisibilityCurve(scope=scope, steps=3), **full).isnan().any(), "a full mask is a mask"


# ------------------------------------------------------------------ what must not matter


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("size", [(6, 6), (3, 4, 3)])
def test_order_and_batches_do_not_matter(scope, size):
    make = partial(VisibilityCurve, 0.4, scope, 6)
    assert_batches_do_not_matter(make, noisy_segments(size=size), atol=1e-9)
    assert_queries_do_not_matter(make, noisy_segments(size=size), atol=1e-9)
    whole, pieces = make(), make()
    whole.update(**noisy_segments(size=size))
    for index in ([3], [0, 2], [1]):
        pieces.update(**part(noisy_segments(size=size), index))
    for name, line in whole.curve().items():
        assert torch.allclose(pieces.curve()[name], line, atol=1e-12), name


@pytest.mark.parametrize("scope", SCOPES)
def test_a_volume_of_one_slice_and_short_floats(scope):
    make = partial(VisibilityCurve, 0.4, scope, 6)
    assert_depth_one_does_not_matter(make, noisy_segments())
    assert_precision_does_not_matter(make, noisy_segments())


@given(st.sampled_from([torch.exp, torch.asinh, lambda maps: 8 * maps - 2, lambda maps: maps**3]))
def test_the_fraction_of_every_image_needs_only_ranks(transform):
    case = noisy_segments()
    case["maps"] = case["maps"].double()
    make = partial(VisibilityCurve, 0.4, "image", 6)
    assert torch.equal(scored(make(), **{**case, "maps": transform(case["maps"])}), scored(make(), **case))


@settings(max_examples=30)
@given(st.integers(0, 1000), st.floats(0, 1), st.sampled_from(SCOPES))
def test_values_are_in_range_and_defined_where_there_is_a_reference(seed, at, scope):
    case = noisy_segments(seed=seed)
    values = scored(VisibilityCurve(at, scope, 6), **case)
    wanted = (case["masks"] == case["targets"].view(4, 2, 1, 1)).flatten(2).any(dim=2)
    assert torch.equal(values.isnan(), ~wanted)
    assert ((values[wanted] >= 0) & (values[wanted] <= 1)).all()


def test_clear_errors_and_metadata():
    for at in (-0.1, 1.1):
        assert_refused(partial(VisibilityCurve, at=at), f"at is {at}")
    assert_refused(partial(VisibilityCurve, scope="world"), "'world'", "split | image")
    assert_refused(partial(VisibilityCurve, steps=0), "steps 0")
    assert_refused(partial(VisibilityCurve, fill="pink"), "'pink'")
    data = VisibilityCurve(0.3, "image", 5, "median").metadata()
    assert data["options"] == {"at": 0.3, "scope": "image", "steps": 5, "fill": "median"}
    assert (data["passes"], data["explanations"], data["higher_is_better"]) == (7, 0, True)  # .3 is no fifth


# ------------------------------------------------------------------ what the mask alone tells


@pytest.mark.parametrize("content", ["shifted", "swapped", "noise"])
@pytest.mark.parametrize("at", [0, 0.25, 0.5, 1])
def test_other_content_against_direct_hiding(content, at):
    """The mask of an image over other content, judged by the image's own reference."""
    case = noisy_segments()
    images = case["images"]
    if content == "swapped":
        other = torch.stack([images[row - 1] for row in range(len(images))])
    elif content == "shifted":
        height, width = images.shape[2:]
        rows, columns = (torch.arange(side) - side // 2 for side in (height, width))
        other = images[:, :, rows % height][..., columns % width]
    else:
        field = torch.randn(images.shape[1:], generator=torch.Generator().manual_seed(0)).to(images)
        deviation = images.std((2, 3), keepdim=True, correction=0)
        other = images.mean((2, 3), keepdim=True) + deviation * field
    pixels = case["maps"][0, 0].numel()
    common, total = parts({**case, "images": other}, shown_by_rank(case["maps"], round(pixels * at))).unbind(dim=2)
    metric = VisibilityLeak(content, at=at, scope="image", steps=4)
    assert not metric.higher_is_better and VisibilityCurve().higher_is_better
    assert torch.allclose(scored(metric, **case), common / total, atol=1e-6)
    assert metric.metadata()["options"]["content"] == content


def test_one_image_has_nothing_to_swap_with():
    case = part(noisy_segments(), slice(0, 1))
    assert scored(VisibilityLeak("swapped"), **case).isnan().all()
    assert not scored(VisibilityLeak("noise"), **case).isnan().any()


def test_a_mask_that_draws_the_object_survives_the_swap():
    """A segmenter that calls everything visible an object takes any content for one; one that looks does not."""
    images = torch.rand(4, 1, 8, 8) + 0.5
    masks = torch.zeros(4, 1, 8, 8).long()
    masks[:, :, 2:6, 2:6] = 1
    case = {"images": images, "masks": masks, "targets": torch.ones(4, 1).long(), "maps": masks.double()}
    drawn = SegmenterTarget(pixel_segmenter(torch.tensor([[20.0]]), torch.tensor([-1.0])), "sigmoid")
    assert scored(VisibilityLeak("swapped", at=0.25, scope="image"), target=drawn, **case).min() == 1
    assert scored(VisibilityCurve(0.25, "image"), target=drawn, **case).min() == 1


def test_an_unknown_content_is_refused():
    assert_refused(partial(VisibilityLeak, "own"), "content is 'own'", "shifted | swapped | noise")
