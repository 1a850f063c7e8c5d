"""Borda count over a table."""

import pytest

from lightning_xai.report.ranking import borda_count

NAN = float("nan")


def test_the_points_of_the_paper():
    """Three explainers, two metrics: 2 points for the best, 1 for the second."""
    means = {
        "cam": {"drop": 21.2, "adcc": 78.8},
        "cape": {"drop": 22.2, "adcc": 73.7},
        "mu": {"drop": 15.9, "adcc": 83.0},
    }
    assert borda_count(means, {"drop": False, "adcc": True}) == {"mu": 4, "cam": 2, "cape": 0}
    assert list(borda_count(means, {"drop": False, "adcc": True})) == ["mu", "cam", "cape"]


def test_ties_fraction_and_what_cannot_be_compared_does_not_count():
    means = {"a": {"x": 1.0, "blank": 0.2, "y": NAN}, "b": {"x": 1.0, "blank": 0.9, "y": 3.0}}
    assert borda_count(means, {"x": True, "blank": None, "y": True}) == {"a": 0.5, "b": 0.5}


@pytest.mark.parametrize("count", [0, 1])
def test_nobody_to_beat(count):
    assert borda_count({"a": {"x": 1.0}} if count else {}, {"x": True}) == ({"a": 0} if count else {})
