"""Bootstrap intervals against scipy, against the normal approximation, and by their coverage."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lightning_xai.report.statistics import (
    Interval,
    bootstrap,
    bootstrap_rows,
    paired_bootstrap,
    per_image_means,
    resampled_ends,
    widened_level,
)

NAN = float("nan")


def rows_of(values, names=None):
    """One query an image, or as many as a row has."""
    names = names or [f"i{number}" for number in range(len(values))]
    return [
        (name, query, float(value))
        for name, row in zip(names, values, strict=True)
        for query, value in enumerate(row if isinstance(row, list) else [row])
    ]


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_agrees_with_scipys_percentile_bootstrap(level):
    values = torch.distributions.Gamma(2.0, 1.0).sample((80,)).double()
    ours = bootstrap(values, samples=20000, level=level)
    peer = stats.bootstrap(
        (values.numpy(),), np.mean, n_resamples=20000, confidence_level=level, method="percentile", random_state=0
    ).confidence_interval
    error = values.std().item() / math.sqrt(80)
    assert ours.mean == pytest.approx(values.mean().item(), abs=1e-12)
    assert ours.low == pytest.approx(peer.low, abs=0.05 * error) and ours.high == pytest.approx(
        peer.high, abs=0.05 * error
    )


def test_agrees_with_the_normal_approximation():
    values = torch.randn(2000).double() + 3
    interval = bootstrap(values, samples=5000)
    half = 1.96 * values.std(correction=0).item() / math.sqrt(2000)
    assert interval.low == pytest.approx(values.mean().item() - half, abs=0.1 * half)
    assert interval.high == pytest.approx(values.mean().item() + half, abs=0.1 * half)


def test_covers_the_true_mean_as_often_as_it_says():
    generator = torch.Generator().manual_seed(0)
    samples = torch.randn(400, 40, generator=generator) + 1
    intervals = [bootstrap(row, samples=400) for row in samples]
    covered = sum(interval.low <= 1 <= interval.high for interval in intervals) / 400
    assert 0.91 <= covered <= 0.97


def test_paired_interval_is_that_of_the_differences():
    torch.manual_seed(0)
    easy = torch.randn(60)
    first, second = easy + 0.1 + 0.01 * torch.randn(60), easy
    interval = paired_bootstrap(rows_of(first), rows_of(second))
    gaps = bootstrap(first.double() - second.double())
    assert (interval.low, interval.high) == pytest.approx((gaps.low, gaps.high), abs=1e-12)
    assert interval.excludes_zero and interval.mean == pytest.approx(0.1, abs=0.01)
    assert not bootstrap(first - second.flip(0)).excludes_zero, "unpaired, the images' spread would hide the difference"


def test_order_of_rows_and_images_of_one_side_only_do_not_matter():
    first, second = rows_of([1.0, 2.0, 3.0], ["a", "b", "c"]), rows_of([5.0, 1.0, 2.5], ["d", "c", "b"])
    interval = paired_bootstrap(first, second)
    assert interval.count == 2 and interval.mean == pytest.approx((3 - 1 + 2 - 2.5) / 2)
    assert paired_bootstrap(first[::-1], second).mean == pytest.approx(interval.mean)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [0.1, 1 / 3, 1.0, 0.0, -0.7, math.inf])
@pytest.mark.parametrize("groups", [2, 9, 10, 60])
@pytest.mark.parametrize("images", [1, 3])
def test_a_saturated_score_is_its_interval_and_of_few_groups_has_none(value, groups, images):
    values = torch.full((groups * images,), value, dtype=torch.float64)
    interval = bootstrap(values, [number % groups for number in range(len(values))])
    if groups < 10 or value == math.inf:
        assert math.isnan(interval.low) and math.isnan(interval.high) and interval.method == "none"
        assert not interval.excludes_zero and interval.mean == pytest.approx(value)
    else:
        assert interval.low == interval.mean == interval.high == pytest.approx(value)


def test_no_shared_image():
    interval = paired_bootstrap(rows_of([1.0], ["a"]), rows_of([1.0], ["b"]))
    assert math.isnan(interval.mean) and interval.count == 0 and not interval.excludes_zero


def test_undefined_values_are_left_out_and_counted():
    interval = bootstrap(torch.tensor([1.0, NAN, 3.0, NAN]))
    assert (interval.mean, interval.count, interval.undefined) == (2, 2, 2)
    assert interval.low <= 1 and interval.high >= 3, "two images say little"
    pair = paired_bootstrap(rows_of([1.0, 2.0, NAN]), rows_of([NAN, 1.0, 1.0]))
    assert (pair.mean, pair.count, pair.undefined) == (1, 1, 2)


@pytest.mark.parametrize("values", [torch.tensor([]), torch.tensor([NAN, NAN])])
def test_nothing_defined(values):
    interval = bootstrap(values)
    assert all(map(math.isnan, (interval.mean, interval.low, interval.high)))
    assert (interval.count, interval.undefined, interval.excludes_zero) == (0, len(values), False)


def test_pairs_are_made_query_by_query():
    """Where one side is undefined, the other's value must not enter the difference either."""
    first, second = rows_of([[1.0, NAN], [4.0, 5.0]]), rows_of([[0.0, 100.0], [3.0, 4.0]])
    assert paired_bootstrap(first, second).mean == 1


def test_images_not_queries_are_resampled():
    one, many = rows_of([1.0, 2.0, 4.0]), rows_of([[1.0] * 50, [2.0] * 50, [4.0] * 50])
    zero, zeros = rows_of([0.0] * 3), rows_of([[0.0] * 50] * 3)
    assert paired_bootstrap(one, zero) == paired_bootstrap(many, zeros)


def test_means_per_image():
    means = per_image_means(rows_of([[1.0, NAN, 2.0], [NAN, NAN, NAN]]))
    assert means["i0"] == 1.5 and math.isnan(means["i1"]) and list(means) == ["i0", "i1"]
    assert per_image_means([("a", 0, 0.1)])["a"] == 0.1, "values stay in float64"


def test_same_seed_same_interval():
    values = torch.rand(50)
    assert bootstrap(values) == bootstrap(values.clone())
    assert bootstrap(values) != bootstrap(values, seed=1)
    torch.manual_seed(9)
    bootstrap(values)
    drawn = torch.rand(1)
    torch.manual_seed(9)
    assert torch.equal(drawn, torch.rand(1)), "the global generator moved"


@given(st.floats(-1e3, 1e3), st.floats(0.01, 100))
def test_shift_and_scale_carry_over(shift, scale):
    values = torch.linspace(-1, 2, 30).double()
    plain, moved = bootstrap(values, samples=200), bootstrap(scale * values + shift, samples=200)
    expected = [scale * end + shift for end in (plain.low, plain.mean, plain.high)]
    assert [moved.low, moved.mean, moved.high] == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(
    ("low", "high", "excludes"), [(0.1, 0.2, True), (-0.2, -0.1, True), (-0.1, 0.1, False), (0.0, 1.0, False)]
)
def test_excludes_zero(low, high, excludes):
    assert Interval(0.0, low, high, 5, 0, 5, "t").excludes_zero is excludes


def test_plain_values():
    plain = {"mean": 0.5, "low": 0.4, "high": 0.6, "count": 7, "undefined": 1, "units": 3, "method": "t"}
    assert Interval(0.5, 0.4, 0.6, 7, 1, 3, "t").as_dict() == plain


# ------------------------------------------------------------------ groups


def ends(interval):
    return interval.low, interval.high


@pytest.mark.parametrize("units", [2, 5, 9, 10, 30, 60])
@pytest.mark.parametrize("copies", [2, 6])
def test_copies_of_images_in_their_group_change_nothing(units, copies):
    values = torch.rand(units, generator=torch.Generator().manual_seed(units)).double()
    one = bootstrap(values)
    many = bootstrap(values.repeat(copies), list(range(units)) * copies)
    assert ends(many) == pytest.approx(ends(one), abs=1e-12)
    assert (many.mean, many.units, many.method) == (pytest.approx(one.mean), units, one.method)
    assert many.count == units * copies


@pytest.mark.parametrize("units", [2, 3, 9])
def test_below_ten_groups_of_one_size_it_is_students_interval_of_their_means(units):
    values = torch.rand(units, 4, generator=torch.Generator().manual_seed(1)).double()
    interval = bootstrap(values.flatten(), [f"p{unit}" for unit in range(units) for _ in range(4)])
    means = values.mean(dim=1).numpy()
    peer = stats.t.interval(0.95, units - 1, loc=means.mean(), scale=stats.sem(means))
    assert ends(interval) == pytest.approx(peer) and (interval.method, interval.units) == ("t", units)


def test_below_fifty_groups_percentiles_reach_as_far_as_student():
    values = torch.randn(20, generator=torch.Generator().manual_seed(2)).double()
    interval = bootstrap(values, samples=50000)
    half = stats.t.ppf(0.975, 19) * stats.sem(values.numpy())
    assert interval.method == "bootstrap" and interval.high - interval.low == pytest.approx(2 * half, rel=0.05)
    assert widened_level(49, 0.95) == pytest.approx(0.958, abs=0.001) and widened_level(50, 0.95) == 0.95


@pytest.mark.parametrize("units", [2, 9, 10, 49, 60])
def test_the_ends_of_any_statistic_are_those_of_a_mean(units):
    """Of a mean, so that both can be compared: a bootstrap of it by hand."""
    generator = torch.Generator().manual_seed(units)
    values = torch.randn(units, generator=generator).double()
    resampled = values[torch.randint(units, (20000, units), generator=generator)].mean(dim=1)
    ends_of_mean = resampled_ends(resampled, values.mean(), units)
    expected, width = bootstrap(values, samples=20000), values.std().item() / units**0.5
    assert ends_of_mean.tolist() == pytest.approx([expected.low, expected.high], abs=0.15 * width * (12 / units + 1))


def test_one_unit_gives_no_ends_of_any_statistic():
    assert resampled_ends(torch.ones(9, 3).double(), torch.ones(3).double(), 1).isnan().all()


def test_the_mean_is_over_images_also_where_groups_differ_in_size():
    interval = bootstrap(torch.tensor([1.0, 1.0, 1.0, 5.0]), ["a", "a", "a", "b"])
    assert interval.mean == 2 and interval.units == 2


@pytest.mark.parametrize("count", [1, 2, 50])
def test_one_group_has_no_interval(count):
    interval = bootstrap(torch.rand(count) + 1, ["only"] * count)
    assert math.isnan(interval.low) and math.isnan(interval.high) and interval.method == "none"
    assert not interval.excludes_zero and interval.units == 1 and interval.mean > 1


def test_a_group_without_a_value_is_no_unit():
    interval = bootstrap(torch.tensor([1.0, 2.0, NAN]), ["a", "b", "c"])
    assert (interval.units, interval.count, interval.undefined) == (2, 2, 1)


def test_groups_of_rows_and_images_without_one():
    """An image without a group is a unit by itself, also where a group has its name."""
    rows = rows_of([1.0, 2.0, 3.0, 5.0], ["a", "b", "c", "d"])
    assert bootstrap_rows(rows, {"a": "c", "b": "c"}).units == 3
    assert bootstrap_rows(rows).units == 4
    pair = paired_bootstrap(rows, rows_of([0.0] * 4, ["a", "b", "c", "d"]), {"a": "p", "b": "p", "c": "p", "d": "p"})
    assert pair.units == 1 and not pair.excludes_zero


def test_groups_must_fit():
    with pytest.raises(ValueError, match="2 groups for 3 values"):
        bootstrap(torch.rand(3), ["a", "b"])


@pytest.mark.parametrize(("units", "images"), [(5, 6), (10, 6), (20, 3)])
def test_covers_as_often_as_it_says_where_images_of_a_group_are_alike(units, images):
    generator = torch.Generator().manual_seed(units)
    shared = torch.randn(300, units, 1, generator=generator)
    samples = (0.7 * shared + 0.7 * torch.randn(300, units, images, generator=generator)).flatten(1)
    groups = [unit for unit in range(units) for _ in range(images)]
    covered = [low <= 0 <= high for low, high in (ends(bootstrap(row, groups, samples=400)) for row in samples)]
    alone = [low <= 0 <= high for low, high in (ends(bootstrap(row, samples=400)) for row in samples)]
    assert sum(covered) / 300 >= 0.9 and sum(alone) / 300 < 0.86, "images taken for independent cover too little"


def test_two_queries_of_one_class_are_paired_in_their_order():
    """Two regions of a segmenter, both about class 1: .5 and -.2."""
    first, second = [("a", 1, 1.0), ("a", 1, 0.0), ("b", 1, 0.4)], [("b", 1, 0.4), ("a", 1, 0.5), ("a", 1, 0.2)]
    assert paired_bootstrap(first, second).mean == pytest.approx((0.15 + 0.0) / 2)
    assert paired_bootstrap(first, second[:2]).mean == pytest.approx((0.5 + 0.0) / 2), (
        "a query that one lacks is left out"
    )
