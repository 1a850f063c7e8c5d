"""Whatever a model answers, and does to its input: maps and scores are those of the plain model."""

import collections
import dataclasses
import types

import pytest
import torch
from monai.data.meta_tensor import MetaTensor
from torch import nn

from lightning_xai import ClassifierTarget
from lightning_xai.explainers import CAPE, PCIM, RISE, CaptumExplainer, GradCAM
from lightning_xai.metrics import DeletionAUC
from tests.contract.explainers import KINDS, MADE_FOR, explainer_of
from tests.helpers import cnn

EXPLAINERS = {
    "GradCAM": lambda target: GradCAM(target),
    "RISE": lambda target: RISE(target, masks=20),
    "PCIM": lambda target: PCIM(target, steps=3),
    "IntegratedGradients": lambda target: CaptumExplainer(target, "IntegratedGradients", n_steps=4),
    "CAPE": lambda target: CAPE(target),
}
PAIRS = [(name, kind) for name in EXPLAINERS for kind in KINDS if (name, kind) != ("CAPE", "segmenter")]
each_pair = pytest.mark.parametrize(("name", "kind"), PAIRS)

Inception = collections.namedtuple("Inception", ["logits", "aux_logits"])


@dataclasses.dataclass
class Answer:
    loss: torch.Tensor | None
    logits: torch.Tensor


class ModelOutput(collections.OrderedDict):
    """As Hugging Face's: a dict whose keys are attributes too."""

    def __getattr__(self, name):
        return self[name]


ANSWERS = {
    "dict of logits": lambda y: {"features": y.flatten(1) * 0, "logits": y},
    "dict of out": lambda y: collections.OrderedDict(aux=y * 0, out=y),
    "dict of pred": lambda y: {"pred": y, "labels": y.argmax(1)},
    "dict of predictions": lambda y: {"loss": y.mean(), "predictions": y},
    "dict of another name": lambda y: {"classes": y.argmax(1), "scores": y, "text": "cat"},
    "tuple": lambda y: (y, y.mean()),
    "tuple that begins with a loss": lambda y: (y.mean(), y),
    "list of scales": lambda y: [y, y[..., ::2]],
    "list from coarse to fine": lambda y: [y[:, :, ::2] if y.ndim > 2 else y.mean(), y],
    "nested": lambda y: ({"out": [y, y.mean()], "other": y * 0}, None),
    "named tuple": lambda y: Inception(y, y * 0),
    "dataclass": lambda y: Answer(None, y),
    "model output": lambda y: ModelOutput(loss=y.mean(), logits=y),
    "namespace": lambda y: types.SimpleNamespace(hidden=y * 0, logits=y),
    "MetaTensor": lambda y: MetaTensor(y),
}


def relu_of_a_view(x):
    torch.relu_(x.view(len(x), -1))


def written_without_gradient(x):
    with torch.no_grad():
        x[:, 0] = x[:, 0].square()


def written_behind_the_version_counter(x):
    x.data.mul_(0.5)


def first_row(x):
    x[:, 0, :2] = 0.5


WRITES = {
    "sub_": lambda x: x.sub_(0.5).div_(0.25),
    "relu of a view": relu_of_a_view,
    "an index": first_row,
    "no_grad": written_without_gradient,
    "data": written_behind_the_version_counter,
}


class Wrapped(nn.Module):
    """A network with something before and after it."""

    def __init__(self, net, before=lambda x: x, after=lambda y: y):
        super().__init__()
        self.net, self.before, self.after = net, before, after

    def forward(self, x):
        return self.after(self.net(self.before(x)))


def written(write, copies):
    """The function that writes into what it gets, or into a copy of it."""

    def before(x):
        x = x.clone() if copies else x
        write(x)
        return x

    return before


def images_of(side=16):
    return torch.rand(2, 1, side, side + 4, generator=torch.Generator().manual_seed(0)) - 0.2


def maps_and_scores(target, make, images):
    """Maps of two queries an image, and the DeletionAUC of them."""
    torch.manual_seed(0)
    targets = torch.tensor([[0, 1], [1, 0]])
    explainer = make(target).eval()
    maps = explainer.explain(images, targets)
    pixels = target.query(images, targets, None).regions
    metric = DeletionAUC()
    metric.update(target=target, images=images, maps=maps, targets=targets, pixels=pixels)
    return maps, metric.per_image()


def assert_same(found, expected):
    for value, wanted in zip(found, expected, strict=True):
        assert torch.allclose(value, wanted, rtol=1e-4, atol=1e-6, equal_nan=True)
    assert found[0].abs().sum() > 0


#: Reading an answer is the target's work: one explainer meets them all, the others one of each sort.
SORTS = ("dict of another name", "tuple that begins with a loss", "nested", "MetaTensor")


@pytest.mark.parametrize(
    ("name", "kind", "answer"),
    [(name, kind, answer) for name, kind in PAIRS for answer in ANSWERS if name == "GradCAM" or answer in SORTS],
)
def test_whatever_a_model_answers_its_maps_are_those_of_the_plain_model(name, kind, answer):
    wrap, net = KINDS[kind]
    images, make = images_of(), EXPLAINERS[name]
    expected = maps_and_scores(wrap(Wrapped(net())), make, images)
    assert_same(maps_and_scores(wrap(Wrapped(net(), after=ANSWERS[answer])), make, images), expected)


@each_pair
@pytest.mark.parametrize("axes", ["one", "all"])
def test_a_single_logit_may_be_squeezed(name, kind, axes):
    wrap, net = KINDS[kind]
    images, make = images_of(), EXPLAINERS[name]
    plain = wrap(Wrapped(net(classes=1)), "sigmoid")
    squeezed = wrap(Wrapped(net(classes=1), after=lambda y: y.squeeze(1) if axes == "one" else y.squeeze()), "sigmoid")
    for count in (2, 1):  # squeeze() takes the axis of a batch of one as well
        assert torch.equal(squeezed.logits(images[:count]), plain.logits(images[:count]))
    assert_same(maps_and_scores(squeezed, make, images), maps_and_scores(plain, make, images))


@each_pair
@pytest.mark.parametrize("write", WRITES)
def test_a_model_that_writes_into_its_input_changes_neither_images_nor_maps(name, kind, write):
    wrap, net = KINDS[kind]
    images, make, function = images_of(), EXPLAINERS[name], WRITES[write]
    copy = images.clone()
    expected = maps_and_scores(wrap(Wrapped(net(), written(function, copies=True))), make, images)
    assert_same(maps_and_scores(wrap(Wrapped(net(), written(function, copies=False))), make, images), expected)
    assert torch.equal(images, copy)


def test_a_classifier_that_answers_with_a_dict_is_trained_along_with_cape():
    batch = {"image": images_of(), "label": torch.tensor([0, 2]), "id": ["a", "b"]}
    copy, losses = batch["image"].clone(), []
    for wrapped in ({}, {"before": lambda x: x.mul_(1), "after": lambda y: (y, {"aux": y.mean()})}):
        torch.manual_seed(0)
        net = cnn()
        net[3].p = 0.0  # the same in every pass
        cape = CAPE(ClassifierTarget(Wrapped(net, **wrapped)), mode="ts")
        torch.manual_seed(0)
        torch.nn.init.normal_(cape.head.weight)
        cape.setup("fit")
        values = cape.loss(batch)
        values["ce"].backward()
        assert cape.backbone.training and net[-1].weight.grad.any()
        losses.append(values["loss"])
        cape.teardown("fit")
    assert torch.allclose(*losses) and torch.equal(batch["image"], copy)


@pytest.mark.parametrize(("name", "kind"), MADE_FOR)
def test_every_explainer_bears_a_model_that_writes_and_answers_with_a_dict(name, kind):
    net = KINDS[kind][1]
    maps, images = [], images_of()
    for odd in (False, True):
        before, after = written(WRITES["sub_"], copies=not odd), (lambda y: {"out": y}) if odd else (lambda y: y)
        explainer = explainer_of(name, kind, 2, Wrapped(net(), before, after))
        explainer.target.mean = explainer.target.std = None  # nothing that would copy the images anyway
        copy = images.clone()
        torch.manual_seed(0)
        maps.append(explainer.explain(images, torch.tensor([[0, 1], [2, 0]])))
        assert torch.equal(images, copy)
    assert torch.allclose(maps[0], maps[1], rtol=1e-4, atol=1e-6 * float(maps[0].abs().max()) + 1e-8)
