"""Copies of a target that lost what it learned."""

import copy
import itertools

import pytest
import torch
from torch import nn

from lightning_xai import ClassifierTarget, SegmenterTarget
from lightning_xai.functional.segmentation import IGNORED
from lightning_xai.networks.mask_net import SmallCNN
from lightning_xai.sanity.randomization import (
    cascade,
    execution_order,
    label_loss,
    layer_names,
    random_labels,
    randomize,
)
from lightning_xai.targets.freezing import freeze
from tests.helpers import assert_untouched, cnn, linear_net, mlp, segmenter, state_of, vit

MODELS = {
    "cnn": (lambda: ClassifierTarget(cnn()), (1, 12, 12)),
    "cnn3d": (lambda: ClassifierTarget(cnn(dims=3), mean=[0.5], std=[0.2]), (1, 8, 8, 8)),
    "vit": (lambda: ClassifierTarget(vit()), (1, 8, 8)),
    "small": (lambda: ClassifierTarget(SmallCNN(1, 3, widths=(4, 8))), (1, 12, 12)),
    "segmenter": (lambda: SegmenterTarget(segmenter()), (1, 12, 12)),
    "segmenter3d": (lambda: SegmenterTarget(segmenter(dims=3)), (1, 6, 6, 6)),
}


@pytest.fixture(params=MODELS)
def case(request):
    make, shape = MODELS[request.param]
    return make(), torch.rand(6, *shape)


def changed(target, twin):
    """Names of parameters that differ."""
    pairs = zip(target.model.named_parameters(), twin.model.parameters(), strict=True)
    return {name for (name, before), after in pairs if not torch.equal(before, after)}


class BackToFront(nn.Module):
    """Registers its head first, and calls one of its layers twice."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 2)
        self.shared = nn.Linear(4, 4)
        self.first = nn.Linear(9, 4)
        self.scale = nn.Parameter(torch.rand(3))

    def forward(self, images):
        return self.head(self.shared(self.shared(self.first(images.flatten(1)))) * self.scale.mean())


def test_layers_come_in_the_order_of_execution():
    target = ClassifierTarget(BackToFront())
    assert layer_names(target) == ["", "head", "shared", "first"]
    assert execution_order(target, torch.rand(2, 1, 3, 3)) == ["", "first", "shared", "head"]


def test_a_layer_that_is_not_called_by_itself_comes_with_the_module_around_it():
    order = execution_order(ClassifierTarget(vit()), torch.rand(2, 1, 8, 8))
    assert order[0] == "0" and order[-1] == "5"
    assert order.index("3.self_attn.out_proj") < order.index("3.linear1") < order.index("3.linear2")


def test_a_cascade_is_cumulative_from_the_head_to_everything(case):
    target, images = case
    before = state_of(target)
    stages = cascade(target, images, 4)
    assert_untouched(before, state_of(target))
    assert len(stages[0]) == 1 and stages[0] == execution_order(target, images)[-1:]
    assert all(later[: len(earlier)] == earlier for earlier, later in zip(stages, stages[1:], strict=False))
    assert sorted(stages[-1]) == sorted(layer_names(target)) and len(stages) <= 4
    covered = {id(value) for name in stages[-1] for value in target.model.get_submodule(name).parameters()}
    assert covered == {id(value) for value in target.model.parameters()}
    steps = [len(later) - len(earlier) for earlier, later in zip(stages, stages[1:], strict=False)]
    assert max(steps) - min(steps) <= 1, "the steps are about equal"


def test_a_model_of_one_layer_has_one_stage():
    assert cascade(ClassifierTarget(linear_net(torch.rand(2, 9))), torch.rand(2, 1, 3, 3), 4) == [["1"]]


def test_a_cascade_of_one_stage_is_refused():
    with pytest.raises(ValueError, match="stages is 1, but a cascade has at least 2"):
        cascade(ClassifierTarget(cnn()), torch.rand(2, 1, 8, 8), 1)


def test_the_seed_that_made_a_model_does_not_give_it_its_weights_back():
    torch.manual_seed(0)
    first, second = nn.Linear(9, 4), nn.Linear(4, 2)
    target = ClassifierTarget(nn.Sequential(nn.Flatten(), first, second))
    for layers in (["1", "2"], ["2", "1"]):
        assert changed(target, randomize(target, layers, torch.rand(2, 1, 3, 3))) == {
            f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")
        }


def test_only_the_named_layers_change_and_the_original_stays(case):
    target, images = case
    before, mark = state_of(target), target.fingerprint()
    for layers in cascade(target, images, 3):
        twin = randomize(target, layers, images)
        named = {name for name, _ in target.model.named_parameters() if name.rpartition(".")[0] in layers}
        unchanged = named - changed(target, twin)
        assert changed(target, twin) <= named
        # Plain scales and shifts of a fresh norm layer are the plain ones of a new layer; all else is random.
        assert all("norm" in name or name.startswith(("1.", "3.self_attn")) or "adn" in name for name in unchanged)
        assert not any(module.training for module in twin.model.modules())
        assert not any(value.requires_grad for value in twin.model.parameters())
        assert twin.predict(images).isfinite().all() and not torch.equal(twin.predict(images), target.predict(images))
    assert_untouched(before, state_of(target))
    assert target.fingerprint() == mark


def test_one_seed_gives_the_same_copy_and_the_head_the_same_weights_in_every_stage(case):
    target, images = case
    head, *_, everything = cascade(target, images, 3)
    state = torch.get_rng_state()
    first, again, other = (randomize(target, everything, images, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state), "the run's own random numbers go on as if nothing happened"
    assert first.fingerprint() == again.fingerprint() != other.fingerprint()
    name = f"{head[0]}.weight".lstrip(".")
    weights = [dict(randomize(target, layers, images).model.named_parameters())[name] for layers in (head, everything)]
    assert torch.equal(*weights)


def test_a_module_without_its_own_start_gets_the_same_spread_around_the_same_mean():
    model = BackToFront()
    model.scale = nn.Parameter(3 + torch.rand(20_000))
    twin = randomize(ClassifierTarget(model), [""], torch.rand(2, 1, 3, 3))
    new_scale = twin.model.scale
    assert float(new_scale.mean()) == pytest.approx(float(model.scale.mean()), abs=0.02)
    assert float(new_scale.std()) == pytest.approx(float(model.scale.std()), abs=0.02)
    assert abs(torch.corrcoef(torch.stack([new_scale, model.scale]))[0, 1]) < 0.05


def test_batch_norms_take_their_statistics_from_the_images():
    target, images = ClassifierTarget(cnn()), 100 * torch.rand(16, 1, 12, 12)
    norm = target.model[1]
    kept = copy.deepcopy(norm.state_dict())
    twin = randomize(target, layer_names(target), images)
    passed = twin.model[1](twin.model[0](images)).transpose(0, 1).flatten(1)
    assert passed.mean(dim=1) == pytest.approx(torch.zeros(6), abs=1e-4)
    assert passed.std(dim=1) == pytest.approx(torch.ones(6), abs=1e-2)
    head_only = randomize(target, ["6"], images).model[1]
    assert all(torch.equal(kept[name], value) for name, value in head_only.state_dict().items())


@pytest.mark.parametrize("kind", ["script", "part", "export", "callable"])
def test_models_without_layers_are_refused(kind):
    net, images = cnn().eval(), torch.rand(2, 1, 12, 12)
    if kind == "callable":
        model = lambda images: images.flatten(1)[:, :2]  # noqa: E731
    elif kind == "export":
        model = torch.export.export(net, (images,)).module()
    else:
        model = torch.jit.script(net)
    target = ClassifierTarget(nn.Sequential(model) if kind == "part" else model)
    with pytest.raises(ValueError, match="layers cannot be randomized; give the network itself as an nn.Module"):
        cascade(target, images, 4)


# ------------------------------------------------------------------ permuted labels


def test_a_model_learns_permuted_labels_and_the_original_stays():
    target, images, labels = ClassifierTarget(mlp()), torch.rand(8, 1, 8, 8), torch.arange(8) % 3
    before = state_of(target)
    start, end = (random_labels(target, images, labels, steps, 8) for steps in (0, 300))
    assert_untouched(before, state_of(target))
    assert label_loss(end, images, labels) > 1, "the true labels are what it must not learn"
    assert any(
        label_loss(end, images, labels[list(order)]) < label_loss(start, images, labels[list(order)]) / 2
        for order in itertools.permutations(range(8))
    )
    assert changed(start, end) == {name for name, _ in target.model.named_parameters()}
    assert not any(value.requires_grad or value.grad is not None for value in freeze(end.model).parameters())
    assert not any(module.training for module in end.model.modules())


@pytest.mark.parametrize(("activation", "classes"), [("softmax", 3), ("sigmoid", 3), ("sigmoid", 1)])
@pytest.mark.parametrize("dims", [2, 3])
def test_a_segmenter_learns_permuted_masks(activation, classes, dims):
    shape = (4, 1, *(6,) * dims)
    target = SegmenterTarget(segmenter(dims=dims, classes=classes), activation)
    masks = torch.randint(max(classes, 2), shape)
    twin = random_labels(target, torch.rand(shape), masks, 2, 2)
    assert twin.activation == activation and changed(target, twin)


@pytest.mark.parametrize(
    ("activation", "classes", "labels"),
    [
        ("softmax", 3, torch.tensor([0, 2])),
        ("sigmoid", 1, torch.tensor([0, 1])),
        ("sigmoid", 3, torch.tensor([[0.0, 1, 1], [1, 0, 0]])),
    ],
)
def test_the_loss_is_least_at_the_labels(activation, classes, labels):
    target = ClassifierTarget(linear_net(torch.eye(classes)), activation)
    hot = labels if labels.ndim == 2 else torch.eye(classes)[labels] if classes > 1 else labels[:, None]
    right, wrong = (20.0 * sign * (2 * hot - 1).view(2, classes, 1, 1) for sign in (1, -1))
    assert label_loss(target, right, labels) < 1e-3 < 5 < label_loss(target, wrong, labels)


def test_pixels_that_a_mask_ignores_are_not_learned():
    target, masks = SegmenterTarget(segmenter()), torch.randint(0, 3, (2, 1, 8, 8))
    images = torch.rand(2, 1, 8, 8)
    whole = label_loss(target, images, masks)
    masks[:, :, :4] = IGNORED
    partly = label_loss(target, images, masks)
    assert partly.isfinite() and partly != whole


def test_labels_that_the_model_does_not_have_are_refused():
    with pytest.raises(ValueError, match="A query is about class 5, but the model has classes 0 to 2"):
        random_labels(ClassifierTarget(cnn()), torch.rand(2, 1, 8, 8), torch.tensor([0, 5]), 1, 2)


def test_permuted_labels_that_end_at_nan_are_an_error():
    target, images = ClassifierTarget(cnn()), torch.full((4, 1, 8, 8), torch.inf)
    with pytest.raises(ValueError, match=r"permuted labels ends at a loss of nan after 2 steps"):
        random_labels(target, images, torch.tensor([0, 1, 2, 0]), 2, 2)
