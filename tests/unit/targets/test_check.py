"""What a target says of itself at a few images: output scale, classes, statistics, class order."""

import logging
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lightning_xai import ClassifierTarget, SegmenterTarget
from lightning_xai.functional.finite import NotFiniteOutputError
from lightning_xai.targets.confusion import confusion_fault, confusion_of
from lightning_xai.targets.probing import OutputWatch
from tests.helpers import cnn, segmenter

IMAGES = torch.rand(8, 1, 16, 16, generator=torch.Generator().manual_seed(0))
NAMES = ["a", "b", "c", "d"]


def ending_in(last, net=cnn, wrap=ClassifierTarget, **options):
    return wrap(nn.Sequential(net(), last), **options)


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# ------------------------------------------------------------------ scale


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("last", [nn.Softmax(1), nn.Sigmoid()])
@pytest.mark.parametrize(("wrap", "net"), [(ClassifierTarget, cnn), (SegmenterTarget, segmenter)])
def test_probabilities_taken_for_logits_are_noticed_once(activation, last, wrap, net, caplog):
    target = ending_in(last, net, wrap, activation=activation)
    for _ in range(3):
        target.query(IMAGES)
        target.predict(IMAGES)
    (sentence,) = warnings_of(caplog)
    assert f"the target's {activation} squashes them once more" in sentence and "target.activation=none" in sentence
    assert ("sum to 1" in sentence) == isinstance(last, nn.Softmax)
    checked = ending_in(last, net, wrap, activation=activation).check(IMAGES)
    assert len(checked) == 1 and checked[0] == sentence


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_probabilities_of_other_types_are_noticed(dtype):
    logits = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    assert OutputWatch()(logits.softmax(1).to(dtype), "softmax") and OutputWatch()(
        logits.sigmoid().to(dtype), "sigmoid"
    )


def test_a_squeezed_probability_is_noticed_over_several_batches(caplog):
    net = nn.Sequential(cnn(classes=1), nn.Sigmoid(), nn.Flatten(0))
    target = ClassifierTarget(net, "sigmoid")
    for image in IMAGES.repeat(3, 1, 1, 1).split(1):
        target.finite_logits(image)
    assert len(warnings_of(caplog)) == 1


@pytest.mark.parametrize(("wrap", "net"), [(ClassifierTarget, cnn), (SegmenterTarget, segmenter)])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_logits_and_declared_probabilities_are_no_fault(wrap, net, activation, caplog):
    assert not wrap(net(), activation=activation).check(IMAGES)
    last = nn.Softmax(1) if activation == "softmax" else nn.Sigmoid()
    assert not ending_in(last, net, wrap, activation="none").check(IMAGES)
    wrap(net(), activation=activation).predict(IMAGES)
    assert not warnings_of(caplog)


def test_small_logits_of_an_untrained_network_are_no_probabilities():
    logits = 0.1 + 0.15 * torch.rand(8, 4, generator=torch.Generator().manual_seed(0))
    assert OutputWatch()(logits, "sigmoid") is None and OutputWatch(4)(logits, "softmax") is None


def test_logits_declared_probabilities_are_refused():
    target = ClassifierTarget(cnn(), activation="none")
    for call in (target.query, target.predict, target.check):
        with pytest.raises(ValueError, match=r"reach from .* no probabilities.*use 'softmax' or 'sigmoid'"):
            call(IMAGES)


def test_a_sigmoid_behind_a_sigmoid_and_logarithms_are_noticed():
    twice = ending_in(nn.Sequential(nn.Sigmoid(), nn.Sigmoid()), activation="none")
    assert "a sigmoid behind a sigmoid" in twice.check(IMAGES)[0]
    logs = ending_in(nn.LogSoftmax(1), activation="sigmoid")
    assert "target.activation=softmax" in logs.check(IMAGES)[0]
    assert not ending_in(nn.LogSoftmax(1)).check(IMAGES), "the softmax of logarithms is right"


# ------------------------------------------------------------------ numbers, shapes, classes


def test_nan_and_wrong_shapes_are_refused():
    with pytest.raises(NotFiniteOutputError, match="NaN or infinite for images number 0, 1"):
        ClassifierTarget(lambda images: images.flatten(1)[:, :3] * torch.nan).check(IMAGES)
    with pytest.raises(ValueError, match="Is it a segmenter"):
        ClassifierTarget(segmenter()).check(IMAGES)


@pytest.mark.parametrize("classes", [2, ["x", "y"], 1000])
def test_another_number_of_classes_is_noticed(classes):
    (sentence,) = ClassifierTarget(cnn()).check(IMAGES, classes)
    assert sentence.startswith(f"The model has 3 classes, but the data have {classes if classes == 1000 else 2}")


def test_names_in_another_order_are_noticed():
    target = ClassifierTarget(cnn(), class_names=["cat", "dog", "fox"])
    assert "another order (cat, dog, fox; the data: dog, cat, fox)" in target.check(IMAGES, ["dog", "cat", "fox"])[0]
    assert not target.check(IMAGES, ["cat", "dog", "fox"]) and not target.check(IMAGES, ["x", "y", "z"])


class Brings(nn.Module):
    """A network that brings names for its classes, as Hugging Face's configuration or our builders of others do."""

    def __init__(self, names, how):
        super().__init__()
        self.net = cnn()
        if how == "config":
            self.config = SimpleNamespace(id2label={number: names[number] for number in (2, 0, 1)})
        else:
            self.published_names = names

    def forward(self, images):
        return self.net(images)


@pytest.mark.parametrize("how", ["config", "builder"])
def test_names_that_the_model_brings_are_compared(how, caplog):
    model, wanted = Brings(["Cat", "dog", "fox "], how), "another order (Cat, dog, fox ; the data: dog, cat, fox)"
    for target, classes in (
        (ClassifierTarget(model), ["dog", "cat", "fox"]),
        (ClassifierTarget(model, class_names=["dog", "cat", "fox"]), None),  # data without labels
        (ClassifierTarget(model, class_names=["dog", "cat", "fox"]), ["dog", "cat", "fox"]),
    ):
        (sentence,) = target.check(IMAGES, classes)
        assert wanted in sentence and sentence in caplog.text
    for names in (["cat", "dog", "fox"], ["x", "y", "z"], None):
        assert not ClassifierTarget(model, class_names=names).check(IMAGES)
    assert not ClassifierTarget(Brings(["LABEL_0", "LABEL_1", "LABEL_2"], how)).check(IMAGES, ["dog", "cat", "fox"])


def test_statistics_of_other_units_are_noticed():
    kinds = {"of bytes for [0, 1]": ([123.7], [58.4], IMAGES), "of [0, 1] for bytes": ([0.45], [0.22], 255 * IMAGES)}
    for mean, std, images in kinds.values():
        found = ClassifierTarget(cnn(), mean=mean, std=std).check(images)
        assert any("belong to other units" in sentence for sentence in found)
    assert not ClassifierTarget(cnn(), mean=[0.5], std=[0.3]).check(IMAGES)


def test_a_model_that_gives_everything_the_same_is_noticed():
    target = ClassifierTarget(lambda images: torch.tensor([[2.0, -1.0]]).expand(len(images), -1))
    assert "same outputs for all images" in target.check(IMAGES)[0]
    assert not target.check(IMAGES[:1].expand(3, -1, -1, -1)), "the images are the same"


# ------------------------------------------------------------------ class order and chance


def confusion(kind, n=40):
    """Rows: four true classes."""
    if kind == "right":
        return torch.eye(4) * n + 1
    if kind == "two exchanged":
        return torch.eye(4)[[1, 0, 2, 3]] * n + 1
    if kind == "shifted":
        return torch.eye(4).roll(1, 1) * n + 1
    if kind == "chance":
        return torch.full((4, 4), n)
    if kind == "one class":
        return torch.eye(4)[[2, 2, 2, 2]] * n
    return torch.eye(4) * 0.3 * n + 0.7 * n / 4  # "weak"


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("right", None),
        ("weak", None),
        ("two exchanged", "a is predicted as b, b is predicted as a)"),
        ("shifted", "a is predicted as b, b is predicted as c, c is predicted as d, d is predicted as a)"),
        ("chance", "no better than the chance of 25%"),
        ("one class", "no better than the chance of 25%"),
    ],
)
def test_what_a_confusion_matrix_says(kind, said):
    found = confusion_fault(confusion(kind), NAMES)
    assert (found is None) if said is None else (found is not None and said in found and "\n" not in found)


def test_far_below_chance_without_an_order():
    """Wrong wherever it can be, in no order."""
    counts = torch.full((4, 4), 20) - 20 * torch.eye(4)
    assert "far below the chance of 25%" in confusion_fault(counts, NAMES)


def test_few_images_say_nothing():
    assert confusion_fault(torch.eye(4).roll(1, 1), NAMES) is None and confusion_fault(torch.zeros(4, 4), NAMES) is None


def test_imbalance_is_no_skill_and_absent_classes_do_not_count():
    assert "no better than the chance of 50%" in confusion_fault(torch.tensor([[0, 5], [0, 95]]), NAMES)
    assert confusion_fault(torch.tensor([[0, 0, 0], [0, 30, 2], [0, 1, 30]]), NAMES) is None


def test_labels_that_are_no_class_are_left_out_of_the_counts():
    truth, predicted = torch.tensor([[0, 1], [255, -1]]), torch.tensor([[0, 0], [1, 1]])
    assert confusion_of(truth, predicted, 2).tolist() == [[1, 0], [1, 0]]


@pytest.mark.parametrize("kind", [ClassifierTarget, SegmenterTarget])
def test_labels_let_check_see_the_order(kind):
    images = torch.rand(30, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    values = images if kind is SegmenterTarget else images.mean((2, 3))
    labels = values.argmax(1, keepdim=kind is SegmenterTarget)
    means = (lambda x: 50 * x) if kind is SegmenterTarget else (lambda x: 50 * x.mean((2, 3)))
    assert not kind(means).check(images, 3, labels)
    (sentence,) = kind(lambda x: means(x).roll(1, 1)).check(images, 3, labels)
    assert "another order" in sentence and "0 is predicted as 1" in sentence
