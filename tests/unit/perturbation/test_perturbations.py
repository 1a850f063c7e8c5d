"""Perturbed inputs of one evaluation: blends, noise, and the inputs that queries have in common."""

import itertools

import pytest
import torch

from lightning_xai import SegmenterTarget
from lightning_xai.functional.tensors import min_max
from lightning_xai.perturbation.context import PerturbationContext
from lightning_xai.perturbation.evaluator import EvaluationPlan, Evaluator, output_of_inputs
from lightning_xai.perturbation.perturbations import FixedMasks, Noisy
from lightning_xai.perturbation.sets import Blend, Curve
from lightning_xai.targets.outputs import Probability
from tests.helpers import segmenter


class MeanOutput:
    """Returns the mean of each input times a weight of its row, and keeps the inputs."""

    def __init__(self):
        self.inputs, self.chunks = [], []

    def __call__(self, batch):
        self.inputs.append(batch.inputs.clone())
        self.chunks.append((len(batch.inputs), len(batch.rows)))
        values = batch.inputs.double().flatten(1).mean(1)
        return (values if batch.input_index is None else values[batch.input_index]) * (batch.rows + 1)


def make_context(batch=3, queries=2, size=(4, 5)):
    return PerturbationContext(torch.rand(batch, 2, *size), torch.randn(batch, queries, *size))


SETS = {
    "erase": Curve((0.0, 0.25, 0.5, 1.0)),
    "reveal": Curve((0.0, 0.5, 1.0), "reveal", "median"),
    "map": Blend("map"),
    "rest": Blend("rest", "channel_mean"),
    "noise": Noisy(3, 0.1, "gaussian", per_channel=False),
}


# ------------------------------------------------------------------ common inputs


@pytest.mark.parametrize("chunk_size", [1, 4, 7, 1000])
def test_common_inputs_change_no_output(chunk_size):
    context = make_context()
    alone = Evaluator(MeanOutput(), chunk_size=5, per_image=False)(context, SETS)
    shared = Evaluator(MeanOutput(), chunk_size)(context, SETS)
    assert alone.keys() == shared.keys() == SETS.keys()
    for name, values in alone.items():
        assert torch.allclose(values, shared[name], atol=1e-12), name


@pytest.mark.parametrize(("batch", "queries", "chunk_size"), [(1, 1, 8), (1, 5, 8), (4, 3, 16)])
def test_queries_share_the_inputs_that_need_no_map_and_chunks_are_full(batch, queries, chunk_size):
    readout, context = MeanOutput(), make_context(batch, queries)
    Evaluator(readout, chunk_size)(context, SETS)
    common = 1 + 2 + 3  # the image, two baseline images, three noisy
    image_masks = 2 + 1 + 1 + 1  # two fractions of one curve, one of the other, and two blends
    assert sum(count for count, _ in readout.chunks) == batch * (common + queries * image_masks)
    assert sum(count for _, count in readout.chunks) == batch * queries * (common + image_masks), (
        "a query was not evaluated"
    )
    assert {count for count, _ in readout.chunks[:-1]} <= {chunk_size}
    plan = EvaluationPlan(SETS, 20)
    assert plan.passes(queries) == common + queries * image_masks and plan.steps == common + image_masks


def test_several_outputs_at_once():
    context = make_context()

    def both(batch):
        values = MeanOutput()(batch)
        return torch.stack([values, -values], dim=1)

    single = Evaluator(MeanOutput())(context, SETS)
    double = Evaluator(both)(context, SETS)
    for name, values in single.items():
        assert torch.equal(double[name], torch.stack([values, -values], dim=-1)), name


# ------------------------------------------------------------------ blends


def test_a_blend_is_the_image_times_its_scaled_map():
    readout, context = MeanOutput(), make_context()
    Evaluator(readout, per_image=False)(context, {"map": Blend("map"), "rest": Blend("rest")})
    kept, rest = torch.cat(readout.inputs).chunk(2)
    images = context.images.repeat_interleave(2, 0)
    alpha = min_max(context.maps).flatten(0, 1).unsqueeze(1)
    assert torch.allclose(kept, images * alpha, atol=1e-6)
    assert torch.allclose(rest, images * (1 - alpha), atol=1e-6)
    assert torch.equal(context.images, images_before(context)), "perturbing changed the images"


def images_before(context):
    torch.manual_seed(0)
    return torch.rand_like(context.images)


def test_a_blend_over_a_baseline_and_of_maps_that_come_scaled():
    readout, context = MeanOutput(), PerturbationContext(torch.rand(2, 1, 3, 3), torch.rand(2, 1, 3, 3))
    fill = torch.full((1, 1, 1, 1), 0.25)
    Evaluator(readout, per_image=False)(context, {"map": Blend("map", fill, prescaled=True)})
    assert torch.allclose(readout.inputs[0], 0.25 + context.maps * (context.images - 0.25), atol=1e-6)


def test_a_constant_map_keeps_nothing_rather_than_nan():
    assert min_max(torch.full((1, 1, 2, 2), 3.0)).eq(0).all()
    assert min_max(torch.tensor([[[1.0, 3.0]]]).bfloat16()).tolist() == [[[0, 1]]]


# ------------------------------------------------------------------ noise


@pytest.mark.parametrize("law", ["gaussian", "uniform"])
@pytest.mark.parametrize("per_channel", [True, False])
def test_noise_is_one_field_a_sample_in_units_of_the_image(law, per_channel):
    noise = Noisy(4, 0.5, law, per_channel, seed=3)
    readout, context = MeanOutput(), make_context(2, 1)
    Evaluator(readout)(context, {"noise": noise})
    added = torch.cat(readout.inputs).view(4, 2, 2, 4, 5) - context.images
    flat = context.images.flatten(1)
    size = flat.std(1) if law == "gaussian" else flat.amax(1) - flat.amin(1)
    unit = added / (0.5 * size.view(2, 1, 1, 1))
    assert torch.allclose(unit[:, 0], unit[:, 1], atol=1e-5), "images have different noise"
    assert torch.allclose(unit[:, 0, 0], unit[:, 0, 1], atol=1e-5) is not per_channel
    if law == "uniform":
        assert unit.abs().max() <= 1 + 1e-5 and unit.min() < -0.8 and unit.max() > 0.8
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(unit[:, 0], 2)), "two samples are the same"


def test_noise_does_not_depend_on_the_batch_around_an_image():
    noise, context = Noisy(2), make_context(3, 1)
    whole = Evaluator(MeanOutput(), per_image=False)(context, {"noise": noise})["noise"]
    alone = Evaluator(MeanOutput(), per_image=False)(
        PerturbationContext(context.images[2:], context.maps[2:]), {"noise": noise}
    )["noise"]
    assert torch.allclose(whole[2] / 3, alone[0], atol=1e-12)


def test_equal_noise_is_evaluated_once_and_other_noise_is_not():
    readout = MeanOutput()
    sets = {"a": Noisy(3), "b": Noisy(3), "longer": Noisy(5), "other": Noisy(3, seed=1)}
    noisy_outputs = Evaluator(readout, per_image=False)(make_context(1, 1), sets)
    assert torch.equal(noisy_outputs["a"], noisy_outputs["b"]) and not torch.equal(
        noisy_outputs["a"], noisy_outputs["other"]
    )
    assert sum(count for count, _ in readout.chunks) == 3 + 5 + 3


@pytest.mark.parametrize("settings", [{"law": "poisson"}, {"samples": 0}, {"level": 0.0}])
def test_noise_that_makes_no_sense_is_refused(settings):
    with pytest.raises(ValueError, match=r"use gaussian \| uniform, at least one sample, and a level above 0"):
        Noisy(**settings)


def test_other_content_shows_where_pixels_are_shown():
    context, curve = make_context(batch=3), Curve((0.0, 1.0), "reveal", content="swapped")
    readout = MeanOutput()
    Evaluator(readout, chunk_size=100, per_image=False)(context, {"swapped": curve})
    everything = [shown_input for part in readout.inputs for shown_input in part if shown_input.any()]
    assert len(everything) == 6, "three images of two queries, all visible"
    for row, shown_input in enumerate(everything):
        assert torch.equal(shown_input, context.images[row // 2 - 1])
    with pytest.raises(ValueError, match=r"Curve has content 'other'; use own \| shifted \| swapped \| noise"):
        Curve((0.5,), content="other")


# ------------------------------------------------------------------ fixed masks


@pytest.mark.parametrize("queries", [1, 3])
def test_fixed_masks_are_evaluated_once_for_all_queries(queries):
    readout, images = MeanOutput(), torch.rand(2, 2, 4, 5)
    context = PerturbationContext.of_queries(images, queries)
    weights = torch.rand(5, 1, 4, 5)
    mask_outputs = Evaluator(readout, chunk_size=4)(
        context, {"masks": FixedMasks(lambda index, level: weights[level], 5)}
    )
    assert mask_outputs["masks"].shape == (2, queries, 5)
    assert readout.chunks == [(4, 4 * queries), (4, 4 * queries), (2, 2 * queries)]
    expected = (images.unsqueeze(1) * weights).flatten(2).mean(2)
    rows = torch.arange(1, 2 * queries + 1).view(2, queries, 1)
    assert torch.allclose(mask_outputs["masks"], expected.double().unsqueeze(1) * rows, atol=1e-6)


def test_boolean_masks_hide_exactly_and_may_depend_on_the_image():
    readout, images = MeanOutput(), torch.rand(2, 1, 4, 5)
    image_masks = torch.rand(2, 1, 4, 5) < 0.5
    baseline = torch.rand(1, 1, 4, 5)
    masks = FixedMasks(lambda index, level: image_masks[index], 1, baseline)
    Evaluator(readout)(PerturbationContext.of_queries(images, 1), {"masks": masks})
    assert torch.equal(readout.inputs[0], torch.where(image_masks, images, baseline))


def test_the_output_of_inputs_is_that_of_every_query():
    target, images = SegmenterTarget(segmenter()), torch.rand(2, 1, 8, 8)
    query = target.query(images, torch.tensor([[0, 1, 2], [2, 1, 0]]), torch.rand(2, 3, 8, 8) < 0.5)
    shown = torch.rand(4, 1, 8, 8)
    masks = FixedMasks(lambda index, level: shown[level], 4)
    evaluator = Evaluator(output_of_inputs(target, Probability(), query), chunk_size=3)
    mask_outputs = evaluator(PerturbationContext.of_queries(images, 3), {"masks": masks})["masks"]
    for number, mask in enumerate(shown):
        expected = target.probability(images * mask, query.targets, query.regions)
        assert torch.allclose(mask_outputs[..., number], expected, atol=1e-6), number
