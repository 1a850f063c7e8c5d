"""Blends, soft masks and objectives that the mask-learning explainers share."""

import math

import pytest
import torch
import torch.nn.functional as F

from lightning_xai import ClassifierTarget, SegmenterTarget
from lightning_xai.functional.resize import resize
from lightning_xai.perturbation.baselines import baseline_images
from lightning_xai.perturbation.soft_masks import (
    area_fraction,
    baselines,
    blend,
    distinct,
    isolate,
    smooth_noise,
    standardize,
    top_fraction,
    total_variation,
    two_sided,
)
from lightning_xai.structures import Query
from tests.helpers import cnn, segmenter

BASELINES = ("zero", "median", "channel_mean", "blur")
SIZES = {2: (9, 7), 3: (5, 4, 6)}


def eight_bit(count=3, channels=2, dims=2):
    """Images as they come from PNG files, whose differences do not fit a float exactly."""
    return torch.randint(0, 256, (count, channels, *SIZES[dims])) / 255


# ------------------------------------------------------------------ blend and isolate


@pytest.mark.parametrize("fill", BASELINES)
@pytest.mark.parametrize("dims", [2, 3])
def test_alpha_one_gives_the_image_and_alpha_zero_the_baseline_exactly(fill, dims):
    images = eight_bit(dims=dims)
    baseline = baseline_images(images, fill)
    ones = torch.ones(3, 1, *SIZES[dims])
    assert torch.equal(blend(images, baseline, ones), images), "alpha = 1 is not the image"
    assert torch.equal(blend(images, baseline, 0 * ones), baseline), "alpha = 0 is not the baseline"
    target = ClassifierTarget(cnn(dims, channels=2))
    assert torch.equal(target.logits(blend(images, baseline, ones)), target.logits(images))


@pytest.mark.parametrize("channels", [1, 2])
def test_explicit_isolation_summed_equals_the_product(channels):
    """The channels each hold one whole baseline, so their weighted sum has (sum alpha - 1) baselines too many."""
    images = torch.rand(2, 2, 4, 3, dtype=torch.float64)
    baseline = baseline_images(images, "channel_mean")
    alpha = torch.rand(2, channels, 4, 3, dtype=torch.float64)
    isolated = isolate(images, baseline)
    assert isolated.shape == (2, 12, 2, 4, 3)
    weights = alpha.expand_as(images).flatten(2).transpose(1, 2)[..., None, None]  # (B, N, C, 1, 1)
    mixed = (weights * isolated).sum(dim=1) - (weights.sum(dim=1) - 1) * baseline
    assert torch.allclose(mixed, blend(images, baseline, alpha), atol=1e-12)
    assert torch.allclose((weights * (isolated - baseline[:, None])).sum(dim=1) + baseline, mixed, atol=1e-12)
    whole = isolated.sum(dim=1) - (12 - 1) * baseline
    assert torch.allclose(whole, images, atol=1e-12), "all channels together are not the image"


@pytest.mark.parametrize("dims", [2, 3])
def test_an_isolated_channel_is_the_baseline_but_for_its_pixel(dims):
    images, shape = torch.rand(2, 3, *SIZES[dims]), SIZES[dims]
    baseline = torch.full_like(images, 2.0)
    for index, channel in enumerate(isolate(images, baseline).unbind(dim=1)):
        kept = (channel != baseline).any(dim=1).nonzero()
        place = tuple(int(axis) for axis in torch.unravel_index(torch.tensor(index), shape))
        assert [tuple(row[1:].tolist()) for row in kept] == [place] * 2
        assert torch.equal(channel[(..., *place)], images[(..., *place)])


def test_a_pixel_like_the_baseline_has_exactly_no_gradient():
    images = torch.rand(2, 3, 4, 4)
    baseline = torch.rand(2, 3, 4, 4)
    baseline[:, :, 1:3] = images[:, :, 1:3]
    alpha = torch.rand(2, 1, 4, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad((blend(images, baseline, alpha) * torch.randn(2, 3, 4, 4)).sum(), alpha)
    assert not gradient[:, :, 1:3].any()
    assert gradient[:, :, 0].all() and gradient[:, :, 3].all()


def test_blend_takes_weights_of_another_precision():
    images = torch.rand(1, 1, 4, 4, dtype=torch.float64)
    assert blend(images, torch.zeros_like(images), torch.ones(1, 1, 4, 4)).dtype == torch.float64


# ------------------------------------------------------------------ baselines


def test_baselines_are_the_fills_of_reveal():
    images = torch.rand(2, 3, 8, 8)
    for name in BASELINES:
        (fill,) = baselines(images, name)
        assert torch.equal(fill, baseline_images(images, name)), name
    baseline_tensor = torch.rand(3, 1, 1)
    assert torch.equal(baselines(images, baseline_tensor)[0], baseline_tensor.expand(2, 3, 8, 8))
    assert torch.equal(baselines(images, lambda images: images + 1)[0], images + 1)


def test_a_list_keeps_its_order_and_repeats():
    images = torch.rand(2, 1, 8, 8)
    fills = baselines(images, ["median", "zero", "zero"])
    assert [bool(fill.any()) for fill in fills] == [True, False, False]
    assert [bool(fill.any()) for fill in distinct(fills)] == [True, False], "a repeated fill must count once"


def test_an_unknown_baseline_is_named():
    with pytest.raises(ValueError, match="Unknown fill 'gray'; use one of zero, median"):
        baselines(torch.rand(1, 1, 4, 4), "gray")
    with pytest.raises(ValueError, match="Unknown fill 'gray'"):
        baselines(torch.rand(1, 1, 4, 4), ["zero", "gray"])


# ------------------------------------------------------------------ area fractions and soft masks


def test_area_fractions_fill_the_range_evenly_at_every_length():
    fractions = [area_fraction(step, 0.0, 1.0) for step in range(500)]
    for count in (10, 50, 123, 500):
        ordered = sorted(fractions[:count])
        assert len(set(ordered)) == count
        gaps = [b - a for a, b in zip([0.0, *ordered], [*ordered, 1.0], strict=True)]
        assert max(gaps) < 3 / count, f"the first {count} fractions leave a hole"
        # Star discrepancy: a random sequence of 500 has about 0.04, this one 0.004.
        off = max(abs((rank + 1) / count - fraction) for rank, fraction in enumerate(ordered))
        assert off < 2.5 * math.log(count) / count / 2


def test_area_fractions_stay_inside_their_range_and_never_change():
    fractions = [area_fraction(step) for step in range(300)]
    assert fractions == [area_fraction(step) for step in range(300)]
    assert all(0 < fraction < 1 for fraction in fractions)
    narrow = [area_fraction(step, 0.2, 0.3) for step in range(300)]
    assert 0.2 <= min(narrow) < 0.21 and 0.29 < max(narrow) <= 0.3


@pytest.mark.parametrize("shape", [(4, 1, 9, 7), (4, 2, 6, 5), (4, 1, 4, 3, 5)])
def test_one_fraction_for_all_equals_a_fraction_per_map(shape):
    alpha = torch.randn(shape)
    for fraction in (0.001, 0.1, 0.37, 0.5, 0.9, 0.999):
        single = top_fraction(alpha, fraction, 0.2)
        assert torch.equal(single, top_fraction(alpha, torch.full((4,), fraction), 0.2)), f"fraction {fraction}"
        assert single.shape == alpha.shape


@pytest.mark.parametrize("fraction", [0.05, 0.3, 0.5, 0.8, 0.95])
def test_the_mask_keeps_that_fraction_of_each_map(fraction):
    alpha = torch.randn(5, 1, 20, 10) * torch.tensor([0.01, 0.1, 1, 10, 100]).view(-1, 1, 1, 1)
    mask = top_fraction(alpha, fraction, 0.1)
    assert ((mask > 0.5).flatten(1).sum(dim=1) == round(fraction * 200)).all()
    for row, kept in zip(alpha, mask > 0.5, strict=True):
        assert row[kept].min() > row[~kept].max(), "what is kept is not the top"
    fractions = torch.tensor([0.05, 0.3, 0.5, 0.8, 0.95])
    each = (top_fraction(alpha, fractions, 0.1) > 0.5).flatten(1).sum(dim=1)
    assert each.tolist() == [10, 60, 100, 160, 190]


def test_extreme_fractions_keep_next_to_all_or_nothing():
    alpha = torch.randn(3, 1, 8, 8)
    for fraction, kept in ((1e-6, 0), (1 - 1e-6, 63)):
        assert ((top_fraction(alpha, fraction, 0.01) > 0.5).flatten(1).sum(dim=1) == kept).all()
        assert ((top_fraction(alpha, torch.full((3,), fraction), 0.01) > 0.5).flatten(1).sum(dim=1) == kept).all()


def test_softness_is_in_standard_deviations_of_the_map():
    alpha = torch.randn(2, 1, 30, 30)
    soft, hard = top_fraction(alpha, 0.4, 2.0), top_fraction(alpha, 0.4, 0.001)
    assert soft.std() < 0.2 and ((hard < 0.01) | (hard > 0.99)).float().mean() > 0.98
    # Scaling and shifting a map moves nothing, up to the constant that keeps flat maps finite.
    assert torch.allclose(top_fraction(50 * alpha + 3, 0.4, 0.5), top_fraction(alpha, 0.4, 0.5), atol=2e-3)
    one_up = alpha.flatten(1).sort(dim=1).values[:, 540 - 1] + alpha.flatten(1).std(dim=1)
    nearest = (alpha.flatten(1) - one_up.unsqueeze(1)).abs().argmin(dim=1, keepdim=True)
    mask = top_fraction(alpha, 0.4, 0.5).flatten(1).gather(1, nearest)
    assert torch.allclose(mask, torch.tensor(1 / 0.5).sigmoid().expand(2, 1), atol=0.02)


def test_a_flat_map_gives_a_finite_mask_that_can_learn():
    alpha = torch.zeros(2, 1, 5, 5, requires_grad=True)
    mask = top_fraction(alpha, 0.3, 0.1)
    assert torch.equal(mask, torch.full_like(mask, 0.5))
    (gradient,) = torch.autograd.grad(mask.sum(), alpha)
    assert gradient.isfinite().all() and (gradient > 0).all()


def test_threshold_and_spread_are_constants_for_the_gradient():
    alpha = torch.randn(1, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(1, 1, 4, 4, dtype=torch.float64)
    mask = top_fraction(alpha, 0.5, 0.3)
    (gradient,) = torch.autograd.grad((weight * mask).sum(), alpha)
    slope = mask * (1 - mask) / (0.3 * (alpha.std() + 1e-3))
    assert torch.allclose(gradient, weight * slope), "a pixel's gradient must come from its own mask value alone"


# ------------------------------------------------------------------ total variation


def test_total_variation_of_known_maps():
    step = torch.zeros(1, 1, 4, 6)
    step[..., 3:] = 2.0  # one of five column differences is 2
    ramp = torch.arange(5.0).view(1, 1, 5, 1).expand(1, 1, 5, 5)
    assert total_variation(step).tolist() == pytest.approx([2 / 5])
    assert total_variation(ramp).tolist() == [1.0]
    assert total_variation(torch.full((3, 1, 4, 4), 7.0)).tolist() == [0.0, 0.0, 0.0]


def test_total_variation_is_per_map_and_per_axis():
    maps = torch.rand(3, 2, 4, 5, 6)
    expected = sum(maps.diff(dim=axis).abs().flatten(1).mean(dim=1) for axis in (2, 3, 4))
    assert torch.allclose(total_variation(maps), expected)
    assert torch.allclose(total_variation(maps)[1], total_variation(maps[1:2])[0])
    flat = maps[:, :, :, :, :1]
    assert torch.allclose(total_variation(flat), total_variation(flat[..., 0])), "an axis of one pixel has no neighbors"


# ------------------------------------------------------------------ the two-sided objective


def two_targets():
    return [
        (ClassifierTarget(cnn(channels=2)), None),
        (SegmenterTarget(segmenter(channels=2)), torch.rand(3, 1, 9, 7) < 0.5),
    ]


@pytest.mark.parametrize("kind", [0, 1], ids=["classifier", "segmenter"])
def test_two_sided_at_the_ends_is_known_in_closed_form(kind):
    target, pixels = two_targets()[kind]
    images, targets = torch.rand(3, 2, 9, 7), torch.tensor([[0], [1], [2]])
    baseline = baseline_images(images, "channel_mean")
    p_full, p_blank = (target.probability(what, targets, pixels)[:, 0] for what in (images, baseline))
    ones = torch.ones(3, 1, 9, 7)
    kept = two_sided(target, images, baseline, ones, Query(targets, pixels))
    lost = two_sided(target, images, baseline, 0 * ones, Query(targets, pixels))
    assert kept.shape == (3,)
    assert torch.allclose(kept, (1 - p_full) + p_blank, atol=1e-6)
    assert torch.allclose(lost, (1 - p_blank) + p_full, atol=1e-6)
    half = two_sided(target, images, baseline, 0.5 * ones, Query(targets, pixels))
    assert torch.allclose(half, torch.ones(3), atol=1e-6), "mask and complement are one image: the two sides cancel"


def test_two_sided_rows_are_independent():
    target, pixels = two_targets()[1]
    images, mask, targets = torch.rand(3, 2, 9, 7), torch.rand(3, 1, 9, 7), torch.tensor([[2], [0], [1]])
    baseline = baseline_images(images, "median")
    together = two_sided(target, images, baseline, mask, Query(targets, pixels))
    for row in range(3):
        one = slice(row, row + 1)
        alone = two_sided(target, images[one], baseline[one], mask[one], Query(targets[one], pixels[one]))
        assert torch.allclose(together[one], alone, atol=1e-6)


def test_two_sided_prefers_the_evidence():
    """Only the left half decides: keeping it must cost less than keeping the right half."""
    weight = torch.zeros(2, 1, 6, 6)
    weight[1, :, :, :3], weight[0, :, :, :3] = 1, -1
    target = ClassifierTarget(lambda images: F.conv2d(images, weight).flatten(1))
    images, targets = torch.ones(1, 1, 6, 6), torch.tensor([[1]])
    left = torch.zeros(1, 1, 6, 6)
    left[..., :3] = 1
    black = torch.zeros_like(images)
    good, bad = (two_sided(target, images, black, mask, Query(targets)) for mask in (left, 1 - left))
    assert good < 0.51 and bad > 1.49


# ------------------------------------------------------------------ resize


def test_resize_keeps_what_fits_and_interpolates_the_rest():
    maps = torch.rand(2, 1, 4, 6)
    assert resize(maps, (4, 6)) is maps
    assert resize(maps, (9, 5)).shape == (2, 1, 9, 5)
    assert resize(torch.rand(2, 1, 3, 4, 5), (6, 6, 6)).shape == (2, 1, 6, 6, 6)
    ramp = torch.tensor([0.0, 1.0]).expand(1, 1, 3, 2)
    assert torch.allclose(resize(ramp, (3, 4)), torch.tensor([0.0, 0.25, 0.75, 1.0]).expand(1, 1, 3, 4))


# ------------------------------------------------------------------ smooth noise


@pytest.mark.parametrize("size", [(28, 20), (64, 64), (5, 3), (12, 10, 9)])
def test_smooth_noise_is_standard_and_smooth(size):
    noise = smooth_noise(6, size, torch.device("cpu"), torch.Generator().manual_seed(0))
    assert noise.shape == (6, 1, *size)
    assert torch.allclose(noise.flatten(1).mean(dim=1), torch.zeros(6), atol=1e-5)
    assert torch.allclose(noise.flatten(1).std(dim=1, correction=0), torch.ones(6), atol=1e-2)
    if min(size) > 8:
        for axis in range(2, noise.ndim):
            steps = noise.diff(dim=axis).flatten(1).std(dim=1)
            assert (steps < 1.2).all(), "white noise has steps of 1.41 between neighbors"
        assert noise.diff(dim=2).flatten(1).std(dim=1).mean() < 20 / size[0]


def test_smooth_noise_follows_its_generator_and_differs_between_rows():
    first, again = (smooth_noise(2, (16, 16), torch.device("cpu"), torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.allclose(first[0], first[1], atol=0.1)
    other = smooth_noise(2, (16, 16), torch.device("cpu"), torch.Generator().manual_seed(4))
    assert not torch.allclose(first, other, atol=0.1)


def test_a_constant_map_is_standardized_to_zero():
    maps = torch.stack([torch.full((4, 4), 7.0), torch.arange(16.0).view(4, 4)]).unsqueeze(0)
    flat, gradient = standardize(maps)[0]
    assert torch.equal(flat, torch.zeros(4, 4))
    assert gradient.mean().abs() < 1e-6 and gradient.std(correction=0) == pytest.approx(1, abs=1e-3)
