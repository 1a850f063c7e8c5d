"""The regions of queries, alone and built on one another, from Python and from YAML."""

from functools import partial
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from lightning_xai import SegmenterTarget
from lightning_xai.explainers import GradCAM, HiResCAM
from lightning_xai.targets import regions as region_functions
from lightning_xai.targets.regions import RegionContext
from tests.helpers import pixel_segmenter, segmenter

CONFIGS = sorted((Path(__file__).parents[3] / "configs" / "region").glob("*.yaml"))
SIZES = {2: (12, 10), 3: (8, 6, 10)}
each_dims = pytest.mark.parametrize("dims", SIZES)


def case(dims):
    torch.manual_seed(dims)
    images = 4 * torch.rand(2, 1, *SIZES[dims])
    masks = torch.randint(0, 3, (2, 1, *SIZES[dims]))
    return SegmenterTarget(segmenter(dims)), images, torch.tensor([[1, 2], [0, 1]]), masks


@each_dims
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_yaml_gives_a_region_that_explainers_take(path, dims):
    target, images, targets, masks = case(dims)
    node = OmegaConf.load(path)
    for name in ("at", "low", "high"):
        if name in node:
            node[name] = [node[name][0]] * dims
    region = instantiate(node)(RegionContext(target, images, targets, masks))
    assert region.dtype == torch.bool and region.shape == (2, 2, *SIZES[dims])
    assert bool(region.any()) is (path.stem != "empty")
    maps = HiResCAM(target, layer="1").explain(images, targets, region)
    assert (maps == 0).all() if path.stem == "empty" else (maps != 0).any()


@each_dims
def test_regions_are_what_they_are_called(dims):
    target, images, targets, masks = case(dims)
    context = RegionContext(target, images, targets, masks)
    index = targets.view(2, 2, *(1,) * dims)
    probabilities = target.predict(images)
    labels = probabilities.argmax(dim=1, keepdim=True)
    assert torch.equal(region_functions.predicted(context), labels == index)
    assert torch.equal(region_functions.reference(context), masks == index)
    target_classes = probabilities.gather(1, index.expand(-1, -1, *SIZES[dims]))
    assert torch.equal(region_functions.probable(context, above=0.4), target_classes > 0.4)
    assert region_functions.whole(context).all() and not region_functions.empty(context).any()
    one = region_functions.point(context, at=[0] * dims)
    assert (one.flatten(2).sum(dim=2) == 1).all() and one.flatten(2)[..., 0].all()
    inner = region_functions.box(context, low=[0.0] * dims, high=[0.5] * dims, of=region_functions.predicted)
    assert (inner & ~region_functions.predicted(context)).sum() == 0
    assert not inner[:, :, -2:].any(), "the box reaches beyond its corner"


def test_components_touch_along_axes_and_nothing_has_none():
    values = torch.zeros(1, 1, 6, 6)
    values[0, 0, :2, :2] = values[0, 0, 2, 2] = values[0, 0, 4:, 3:] = 1  # 4, 1 and 6 pixels; the 1 touches at a corner
    target = SegmenterTarget(pixel_segmenter(torch.tensor([[0.0], [1.0]]), torch.tensor([0.5, 0.0])))
    target_classes = torch.tensor([[1]])
    sizes = {
        which: region_functions.component(RegionContext(target, values, target_classes), which=which).sum()
        for which in ("largest", "smallest")
    }
    assert sizes == {"largest": 6, "smallest": 1}
    inside = partial(region_functions.box, low=[0, 0], high=[0.5, 0.5], of=region_functions.predicted)
    assert region_functions.component(RegionContext(target, values, target_classes), of=inside).sum() == 4
    assert not region_functions.component(RegionContext(target, 0 * values, target_classes)).any()


def test_what_is_wrong_is_named():
    target, images, targets, _ = case(2)
    context = RegionContext(target, images, targets)
    with pytest.raises(ValueError, match="needs masks.*region=predicted"):
        region_functions.reference(context)
    with pytest.raises(ValueError, match="'biggest'; use largest or smallest"):
        region_functions.component(context, which="biggest")
    for corners in ({"low": [0.5, 0.5], "high": [0.2, 0.9]}, {"low": [0, 0, 0], "high": [1, 1, 1]}):
        with pytest.raises(ValueError, match="give fractions between 0 and 1 for each axis"):
            region_functions.box(context, **corners)


def test_one_pixel_makes_grad_cam_constant_in_its_place_but_not_hires():
    """Seg-Grad-CAM of two pixels: one map; HiResCAM: disjoint ones (1x1 head after the layer)."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(4, 2, 1))
    target, images, target_classes = SegmenterTarget(net), torch.rand(1, 1, 9, 9), torch.tensor([[1]])
    region = [
        region_functions.point(RegionContext(target, images, target_classes), at=at)
        for at in ((0.25, 0.25), (0.75, 0.5))
    ]
    grad = [GradCAM(target, layer="1").explain(images, target_classes, pixels) for pixels in region]
    hires = [HiResCAM(target, layer="1").explain(images, target_classes, pixels) for pixels in region]
    assert torch.allclose(grad[0], grad[1], atol=1e-7) and grad[0].abs().max() > 0
    assert not ((hires[0] != 0) & (hires[1] != 0)).any()
