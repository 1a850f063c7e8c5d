"""Pointing game and relevance mass against masks."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_xai.metrics import PointingGame, RelevanceMass
from lightning_xai.metrics.functional import grow


def scored(metric, maps, masks):
    metric.update(maps=maps, masks=masks)
    return metric.per_image()


def square_mask(batch=1, side=8):
    masks = torch.zeros(batch, 1, side, side, dtype=torch.long)
    masks[..., 2:5, 2:5] = 1
    return masks


def test_pointing_game_hits_and_misses():
    maps = torch.zeros(2, 1, 8, 8)
    maps[0, 0, 3, 3] = maps[1, 0, 7, 7] = 1
    assert scored(PointingGame(), maps, square_mask(2)).tolist() == [[1], [0]]


def test_tied_maxima_fraction_the_point():
    maps = torch.zeros(1, 1, 8, 8)
    maps[0, 0, 3, 3] = maps[0, 0, 4, 4] = maps[0, 0, 0, 0] = 1
    assert scored(PointingGame(), maps, square_mask()).item() == pytest.approx(2 / 3, abs=1e-15)


@pytest.mark.parametrize(("size", "radius"), [((9, 12), 3), ((9, 12), 2.5), ((5, 6, 4), 2), ((4, 4), 50), ((4, 4), 0)])
def test_evidence_grows_by_the_distance(size, radius):
    objects = torch.rand(2, 2, *size, generator=torch.Generator().manual_seed(0)) > 0.97
    objects[0, 0] = False
    places = torch.ones(size).nonzero().float()
    for image, grown in zip(objects.flatten(0, 1), grow(objects, radius).flatten(0, 1), strict=True):
        near = torch.cdist(places, image.nonzero().float()) <= radius
        assert torch.equal(grown.flatten(), near.any(dim=1))


def test_the_pointing_game_takes_a_hit_within_the_tolerance():
    maps = torch.zeros(4, 1, 8, 8)
    for number, place in enumerate([(3, 3), (3, 6), (6, 6), (7, 7)]):  # 0, 2, 2.8 and 4.2 pixels from the square
        maps[(number, 0, *place)] = 1
    for tolerance, hits in ((0, [1, 0, 0, 0]), (2, [1, 1, 0, 0]), (2.9, [1, 1, 1, 0]), (15, [1, 1, 1, 1])):
        assert scored(PointingGame(tolerance), maps, square_mask(4)).flatten().tolist() == hits, tolerance
    metric = PointingGame(tolerance=1)
    scored(metric, maps, square_mask(4))
    assert metric.per_image("random")[0].item() == pytest.approx(21 / 64), "the square and a row beside each side"
    assert metric.per_image("center")[0].item() == 1 and metric.metadata()["options"] == {"tolerance": 1}
    empty = scored(PointingGame(15), maps[:1], torch.zeros(1, 1, 8, 8))
    assert empty.isnan().all() and scored(PointingGame(15), 0 * maps[:1], square_mask()).isnan().all()
    with pytest.raises(ValueError, match="tolerance is -1"):
        PointingGame(-1)


def test_pointing_game_looks_at_the_signed_map():
    maps = torch.full((1, 1, 8, 8), -1.0)
    maps[0, 0, 0, 0], maps[0, 0, 3, 3] = -9.0, -0.5
    assert scored(PointingGame(), maps, square_mask()).item() == 1


def test_relevance_mass_is_the_positive_fraction():
    maps = torch.zeros(1, 1, 8, 8)
    maps[0, 0, 3, 3], maps[0, 0, 0, 0], maps[0, 0, 1, 1], maps[0, 0, 4, 4] = 3.0, 1.0, -5.0, -5.0
    assert scored(RelevanceMass(), maps, square_mask()).item() == 0.75


@given(st.floats(1e-6, 1e6))
def test_a_constant_positive_map_gets_the_area_fraction(value):
    maps = torch.full((1, 1, 8, 8), value)
    assert scored(RelevanceMass(), maps, square_mask()).item() == pytest.approx(9 / 64, abs=1e-12)


def test_relevance_mass_does_not_depend_on_scale_or_on_small_maps():
    maps = torch.rand(2, 2, 8, 8)
    values = scored(RelevanceMass(), maps, square_mask(2))
    for scale in (1e-30, 1e3):
        assert torch.allclose(scored(RelevanceMass(), scale * maps, square_mask(2)), values, atol=1e-6)


def test_undefined_is_nan_and_counted():
    maps, masks = torch.rand(4, 1, 8, 8), square_mask(4)
    masks[1], maps[2], maps[3] = 0, -1.0, float("nan")
    for metric in (PointingGame(), RelevanceMass()):
        values = scored(metric, maps, masks)
        assert values.isnan().flatten().tolist() == [False, True, True, True]
        assert metric.counts() == (4, 3) and metric.compute() == values[0, 0]


def test_zero_map_is_undefined():
    for metric in (PointingGame(), RelevanceMass()):
        assert scored(metric, torch.zeros(1, 1, 8, 8), square_mask()).isnan().all()


def test_full_mask_is_all_hits():
    masks = torch.ones(2, 1, 8, 8, dtype=torch.long)
    for metric in (PointingGame(), RelevanceMass()):
        assert torch.allclose(scored(metric, torch.rand(2, 1, 8, 8), masks), torch.ones(2, 1).double())


def test_every_positive_class_of_a_mask_is_evidence():
    maps = torch.rand(1, 2, 8, 8)
    for metric in (PointingGame, RelevanceMass):
        expected = scored(metric(), maps, square_mask())
        assert torch.equal(scored(metric(), maps, 7 * square_mask()), expected)
        assert torch.equal(scored(metric(), maps, square_mask().float()), expected)


def test_masks_per_query_and_shared():
    maps = torch.rand(2, 2, 8, 8)
    shared, own = square_mask(2), torch.cat([square_mask(2), 1 - square_mask(2)], 1)
    values = scored(RelevanceMass(), maps, own)
    assert torch.equal(values[:, 0], scored(RelevanceMass(), maps, shared)[:, 0])
    assert torch.allclose(values[:, 1], 1 - scored(RelevanceMass(), maps, shared)[:, 1])


@pytest.mark.parametrize("metric", [PointingGame, RelevanceMass])
def test_three_dimensions_with_depth_one_is_two(metric):
    maps, masks = torch.rand(3, 2, 8, 8), square_mask(3)
    assert torch.equal(scored(metric(), maps.unsqueeze(2), masks.unsqueeze(2)), scored(metric(), maps, masks))


@given(st.permutations(range(4)))
def test_permuting_a_batch_permutes_the_values(order):
    maps, masks = torch.rand(4, 1, 8, 8), (torch.rand(4, 1, 8, 8) > 0.6).long()
    for metric in (PointingGame, RelevanceMass):
        assert torch.equal(scored(metric(), maps[order], masks[order]), scored(metric(), maps, masks)[order])


@given(st.sampled_from([torch.exp, torch.sigmoid, lambda maps: 3 * maps - 5]))
def test_pointing_game_sees_only_the_order(transform):
    maps = torch.stack([torch.randperm(64) for _ in range(3)]).view(3, 1, 8, 8).double() / 16
    assert torch.equal(
        scored(PointingGame(), transform(maps), square_mask(3)), scored(PointingGame(), maps, square_mask(3))
    )


def test_random_maps_get_the_area_fraction_on_average():
    maps = torch.rand(2000, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for metric, slack in ((PointingGame(), 0.03), (RelevanceMass(), 0.003)):
        metric.update(maps=maps, masks=square_mask(2000))
        assert metric.compute().item() == pytest.approx(9 / 64, abs=slack)
