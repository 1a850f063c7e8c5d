"""What a new target states of its model, and how it restores the model."""

import copy

import pytest
import torch
from torch import nn

from lightning_xai import ClassifierTarget, SegmenterTarget
from lightning_xai.explainers import CAPE, AmortizedPCIM, GradCAM, UNoise
from tests.helpers import assert_untouched, cnn, segmenter, state_of

IMAGES = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


class HeadFirst(nn.Module):
    """A network whose last layer, in the order of registration, is not its head."""

    def __init__(self, classes=3):
        super().__init__()
        self.head, self.stem = nn.Linear(7, classes), nn.Conv2d(1, 7, 3)

    def forward(self, images):
        return self.head(self.stem(images).mean(dim=(2, 3)))


def modes_and_flags(model):
    return [m.training for m in model.modules()], [p.requires_grad for p in model.parameters()]


def in_use():
    """A network as someone trains it: some parts in eval mode, some parameters without gradients."""
    model = cnn().train()
    model[1].eval()
    next(model.parameters()).requires_grad_(False)
    return model


@pytest.mark.parametrize(
    ("target", "channels", "classes"),
    [
        (lambda: ClassifierTarget(cnn(channels=2)), 2, 3),
        (lambda: SegmenterTarget(segmenter(3, channels=2, classes=4)), 2, 4),
        (lambda: SegmenterTarget(nn.Conv2d(1, 1, 1)), 1, 2),
        (lambda: ClassifierTarget(nn.Sequential(nn.Flatten(), nn.Linear(64, 5))), None, 5),
        (lambda: ClassifierTarget(cnn(), num_classes=3, in_channels=1), 1, 3),
        (lambda: ClassifierTarget(cnn(), mean=[0.1], std=[0.2], class_names=list("abc")), 1, 3),
        (lambda: ClassifierTarget(HeadFirst(), example=IMAGES), 1, 3),
        (lambda: ClassifierTarget(lambda images: images.mean((2, 3)).expand(-1, 6)), None, None),
        (lambda: ClassifierTarget(lambda images: images.mean((2, 3)).expand(-1, 6), example=IMAGES), 1, 6),
        (lambda: ClassifierTarget(lambda images: images.mean((2, 3)).expand(-1, 6), num_classes=6), None, 6),
        (lambda: SegmenterTarget(nn.Conv2d(1, 3, 1), window=4, example=IMAGES), 1, 3),
    ],
)
def test_sizes_are_known_when_it_is_made(target, channels, classes):
    built = target()
    assert (built.in_channels, built.num_classes) == (channels, classes)


def test_layers_that_say_something_else_are_believed_until_a_pass():
    target = ClassifierTarget(HeadFirst())
    assert target.num_classes == 7
    target.logits(IMAGES)
    assert target.num_classes == 3
    assert GradCAM(ClassifierTarget(HeadFirst()), "stem").explain(IMAGES, torch.tensor([0, 2])).shape == (2, 1, 8, 8)
    with pytest.raises(ValueError, match="class 5, but the model has classes 0 to 2"):
        GradCAM(ClassifierTarget(HeadFirst()), "stem").explain(IMAGES, torch.tensor([0, 5]))


def test_where_the_layers_were_read_is_logged(caplog):
    with caplog.at_level("INFO"):
        ClassifierTarget(cnn())
    assert "takes images of 1 channels, as its first layer '0'" in caplog.text
    assert "gives 3 logits, as its last layer" in caplog.text


def test_another_number_of_classes_than_stated_is_a_sentence():
    with pytest.raises(ValueError, match="gives 3 logits, but num_classes is 4"):
        ClassifierTarget(cnn(), num_classes=4).logits(IMAGES)
    with pytest.raises(ValueError, match="gives 3 logits, but num_classes is 4"):
        ClassifierTarget(cnn(), num_classes=4, example=IMAGES)


def test_what_a_single_logit_means_is_known_before_the_first_pass():
    single = SegmenterTarget(nn.Conv2d(1, 1, 1))
    assert single.activation == "sigmoid" and single.query(IMAGES).targets.unique().tolist() == [1]
    assert SegmenterTarget(nn.Conv2d(1, 1, 1), class_names=["no", "yes"]).activation == "sigmoid"
    conv = nn.Conv2d(1, 1, 1)
    unseen = SegmenterTarget(lambda images: conv(images))
    pair = unseen.predict(IMAGES)
    assert unseen.activation == "sigmoid" and torch.allclose(pair.sum(dim=1), torch.ones(2, 8, 8))
    assert SegmenterTarget(nn.Conv2d(1, 2, 1)).activation == "softmax"


@pytest.mark.parametrize("kind", [ClassifierTarget, SegmenterTarget])
def test_a_learner_needs_no_sizes(kind):
    target = kind(cnn() if kind is ClassifierTarget else segmenter())
    for explainer in (UNoise(target), AmortizedPCIM(target)):
        assert explainer.eval().explain(torch.rand(2, 1, 32, 32), torch.tensor([1, 2])).shape == (2, 1, 32, 32)


@pytest.mark.parametrize("way", ["with", "release", "error"])
def test_a_released_model_is_as_it_was(way):
    model = in_use()
    before, weights = modes_and_flags(model), copy.deepcopy(model.state_dict())
    if way == "release":
        target = ClassifierTarget(model)
        assert not model.training and not any(p.requires_grad for p in model.parameters())
        GradCAM(target, "0").explain(IMAGES)
        target.release()
    elif way == "with":
        with ClassifierTarget(model) as target:
            GradCAM(target, "0").explain(IMAGES)
    else:
        with pytest.raises(ValueError, match="has no layer 'nowhere'"), ClassifierTarget(model) as target:
            GradCAM(target, "nowhere")
    assert modes_and_flags(model) == before
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_a_released_target_still_answers_and_leaves_the_model_in_training():
    model = in_use()
    with ClassifierTarget(model) as target:
        expected = target.logits(IMAGES)
    before = modes_and_flags(model)
    assert torch.equal(target.logits(IMAGES), expected), "a pass in training mode differs"
    assert modes_and_flags(model) == before
    target.freeze()
    assert not model.training and not any(p.requires_grad for p in model.parameters())


def test_a_model_that_is_trained_elsewhere_is_never_frozen():
    model = in_use()
    before, state = modes_and_flags(model), copy.deepcopy(model.state_dict())
    target = ClassifierTarget(model, freeze=False, example=IMAGES)
    frozen = ClassifierTarget(copy.deepcopy(model))
    maps = GradCAM(target, "0").explain(IMAGES)
    assert torch.allclose(maps, GradCAM(frozen, "0").explain(IMAGES))
    assert modes_and_flags(model) == before and all(p.grad is None for p in model.parameters())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items()), "statistics moved"


def test_an_exception_in_a_pass_leaves_the_training_mode():
    class Failing(nn.Module):
        def forward(self, images):
            assert not self.training
            raise OSError("lost")

    model = Failing().train()
    with pytest.raises(OSError, match="lost"):
        ClassifierTarget(model, freeze=False).logits(IMAGES)
    assert model.training


def test_a_classifier_that_cape_trains_along_is_not_frozen_by_its_first_pass():
    model = cnn()
    cape = CAPE(ClassifierTarget(model), mode="ts")
    cape.setup("fit")
    values = cape.loss({"image": IMAGES, "label": torch.tensor([0, 1]), "id": ["a", "b"]})
    assert model.training and all(p.requires_grad for p in model.parameters()), "finding the head froze the model"
    values["loss"].backward()
    cape.teardown("fit")
    assert not model.training and not any(p.requires_grad for p in model.parameters())


def test_a_target_does_not_change_by_being_asked():
    target = SegmenterTarget(segmenter())
    target.logits(IMAGES)
    before = state_of(target)
    facts = (target.num_classes, target.in_channels, target.activation, target.fingerprint())
    UNoise(target).explain(IMAGES)
    GradCAM(target).explain(IMAGES)
    assert (target.num_classes, target.in_channels, target.activation, target.fingerprint()) == facts
    assert_untouched(before, state_of(target))
