"""A classifier's quality where some classes have no test image: they have no score, and are counted."""

import pytest
import torch
from sklearn.metrics import f1_score, recall_score, roc_auc_score

from lightning_xai.functional.segmentation import IGNORED
from lightning_xai.targets.training.class_metrics import classifier_metrics

pytestmark = pytest.mark.filterwarnings("ignore:No (negative|positive) samples")
NAMES = ("auc", "balanced_accuracy", "f1")


def values_of(activation, probabilities, labels, parts=1):
    metrics = classifier_metrics(1 if probabilities.ndim == 1 else probabilities.shape[1], activation)
    for some in torch.arange(len(labels)).chunk(parts):
        metrics.update(probabilities[some], labels[some])
    return {name: float(value) for name, value in metrics.compute().items()}


@pytest.mark.parametrize("missing", [(), (2,), (0, 3)])
def test_means_are_over_the_classes_that_are_there(missing):
    generator = torch.Generator().manual_seed(0)
    p, y = torch.rand(120, 4, generator=generator).softmax(1), torch.randint(0, 4, (120,), generator=generator)
    kept = torch.tensor([int(k) not in missing for k in y])
    p, y = p[kept], y[kept]
    values, there = values_of("softmax", p, y, parts=3), [k for k in range(4) if k not in missing]
    guess = p.argmax(1)
    assert set(guess.tolist()) & set(missing) == set(missing), "absent classes are predicted, and must not count"
    assert values["absent_classes"] == len(missing)
    assert values["balanced_accuracy"] == pytest.approx(recall_score(y, guess, labels=there, average="macro"))
    assert values["f1"] == pytest.approx(f1_score(y, guess, labels=there, average="macro"))
    areas = [roc_auc_score(y == k, p[:, k]) for k in there]
    assert values["auc"] == pytest.approx(sum(areas) / len(areas), abs=1e-5)


def test_labels_of_several_at_once():
    generator = torch.Generator().manual_seed(1)
    p, y = torch.rand(60, 4, generator=generator), (torch.rand(60, 4, generator=generator) < 0.3).long()
    y[:, 1], y[:, 2] = 0, 1  # no positive, no negative
    values, mixed = values_of("sigmoid", p, y), [0, 3]
    assert values["absent_classes"] == 1
    assert values["auc"] == pytest.approx(roc_auc_score(y[:, mixed], p[:, mixed]), abs=1e-5)
    expected = [recall_score(y[:, k], p[:, k] > 0.5, average="macro") for k in mixed]
    assert values["balanced_accuracy"] == pytest.approx(sum(expected) / 2)
    assert values["f1"] == pytest.approx(f1_score(y, p > 0.5, labels=[0, 2, 3], average="macro"))


@pytest.mark.parametrize("label", [0, 1])
def test_one_logit_with_one_class_has_no_auc(label):
    p, y = torch.tensor([0.9, 0.8, 0.2]), torch.full((3,), label)
    values = values_of("sigmoid", p, y)
    assert values["auc"] != values["auc"] and values["absent_classes"] == 1
    assert values["balanced_accuracy"] == pytest.approx(2 / 3 if label else 1 / 3)
    assert values["f1"] == pytest.approx(0.8) if label else values["f1"] != values["f1"]


def test_a_single_class_has_no_auc():
    values = values_of("softmax", torch.tensor([[0.9, 0.1], [0.2, 0.8]]), torch.tensor([0, 0]))
    assert values["auc"] != values["auc"] and values["balanced_accuracy"] == 0.5 and values["absent_classes"] == 1


@pytest.mark.parametrize("logits", [1, 3])
def test_ignored_labels_count_for_nothing(logits):
    generator = torch.Generator().manual_seed(2)
    p, y = torch.rand(80, logits, generator=generator), (torch.rand(80, logits, generator=generator) < 0.4).long()
    y[torch.rand(80, logits, generator=generator) < 0.3] = IGNORED
    alone = [values_of("sigmoid", p[known, k], y[known, k]) for k, known in enumerate((y >= 0).T)]
    values = values_of("sigmoid", p.squeeze(1), y.squeeze(1), parts=3)
    for name in NAMES:
        assert values[name] == pytest.approx(sum(each[name] for each in alone) / logits, abs=1e-5), name
    known = y >= 0
    assert values["accuracy"] == pytest.approx(float(((p > 0.5) == (y > 0))[known].float().mean()))
    assert values["ece"] == pytest.approx(values_of("sigmoid", p[known], y[known])["ece"], abs=1e-6)
    assert values_of("sigmoid", p, torch.full_like(y, IGNORED))["absent_classes"] == {1: 2, 3: 3}[logits]
