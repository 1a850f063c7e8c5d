"""Several metrics at the cost of their distinct forward passes."""

import copy

import pytest
import torch

from lightning_xai import SegmenterTarget
from lightning_xai.metrics import (
    BaselineProbability,
    DeletionAUC,
    InsertionAUC,
    InsertionDeletionGap,
    MetricSuite,
    PointingGame,
    RelevanceMass,
)
from tests.helpers import CountingTarget, cnn, segmenter


def make():
    return {
        "deletion": DeletionAUC(),
        "insertion": InsertionAUC(),
        "gap": InsertionDeletionGap(),
        "gap_median": InsertionDeletionGap(fill="median"),
        "normalized": InsertionAUC(normalize=True),
        "coarse": DeletionAUC(steps=5),
        "baseline": BaselineProbability(),
        "pointing": PointingGame(),
        "mass": RelevanceMass(),
    }


@pytest.fixture
def batch():
    masks = (torch.rand(3, 1, 8, 8) > 0.7).long()
    images, maps = torch.rand(3, 1, 8, 8), torch.rand(3, 2, 8, 8)
    targets = torch.tensor([[0, 1], [1, 2], [2, 0]])
    return {
        "target": CountingTarget(cnn()),
        "images": images,
        "maps": maps,
        "targets": targets,
        "masks": masks,
        "ids": ["a", "b", "c"],
    }


def test_same_values_as_separate_metrics(batch):
    suite = MetricSuite(make(), chunk_size=50)
    suite.update(**batch)
    for name, metric in make().items():
        metric.update(**batch)
        # Normalizing divides by what the whole image has above the baseline image: by some thousandths.
        atol = 1e-3 if name == "normalized" else 1e-6
        assert torch.allclose(suite[name].per_image(), metric.per_image(), atol=atol, equal_nan=True), name
        assert [row[:2] for row in suite[name].rows()] == [row[:2] for row in metric.rows()], name
    assert suite.compute()["gap"] == suite["gap"].compute()


def test_what_two_metrics_read_is_evaluated_once(batch):
    suite = MetricSuite(make(), chunk_size=50)
    suite.update(**batch)
    chunks = batch["target"].chunks
    # Deletion and insertion, with two fills; coarse, gap, normalized and baseline add nothing.
    per_query = 2 * 2 * 19
    per_image = 1 + 2  # the whole image, and a baseline image each fill
    assert sum(chunks) == 3 * (2 * per_query + per_image)
    assert suite.passes(queries=2) == {"passes": 2 * per_query + per_image, "explanations": 0}
    assert set(chunks[:-1]) == {50}


def test_metrics_that_need_masks_sit_out_without_masks(batch):
    suite = MetricSuite(make())
    suite.update(**(batch | {"masks": None}))
    counts = {name: metric.counts()[0] for name, metric in suite.members().items()}
    assert counts.pop("pointing") == counts.pop("mass") == 0
    assert set(counts.values()) == {6}


def test_no_curve_metric_costs_no_pass(batch):
    suite = MetricSuite({"mass": RelevanceMass()})
    suite.update(**batch)
    assert batch["target"].chunks == [] and suite["mass"].counts() == (6, 0)


def test_metrics_with_equal_first_states_are_not_merged(batch):
    """With torchmetrics' compute groups the second would report the value of the first for good."""
    suite = MetricSuite({"one": RelevanceMass(), "two": RelevanceMass(), "deletion": DeletionAUC()})
    suite.update(**batch)
    suite["two"].update(maps=torch.rand(1, 1, 8, 8), masks=torch.ones(1, 1, 8, 8), ids=["other"])
    suite.update(**(batch | {"ids": ["d", "e", "f"]}))
    assert [suite[name].counts()[0] for name in ("one", "two", "deletion")] == [12, 13, 12]
    values = suite.compute()
    assert values["one"] != values["two"]


def test_maps_that_are_equal_at_first_do_not_tie_metrics_together():
    """Both curves of a constant model are equal in the first batch, but not in the second."""
    suite, target = MetricSuite({"deletion": DeletionAUC(), "insertion": InsertionAUC()}), CountingTarget(cnn())
    maps, targets = torch.rand(1, 1, 8, 8), torch.tensor([0])
    suite.update(target=target, images=torch.zeros(1, 1, 8, 8), maps=maps, targets=targets, ids=["black"])
    assert suite["deletion"].compute().item() == pytest.approx(suite["insertion"].compute().item(), abs=1e-6)
    image = torch.rand(1, 1, 8, 8)
    suite.update(target=target, images=image, maps=maps, targets=targets, ids=["noise"])
    alone = InsertionAUC()
    alone.update(target=target, images=image, maps=maps, targets=targets)
    assert suite["insertion"].per_image()[1].item() == pytest.approx(alone.compute().item(), abs=1e-6)


def test_copy_and_reset(batch):
    suite = MetricSuite(make(), chunk_size=9)
    other = copy.deepcopy(suite)
    other.update(**batch)
    assert isinstance(other, MetricSuite) and other.chunk_size == 9
    assert suite["gap"].rows() == [] and len(other["gap"].rows()) == 6
    other.reset()
    assert all(metric.rows() == [] for metric in other.members().values())


def test_a_fill_given_as_a_tensor_is_shared_in_copies_too(batch):
    fill = torch.rand(1, 1, 8, 8)
    suite = copy.deepcopy(MetricSuite({"a": DeletionAUC(fill=fill), "b": DeletionAUC(fill=fill), "c": DeletionAUC()}))
    suite.update(**batch)
    assert sum(batch["target"].chunks) == 3 * (2 * 2 * 19 + 3)
    assert torch.equal(suite["a"].per_image(), suite["b"].per_image())
    assert not torch.equal(suite["a"].per_image(), suite["c"].per_image())


def test_segmenter_queries(batch):
    target = SegmenterTarget(segmenter(seed=1))
    query = target.query(batch["images"], torch.tensor([[0, 1]] * 3), None)
    targets, pixels = query.targets, query.regions
    suite = MetricSuite({"gap": InsertionDeletionGap(), "mass": RelevanceMass()})
    suite.update(**(batch | {"target": target, "targets": targets}), pixels=pixels)
    alone = InsertionDeletionGap()
    alone.update(**(batch | {"target": target, "targets": targets}))
    assert torch.allclose(suite["gap"].per_image(), alone.per_image(), atol=1e-6)


def test_shapes_that_disagree_are_refused_before_any_pass(batch):
    suite = MetricSuite(make())
    with pytest.raises(ValueError, match="do not fit targets"):
        suite.update(**(batch | {"targets": torch.tensor([0, 1, 2])}))
    assert batch["target"].chunks == []
