"""Outputs that no map changes are evaluated once for all explainers, and every value stays what it is alone."""

import pytest
import torch

from lightning_xai import ClassifierTarget, SegmenterTarget
from lightning_xai.metrics import (
    AverageDrop,
    BaselineProbability,
    DeletionAUC,
    InsertionAUC,
    InsertionDeletionGap,
    MetricSuite,
    VisibilityCurve,
)
from lightning_xai.metrics.evaluation import SharedOutputs
from tests.helpers import cnn, segmenter

FILLS = ("zero", "blur", "channel_mean")


def suite_of():
    curves = {f"gap_{fill}": InsertionDeletionGap(steps=4, fill=fill) for fill in FILLS}
    baselines = {f"baseline_{fill}": BaselineProbability(fill=fill) for fill in FILLS}
    scores = {"score": DeletionAUC(steps=4, output="score"), "dice": InsertionAUC(steps=4, output="dice")}
    return MetricSuite(curves | baselines | scores | {"drop": AverageDrop(), "visible": VisibilityCurve(steps=4)})


@pytest.mark.parametrize("target", [ClassifierTarget(cnn()), SegmenterTarget(segmenter())], ids=["classes", "pixels"])
@pytest.mark.parametrize("with_logits", [True, False], ids=["with logits", "without"])
def test_shared_outputs_change_no_value(target, with_logits):
    images, explainers = torch.rand(3, 1, 8, 8), [torch.rand(3, 2, 8, 8) for _ in range(3)]
    targets = torch.tensor([[0, 1], [2, 1], [1, 2]])
    query = target.query(images, targets)
    case = {"target": target, "images": images, "targets": targets, "pixels": query.regions}
    calls = []
    hook = target.model.register_forward_pre_hook(lambda _, arguments: calls.append(len(arguments[0])))
    with torch.no_grad():
        shared = SharedOutputs(target.logits(images) if with_logits else None)
    costs = []
    for maps in explainers:
        calls.clear()
        together, alone = suite_of(), suite_of()
        together.update(maps=maps, shared=shared, **case)
        costs.append(sum(calls))
        alone.update(maps=maps, **case)
        for name, metric in alone.members().items():
            if metric.counts()[0]:
                expected = metric.per_image()
                assert torch.allclose(together[name].per_image(), expected, atol=1e-6, equal_nan=True), name
    hook.remove()
    whole, baseline = 0 if with_logits else len(images), len(FILLS) * len(images)
    assert costs == [costs[1] + whole + baseline, costs[1], costs[1]]
