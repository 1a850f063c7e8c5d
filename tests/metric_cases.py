"""Tiny cases whose metrics can be computed by hand, and the checks that metrics of every family pass.

A case is what ``MapMetric.update`` takes.
"""

import pytest
import torch
from torch import nn

from lightning_xai import Explainer, SegmenterTarget
from tests.helpers import LogitTarget, linear_net

MEAN, STD = [0.4, 0.3], [0.5, 2.0]
PER_IMAGE = ("images", "maps", "targets", "masks", "pixels")


class MapOf(Explainer):
    """The map is a function of images and targets; keeps the shapes of the queries of every call."""

    def __init__(self, target, function):
        super().__init__(target)
        self.function = function
        self.calls = []

    def attribute(self, images, query):
        targets = query.targets
        self.calls.append(tuple(targets.shape))
        return self.function(images, targets)


def shown(images, targets):
    """The image itself for a map."""
    return images.sum(dim=1, keepdim=True).expand(-1, targets.shape[1], *images.shape[2:])


def planned(table):
    """Always the map of the class, from a table ``(K, *S)``."""
    return lambda images, targets: table[targets]


def weighted(weight):
    """Weights ``(K, C, *S)`` of the class times the image."""
    return lambda images, targets: (weight[targets] * images.unsqueeze(1)).sum(dim=2)


class Planted(nn.Module):
    """Class k + 1 shows in channel k alone, the background by a constant: ``(B, C, *S) -> (B, C + 1, *S)``."""

    def forward(self, images):
        return torch.cat([torch.full_like(images[:, :1], 0.5), images], dim=1)


def linear_case(batch=4, queries=2, size=(4, 5), bias=15.0, normalized=True):
    """A linear target whose outputs are its logits, positive ones."""
    torch.manual_seed(batch + 10 * queries + 100 * len(size))
    weight = torch.randn(3, 2 * torch.Size(size).numel())
    mean, std = (MEAN, STD) if normalized else (None, None)
    return {
        "target": LogitTarget(linear_net(weight, torch.full((3,), bias)), mean=mean, std=std),
        "images": torch.rand(batch, 2, *size),
        "maps": torch.randn(batch, queries, *size),
        "targets": torch.stack([torch.randperm(3)[:queries] for _ in range(batch)]),
    }


def linear_output(target, images, classes):
    """Logits of a linear target in float64: images ``(n, C, *S)``, classes ``(n,)``."""
    layer, flat = target.model[1], images.double()
    if target.mean is not None:
        mean, std = (part.double().view(1, -1, *(1,) * (images.ndim - 2)) for part in (target.mean, target.std))
        flat = (flat - mean) / std
    return (layer.weight.double()[classes] * flat.flatten(1)).sum(dim=1) + layer.bias.double()[classes]


def two_objects(batch=1, dims=2):
    """Object 1 (16 pixels of 64) in channel 0, object 2 (16 pixels) in channel 1; segmented without a fault.

    The maps are random; ``objects`` ``(2, *S)`` is returned beside the case.
    """
    objects = torch.zeros(2, 8, 8, dtype=torch.bool)
    objects[0, :4, :4] = objects[1, 4:, 4:] = True
    if dims == 3:
        objects = objects.view(2, 4, 4, 4)
    images = objects.float().expand(batch, *objects.shape).clone()
    case = {
        "target": SegmenterTarget(Planted()),
        "images": images,
        "maps": torch.rand(images.shape),
        "targets": torch.tensor([[1, 2]] * batch),
    }
    return case, objects


def noisy_segments(batch=4, classes=3, size=(6, 6), seed=0, masks=True):
    """Noise that :class:`Planted` segments into all classes, random maps, and random integer masks or none."""
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, classes - 1, *size)
    return {
        "target": SegmenterTarget(Planted(), mean=[0.1] * (classes - 1), std=[1.0] * (classes - 1)),
        "images": torch.rand(shape, generator=generator),
        "maps": torch.rand(shape, generator=generator),
        "targets": torch.arange(1, classes).repeat(batch, 1),
        "masks": torch.randint(0, classes, (batch, 1, *size), generator=generator) if masks else None,
    }


def top(maps, count):
    """The ``count`` highest pixels of one map ``(*S)``, boolean."""
    order = maps.flatten().argsort(descending=True, stable=True)
    chosen = torch.zeros(maps.numel(), dtype=torch.bool)
    chosen[order[:count]] = True
    return chosen.view(maps.shape)


def overlap_and_total(target, image, target_class, reference):
    """Of one input ``(C, *S)``: twice the pixels of class and reference ``(*S)``, and the sum of both."""
    predicted = target.logits(image.unsqueeze(0))[0].argmax(dim=0) == target_class
    return 2.0 * float((predicted & reference).sum()), float(predicted.sum() + reference.sum())


def dice_of(target, image, target_class, reference):
    """Dice of one input."""
    common, total = overlap_and_total(target, image, target_class, reference)
    return common / total


def over_black(target, image, visible):
    """One image ``(C, *S)`` with its invisible pixels as the target's mean."""
    return torch.where(visible, image, target.input_zero(image.unsqueeze(0))[0])


def scored(metric, **case):
    """Values ``(B, T)`` of one update."""
    metric.update(**case)
    return metric.per_image()


def part(case, index):
    """The case of some of its images."""
    return {name: value[index] if name in PER_IMAGE and value is not None else value for name, value in case.items()}


def assert_batches_do_not_matter(make, case, atol=1e-5):
    """Neither the size of batches and chunks nor the order of the images changes a value."""
    count = len(case["images"])
    whole = scored(make(), **case)
    assert not whole.isnan().all(), "a case without a defined value tests nothing"
    for size, chunk_size, order in ((1, 1, range(count)), (2, 3, range(count)[::-1]), (count, 1000, range(count))):
        metric, order = make(), list(order)
        metric.chunk_size = chunk_size
        for start in range(0, count, size):
            metric.update(**part(case, order[start : start + size]))
        assert torch.allclose(metric.per_image(), whole[order], atol=atol, equal_nan=True), (size, chunk_size)


def assert_queries_do_not_matter(make, case, atol=1e-5):
    """A query has the same value alone and among others."""
    together = scored(make(), **case)
    for index in range(together.shape[1]):
        alone = {**case, "maps": case["maps"][:, index : index + 1], "targets": case["targets"][:, index]}
        values = scored(make(), **alone)[:, 0]
        assert torch.allclose(values, together[:, index], atol=atol, equal_nan=True), index


def assert_depth_one_does_not_matter(make, case, atol=1e-6):
    """A 2-D image is a volume of one slice."""
    deep = {name: value.unsqueeze(2) if name in ("images", "maps", "masks") else value for name, value in case.items()}
    flat = scored(make(), **case)
    assert not flat.isnan().all(), "a case without a defined value tests nothing"
    assert torch.allclose(scored(make(), **deep), flat, atol=atol, equal_nan=True)


def assert_precision_does_not_matter(make, case, atol=1e-6):
    """Maps in half or bfloat16 count as the numbers that they hold."""
    for kind in (torch.float16, torch.bfloat16):
        maps = case["maps"].to(kind)
        values = scored(make(), **{**case, "maps": maps.float()})
        assert not values.isnan().all(), "a case without a defined value tests nothing"
        short = scored(make(), **{**case, "maps": maps})
        assert torch.allclose(short, values, atol=atol, equal_nan=True), kind


def assert_refused(call, *words):
    """``call`` raises a ``ValueError`` of one clear sentence that has the words."""
    with pytest.raises(ValueError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text and text.endswith("."), f"not one clear sentence: {text}"
    assert all(word in text for word in words), f"{words} are not all in: {text}"
