"""The reveal loop: closed forms, masks, cost, fills and rankings."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from lightning_xai.functional.ranking import tie_order
from lightning_xai.perturbation.baselines import BASELINES, baseline_images, hide_pixels
from lightning_xai.perturbation.context import PerturbationContext
from lightning_xai.perturbation.sets import Curve
from lightning_xai.reveal import reveal_curve, reveal_curves

FRACTIONS = tuple(step / 20 for step in range(21))


class Counter:
    """Scores images linearly, with weights of each row, and keeps what it was asked."""

    def __init__(self, weights):
        self.weights = weights
        self.chunks, self.images, self.rows = [], [], []

    def __call__(self, images, rows):
        assert len(images) == len(rows)
        self.chunks.append(len(images))
        self.images.append(images)
        self.rows.append(rows)
        return (images.double().flatten(1) * self.weights[rows].double()).sum(1)


def case(batch=3, queries=2, channels=2, size=(4, 5), seed=0):
    torch.manual_seed(seed)
    images = torch.rand(batch, channels, *size)
    maps = torch.randn(batch, queries, *size)
    weights = torch.randn(batch * queries, images[0].numel())
    return images, maps, Counter(weights)


def mask_of(maps, fraction, direction):
    """What one fraction leaves visible: score ones on a zero fill, one pixel at a time."""
    pixels = maps[0, 0].numel()
    images = torch.ones(len(maps), 1, *maps.shape[2:])
    seen = []
    for pixel in range(pixels):
        answers = reveal_curve(
            lambda shown, rows, p=pixel: shown.flatten(1)[:, p], images, maps, [fraction], "zero", direction
        )
        seen.append(answers[..., 0])
    return torch.stack(seen, -1).bool()


# ------------------------------------------------------------------ closed forms


@pytest.mark.parametrize("direction", ["erase", "reveal"])
@pytest.mark.parametrize("fill", ["zero", "channel_mean", "median"])
def test_linear_score_has_its_closed_form(direction, fill):
    images, maps, score = case()
    curve = reveal_curve(score, images, maps, FRACTIONS, fill, direction)
    blank = baseline_images(images, fill)
    for image, query in itertools.product(range(3), range(2)):
        order = maps[image, query].flatten().argsort(descending=True)
        weights = score.weights[image * 2 + query].double().view(2, -1)
        gains = (weights * (images - blank)[image].double().flatten(1)).sum(0)[order]
        start = (weights * (images if direction == "erase" else blank)[image].double().flatten(1)).sum()
        sums = torch.cat([torch.zeros(1).double(), gains.cumsum(0)])
        counts = [round(fraction * 20) for fraction in FRACTIONS]
        expected = start + (-1 if direction == "erase" else 1) * sums[counts]
        assert torch.allclose(curve[image, query], expected, atol=1e-6), (image, query)


@pytest.mark.parametrize("fill", list(BASELINES))
def test_end_points_are_the_full_and_the_blank_image_bit_for_bit(fill):
    images, maps, score = case()
    for direction in ("erase", "reveal"):
        reveal_curve(score, images, maps, [0.0, 1.0], fill, direction)
        first, last = torch.cat(score.images).chunk(2)
        full, blank = (first, last) if direction == "erase" else (last, first)
        assert torch.equal(full, images.repeat_interleave(2, 0))
        nothing = torch.zeros_like(images[:, :1], dtype=torch.bool)
        assert torch.equal(blank, hide_pixels(images, nothing, fill).repeat_interleave(2, 0))
        score.images.clear()


# ------------------------------------------------------------------ masks


@given(st.integers(1, 12), st.floats(0, 1), st.sampled_from(["erase", "reveal"]))
def test_a_mask_has_exactly_the_rounded_fraction_of_pixels(pixels, fraction, direction):
    maps = torch.rand(1, 1, 1, pixels)
    visible = mask_of(maps, fraction, direction)[0, 0]
    assert int(visible.sum() if direction == "reveal" else (~visible).sum()) == round(round(fraction * pixels, 6))


@pytest.mark.parametrize("direction", ["erase", "reveal"])
def test_masks_nest_and_take_the_most_important_first(direction):
    maps = torch.rand(2, 2, 3, 5)
    masks = [mask_of(maps, fraction, direction) for fraction in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)]
    masks = masks if direction == "reveal" else [~mask for mask in masks]
    for small, large in itertools.pairwise(masks):
        assert (large | ~small).all(), "a larger fraction dropped a pixel of a smaller one"
    for mask in masks[1:-1]:
        flat = maps.flatten(2)
        assert flat.where(mask, torch.inf).amin(2).gt(flat.where(~mask, -torch.inf).amax(2)).all()


@given(st.integers(1, 30), st.sampled_from(FRACTIONS), st.sampled_from(["erase", "reveal"]))
def test_most_first_is_the_complement_of_least_first(side, fraction, direction):
    """Also where a fraction falls between two pixels, as half of an odd number does."""
    torch.manual_seed(side)
    images, maps = torch.rand(1, 1, 1, side), torch.rand(1, 1, 1, side)
    other = "erase" if direction == "reveal" else "reveal"
    score = Counter(torch.randn(1, side))
    curves = {"a": Curve((fraction,), direction), "b": Curve((1 - fraction,), other, order="least_first")}
    answers = reveal_curves(score, images, maps, curves)
    assert torch.equal(answers["a"], answers["b"])
    assert sum(score.chunks) == 1, "the two are one and the same job"


def test_least_first_erases_the_least_important():
    maps = torch.tensor([[[[4.0, 1.0, 3.0, 2.0]]]])
    score = Counter(torch.tensor([[1.0, 10.0, 100.0, 1000.0]]))
    curves = {"curve": Curve((0.0, 0.25, 0.5, 0.75, 1.0), order="least_first")}
    answers = reveal_curves(score, torch.ones(1, 1, 1, 4), maps, curves)["curve"]
    assert answers.flatten().tolist() == [1111, 1101, 101, 1, 0]


# ------------------------------------------------------------------ cost


@pytest.mark.parametrize("chunk_size", [1, 7, 64, 1000])
def test_chunk_size_changes_nothing_and_every_chunk_but_the_last_is_full(chunk_size):
    images, maps, score = case()
    curve = reveal_curve(score, images, maps, FRACTIONS, chunk_size=chunk_size)
    assert torch.allclose(curve, reveal_curve(Counter(score.weights), images, maps, FRACTIONS), atol=1e-9)
    assert set(score.chunks[:-1]) <= {chunk_size} and 0 < score.chunks[-1] <= chunk_size
    assert sum(score.chunks) == 3 * 2 * 21


@pytest.mark.parametrize(("batch", "queries"), [(1, 1), (1, 3), (4, 2)])
def test_only_distinct_jobs_are_paid(batch, queries):
    images, maps, score = case(batch, queries)
    curves = {"deletion": Curve(FRACTIONS, "erase"), "insertion": Curve(FRACTIONS, "reveal")}
    answers = reveal_curves(score, images, maps, curves, chunk_size=16)
    assert sum(score.chunks) == batch * queries * (2 * 19 + 2)
    assert set(score.chunks[:-1]) <= {16}
    for name, curve in curves.items():
        alone = reveal_curve(Counter(score.weights), images, maps, FRACTIONS, direction=curve.direction)
        assert torch.allclose(answers[name], alone, atol=1e-9), name


def test_another_fill_fractions_only_the_full_image():
    images, maps, score = case()
    tensor = torch.rand(1, 2, 4, 5)
    fills = ("zero", "zero", tensor, tensor, "median")
    curves = {str(number): Curve((0.0, 0.5, 1.0), "erase", fill) for number, fill in enumerate(fills)}
    answers = reveal_curves(score, images, maps, curves)
    assert sum(score.chunks) == 6 * (1 + 3 * 2)
    assert torch.equal(answers["0"], answers["1"]) and torch.equal(answers["2"], answers["3"])
    for number, fill in enumerate(fills):
        alone = reveal_curve(Counter(score.weights), images, maps, [0.0, 0.5, 1.0], fill)
        assert torch.allclose(answers[str(number)], alone, atol=1e-9), fill


def test_repeated_and_unsorted_fractions_are_asked_once_and_returned_in_place():
    images, maps, score = case(1, 1)
    curve = reveal_curve(score, images, maps, [1.0, 0.0, 0.5, 0.0])
    assert sum(score.chunks) == 3
    assert curve[0, 0, 1] == curve[0, 0, 3] != curve[0, 0, 0]


# ------------------------------------------------------------------ queries


def test_every_query_has_its_own_ranking_and_its_own_row():
    images, maps, score = case(3, 4)
    curve = reveal_curve(score, images, maps, FRACTIONS, chunk_size=5)
    for image, query in itertools.product(range(3), range(4)):
        row = image * 4 + query
        alone = reveal_curve(
            Counter(score.weights[row : row + 1]),
            images[image : image + 1],
            maps[image : image + 1, query : query + 1],
            FRACTIONS,
        )
        assert torch.allclose(curve[image, query], alone[0, 0]), (image, query)


@given(st.permutations(range(3)))
def test_permuting_the_batch_permutes_the_curves(order):
    images, maps, score = case(3, 2)
    weights = score.weights.view(3, 2, -1)[order].flatten(0, 1)
    whole = reveal_curve(score, images, maps, FRACTIONS)
    moved = reveal_curve(Counter(weights), images[order], maps[order], FRACTIONS)
    assert torch.allclose(moved, whole[order], atol=1e-9)


@pytest.mark.parametrize("fill", list(BASELINES))
def test_depth_one_is_two_dimensions(fill):
    images, maps, score = case(size=(9, 8))
    flat = reveal_curve(score, images, maps, FRACTIONS, fill)
    deep = reveal_curve(Counter(score.weights), images.unsqueeze(2), maps.unsqueeze(2), FRACTIONS, fill)
    assert torch.allclose(flat, deep, atol=1e-5)


def test_three_dimensions():
    images, maps, score = case(2, 2, size=(3, 4, 5))
    curve = reveal_curve(score, images, maps, [0.0, 1.0])
    logits = (images.flatten(1).unsqueeze(1) * score.weights.view(2, 2, -1)).sum(2)
    assert torch.allclose(curve, torch.stack([logits, torch.zeros(2, 2)], -1).double(), atol=1e-5)


# ------------------------------------------------------------------ rankings


def pixel_ranks(maps):
    """Ranks as the curves use them."""
    return PerturbationContext(torch.zeros(len(maps), 1, *maps.shape[2:]), maps).ranks.view(maps.shape)


@given(st.integers(0, 100))
def test_ranks_are_a_permutation_in_descending_order(seed):
    maps = torch.randint(0, 4, (2, 2, 3, 4), generator=torch.Generator().manual_seed(seed)).float()
    ranks = pixel_ranks(maps)
    assert ranks.dtype == torch.int32 and ranks.shape == maps.shape
    flat = ranks.flatten(2).long()
    assert torch.equal(flat.sort(2).values, torch.arange(12).expand(2, 2, -1))
    ordered = torch.empty_like(maps.flatten(2)).scatter_(2, flat, maps.flatten(2))
    assert (ordered.diff(dim=2) <= 0).all()


def test_equal_pixels_follow_the_same_random_key_in_every_image():
    tied = pixel_ranks(torch.full((2, 2, 2, 3), 0.7)).flatten(2)
    assert torch.equal(tied, tied[:1, :1].expand_as(tied)) and tied[0, 0].tolist() != list(range(6))
    assert torch.equal(tied[0, 0].long().argsort(), tie_order(torch.Size([2, 3])))
    ranks = pixel_ranks(torch.tensor([[[[1.0, 2.0, 1.0, 2.0]]]])).flatten().tolist()
    assert {ranks[1], ranks[3]} == {0, 1} and {ranks[0], ranks[2]} == {2, 3}


def test_nan_pixels_rank_first_and_nothing_breaks():
    maps = torch.tensor([[[[1.0, float("nan"), 3.0, float("nan")]]]])
    assert sorted(pixel_ranks(maps).flatten()[[1, 3]].tolist()) == [0, 1]
    assert pixel_ranks(maps).flatten()[[2, 0]].tolist() == [2, 3]
    score = Counter(torch.tensor([[1.0, 10.0, 100.0, 1000.0]]))
    answers = reveal_curve(score, torch.ones(1, 1, 1, 4), maps, [0.0, 0.5, 1.0])
    assert answers.flatten().tolist() == [1111, 101, 0]


def test_infinite_pixels_are_ranked():
    assert pixel_ranks(torch.tensor([[[[0.0, torch.inf, -torch.inf]]]])).flatten().tolist() == [1, 0, 2]


def test_bfloat16_maps():
    images, maps, score = case()
    rough = maps.bfloat16()
    curve = reveal_curve(score, images, rough, FRACTIONS)
    assert torch.equal(curve, reveal_curve(Counter(score.weights), images, rough.float(), FRACTIONS))


def test_expanded_maps():
    """A map that many queries share has one memory."""
    images, maps, score = case()
    shared = maps[:, :1].expand(-1, 2, -1, -1)
    expected = reveal_curve(Counter(score.weights), images, shared.contiguous(), FRACTIONS)
    assert torch.equal(reveal_curve(score, images, shared, FRACTIONS), expected)


def test_inputs_stay_as_they_are():
    images, maps, score = case()
    copies = images.clone(), maps.clone()
    reveal_curve(score, images, maps, FRACTIONS, "median")
    assert torch.equal(images, copies[0]) and torch.equal(maps, copies[1])


def test_no_graph_is_kept():
    images, maps, score = case()
    assert not reveal_curve(score, images.requires_grad_(), maps, [0.5]).requires_grad


# ------------------------------------------------------------------ fills


def test_fills_against_their_definition():
    images = torch.rand(2, 3, 5, 5)
    assert torch.equal(baseline_images(images, "zero"), torch.zeros_like(images))
    for name, statistic in (("channel_mean", torch.mean), ("median", torch.median)):
        filled = baseline_images(images, name)
        assert filled.shape == images.shape
        for image, channel in itertools.product(range(2), range(3)):
            expected = statistic(images[image, channel])
            assert torch.allclose(filled[image, channel], expected.expand(5, 5)), name


def test_median_ignores_a_bright_object():
    image = torch.full((1, 1, 8, 8), 0.2)
    image[..., :3, :3] = 1.0
    assert torch.equal(baseline_images(image, "median"), torch.full_like(image, 0.2))


@pytest.mark.parametrize("size", [(16, 20), (16, 12, 20), (4, 16, 16)])
def test_blur_keeps_constants_and_shape_and_removes_detail(size):
    constant, noise = torch.full((1, 2, *size), 0.3), torch.rand(1, 2, *size)
    assert torch.allclose(baseline_images(constant, "blur"), constant, atol=1e-6)
    blurred = baseline_images(noise, "blur")
    assert blurred.shape == noise.shape and blurred.std() < 0.25 * noise.std()
    assert blurred.min() >= noise.min() and blurred.max() <= noise.max()


def test_blur_spreads_a_point_evenly():
    point = torch.zeros(1, 1, 33, 33)
    point[..., 16, 16] = 1.0
    blurred = baseline_images(point, "blur")
    assert blurred.sum().item() == pytest.approx(1, abs=1e-5)
    for twin in (blurred.flip(2), blurred.flip(3), blurred.transpose(2, 3)):
        assert torch.allclose(blurred, twin, atol=1e-7)
    box = torch.zeros(9)
    box[:] = 1 / 9
    line = F.conv1d(
        F.conv1d(box.view(1, 1, -1), box.view(1, 1, -1), padding=8), box.view(1, 1, -1), padding=8
    ).flatten()
    assert torch.allclose(blurred[0, 0, 16, 4:29], line * line.max(), atol=1e-6)


def test_tensor_and_function_fills():
    images, maps, score = case()
    per_channel = torch.tensor([0.1, 0.2]).view(1, 2, 1, 1)
    assert torch.equal(baseline_images(images, per_channel), per_channel.expand_as(images))
    as_tensor = reveal_curve(score, images, maps, FRACTIONS, per_channel)
    as_function = reveal_curve(score, images, maps, FRACTIONS, lambda batch: per_channel.expand_as(batch))
    assert torch.equal(as_tensor, as_function)


def test_unknown_fill_names_the_known_ones():
    with pytest.raises(ValueError, match=r"'black'.*zero, median, channel_mean, blur"):
        baseline_images(torch.rand(1, 1, 2, 2), "black")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"direction": "hide"}, "'hide'.*erase | reveal"),
        ({"order": "random"}, "'random'.*most_first"),
        ({"fractions": ()}, "between 0 and 1"),
        ({"fractions": (0.5, 1.5)}, "between 0 and 1"),
        ({"fractions": (-0.1,)}, "between 0 and 1"),
    ],
)
def test_impossible_curves_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Curve(**({"fractions": (0.5,)} | wrong))
