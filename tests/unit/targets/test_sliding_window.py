"""Volumes larger than the window: logits and maps window by window."""

import pytest
import torch
from torch import nn

from lightning_xai import SegmenterTarget
from lightning_xai.explainers import CaptumExplainer, CenterPrior, GradCAM, HiResCAM, UNoise
from lightning_xai.targets.sliding_window import by_window, fits
from tests.helpers import segmenter

SIZES = {2: (20, 26), 3: (12, 15, 10)}
each_dims = pytest.mark.parametrize("dims", SIZES)


def images_of(dims, count=2):
    return torch.rand(count, 1, *SIZES[dims], generator=torch.Generator().manual_seed(dims))


def local_net(dims):
    """A convolution of 3, then a 1x1 head."""
    torch.manual_seed(0)
    conv = (nn.Conv2d, nn.Conv3d)[dims - 2]
    return nn.Sequential(conv(1, 4, 3, padding=1), nn.ReLU(), conv(4, 3, 1))


@each_dims
def test_pixelwise_functions_do_not_notice_windows(dims):
    images = images_of(dims)
    assert torch.allclose(by_window(lambda part: part.square(), images, 7), images.square(), atol=1e-6)


@each_dims
def test_what_fits_goes_through_at_once(dims):
    shapes = []

    def function(part):
        shapes.append(tuple(part.shape))
        return part

    images = images_of(dims)
    assert by_window(function, images, 26) is images and shapes == [tuple(images.shape)]
    by_window(function, images, 8)
    assert all(max(shape[2:]) <= 8 and shape[0] == 1 for shape in shapes[1:]), "a window was larger than allowed"
    assert len(shapes) > 2


@pytest.mark.parametrize("window", [0, [4], [4, 4, 4], [4, 0]])
def test_impossible_windows_are_named(window):
    with pytest.raises(ValueError, match=r"window is .* give one side, or one for each axis"):
        fits((20, 26), window)


@each_dims
def test_logits_away_from_the_seams_are_those_of_the_whole_image(dims):
    """A window's own border is padded with zeros, which weighs little where windows overlap."""
    net, images = local_net(dims), images_of(dims)
    whole, windowed = SegmenterTarget(net).logits(images), SegmenterTarget(net, window=8).logits(images)
    assert whole.shape == windowed.shape
    assert (whole - windowed).abs().median() < 1e-5
    assert (whole - windowed).abs().max() < 0.5 * whole.abs().max()


@each_dims
def test_hires_cam_of_a_volume_adds_up_to_its_stitched_logits(dims):
    """1x1 head: zero outside the set, and inside the logit without its bias."""
    net, images = local_net(dims), images_of(dims)
    target = SegmenterTarget(net, window=8)
    pixels = torch.rand(2, 1, *SIZES[dims]) < 0.3
    targets = torch.tensor([[2, 0], [1, 2]])
    maps = HiResCAM(target, layer="1").explain(images, targets, pixels)
    regions = pixels.expand(-1, 2, *SIZES[dims])
    assert (maps[~regions] == 0).all()
    logits = target.logits(images).detach()
    for image in range(2):
        for column in range(2):
            target_class = int(targets[image, column])
            expected = logits[image, target_class] - net[2].bias[target_class].detach()
            inside = pixels[image, 0]
            assert torch.allclose(maps[image, column][inside], expected[inside], atol=1e-5)


@each_dims
@pytest.mark.parametrize("make", [GradCAM, HiResCAM], ids=["grad", "hires"])
def test_maps_of_windows_add_over_disjoint_sets_and_know_their_image(make, dims):
    target = SegmenterTarget(segmenter(dims), window=8)
    images, explainer = images_of(dims), make(target, layer="1")
    left = torch.zeros(2, 1, *SIZES[dims], dtype=torch.bool)
    left[:, :, :5] = True
    targets = torch.tensor([[1], [2]])
    parts = [explainer.explain(images, targets, pixels) for pixels in (left, ~left, torch.ones_like(left))]
    assert torch.allclose(parts[0] + parts[1], parts[2], atol=1e-4 * float(parts[2].abs().max()))
    alone = explainer.explain(images[1:], targets[1:], left[1:])
    assert torch.allclose(alone, parts[0][1:], atol=1e-6)
    assert (explainer.explain(images, targets, torch.zeros_like(left)) == 0).all()


def test_learned_masks_captum_and_the_center_prior_work_by_window():
    target, images = SegmenterTarget(segmenter(), mean=[0.5], std=[0.3], window=8), images_of(2)
    noise = UNoise(target)
    maps = noise.explain(images, torch.tensor([1, 1]), torch.ones(2, 1, *SIZES[2], dtype=torch.bool))
    assert torch.allclose(maps, 1 - noise.mask(images), atol=1e-6)
    assert CaptumExplainer(target, "Saliency").explain(images).shape == (2, 2, *SIZES[2])
    assert noise.explain(images).shape == (2, 2, *SIZES[2]), "maps that share their memory"
    everything = torch.ones(2, 1, *SIZES[2], dtype=torch.bool)
    center = CenterPrior(target).explain(images, torch.tensor([1, 1]), everything)
    assert torch.equal(
        center, CenterPrior(SegmenterTarget(segmenter())).explain(images, torch.tensor([1, 1]), everything)
    )


@pytest.mark.parametrize("batch", [2, 3, 50])
@each_dims
def test_windows_go_through_in_batches_and_give_the_same(dims, batch):
    net, images, counts = local_net(dims), images_of(dims), []
    alone, together = SegmenterTarget(net, window=8), SegmenterTarget(net, window=8, window_batch=batch)
    query = alone.query(images)
    maps = HiResCAM(alone, layer="0").explain(images, query.targets, query.regions)
    net.register_forward_pre_hook(lambda _, arguments: counts.append(len(arguments[0])))
    logits = together.logits(images)
    windows = sum(counts)
    assert max(counts) == min(batch, windows) and len(counts) == -(-windows // batch)
    assert torch.allclose(logits, alone.logits(images), atol=1e-5)
    counts.clear()
    assert torch.allclose(HiResCAM(together, layer="0").explain(images, query.targets, query.regions), maps, atol=1e-5)
    assert max(counts) == min(batch, windows // len(images)), "an explainer's windows go one image after the other"


def test_no_window_at_a_time_is_refused():
    with pytest.raises(ValueError, match=r"window_batch is 0; give the windows of a pass, at least 1\."):
        SegmenterTarget(local_net(2), window=8, window_batch=0).logits(images_of(2))
