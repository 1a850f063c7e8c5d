"""Layers inside a frozen model: their grids, what they give, and the model from there on."""

import collections
import contextlib
import dataclasses

import pytest
import torch
from monai.networks.nets import BasicUNet, ResNet
from torch import nn

from lightning_xai import ClassifierTarget
from lightning_xai.targets.layers.find import auto_layer, named_layer
from lightning_xai.targets.layers.grid import to_grid
from lightning_xai.targets.layers.hooks import capture_outputs, hook_guard
from lightning_xai.targets.layers.replay import batched, replayed
from tests.helpers import cnn


def hooks_of(net):
    return [len(module._forward_hooks) for module in net.modules()]


def numbers_of(grid):
    """What a grid of tokens that hold their number holds at every position."""
    return grid[0, 0].tolist()


# ------------------------------------------------------------------ to_grid


@pytest.mark.parametrize(("shape", "size"), [((6, 8), (48, 64)), ((3, 5), (24, 33)), ((4, 6, 5), (16, 24, 20))])
@pytest.mark.parametrize("channels", [2, 16, 40])
def test_convolutions_are_channels_first_or_last(shape, size, channels):
    """Distinguished by the proportions of the image, whatever the number of channels."""
    first = torch.rand(2, channels, *shape)
    assert torch.equal(to_grid(first, size), first), "channels first stay as they are"
    assert torch.equal(to_grid(first.movedim(1, -1), size), first), "channels last move to the front"


def test_a_position_of_rounding_is_no_other_proportion():
    """A stride of 2 makes 4 of 7 and 8 of 15: 3.5 and 7.5 on paper."""
    values = torch.rand(1, 64, 4, 8)
    assert torch.equal(to_grid(values, (7, 15)), values)
    assert torch.equal(to_grid(values.movedim(1, -1), (7, 15)), values)


@pytest.mark.parametrize("extra", [0, 1, 5])
@pytest.mark.parametrize(("size", "patch"), [((32, 32), 8), ((24, 40), 8), ((40, 24), 4), ((16, 24, 8), 8)])
def test_tokens_lie_as_the_patches_do(size, patch, extra):
    """Each token holds its own number; those of the classes come first."""
    grid = tuple(side // patch for side in size)
    count = torch.Size(grid).numel()
    tokens = (torch.arange(count + extra).float() - extra).view(1, -1, 1).repeat(2, 1, 3)
    assert to_grid(tokens, size).shape == (2, 3, *grid)
    assert numbers_of(to_grid(tokens, size)) == torch.arange(count).float().view(grid).tolist()


def test_tokens_are_written_through_the_grid():
    """AblationCAM sets channels of the grid to zero and hands on the tokens."""
    tokens = torch.ones(2, 7, 3)
    to_grid(tokens, (16, 24))[:, 1] = 0
    assert not tokens[:, 1:, 1].any() and tokens[:, 0].all() and tokens[..., 0].all() and tokens[..., 2].all()


@pytest.mark.parametrize(
    "shape",
    [(2, 3), (2,), (2, 3, 1, 1), (2, 1, 4), (2, 15, 4), (2, 7, 4)],
    ids=["vector", "number", "pooled", "one token", "no grid of 32 x 32 has 15, 14 .. 10", "7 .. 2 but for 4"],
)
def test_no_positions(shape):
    values, size = torch.rand(*shape), (32, 32)
    grid = to_grid(values, size)
    if shape == (2, 7, 4):
        assert grid.shape == (2, 4, 2, 2), "3 extra tokens"
    else:
        assert grid is None


# ------------------------------------------------------------------ names


def test_a_layer_by_its_name():
    target = ClassifierTarget(nn.Sequential(cnn(), nn.Identity()))
    assert named_layer(target, "0.2") is target.model[0][2]
    with pytest.raises(ValueError, match="no layer '2'; it has 0, 0.0, .*, 0.6, 1.$"):
        named_layer(target, "2")


# ------------------------------------------------------------------ capture_outputs


def test_a_single_logit_that_is_asked_about_both_ways_has_a_layer():
    """The scores of "no" and "yes" cancel out."""
    images = torch.rand(2, 1, 8, 8)
    target = ClassifierTarget(cnn(classes=1), "sigmoid")
    assert auto_layer(target, images, torch.tensor([[0, 1], [1, 0]])) == auto_layer(target, images, torch.tensor([[1]]))


def test_a_layer_is_found_where_the_caller_needs_no_gradient():
    target, images, targets = ClassifierTarget(cnn()), torch.rand(2, 1, 8, 8), torch.tensor([[1], [2]])
    expected = auto_layer(target, images, targets)
    with torch.no_grad():
        assert auto_layer(target, images, targets) == expected


def test_hooks_are_gone_after_any_exception():
    target = ClassifierTarget(cnn())
    before, layers = hooks_of(target.model), [target.model[0], target.model[2]]
    images = torch.rand(1, 1, 8, 8)
    with pytest.raises(KeyError, match="mine"), capture_outputs(layers):
        target.logits(images)
        raise KeyError("mine")
    assert hooks_of(target.model) == before, "after an exception of the caller"
    with pytest.raises(RuntimeError), capture_outputs(layers):
        target.logits(images[:, :, 0, 0])
    assert hooks_of(target.model) == before, "after an exception of the model"
    with pytest.raises(ValueError, match="The layer Conv2d gave nothing"), capture_outputs(layers):
        pass
    assert hooks_of(target.model) == before, "after a layer that was not called"


def graph_of(tensor):
    """All nodes of the backward graph of a tensor."""
    nodes, waiting = set(), [tensor.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in nodes:
            nodes.add(node)
            waiting += [following for following, _ in node.next_functions]
    return {node.name() for node in nodes}


def test_the_backward_pass_starts_at_the_layer():
    """A frozen model of two convolutions: only what comes after the layer leaves a graph."""
    torch.manual_seed(0)
    body = [nn.Conv2d(1, 4, 3), nn.Sigmoid(), nn.Conv2d(4, 4, 3), nn.Tanh()]
    target = ClassifierTarget(nn.Sequential(*body, nn.Flatten(), nn.Linear(64, 3)))
    images = torch.rand(2, 1, 8, 8)
    with capture_outputs([target.model[2]]) as outputs:
        logits = target.logits(images)
    features = outputs[target.model[2]]
    assert features.is_leaf and features.requires_grad, "there is a graph before the layer"
    names = graph_of(logits)
    assert any("Tanh" in name for name in names)
    assert not any("Conv" in name or "Sigmoid" in name for name in names), names
    (gradient,) = torch.autograd.grad(logits[:, 1].sum(), features)
    weight = target.model[-1].weight[1].view(4, 4, 4)
    torch.testing.assert_close(gradient, weight * (1 - features.detach().tanh() ** 2))
    assert images.grad is None and all(parameter.grad is None for parameter in target.model.parameters())


def test_of_two_layers_the_graph_starts_at_the_first():
    target = ClassifierTarget(cnn())
    first, second = target.model[0], target.model[2]
    with capture_outputs([first, second]) as outputs:
        logits = target.logits(torch.rand(2, 1, 8, 8))
    assert outputs[first].is_leaf and not outputs[second].is_leaf
    gradients = torch.autograd.grad(logits[:, 0].sum(), [outputs[first], outputs[second]])
    assert all(gradient.any() for gradient in gradients)


@pytest.mark.parametrize("inplace", [False, True])
def test_a_later_op_in_place_does_not_change_what_was_captured(inplace):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(inplace), nn.Flatten(), nn.Linear(144, 3))
    target, images = ClassifierTarget(net), torch.rand(2, 1, 8, 8)
    with capture_outputs([net[0]]) as outputs:
        logits = target.logits(images)
    with torch.no_grad():
        expected = net[0](images)
        assert torch.equal(logits, net(images)), "the hook changes the logits"
    assert expected.min() < 0 and torch.equal(outputs[net[0]], expected)
    (gradient,) = torch.autograd.grad(logits[:, 2].sum(), outputs[net[0]])
    torch.testing.assert_close(gradient, net[3].weight[2].view(4, 6, 6) * (expected > 0))


def test_only_tensors_are_captured():
    attention = nn.MultiheadAttention(4, 1, batch_first=True)
    tokens = torch.rand(1, 3, 4)
    with (
        pytest.raises(ValueError, match="MultiheadAttention gives a tuple; choose one of tensors"),
        capture_outputs([attention]),
    ):
        attention(tokens, tokens, tokens)
    assert hooks_of(attention) == [0] * len(hooks_of(attention))


# ------------------------------------------------------------------ replayed


def replaced_by_hook(net, layer, images, value):
    """The whole model, with a hook that gives ``value`` for the layer's output."""
    hook = layer.register_forward_hook(lambda *_: value.clone())
    result = net(images)
    hook.remove()
    return result


def unet():
    return BasicUNet(2, 1, 3, (4, 4, 6, 6, 8, 4))


def residual():
    return ResNet("basic", [2, 2, 1, 1], [4, 6, 6, 8], spatial_dims=2, n_input_channels=1, num_classes=3)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        *((unet, name) for name in ("down_4", "down_2", "conv_0", "upcat_3", "upcat_1", "down_4.convs.conv_0")),
        *((residual, name) for name in ("layer1", "layer3", "layer2.0", "layer2.0.conv1", "conv1")),
        *((residual, name) for name in ("layer2.1.conv2", "layer2.1.bn2")),  # their act is called twice in a block
    ],
)
def test_the_rest_of_the_model_with_its_skips(make, name):
    torch.manual_seed(0)
    net = make().eval().double()
    images = torch.rand(1, 1, 32, 32, dtype=torch.float64)
    layer = net.get_submodule(name)
    before = hooks_of(net)
    with torch.no_grad():
        plain = net(images)
        with replayed(net, layer) as replay:
            assert torch.equal(net(images), plain)
            original = replay.value
            for scale in (1.0, -2.0):  # a second value counts as the first did
                # Not zeros: instance norms of what is constant but for rounding make it as large as the rest.
                value = torch.cat([original.flip(1), scale * original.flip(1), original.roll(1, dims=-1)])
                replay.replace(value)
                # The images say nothing any more, but how many there are.
                result = net(torch.zeros(3, 1, 32, 32, dtype=torch.float64))
                expected = torch.cat([replaced_by_hook_of(make, name, net, images, part) for part in value.split(1)])
                torch.testing.assert_close(result, expected)
                assert (expected[0] - expected[2]).abs().max() > 1e-6, "the layer does not matter"
        assert torch.equal(net(images), plain), "the model is not as it was"
    assert hooks_of(net) == before and not any("forward" in module.__dict__ for module in net.modules())


def replaced_by_hook_of(make, name, net, images, value):
    """:func:`replaced_by_hook` on a twin: the net itself is being replayed."""
    twin = make().eval().double()
    twin.load_state_dict(net.state_dict())
    return replaced_by_hook(twin, twin.get_submodule(name), images, value)


def test_the_model_is_restored_after_an_exception():
    net = cnn().eval()
    original = net[1].forward
    net[1].forward = original
    before = hooks_of(net)
    with pytest.raises(KeyError, match="mine"), replayed(net, net[2]) as replay:
        net(torch.rand(1, 1, 8, 8))
        raise KeyError("mine")
    assert hooks_of(net) == before, "before the first replacement"
    with pytest.raises(KeyError, match="mine"), replayed(net, net[2]) as replay:
        net(torch.rand(1, 1, 8, 8))
        replay.replace(torch.rand(2, 6, 8, 8))
        raise KeyError("mine")
    assert hooks_of(net) == before
    assert [name for name, module in net.named_modules() if "forward" in module.__dict__] == ["1"]
    assert net[1].__dict__["forward"] is original


def test_a_layer_that_was_not_called_cannot_be_replaced():
    net = cnn()
    error = pytest.raises(ValueError, match="Conv2d gave nothing: the model does not call it")
    with error, replayed(net, nn.Conv2d(1, 1, 1)) as replay:
        net(torch.rand(1, 1, 8, 8))
        replay.replace(torch.rand(1, 1, 8, 8))


def test_outputs_of_one_image_are_those_of_many_without_copies():
    value = torch.rand(1, 2, 3)
    nodes = batched({"a": [value, (value,)]}, 4, copy=False)
    assert set(nodes) == {"a"} and isinstance(nodes["a"], list) and isinstance(nodes["a"][1], tuple)
    for tensor in (nodes["a"][0], nodes["a"][1][0]):
        assert tensor.shape == (4, 2, 3) and tensor.data_ptr() == value.data_ptr()


Pair = collections.namedtuple("Pair", ["first", "second"])


class Attributes(collections.OrderedDict):
    def __getattr__(self, name):
        return self[name]


@dataclasses.dataclass(frozen=True)
class Record:
    values: torch.Tensor
    loss: torch.Tensor | None = None


def test_outputs_keep_their_kind():
    value = torch.rand(1, 2, 3)
    pair = batched(Pair(value, None), 4, copy=True)
    assert type(pair) is Pair and pair.first.shape == (4, 2, 3) and pair.second is None
    mapping, record = Attributes(values=value), Record(value)
    for nodes in (batched(mapping, 4, copy=True), batched(record, 4, copy=True)):
        assert nodes.values.shape == (4, 2, 3) if isinstance(nodes, Record) else nodes["values"].shape == (4, 2, 3)
    assert type(batched(mapping, 4, copy=True)) is Attributes and mapping["values"] is value


def test_what_is_no_tensor_stays_as_it_is():
    assert batched((torch.rand(1, 2), None), 4, copy=True)[1] is None


@pytest.mark.parametrize("fails", [False, True])
def test_hooks_of_others_are_removed_and_those_before_are_kept(fails):
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(inplace=True), nn.Sequential(nn.ReLU()))
    outputs = []
    net[0].register_forward_hook(lambda *_: outputs.append("own"))
    with contextlib.suppress(KeyError), hook_guard(net):
        assert not net[1].inplace
        for module in (net, net[0], net[2][0]):
            module.register_forward_hook(lambda *_: outputs.append("theirs"))
            module.register_forward_pre_hook(lambda *_: None)
            module.register_full_backward_hook(lambda *_: None)
        net[0].seen = net(torch.rand(1, 1, 2, 2))
        if fails:
            raise KeyError("theirs")
    assert net[1].inplace and not net[2][0].inplace and "theirs" in outputs and not hasattr(net[0], "seen")
    outputs.clear()
    net(torch.rand(1, 1, 2, 2))
    assert outputs == ["own"] and sum(hooks_of(net)) == 1


def test_a_plain_function_has_nothing_to_leave_behind():
    with hook_guard(lambda images: images):
        pass
