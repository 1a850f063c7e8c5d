"""Borda count over a table."""

import pytest

from lightning_xai.metrics import (
    ADCC,
    AverageDrop,
    AverageDropInDeletion,
    BaselineProbability,
    Coherency,
    Complexity,
    DeletionAUC,
    IncreaseInConfidence,
    InsertionAUC,
    InsertionDeletionGap,
    PointingGame,
    TopClassesIoU,
)
from lightning_xai.report.ranking import borda_count, ranked_metrics

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
    means = {
        "a": {"x": 1.0, "blank": 0.2, "y": NAN},
        "b": {"x": 1.0, "blank": 0.9, "y": 3.0},
        "c": {"x": 0.0, "blank": 0.9, "y": 3.0},
    }
    assert borda_count(means, {"x": True, "blank": None, "y": True}) == {"a": 1.5, "b": 1.5, "c": 0}


@pytest.mark.parametrize("noise", [0.0, 1e-13])
def test_what_is_the_same_for_all_does_not_count(noise):
    means = {"a": {"p": 0.3, "gap": 0.5}, "b": {"p": 0.3 + noise, "gap": 0.7}, "c": {"p": 0.3, "gap": 0.1}}
    assert borda_count(means, {"p": True, "gap": True}) == {"b": 2, "a": 1, "c": 0}


def test_the_table_of_the_paper_once_each():
    """ADCC's parts and a second overlap are measured, but not ranked."""
    table = {"drop": AverageDrop(), "add": AverageDropInDeletion(), "adcc": ADCC(), "up": IncreaseInConfidence()}
    rest = {
        "coherency": Coherency(),
        "complexity": Complexity(),
        "raw": TopClassesIoU(),
        "blank": BaselineProbability(),
    }
    metrics = {**rest, **table, "scaled": TopClassesIoU(scaled="min_max"), "insertion": InsertionAUC()}
    assert ranked_metrics(metrics) == ["drop", "up", "add", "adcc", "scaled"]
    del metrics["scaled"]
    assert ranked_metrics(metrics) == ["drop", "up", "add", "adcc", "raw"]


def test_parts_do_not_count_twice_in_any_table():
    curves = {
        "ins": InsertionAUC(fill="zero"),
        "del": DeletionAUC(fill="blur"),
        "gap": InsertionDeletionGap(fill="zero"),
    }
    assert ranked_metrics(curves | {"game": PointingGame()}) == ["del", "gap", "game"]
    assert ranked_metrics({"complexity": Complexity(), "drop": AverageDrop(), "adcc": ADCC()}) == ["adcc"]
    assert ranked_metrics({"complexity": Complexity(), "ins": InsertionAUC()}) == ["complexity", "ins"]


@pytest.mark.parametrize("count", [0, 1])
def test_nobody_to_beat(count):
    assert borda_count({"a": {"x": 1.0}} if count else {}, {"x": True}) == ({"a": 0} if count else {})
