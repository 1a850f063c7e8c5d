"""Logits inside what a model returns: which part is taken, what ``output`` names, and what is said about it."""

import logging

import pytest
import torch
from torch import nn

from lightning_xai import ClassifierTarget, SegmenterTarget
from lightning_xai.targets.model_output import OutputReader, per_image, per_pixel
from tests.helpers import cnn, segmenter


class Answering(nn.Module):
    def __init__(self, net, after):
        super().__init__()
        self.net, self.after = net, after

    def forward(self, x):
        return self.after(self.net(x))


def target_of(after, output=None, wrap=ClassifierTarget, net=cnn, **options):
    return wrap(Answering(net(), after), output=output, **options)


IMAGES = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
#: What is answered, what ``output`` says, and how the expected logits follow from those of the network.
NAMED = {
    "key": (lambda y: {"logits": y, "student": 2 * y}, "student", lambda y: 2 * y),
    "position in a list": (lambda y: [y, 2 * y, 3 * y], 1, lambda y: 2 * y),
    "position from the end": (lambda y: (y, 2 * y, 3 * y), -1, lambda y: 3 * y),
    "position in a dict": (lambda y: {"logits": y, "student": 2 * y}, 1, lambda y: 2 * y),
    "a key that is a number": (lambda y: {5: y, 7: 2 * y}, 7, lambda y: 2 * y),
    "function": (lambda y: {"logits": y}, lambda returned: -returned["logits"], lambda y: -y),
    "function of a tensor": (lambda y: y, lambda returned: 5 * returned, lambda y: 5 * y),
    "a container inside": (lambda y: {"heads": {"aux": y, "logits": 2 * y}, "logits": y}, "heads", lambda y: 2 * y),
    "no parts": (lambda y: y, "logits", lambda y: y),
}


@pytest.mark.parametrize("case", NAMED)
@pytest.mark.parametrize(("wrap", "net"), [(ClassifierTarget, cnn), (SegmenterTarget, segmenter)])
def test_output_names_the_part(case, wrap, net):
    after, output, expected = NAMED[case]
    assert torch.equal(target_of(after, output, wrap, net).logits(IMAGES), expected(wrap(net()).logits(IMAGES)))


def test_an_attribute_can_be_named():
    class Answer:
        def __init__(self, y):
            self.hidden = y

        @property
        def result(self):
            return 2 * self.hidden

    expected = 2 * ClassifierTarget(cnn()).logits(IMAGES)
    assert torch.equal(target_of(Answer, "result").logits(IMAGES), expected)


@pytest.mark.parametrize("output", ["student", 3, -3])
def test_a_part_that_is_not_there_is_named_with_those_that_are(output):
    with pytest.raises(ValueError, match=rf"output is {output!r}, but the model returns a dict of 'a' \(Tensor\)"):
        target_of(lambda y: {"a": y, "b": y}, output).logits(IMAGES)


@pytest.mark.parametrize(
    ("after", "words"),
    [
        (lambda y: {"boxes": [], "label": "cat"}, r"a dict of 'boxes' \(list\), 'label' \(str\)"),
        (lambda y: (None, [y.argmax(1)]), r"a tuple of 0 \(NoneType\), 1 \(list\)"),
        (lambda y: y.argmax(1), r"a tensor of torch\.int64"),
        (lambda y: None, r"a NoneType without parts"),
        (lambda y: y.detach().numpy(), r"a ndarray"),
    ],
)
def test_an_answer_without_logits_is_described(after, words):
    with pytest.raises(ValueError, match=rf"The model returns {words}.*output="):
        target_of(after).logits(IMAGES)


@pytest.mark.parametrize("output", [1.5, ["logits"], {"key": "logits"}])
def test_impossible_outputs_are_refused(output):
    with pytest.raises(ValueError, match="output is .* give the key, the attribute or the position"):
        ClassifierTarget(cnn(), output=output)


@pytest.mark.parametrize(
    ("after", "words"),
    [
        (lambda y: (y, y), r"a tuple of 0 \(Tensor\), 1 \(Tensor\), where \[0\] and \[1\] all have"),
        (lambda y: {"main": y, "teacher": y}, r"\['main'\] and \['teacher'\] all have"),
        (lambda y: {"out": [y.mean(), y, 2 * y]}, r"\['out'\]\[1\] and \['out'\]\[2\] all have"),
    ],
)
def test_of_equal_parts_none_is_guessed(after, words):
    for wrap, net in ((ClassifierTarget, cnn), (SegmenterTarget, segmenter)):
        with pytest.raises(ValueError, match=rf"The model returns .*{words}.*output="):
            target_of(after, wrap=wrap, net=net).logits(IMAGES)


def test_a_name_counts_before_equal_parts():
    target = target_of(lambda y: {"heads": [2 * y, 3 * y], "logits": y, "main": 4 * y})
    assert torch.equal(target.logits(IMAGES), ClassifierTarget(cnn()).logits(IMAGES))


def test_what_was_taken_is_logged_once(caplog):
    with caplog.at_level(logging.INFO, "lightning_xai.targets.model_output"):
        target = target_of(lambda y: {"aux": y * 0, "out": [y, y.mean()]})
        for _ in range(3):
            target.logits(IMAGES)
    said = [record.getMessage() for record in caplog.records if record.name.endswith("model_output")]
    assert len(said) == 1 and "['out'][0]" in said[0] and "output=" in said[0]
    caplog.clear()
    with caplog.at_level(logging.INFO):
        ClassifierTarget(cnn(), class_names=["a", "b", "c"], in_channels=1).logits(IMAGES)
    assert not caplog.records


def test_a_part_of_the_best_shape_wins_whatever_the_size_of_the_batch():
    target = target_of(lambda y: (y.mean(), y.mean(1), y))
    expected = ClassifierTarget(cnn()).logits(IMAGES)
    assert torch.equal(target.logits(IMAGES), expected)
    assert torch.allclose(target.logits(IMAGES[:1]), expected[:1], atol=1e-6)


def test_containers_that_hold_themselves_end():
    def endless(y):
        returned = {}
        returned["again"] = returned
        return returned

    with pytest.raises(ValueError, match="a dict of 'again'"):
        target_of(endless).logits(IMAGES)


@pytest.mark.parametrize(
    ("shape_of_logits", "count", "expected"),
    [
        ((4, 3), 4, (4, 3)),
        ((4,), 4, (4, 1)),
        ((), 1, (1, 1)),
        ((1,), 1, (1, 1)),
        ((3,), 1, (1, 3)),
        ((2, 3, 1, 1), 2, (2, 3)),
    ],
)
def test_shapes_of_classifiers(shape_of_logits, count, expected):
    values = torch.rand(shape_of_logits)
    reshaped = per_image(values, torch.Size((count, 1, 8, 8)))
    assert reshaped.shape == expected and torch.equal(reshaped.flatten(), values.flatten())


@pytest.mark.parametrize("shape_of_logits", [(3,), (), (3, 2), (2, 3, 8, 8), (2, 2, 3)])
def test_shapes_that_no_classifier_has(shape_of_logits):
    with pytest.raises(ValueError, match=r"a classifier needs \(B, K\), or \(B,\).*output="):
        per_image(torch.rand(shape_of_logits), torch.Size((2, 1, 8, 8)))


@pytest.mark.parametrize("size", [(8, 6), (8, 1), (4, 6, 5)])
@pytest.mark.parametrize("count", [1, 2])
def test_shapes_of_segmenters(size, count):
    shape = torch.Size((count, 1, *size))
    many, one = torch.rand(count, 3, *size), torch.rand(count, 1, *size)
    assert torch.equal(per_pixel(many, shape), many)
    for squeezed in (one, one.squeeze(1), one.squeeze()):
        assert torch.equal(per_pixel(squeezed, shape), one)
    assert torch.equal(per_pixel(torch.stack([many, 0 * many], dim=1), shape), many), "stacked heads"
    if count == 1:
        assert torch.equal(per_pixel(many[0], shape), many)


@pytest.mark.parametrize("shape_of_logits", [(2, 3), (2, 3, 5, 3), (2, 3, 1, 1), (2, 8, 6, 3), (3, 8, 6), (1, 3, 8, 6)])
def test_shapes_that_no_segmenter_has(shape_of_logits):
    with pytest.raises(ValueError, match=r"a segmenter needs one per pixel.*output="):
        per_pixel(torch.rand(shape_of_logits), torch.Size((2, 1, 8, 6)))


@pytest.mark.parametrize("size", [(17, 17), (16, 20), (9, 10, 11)])
@pytest.mark.parametrize("after", [lambda y: y.movedim(1, -1), lambda y: y.unsqueeze(-1), lambda y: y.flatten(2)])
def test_no_padding_makes_classes_of_columns(size, after):
    """Channels last, padded to 32 x 32 pixels, are not 32 classes at a fraction of the size."""
    target = SegmenterTarget(Answering(segmenter(len(size)), after))
    with pytest.raises(ValueError, match="a segmenter needs one per pixel"):
        target.logits(torch.rand(2, 1, *size))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_of_equal_squeezed_parts_none_is_guessed(count):
    """Columns or rows of logits are not one logit; a loss beside one logit never is."""
    images = torch.rand(count, 1, 16, 16)
    for parts in (lambda y: tuple(y.unbind(1)), lambda y: list(y) if count > 1 else [y[0], y[0]]):
        with pytest.raises(ValueError, match="all have the shape of logits|a classifier needs"):
            ClassifierTarget(Answering(cnn(), parts), "sigmoid").logits(images)
    one = ClassifierTarget(Answering(cnn(classes=1), lambda y: (y.mean(), y[:, 0])), "sigmoid")
    assert torch.equal(one.logits(images), ClassifierTarget(cnn(classes=1), "sigmoid").logits(images))


def test_a_reader_takes_metadata_off():
    from monai.data.meta_tensor import MetaTensor

    values = torch.rand(2, 3, requires_grad=True)
    reshaped = OutputReader()(MetaTensor(values), lambda _: 2)
    assert type(reshaped) is torch.Tensor and reshaped.requires_grad
