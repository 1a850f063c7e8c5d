"""A GPU is not waited for pass by pass: what waits there are belong to the batch, for every explainer and metric."""

import pytest
import torch

from lightning_xai import ClassifierTarget, SegmenterTarget
from lightning_xai.explainers import PCIM
from lightning_xai.metrics import ROAD, MetricSuite
from lightning_xai.perturbation import imputation
from lightning_xai.perturbation.imputation import neighbor_imputation
from tests.contract import explainers as made
from tests.contract.test_metrics import KINDS, SETS, batch_of, suite_of
from tests.helpers import cnn, segmenter
from tests.host_waits import host_waits

#: Captum's own loops read numbers; what is ours around them does not.
OURS = [(name, kind) for name, kind in made.MADE_FOR if not name.startswith("captum_")]
#: Checks the replay of every image once.
IMAGE_BY_IMAGE = ("ablation_cam",)


def test_the_counter_sees_every_kind_of_wait():
    values = torch.arange(4.0)
    waits = {
        "_local_scalar_dense": lambda: [float(values[0]), bool(values[1] > 0), values.sum().item()],
        "nonzero": lambda: values.nonzero(),
        "index": lambda: values[values > 1],
        "index_put_": lambda: values.clone().__setitem__(values > 1, torch.ones(2)),
        "tolist": lambda: values.tolist(),
        "cpu": lambda: values.cpu(),
        "_unique2": lambda: torch.unique(values),
        "tensor": lambda: torch.tensor([1, 2]),
    }
    for name, work in waits.items():
        assert host_waits(work)[name] == (3 if name == "_local_scalar_dense" else 1), name
    assert not host_waits(lambda: values[1:3] + values[torch.arange(2)].mean() * torch.where(values > 1, 1, 0).sum())


@pytest.mark.parametrize(("name", "kind"), OURS)
def test_no_explainer_waits_for_every_pass_or_image(name, kind):
    explainer = made.explainer_of(name, kind, 2)
    images = made.images_of(2, 4)
    query = explainer.target.query(images, torch.tensor([[1, 2]] * 4))
    if isinstance(explainer, PCIM):
        explainer.optimizer = torch.optim.SGD  # Adam counts its steps on the host, in a tensor

    def waits(count, chunk_size):
        if hasattr(explainer, "chunk_size"):
            explainer.chunk_size = chunk_size
        explainer.explain_query(images[:count], query[:count])
        return host_waits(lambda: explainer.explain_query(images[:count], query[:count]))

    few, many = waits(4, 16), waits(4, 4)
    assert many == few, "waits grow with the number of passes"
    if name not in IMAGE_BY_IMAGE:
        assert many == waits(2, 4), "waits grow with the number of images"


def test_pcim_looks_once_in_a_while_whether_it_has_settled():
    explainer = PCIM(ClassifierTarget(cnn()), steps=60, optimizer=torch.optim.SGD)
    images, targets = torch.rand(2, 1, 8, 8), torch.tensor([0, 1])
    counted = []
    for explainer.steps in (50, 60, 110, 120):
        counted.append(host_waits(lambda: explainer.explain(images, targets)).total())
    assert counted[0] < counted[1] == counted[2] < counted[3], counted


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SETS)
def test_no_metric_waits_for_every_pass(name, kind):
    batch = batch_of(kind, 2)

    def waits(chunk_size):
        suite = suite_of(name, chunk_size)
        for key in [key for key, metric in suite.members().items() if isinstance(metric, ROAD)]:
            del suite[key]  # its solver looks whether it is done, see below
        suite.update(**batch)
        suite.reset()
        return host_waits(lambda: suite.update(**batch))

    assert waits(2) == waits(64)


@pytest.mark.parametrize("wrap", [lambda: ClassifierTarget(cnn()), lambda: SegmenterTarget(segmenter())])
def test_a_suite_of_no_readouts_waits_for_nothing_but_the_masks(wrap):
    target, images = wrap(), torch.rand(2, 1, 8, 8)
    query = target.query(images, torch.tensor([[1, 2]] * 2))
    maps = torch.rand(2, 2, 8, 8)
    suite = MetricSuite({})
    assert not host_waits(
        lambda: suite.update(maps=maps, target=target, images=images, targets=query.targets, pixels=query.regions)
    )


def test_the_neighbor_fill_looks_at_its_tolerance_every_few_steps_off_the_cpu(monkeypatch):
    images, visible = torch.rand(4, 2, 24, 20), torch.rand(4, 1, 24, 20) > 0.7
    exact, every_step = neighbor_imputation(images, visible), []
    counts = []
    for look_every in (1, 4):
        monkeypatch.setitem(imputation.LOOK_EVERY, "cpu", look_every)
        every_step.append(neighbor_imputation(images, visible))
        counts.append(host_waits(lambda: neighbor_imputation(images, visible)))
    assert torch.equal(every_step[0], exact)
    assert (every_step[1] - exact).abs().max() < 2e-6
    assert counts[1]["_local_scalar_dense"] * 3 < counts[0]["_local_scalar_dense"] + 3
    assert counts[1]["tolist"] == 1, "one look says where there is something to fill"
