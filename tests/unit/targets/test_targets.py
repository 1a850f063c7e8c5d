"""Targets: the outputs against hand formulas, the queries, and what frozen means."""

import copy

import pytest
import torch
from torch import nn

from lightning_xai import ClassifierTarget, SegmenterTarget
from tests.helpers import GradientMap, assert_untouched, cnn, linear_net, mlp, pixel_segmenter, segmenter, state_of, vit


@pytest.fixture
def weight():
    torch.manual_seed(1)
    return torch.randn(3, 16)


@pytest.fixture
def images():
    torch.manual_seed(2)
    return torch.rand(4, 1, 4, 4)


# ------------------------------------------------------------------ outputs of classifiers


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_classifier_answers_against_hand_formulas(weight, images, activation):
    target = ClassifierTarget(linear_net(weight), activation)
    targets = torch.tensor([[0, 2], [1, 1], [2, 0], [0, 1]])
    logits = images.flatten(1) @ weight.T
    chances = logits.softmax(1) if activation == "softmax" else 1 / (1 + (-logits).exp())
    assert torch.allclose(target.score(images, targets), logits.gather(1, targets), atol=1e-5)
    assert torch.allclose(target.probability(images, targets), chances.gather(1, targets), atol=1e-6)
    assert torch.allclose(target.log_probability(images, targets), chances.log().gather(1, targets), atol=1e-5)
    assert torch.allclose(target.predict(images), chances, atol=1e-6)


def test_one_logit_is_the_pair_no_and_yes(weight, images):
    target = ClassifierTarget(linear_net(weight[:1]), "sigmoid")
    logit = (images.flatten(1) @ weight[0]).unsqueeze(1)
    both = torch.tensor([[0, 1]]).expand(4, -1)
    assert torch.allclose(target.score(images, both), torch.cat([-logit, logit], 1), atol=1e-6)
    assert torch.allclose(target.probability(images, both).sum(1), torch.ones(4))
    assert torch.allclose(target.log_probability(images, both), target.probability(images, both).log(), atol=1e-5)
    assert torch.equal(target.query(images, None, None).targets, (logit > 0).long())


def test_softmax_of_one_logit_is_refused(weight, images):
    with pytest.raises(ValueError, match=r"one logit.*activation='sigmoid'"):
        ClassifierTarget(linear_net(weight[:1])).score(images, torch.zeros(4, dtype=torch.long))


def test_log_probability_survives_extreme_logits(images):
    target = ClassifierTarget(linear_net(200 * torch.eye(2, 16)), "softmax")
    logs = target.log_probability(torch.ones(1, 1, 4, 4) * torch.tensor([1.0] + [0.0] * 15).view(1, 1, 4, 4), [[1]])
    assert logs.item() == pytest.approx(-200)


@pytest.mark.parametrize("dims", [2, 3])
def test_two_and_three_dimensions(dims):
    images = torch.rand(2, 2, *(5, 6, 7)[:dims])
    assert ClassifierTarget(cnn(dims, 2)).score(images, torch.tensor([0, 2])).shape == (2, 1)
    target = SegmenterTarget(segmenter(dims, 2))
    query = target.query(images, None, None)
    targets, pixels = query.targets, query.regions
    assert targets.tolist() == [[1, 2], [1, 2]] and pixels.shape == (2, 2, *images.shape[2:])
    assert target.score(images, targets).shape == (2, 2)


@pytest.mark.parametrize("model", [mlp(), vit(), cnn()])
def test_any_module_is_a_target(model):
    target = ClassifierTarget(model)
    images = torch.rand(2, 1, 8, 8)
    assert torch.allclose(target.predict(images).sum(1), torch.ones(2))
    assert GradientMap(target).explain(images).abs().sum() > 0


def test_float16_like_outputs_give_float32_probabilities(images, weight):
    target = ClassifierTarget(linear_net(weight)).bfloat16()
    assert target.probability(images.bfloat16(), torch.zeros(4, dtype=torch.long)).dtype == torch.float32


# ------------------------------------------------------------------ outputs of segmenters


def test_segmenter_sums_logits_and_averages_probabilities_over_the_set():
    torch.manual_seed(3)
    weight, images = torch.randn(3, 2), torch.randn(2, 2, 4, 4)
    target = SegmenterTarget(pixel_segmenter(weight))
    logits = torch.einsum("kc,bchw->bkhw", weight, images)
    targets, pixels = torch.tensor([[1, 2], [0, 1]]), torch.rand(2, 2, 4, 4) > 0.5
    picked = logits[torch.arange(2)[:, None], targets]
    chances = logits.softmax(1)[torch.arange(2)[:, None], targets]
    size = pixels.sum((2, 3))
    assert torch.allclose(target.score(images, targets, pixels), (picked * pixels).sum((2, 3)), atol=1e-5)
    assert torch.allclose(target.probability(images, targets, pixels), (chances * pixels).sum((2, 3)) / size, atol=1e-6)
    expected = (chances.log() * pixels).sum((2, 3)) / size
    assert torch.allclose(target.log_probability(images, targets, pixels), expected, atol=1e-5)


def test_default_set_is_what_is_predicted_and_carries_no_gradient():
    torch.manual_seed(3)
    weight, images = torch.randn(3, 2), torch.randn(2, 2, 4, 4, requires_grad=True)
    target = SegmenterTarget(pixel_segmenter(weight))
    query = target.query(images, None, None)
    targets, predicted_regions = query.targets, query.regions
    winners = torch.einsum("kc,bchw->bkhw", weight, images).argmax(1)
    assert targets.tolist() == [[1, 2], [1, 2]]
    assert torch.equal(predicted_regions, torch.stack([winners == 1, winners == 2], 1))
    score = target.score(images, targets)
    assert torch.equal(score, target.score(images, targets, predicted_regions))
    (gradient,) = torch.autograd.grad(score.sum(), images)
    expected = (predicted_regions.unsqueeze(2) * weight[None, 1:, :, None, None]).sum(1)
    assert torch.allclose(gradient, expected, atol=1e-6), "the gradient must see the set as a constant"


def test_one_channel_segmenter_is_binary_whatever_the_activation():
    images = torch.tensor([[[[-1.0, 2.0], [3.0, -4.0]]]])
    for activation in ("softmax", "sigmoid"):
        target = SegmenterTarget(pixel_segmenter(torch.ones(1, 1)), activation)
        query = target.query(images, None, None)
        targets, pixels = query.targets, query.regions
        assert targets.tolist() == [[1]] and pixels.flatten().tolist() == [False, True, True, False]
        assert target.score(images, targets).item() == 5
        assert target.score(images, torch.tensor([0])).item() == 5  # the logits of "no" are the negatives
        chance = target.probability(images, targets).item()
        assert chance == pytest.approx(torch.tensor([2.0, 3.0]).sigmoid().mean().item())


def test_multi_label_segmenter_predicts_every_positive_logit():
    images = torch.tensor([[[[1.0, -1.0]]]])
    target = SegmenterTarget(pixel_segmenter(torch.tensor([[1.0], [2.0]])), "sigmoid", background=None)
    query = target.query(images, None, None)
    targets, pixels = query.targets, query.regions
    assert targets.tolist() == [[0, 1]] and pixels.flatten(2).tolist() == [[[True, False], [True, False]]]


def test_empty_set_scores_zero():
    target = SegmenterTarget(pixel_segmenter(torch.randn(3, 1)))
    images, nothing = torch.rand(1, 1, 4, 4), torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    for ask in (target.score, target.probability, target.log_probability):
        assert ask(images, torch.tensor([1]), nothing).item() == 0


def test_one_set_serves_all_queries():
    target, images = SegmenterTarget(segmenter()), torch.rand(2, 1, 6, 6)
    query = target.query(images, torch.tensor([[0, 1, 2]] * 2), torch.rand(2, 1, 6, 6) > 0.5)
    pixels = query.regions
    assert pixels.shape == (2, 3, 6, 6) and torch.equal(pixels[:, 0], pixels[:, 2])


def test_scorer_keeps_the_set_of_the_whole_image():
    target = SegmenterTarget(pixel_segmenter(torch.ones(1, 1)))
    images = torch.tensor([[[[1.0, 2.0, -3.0]]]])
    score = target.scorer(images, torch.tensor([[1]]))
    erased = torch.tensor([[[[1.0, -5.0, -3.0]]]])
    expected = torch.tensor([1.0, -5.0]).sigmoid().mean()
    assert score(erased, torch.tensor([0])).item() == pytest.approx(expected.item())


# ------------------------------------------------------------------ queries


def test_default_query_is_the_prediction(weight, images):
    target = ClassifierTarget(linear_net(weight))
    query = target.query(images, None, None)
    targets, pixels = query.targets, query.regions
    assert torch.equal(targets[:, 0], (images.flatten(1) @ weight.T).argmax(1)) and pixels is None


def test_one_and_many_queries_per_image(weight, images):
    target = ClassifierTarget(linear_net(weight))
    single = target.query(images, torch.tensor([0, 1, 2, 0]), None).targets
    many = target.query(images, torch.tensor([[0, 1], [1, 2], [2, 0], [0, 0]]), None).targets
    assert single.shape == (4, 1) and many.shape == (4, 2)
    assert torch.equal(target.score(images, single), target.score(images, torch.tensor([0, 1, 2, 0])))


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (torch.tensor([0, 1, 2]), "3 queries for 4 images"),
        (torch.tensor([[0]]), "1 queries for 4 images"),
        (torch.tensor([0, 1, 2, 3]), "class 3, but the model has classes 0 to 2"),
        (torch.tensor([0, -1, 2, 1]), "class -1, but the model has classes 0 to 2"),
        (torch.tensor([[0.0, 1.0, 1.0]] * 4), "class index.*multi-hot"),
    ],
)
def test_impossible_queries_are_refused(weight, images, targets, message):
    with pytest.raises(ValueError, match=message):
        ClassifierTarget(linear_net(weight)).query(images, targets, None)


def test_classifier_takes_no_pixels(weight, images):
    with pytest.raises(ValueError, match="a classifier has one output per image"):
        ClassifierTarget(linear_net(weight)).query(images, None, torch.ones(4, 1, 4, 4, dtype=torch.bool))


@pytest.mark.parametrize("shape", [(4, 2, 4, 4), (3, 1, 4, 4), (4, 1, 5, 4)])
def test_pixel_sets_of_another_shape_are_refused(images, shape):
    with pytest.raises(ValueError, match=r"pixels have shape .* give \(B, T or 1, \*S\)"):
        SegmenterTarget(segmenter()).query(images, torch.tensor([1] * 4), torch.ones(shape, dtype=torch.bool))


@pytest.mark.parametrize("ask", ["score", "probability", "log_probability", "query"])
def test_models_of_the_other_kind_are_named(images, ask):
    query = (torch.tensor([1] * 4), None)
    with pytest.raises(ValueError, match=r"\(4, 3, 4, 4\).*Is it a segmenter"):
        getattr(ClassifierTarget(segmenter()), ask)(images, *query)
    with pytest.raises(ValueError, match=r"\(4, 3\).*Is it a classifier"):
        getattr(SegmenterTarget(cnn()), ask)(images, *query)


# ------------------------------------------------------------------ normalization


def test_images_are_normalized_with_the_stored_statistics(weight, images):
    mean, std = [0.4], [0.2]
    target = ClassifierTarget(linear_net(weight), mean=mean, std=std)
    expected = ((images - 0.4) / 0.2).flatten(1) @ weight.T
    assert torch.allclose(target.logits(images), expected, atol=1e-5)


def test_each_channel_has_its_own_statistics():
    target = SegmenterTarget(pixel_segmenter(torch.eye(2)), mean=[1.0, 2.0], std=[2.0, 4.0])
    logits = target.logits(torch.full((1, 2, 3, 3), 5.0))
    assert logits[0, :, 0, 0].tolist() == [2.0, 0.75]


def test_wrong_channels_name_the_statistics(weight):
    target = ClassifierTarget(linear_net(weight), mean=[0.1, 0.2], std=[0.3, 0.4])
    with pytest.raises(ValueError, match=r"3 channels, but the target takes 2 .*\[0\.1, 0\.2\].*\[0\.3, 0\.4\]"):
        target.logits(torch.rand(1, 3, 4, 4))


@pytest.mark.parametrize(
    "wrong",
    [{"mean": [0.1]}, {"std": [0.1]}, {"mean": [0.1], "std": [0.1, 0.2]}, {"activation": "relu"}, {"model": None}],
)
def test_impossible_targets_are_refused(wrong):
    with pytest.raises(ValueError, match=r"together|use 'softmax'|needs a model"):
        ClassifierTarget(**({"model": cnn()} | wrong))


def test_a_model_must_be_callable():
    with pytest.raises(ValueError, match=r"model is a dict; give an nn\.Module or a callable"):
        ClassifierTarget({"weights": 1})


# ------------------------------------------------------------------ frozen


def test_the_model_is_out_of_the_module_tree():
    target = ClassifierTarget(cnn(), mean=[0.5], std=[0.2])
    holder = nn.ModuleDict({"target": target, "own": nn.Linear(1, 1)})
    assert sorted(holder.state_dict()) == ["own.bias", "own.weight"]
    assert list(target.parameters()) == [] and dict(target.state_dict()) == {}
    holder.train()
    assert not any(module.training for module in target.model.modules())
    assert not any(parameter.requires_grad for parameter in target.model.parameters())


def test_explaining_in_train_mode_leaves_the_model_bit_identical():
    explainer = GradientMap(ClassifierTarget(cnn())).train()
    before, images = state_of(explainer.target), torch.rand(3, 1, 8, 8)
    first = explainer.explain(images)
    assert torch.equal(first, explainer.explain(images)), "dropout or batch statistics are active"
    assert_untouched(before, state_of(explainer.target))


def test_a_model_that_its_owner_trains_is_put_back_into_eval_mode():
    model = cnn()
    target, images = ClassifierTarget(model), torch.rand(3, 1, 8, 8)
    expected, before = target.logits(images), state_of(target)
    model.train()
    assert torch.equal(target.logits(images), expected)
    assert_untouched(before, state_of(target))


def test_moving_the_target_moves_the_model():
    target = ClassifierTarget(cnn(), mean=[0.5], std=[0.2]).double()
    assert {value.dtype for value in target.model.parameters()} == {torch.float64}
    assert target.score(torch.rand(1, 1, 8, 8).double(), torch.tensor([0])).dtype == torch.float64
    explainer = GradientMap(target).to("meta")
    assert {value.device.type for value in explainer.target.model.parameters()} == {"meta"}
    assert explainer.target.mean.device.type == "meta"


def test_a_copy_is_independent():
    target = ClassifierTarget(cnn())
    other = copy.deepcopy(target)
    assert other.fingerprint() == target.fingerprint()
    with torch.no_grad():
        next(other.model.parameters()).add_(1)
    assert other.fingerprint() != target.fingerprint()


def test_fingerprint_follows_the_weights():
    target = ClassifierTarget(cnn())
    first = target.fingerprint()
    assert first == target.fingerprint() == ClassifierTarget(cnn()).fingerprint()
    assert first != ClassifierTarget(cnn(seed=1)).fingerprint()
    with torch.no_grad():
        target.model[0].bias[0] += 1e-6
    assert target.fingerprint() != first


def test_fingerprint_sees_buffers_and_shapes():
    target = ClassifierTarget(cnn())
    first = target.fingerprint()
    target.model[1].running_var[0] += 1
    assert target.fingerprint() != first
    flat, tall = nn.Linear(4, 1, bias=False), nn.Linear(1, 4, bias=False)
    tall.weight.data = flat.weight.data.reshape(4, 1).clone()
    assert ClassifierTarget(flat).fingerprint() != ClassifierTarget(tall).fingerprint()


def test_fingerprint_of_a_reloaded_model_is_the_same(tmp_path):
    model = cnn()
    torch.save(model.state_dict(), tmp_path / "net.pt")
    reloaded = ClassifierTarget(cnn(seed=5), weights=tmp_path / "net.pt")
    assert reloaded.fingerprint() == ClassifierTarget(model).fingerprint()


# ------------------------------------------------------------------ other kinds of models


def test_plain_callable(weight, images):
    target = ClassifierTarget(lambda batch: batch.flatten(1) @ weight.T)
    assert not target.differentiable and ClassifierTarget(cnn()).differentiable
    assert torch.equal(target.logits(images), images.flatten(1) @ weight.T)
    assert target.fingerprint() == target.fingerprint()
    target.train().double()  # reaches nothing, breaks nothing
    with pytest.raises(ValueError, match="class 3"):
        target.query(images, torch.tensor([3] * 4), None)


def test_torchscript_module(tmp_path):
    eager, images = cnn().eval(), torch.rand(2, 1, 8, 8)
    path = tmp_path / "net.pt"
    torch.jit.trace(eager, images).save(path)
    for target in (ClassifierTarget(torch.jit.trace(eager, images)), ClassifierTarget(weights=path, allow_code=True)):
        assert torch.allclose(target.logits(images), eager(images), atol=1e-6)
        maps = GradientMap(target).explain(images, torch.tensor([0, 1]))
        expected = GradientMap(ClassifierTarget(cnn())).explain(images, torch.tensor([0, 1]))
        assert torch.allclose(maps, expected, atol=1e-6)
        assert target.fingerprint() == ClassifierTarget(eager).fingerprint()
    assert target.double().logits(images.double()).dtype == torch.float64


def test_exported_module():
    eager, images = cnn().eval(), torch.rand(2, 1, 8, 8)
    exported = torch.export.export(eager, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    target = ClassifierTarget(exported.module())  # refuses eval() and train()
    assert torch.allclose(target.logits(torch.cat([images, images])), eager(images).repeat(2, 1), atol=1e-6)
    assert GradientMap(target).explain(images).abs().sum() > 0


def test_stored_statistics_win_over_given_ones(tmp_path):
    extras = {"mean": [0.5], "std": [0.25], "class_names": ["a", "b", "c"]}
    torch.save({"state_dict": cnn().state_dict(), "hyper_parameters": extras}, tmp_path / "best.ckpt")
    target = ClassifierTarget(cnn(seed=5), weights=tmp_path / "best.ckpt", mean=[0.0], std=[1.0])
    assert (target.mean.tolist(), target.std.tolist(), target.class_names) == ([0.5], [0.25], ["a", "b", "c"])
