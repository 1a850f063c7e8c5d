"""A tag in the corner of one label's images: its map shows it, PEPPR proves it, the bias finder names the label."""

import pytest
import torch

from lightning_xai import ClassifierTarget
from lightning_xai.data import CornerTag
from lightning_xai.explainers import CaptumExplainer
from lightning_xai.global_maps import GlobalMaps, peppr
from lightning_xai.global_maps.bias_finder import find_bias
from tests.helpers import linear_net

NAMES = ["healthy", "ill"]


def planted(size, tag, count=60):
    """Noise on a bright body that is a little brighter where ill; the model fitted to it by least squares."""
    generator = torch.Generator().manual_seed(0)
    inside = tuple(slice(3, side - 1) for side in size)
    images, labels = 0.1 * torch.rand(count, 1, *size, generator=generator), torch.arange(count) % 2
    images[(slice(None), slice(None), *inside)] += 0.5 + 0.01 * labels.view(-1, 1, *(1,) * len(size))
    mark = CornerTag(["image"], label=1, size=tag, value=1.0)
    images = torch.stack([mark({"image": i, "label": int(k)})["image"] for i, k in zip(images, labels, strict=True)])
    flat = images.flatten(1).double()
    ridge = flat @ flat.T + 1e-2 * torch.eye(count)
    weight = (flat.T @ torch.linalg.solve(ridge, 2.0 * labels.double() - 1)).float()
    target = ClassifierTarget(linear_net(torch.stack([-4 * weight, 4 * weight])), class_names=NAMES)
    body = torch.zeros(size, dtype=torch.bool)
    body[inside] = True
    return target, images, labels, body


@pytest.mark.parametrize(("size", "tag"), [((20, 22), 2), ((10, 12, 11), 2)])
def test_a_planted_tag_is_found(size, tag):
    target, images, labels, body = planted(size, tag)
    explainer = CaptumExplainer(target, "IntegratedGradients", baseline="zero")
    metric = GlobalMaps(NAMES)
    for part in torch.arange(30).split(8):
        metric.update(maps=explainer.explain(images[part], labels[part]), labels=labels[part], images=images[part])
    result = metric.compute()
    ill = result.label_wise[1]
    corner = torch.zeros(size, dtype=torch.bool)
    corner[tuple([slice(tag)] * len(size))] = True
    top = ill.flatten().argsort(descending=True)[: round(0.02 * ill.numel())]
    assert set(corner.flatten().nonzero().flatten().tolist()) <= set(top.tolist())
    biases = find_bias(result, body)
    assert biases[0].label == "ill" and biases[0].found and biases[0].outside > 0.6, biases

    judged = [{"image": images[30:], "label": labels[30:]}]
    curves = peppr(target, judged, ill, (0, 0.02, 0.5, 1), fill="black")
    tagged = curves.labels.index(1)
    assert curves.erase[tagged, 0] == 1 and curves.restore[tagged, 1] == 1, "the tag alone is enough"
    spared = curves.erase_random[:, tagged, 1].mean()
    assert curves.erase[tagged, 1] < 0.85 < spared, "without it the model knows little, without others all"
