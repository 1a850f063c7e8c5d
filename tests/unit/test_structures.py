"""A query and an explanation: rows in the order of everything else, parts of a batch, copies, and where they live."""

import pytest
import torch

from lightning_xai.structures import Explanation, Query

TARGETS = torch.tensor([[0, 1, 2], [2, 0, 1]])
REGIONS = torch.arange(2 * 3 * 4).view(2, 3, 2, 2) % 5 > 1
each_kind = pytest.mark.parametrize("regions", [None, REGIONS], ids=["classifier", "segmenter"])


def same(query, targets, regions):
    assert torch.equal(query.targets, targets)
    assert query.regions is regions is None or torch.equal(query.regions, regions)


@each_kind
def test_row_is_image_times_queries_plus_query(regions):
    rows = Query(TARGETS, regions).rows()
    assert rows.shape == (6, 1)
    for image in range(2):
        for number in range(3):
            one = None if regions is None else regions[image : image + 1, number : number + 1]
            same(rows[slice(3 * image + number, 3 * image + number + 1)], TARGETS[image, number].view(1, 1), one)
    chosen = torch.tensor([4, 0, 4])
    some = Query(TARGETS, regions).rows(chosen)
    same(some, rows.targets[chosen], None if regions is None else rows.regions[chosen])


@each_kind
def test_parts_and_copies_of_a_batch(regions):
    query = Query(TARGETS, regions)
    assert query.shape == (2, 3)
    same(query[1:], TARGETS[1:], None if regions is None else regions[1:])
    same(query[torch.tensor([1, 0])], TARGETS.flip(0), None if regions is None else regions.flip(0))
    same(query.repeat(2), torch.cat([TARGETS] * 2), None if regions is None else torch.cat([regions] * 2))


def test_a_query_about_no_pixel_is_undefined():
    regions = REGIONS.clone()
    regions[1, 2] = False
    assert Query(TARGETS, regions).defined().tolist() == [[True, True, True], [True, True, False]]
    assert Query(TARGETS).defined().tolist() == [[True] * 3] * 2


@each_kind
def test_everything_moves_to_a_device(regions):
    maps, logits = torch.rand(2, 3, 2, 2), torch.rand(2, 3)
    found = Explanation(maps, Query(TARGETS, regions), logits, {"p": torch.rand(2, 3)}, {"mu": maps})
    moved = found.to("meta")
    parts = [moved.maps, moved.query.targets, moved.logits, moved.extras["p"], moved.alternatives["mu"]]
    parts += [] if regions is None else [moved.query.regions]
    assert all(part.device.type == "meta" for part in parts)
    assert (moved.query.regions is None) is (regions is None) and found.maps.device.type == "cpu"
