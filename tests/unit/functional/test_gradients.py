"""Gradients of many scores: as one backward pass each gives them, whatever number shares a pass."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_xai.functional import gradients
from lightning_xai.functional.gradients import columns_at_once, from_gradients
from tests.helpers import Doubled

CLASSES, WIDTH = 7, 6


@pytest.fixture(autouse=True)
def two_are_enough(monkeypatch):
    monkeypatch.setattr(gradients, "FEWEST", 2)


class Apply(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, values):
        return self.function(values)


def through_a_sparse_matrix(values):
    """An operator of which vmap knows no batched form."""
    matrix = torch.eye(values.shape[1], dtype=values.dtype).roll(1, 0).to_sparse()
    return torch.sparse.mm(matrix, values.T).T


def rest(*layers, width=WIDTH, classes=CLASSES):
    """What comes after the inputs, frozen."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(WIDTH, width), nn.Tanh(), *layers, nn.Linear(width, classes))
    return net.double().requires_grad_(False)


def scores_and_inputs(net, batch=2):
    """Scores ``(B, T)``, and the two inputs that they depend on."""
    generator = torch.Generator().manual_seed(1)
    inputs = [torch.randn(batch, WIDTH, dtype=torch.float64, generator=generator) for _ in range(2)]
    leaves = [values.requires_grad_(True) for values in inputs]
    return net(leaves[0] + leaves[1].square()), leaves


def one_by_one(scores, inputs):
    """For each input ``(B, T, ...)``."""
    rows = [torch.autograd.grad(scores[:, column].sum(), inputs, retain_graph=True) for column in range(CLASSES)]
    return [torch.stack(values, dim=1) for values in zip(*rows, strict=True)]


class Passes:
    """Gives the gradients as they are, and notes the passes."""

    def __init__(self):
        self.count = 0

    def __call__(self, gradients):
        self.count += 1
        return gradients


def assert_same(result, expected):
    for values, reference in zip(result, expected, strict=True):
        assert reference.abs().max() > 1e-3
        torch.testing.assert_close(values, reference, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("size", [1, 2, 3, 6, 7, 8, 100])
def test_each_column_has_its_own_gradient_however_many_share_a_pass(size, monkeypatch):
    net, use = rest(), Passes()
    scores, inputs = scores_and_inputs(net)
    # The widest of the graph are the scores, 2 x 7.
    monkeypatch.setattr(gradients, "LARGEST", size * 14 + 13)
    assert columns_at_once(net, scores) == size
    assert_same(from_gradients(net, scores, inputs, use), one_by_one(scores, inputs))
    assert use.count == -(-CLASSES // size)
    assert all(values.grad is None for values in (*inputs, *net.parameters()))


@pytest.mark.parametrize(("fewest", "passes"), [(2, 1), (7, 1), (8, 7)])
def test_few_columns_have_passes_of_their_own(fewest, passes, monkeypatch):
    monkeypatch.setattr(gradients, "FEWEST", fewest)
    net, use = rest(), Passes()
    scores, inputs = scores_and_inputs(net)
    assert_same(from_gradients(net, scores, inputs, use), one_by_one(scores, inputs))
    assert use.count == passes


def test_a_single_column():
    net, use = rest(classes=1), Passes()
    scores, inputs = scores_and_inputs(net)
    (expected,) = torch.autograd.grad(scores.sum(), inputs[:1], retain_graph=True)
    (result,) = from_gradients(net, scores, inputs[:1], use)
    torch.testing.assert_close(result, expected.unsqueeze(1))
    assert use.count == 1


def test_what_is_widest_after_the_inputs_counts():
    net = rest(width=600)
    scores, _ = scores_and_inputs(net)
    assert columns_at_once(net, scores) == gradients.LARGEST // 1200


@pytest.mark.parametrize(
    "layer",
    [Apply(Doubled.apply), Apply(through_a_sparse_matrix)],
    ids=["custom function", "operator"],
)
def test_what_cannot_be_batched_has_a_pass_a_column(layer):
    net, use = rest(layer), Passes()
    scores, inputs = scores_and_inputs(net)
    assert_same(from_gradients(net, scores, inputs, use), one_by_one(scores, inputs))
    assert use.count == CLASSES


def test_a_use_that_reads_numbers_has_a_pass_a_column():
    net, norm_types = rest(), []

    def scaled(gradients):
        norm_types.append(type(gradients[0].norm().item()))
        return tuple(gradient / gradient.norm().item() for gradient in gradients)

    scores, inputs = scores_and_inputs(net)
    result = from_gradients(net, scores, inputs, scaled)
    expected = one_by_one(scores, inputs)
    assert_same(result, [values / values.norm(dim=(0, 2), keepdim=True) for values in expected])
    assert norm_types == [float] * CLASSES


@pytest.mark.parametrize("kind", ["register_full_backward_hook", "register_full_backward_pre_hook"])
def test_hooks_of_modules_see_one_score_at_a_time(kind):
    net, captured = rest(), []
    getattr(net[1], kind)(lambda _, *gradients: captured.append(gradients[-1][0].data.clone()))
    scores, inputs = scores_and_inputs(net)
    expected = one_by_one(scores, inputs)
    captured.clear()
    assert_same(from_gradients(net, scores, inputs, Passes()), expected)
    assert [gradient.shape for gradient in captured] == [(2, WIDTH)] * CLASSES


@pytest.mark.filterwarnings("ignore:Using a non-full backward hook")
def test_hooks_of_the_old_kind_do_too():
    net, captured = rest(), []
    net[1].register_backward_hook(lambda _, __, gradients: captured.append(gradients[0].data.clone()))
    scores, inputs = scores_and_inputs(net)
    assert_same(from_gradients(net, scores, inputs, Passes()), one_by_one(scores, inputs))
    assert len(captured) == 2 * CLASSES


def test_what_is_wrong_is_said_as_ever():
    net = rest()
    scores, inputs = scores_and_inputs(net)

    def refuse(gradients):
        raise ValueError("no positions to map")

    with pytest.raises(ValueError, match="no positions to map"):
        from_gradients(net, scores, inputs, refuse)
    with pytest.raises(RuntimeError, match="not have been used in the graph"):
        from_gradients(net, scores, [torch.rand(2, WIDTH, requires_grad=True)], Passes())


class Operators(TorchDispatchMode):
    """Counts the operators, those of the backward passes too."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("largest", [1, gradients.LARGEST])
def test_twice_the_columns_take_at_most_twice_the_operators(largest, monkeypatch):
    monkeypatch.setattr(gradients, "LARGEST", largest)
    counts = []
    for classes in (50, 100, 200):
        net = rest(classes=classes)
        scores, inputs = scores_and_inputs(net)
        with Operators() as operators:
            from_gradients(net, scores, inputs, Passes())
        counts.append(operators.count)
    assert 0 < counts[1] <= 2 * counts[0] and counts[2] <= 2 * counts[1], counts
