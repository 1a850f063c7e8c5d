"""The door to the model: its input is nobody else's, and what it does not take is said in one sentence."""

import pytest
import torch
from monai.data.meta_tensor import MetaTensor
from torch import nn

from lightning_xai import ClassifierTarget, SegmenterTarget
from lightning_xai.explainers import GradCAM
from tests.helpers import GradientMap, cnn, mlp, segmenter

IMAGES = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


class Keeps(nn.Module):
    """Keeps its input, writes into what it kept, and returns a view of the input."""

    def __init__(self):
        super().__init__()
        self.kept = None

    def forward(self, x):
        if self.kept is not None:
            self.kept.zero_()
        self.kept = x
        return x


@pytest.mark.parametrize("statistics", [{}, {"mean": [0.5], "std": [0.2]}])
def test_normalized_images_are_a_tensor_of_their_own(statistics):
    target, copy = ClassifierTarget(cnn(), **statistics), IMAGES.clone()
    target.normalize(IMAGES).zero_()
    assert torch.equal(IMAGES, copy)


def test_a_model_that_keeps_its_input_and_answers_with_a_view_of_it():
    target, copy = SegmenterTarget(Keeps(), "sigmoid"), IMAGES.clone()
    for _ in range(2):
        logits = target.logits(IMAGES)
        assert torch.equal(logits, torch.cat([-copy, copy], dim=1))
        logits.zero_()
    assert torch.equal(IMAGES, copy)


def test_a_leaf_that_requires_a_gradient_can_be_written_into_and_gets_it():
    class Writes(nn.Module):
        def forward(self, x):
            x.mul_(3)
            return x.flatten(1)

    leaf = IMAGES.clone().requires_grad_(True)
    score = ClassifierTarget(Writes()).score(leaf, torch.tensor([5, 6]))
    (gradient,) = torch.autograd.grad(score.sum(), leaf)
    expected = torch.zeros(2, 64)
    expected[0, 5] = expected[1, 6] = 3
    assert torch.equal(gradient.flatten(1), expected)
    assert torch.equal(leaf.detach(), IMAGES)


def test_blank_images_that_fraction_their_memory_can_be_written_into():
    constant = torch.tensor(0.5).expand(2, 1, 8, 8)
    net = nn.Sequential(nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(64, 2))
    assert ClassifierTarget(net).logits(constant).shape == (2, 2)


def test_metadata_of_images_does_not_reach_the_model():
    types = []
    target = ClassifierTarget(lambda x: types.append(type(x)) or x.flatten(1)[:, :3])
    target.logits(MetaTensor(IMAGES))
    assert types == [torch.Tensor]


@pytest.mark.parametrize(("wrap", "net"), [(ClassifierTarget, cnn), (SegmenterTarget, segmenter)])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: x[0], r"shape \(1, 8, 8\); give \(B, C, \*S\).*batch axis missing"),
        (lambda x: x.double(), r"images are torch\.float64, but the model's weights are torch\.float32"),
        (lambda x: x.half(), r"images are torch\.float16, but the model's weights are torch\.float32"),
        (lambda x: (255 * x).to(torch.uint8), r"images are torch\.uint8, but the model's weights are torch\.float32"),
        (lambda x: x.expand(-1, 3, -1, -1), r"images have 3 channels, but the model takes 1"),
        (lambda x: x.unsqueeze(2), r"so 3 spatial axes, but the model's convolutions take 2"),
        (lambda x: x.numpy(), r"images are a ndarray; give a tensor"),
    ],
)
@pytest.mark.parametrize("known", [False, True])
def test_images_that_a_model_does_not_take(wrap, net, change, words, known):
    target = wrap(net())
    if known:
        target.logits(IMAGES)
    for ask in (target.logits, lambda images: target.query(images, torch.tensor([0, 1]), None)):
        with pytest.raises(ValueError, match=words) as caught:
            ask(change(IMAGES))
        assert "\n" not in str(caught.value)


def test_counted_images_have_no_mean_to_subtract():
    target = ClassifierTarget(cnn(), mean=[0.5], std=[0.2])
    with pytest.raises(ValueError, match=r"images are torch\.uint8"):
        target.logits((255 * IMAGES).to(torch.uint8))


def test_a_model_that_converts_its_images_itself_is_left_alone():
    class Converts(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = cnn()

        def forward(self, x):
            return self.net(x.float() / 255)

    counted = (255 * IMAGES).to(torch.uint8)
    expected = ClassifierTarget(cnn()).logits(counted.float() / 255)
    assert torch.equal(ClassifierTarget(Converts()).logits(counted), expected)


@pytest.mark.parametrize(("wrap", "net"), [(ClassifierTarget, cnn), (SegmenterTarget, segmenter)])
@pytest.mark.parametrize("shape", [(1, 6, 7, 8), (1, 1, 7, 8)])
def test_a_volume_without_batch_axis_is_no_batch_of_one(wrap, net, shape):
    target = wrap(net(dims=3))
    with pytest.raises(ValueError, match=r"so 2 spatial axes, but the model's convolutions take 3"):
        target.logits(torch.rand(shape))
    assert target.logits(torch.rand(1, *shape)).shape[:2] == (1, 3)
    assert not any(module._forward_pre_hooks for module in target.model.modules())


@pytest.mark.parametrize("side", [20, 64])
def test_a_volume_as_deep_as_its_one_logit_is_no_batch_of_one_either(side):
    target = SegmenterTarget(nn.Conv3d(1, 1, 3, padding=1), activation="sigmoid")
    with pytest.raises(ValueError, match=r"so 2 spatial axes, but the model's convolutions take 3"):
        target.logits(torch.rand(1, 8, side, side))


def test_slices_of_a_volume_may_go_one_by_one():
    class Slices(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = segmenter(dims=3)

        def forward(self, x):
            return torch.stack([self.net(image) for image in x])

    volumes = torch.rand(2, 1, 6, 7, 8)
    assert torch.allclose(
        SegmenterTarget(Slices()).logits(volumes), SegmenterTarget(segmenter(dims=3)).logits(volumes), atol=1e-5
    )


def test_other_failures_name_shape_and_reason():
    target = ClassifierTarget(mlp(64))
    with pytest.raises(ValueError, match=r"fails on images of shape \(2, 1, 9, 9\).*mat1 and mat2 shapes"):
        target.logits(torch.rand(2, 1, 9, 9))
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes"):  # for those who wait for PyTorch's own error
        target.logits(torch.rand(2, 1, 9, 9))
    assert target.logits(IMAGES).shape == (2, 3)


@pytest.mark.parametrize(
    "error", [KeyError("mine"), AttributeError("mine"), torch.OutOfMemoryError("mine"), RecursionError("mine")]
)
def test_mistakes_of_the_model_itself_keep_their_traceback(error):
    class Broken(nn.Module):
        def forward(self, x):
            raise error

    for wrap in (ClassifierTarget, SegmenterTarget):
        with pytest.raises(type(error), match="mine"):
            wrap(Broken()).logits(IMAGES)


def test_a_shape_goes_through_the_model_before_it_is_hooked_into():
    """Once each: what a failing pass would leave in hooks, or in a replay, must not matter."""
    calls = []
    net = cnn()
    net.register_forward_hook(lambda *_: calls.append(1))
    target = ClassifierTarget(net)
    explainer = GradCAM(target, layer="0")
    counts = []
    for images in (IMAGES, IMAGES, torch.rand(2, 1, 9, 8), torch.rand(1, 1, 9, 8)):
        calls.clear()
        explainer.explain(images, torch.zeros(len(images), dtype=torch.long))
        counts.append(len(calls))
    assert counts == [2, 1, 2, 1]


def test_class_names_must_be_as_many_as_the_logits(tmp_path):
    names = ["a", "b"]
    with pytest.raises(ValueError, match=r"model gives 3 logits, but there are names of 2 classes \(a, b\)"):
        ClassifierTarget(cnn(), class_names=names).logits(IMAGES)
    with pytest.raises(ValueError, match=r"model gives 3 logits, but there are names of 2 classes \(a, b\)"):
        GradientMap(SegmenterTarget(segmenter(), class_names=names)).explain(IMAGES)
    for count in (1, 2):
        assert ClassifierTarget(cnn(classes=count), "sigmoid", class_names=names).logits(IMAGES).shape == (2, 2)
    torch.save(
        {"state_dict": cnn().state_dict(), "hyper_parameters": {"class_names": list("xyz")}}, tmp_path / "w.ckpt"
    )
    with pytest.raises(ValueError, match=r"w\.ckpt was trained for 3 classes \(x, y, z\).* given 2 classes \(a, b\)"):
        ClassifierTarget(cnn(), weights=tmp_path / "w.ckpt", class_names=names)
    assert ClassifierTarget(cnn(), weights=tmp_path / "w.ckpt", class_names=[]).class_names == ["x", "y", "z"]
