"""Controls that know nothing of the target."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_xai import ClassifierTarget, SegmenterTarget
from lightning_xai.explainers import CenterPrior, EdgeMap, RandomMap
from lightning_xai.explainers.reference import BlurredReference, Reversed
from lightning_xai.structures import Explanation, Query
from tests.helpers import CountingTarget, GradientMap, cnn, segmenter

CONTROLS = [RandomMap, CenterPrior, EdgeMap]


@pytest.fixture(scope="module")
def target():
    return ClassifierTarget(cnn())


@pytest.fixture
def images():
    return torch.rand(4, 1, 8, 9)


@pytest.mark.parametrize("kind", CONTROLS)
@pytest.mark.parametrize("size", [(8, 9), (1, 5), (4, 6, 5), (1, 8, 9)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shapes_and_types(kind, size, dtype):
    images = torch.rand(2, 3, *size).to(dtype)
    explainer = kind(ClassifierTarget(cnn(len(size), 3))).to(dtype)
    maps = explainer.explain(images, torch.tensor([[0, 1, 2]] * 2))
    assert maps.shape == (2, 3, *size) and maps.dtype == torch.float32 and maps.isfinite().all()
    assert not explainer.learned


@pytest.mark.parametrize("kind", CONTROLS)
def test_segmenters_are_controlled_too(kind, images):
    assert kind(SegmenterTarget(segmenter())).explain(images).shape == (4, 2, 8, 9)


@pytest.mark.parametrize("kind", [CenterPrior, EdgeMap])
def test_all_queries_have_one_map(kind, target, images):
    maps = kind(target).explain(images, torch.tensor([[0, 1]] * 4))
    assert torch.equal(maps[:, 0], maps[:, 1])


# ------------------------------------------------------------------ random


@given(st.permutations(range(4)), st.integers(1, 4))
def test_random_map_does_not_depend_on_the_batch(order, count):
    images, targets = torch.rand(4, 1, 8, 9, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0])
    explainer = RandomMap(ClassifierTarget(cnn()))
    whole, part = explainer.explain(images, targets), order[:count]
    assert torch.equal(explainer.explain(images[part], targets[part]), whole[part])


def test_random_map_does_not_depend_on_the_other_queries(target, images):
    explainer = RandomMap(target)
    three = explainer.explain(images, torch.tensor([[2, 0, 1]] * 4))
    assert torch.equal(three[:, :1], explainer.explain(images, torch.tensor([2] * 4)))


def test_random_map_differs_per_image_class_and_seed(target, images):
    maps = [RandomMap(target, seed).explain(images, torch.tensor([[0, 1, 2]] * 4)).flatten(0, 1) for seed in range(3)]
    flat = torch.cat(maps).flatten(1)
    assert len(flat.unique(dim=0)) == 36, "two of 4 images x 3 classes x 3 seeds share a map"
    assert np.abs(np.corrcoef(flat) - np.eye(36)).max() < 0.6


def test_random_map_is_uniform_and_leaves_the_global_generator_alone(target):
    torch.manual_seed(7)
    maps = RandomMap(target).explain(torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(1)))
    after = torch.rand(1)
    torch.manual_seed(7)
    assert torch.equal(torch.rand(1), after)
    assert maps.min() >= 0 and maps.max() < 1
    assert maps.mean().item() == pytest.approx(0.5, abs=0.02) and maps.var().item() == pytest.approx(1 / 12, abs=0.005)


# ------------------------------------------------------------------ center


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (1, 6), (4, 6, 5), (1, 8, 8)])
def test_center_prior_is_symmetric_and_highest_in_the_middle(size):
    bump = CenterPrior(ClassifierTarget(cnn(len(size)))).explain(torch.rand(1, 1, *size))[0, 0]
    for axis in range(bump.ndim):
        assert torch.allclose(bump, bump.flip(axis), atol=1e-6)
    middle = bump[tuple(length // 2 for length in size)]
    assert middle == bump.max() and bump.min() > 0
    corner = bump[(0,) * bump.ndim]
    assert corner == bump.min()


def test_center_prior_has_a_sigma_of_a_quarter_of_each_side(target):
    bump = CenterPrior(target).explain(torch.rand(1, 1, 9, 17))[0, 0]
    # Two and four pixels from the middle: one and two sigma of a side that spans 8 steps; the same for 16.
    assert (bump[6, 8] / bump[4, 8]).item() == pytest.approx(np.exp(-0.5), rel=1e-5)
    assert (bump[4, 16] / bump[4, 8]).item() == pytest.approx(np.exp(-2), rel=1e-5)


def test_center_prior_ignores_the_image(target, images):
    maps = CenterPrior(target).explain(images)
    assert torch.equal(maps[0], maps[3])


def test_depth_one_is_two_dimensions(target, images):
    deep = ClassifierTarget(cnn(3))
    for kind in (CenterPrior, EdgeMap):
        flat = kind(target).explain(images)
        assert torch.allclose(kind(deep).explain(images.unsqueeze(2)).squeeze(2), flat)


# ------------------------------------------------------------------ edges


@pytest.mark.parametrize("size", [(8, 9), (4, 6, 5)])
def test_edge_map_of_a_constant_image_is_zero(size):
    maps = EdgeMap(ClassifierTarget(cnn(len(size), 2))).explain(torch.full((1, 2, *size), 0.7))
    assert (maps == 0).all()


@pytest.mark.parametrize("size", [(8, 9), (4, 6, 5)])
def test_edge_map_is_numpys_gradient_magnitude(size):
    images = torch.rand(2, 3, *size)
    maps = EdgeMap(ClassifierTarget(cnn(len(size), 3))).explain(images)
    for image, edge in zip(images, maps[:, 0], strict=True):
        gradients = np.gradient(image.double().mean(0).numpy())
        assert np.allclose(edge, np.sqrt(sum(gradient**2 for gradient in gradients)), atol=1e-6)


def test_edge_map_of_a_ramp_is_flat(target):
    ramp = torch.arange(9.0).expand(1, 1, 8, 9)
    assert torch.allclose(EdgeMap(target).explain(ramp), torch.ones(1, 1, 8, 9))


def test_edge_map_finds_the_outline_of_a_square(target):
    image = torch.zeros(1, 1, 12, 12)
    image[..., 3:9, 3:9] = 1
    edges = EdgeMap(target).explain(image)[0, 0]
    assert (edges[5:7, 5:7] == 0).all() and (edges[:2] == 0).all() and edges[3, 5] > 0 and edges[2, 5] > 0


def test_the_reversed_map_is_the_other_sign_without_another_pass(images):
    explainer = GradientMap(CountingTarget(cnn()))
    turned = Reversed(explainer)
    own = explainer.explain_batch({"image": images})
    explainer.target.chunks.clear()
    assert torch.equal(turned.reference_maps(own, {"image": images}), -own.maps)
    assert not explainer.target.chunks
    assert torch.allclose(turned.explain(images, own.query.targets), -own.maps)


@pytest.mark.parametrize("size", [(16, 20), (8, 10, 6)])
def test_the_oracle_ranks_the_reference_first_and_what_is_near_it_next(size):
    dims = len(size)
    target, images = SegmenterTarget(segmenter(dims)), torch.rand(1, 1, *size)
    mask = torch.zeros(1, 1, *size, dtype=torch.long)
    mask[(0, 0, *(slice(1, 4),) * dims)] = 2
    query = Query(torch.tensor([[1, 2]]), torch.zeros(1, 2, *size, dtype=torch.bool))
    maps = BlurredReference(target).reference_maps(Explanation(images, query), {"image": images, "mask": mask})
    inside = mask[0, 0] == 2
    assert (maps[0, 0] == 0).all(), "class 1 is nowhere"
    assert maps[0, 1][inside].min() > maps[0, 1][~inside].max() > 0
    row = maps[(0, 1, slice(4, None), *(2,) * (dims - 1))]
    assert (row.diff() < 0).all(), "farther from the reference must be less"
    asked = Explanation(images, Query(query.targets, inside.expand(1, 2, *size)))
    alone = BlurredReference(target).reference_maps(asked, {"image": images})
    assert torch.equal(alone[0, 1], maps[0, 1]), "without a mask the query's own pixels are the reference"
