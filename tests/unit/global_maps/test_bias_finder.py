"""The bias finder: regions, and the labels and images that look elsewhere."""

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_xai.global_maps import GlobalMaps
from lightning_xai.global_maps.bias_finder import find_bias, foreground, read_region


def result_of(maps):
    metric = GlobalMaps(["cat", "dog", "owl"])
    metric.update(maps=torch.stack(maps).unsqueeze(1), labels=torch.arange(len(maps)))
    return metric.compute()


def test_labels_are_ordered_by_what_lies_outside():
    inside, outside = torch.zeros(4, 4), torch.zeros(4, 4)
    inside[:2], outside[3] = 1, 1
    region = torch.zeros(4, 4, dtype=torch.bool)
    region[:2] = True
    rows = [("x", 1, 0.25), ("y", 1, 0.0), ("z", 0, 1.0), ("u", 1, float("nan"))]
    first, second = find_bias(result_of([inside, outside]), region, rows)
    assert (first.label, first.outside, first.found) == ("dog", 1.0, True)
    assert first.images == [("y", 1.0), ("x", 0.75)], "an undefined map contributes nothing"
    assert (second.label, second.outside, second.found, second.chance) == ("cat", 0.0, False, 0.5)


@pytest.mark.parametrize("region", [torch.ones(4, 4), torch.zeros(4, 4), torch.eye(3)])
def test_a_region_must_fit(region):
    with pytest.raises(ValueError, match="some pixels, but not all"):
        find_bias(result_of([torch.rand(4, 4)]), region.bool())


@pytest.mark.parametrize("size", [(20, 24), (10, 12, 8)])
def test_the_foreground_is_the_bright_part(size):
    generator = torch.Generator().manual_seed(0)
    image = 0.2 * torch.rand(2, *size, generator=generator)
    image[:, 3:7] += 0.6
    expected = torch.zeros(size, dtype=torch.bool)
    expected[3:7] = True
    assert torch.equal(foreground(image), expected)
    tagged = image.clone()
    tagged[:, -2:, -2:] = 1
    assert torch.equal(foreground(tagged), expected), "a bright tag beside the object is no part of it"
    with pytest.raises(ValueError, match="constant"):
        foreground(torch.ones(1, 4, 4))


def test_otsu_separates_as_well_as_any_threshold():
    values = torch.rand(1, 1, 900, generator=torch.Generator().manual_seed(1)).square().sort().values
    gray = values[0].double()

    def between(inside):
        fraction = inside.double().mean()
        return float(fraction * (1 - fraction) * (gray[inside].mean() - gray[~inside].mean()).square())

    best = max(between(gray > level) for level in torch.linspace(0.05, 0.9, 200))
    assert between(foreground(values)) == pytest.approx(best, rel=1e-3)


def test_a_mask_file_is_read_and_resized(tmp_path):
    mask = np.zeros((8, 12), np.uint8)
    mask[:, :6] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    region = read_region(tmp_path / "mask.png", (4, 6))
    assert region[:, :3].all() and not region[:, 3:].any()
    with pytest.raises(ValueError, match="has 2 dimensions, but the images have 3"):
        read_region(tmp_path / "mask.png", (4, 6, 2))
