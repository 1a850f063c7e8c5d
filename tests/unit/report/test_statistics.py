"""Bootstrap intervals against scipy, against the normal approximation, and by their coverage."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lightning_xai.report.statistics import Interval, bootstrap, paired_bootstrap, per_image_means

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


def test_no_shared_image():
    interval = paired_bootstrap(rows_of([1.0], ["a"]), rows_of([1.0], ["b"]))
    assert math.isnan(interval.mean) and interval.count == 0 and not interval.excludes_zero


def test_undefined_values_are_left_out_and_counted():
    interval = bootstrap(torch.tensor([1.0, NAN, 3.0, NAN]))
    assert (interval.mean, interval.count, interval.undefined) == (2, 2, 2)
    assert 1 <= interval.low <= interval.high <= 3
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
    assert Interval(0.0, low, high, 5, 0).excludes_zero is excludes


def test_plain_values():
    assert Interval(0.5, 0.4, 0.6, 7, 1).as_dict() == {"mean": 0.5, "low": 0.4, "high": 0.6, "count": 7, "undefined": 1}


def test_two_queries_of_one_class_are_paired_in_their_order():
    """Two regions of a segmenter, both about class 1: .5 and -.2."""
    first, second = [("a", 1, 1.0), ("a", 1, 0.0), ("b", 1, 0.4)], [("b", 1, 0.4), ("a", 1, 0.5), ("a", 1, 0.2)]
    assert paired_bootstrap(first, second).mean == pytest.approx((0.15 + 0.0) / 2)
    assert paired_bootstrap(first, second[:2]).mean == pytest.approx((0.5 + 0.0) / 2), (
        "a query that one lacks is left out"
    )
