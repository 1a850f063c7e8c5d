"""What every metric of maps shares: values with their ids, each counted once."""

import copy
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_xai import ClassifierTarget
from lightning_xai.metrics import DeletionAUC, MapMetric, PointingGame, RelevanceMass
from lightning_xai.metrics.base import decode_ids, encode_ids
from tests.helpers import cnn

NAN = float("nan")


class MaximumOfMap(MapMetric):
    """The map's maximum: a metric whose every value the tests can choose."""

    family = "test"
    paper = "none"
    higher_is_better = True

    def score(self, batch, outputs):
        return batch.maps.flatten(2).amax(2)


def feed(metric, values, ids=None, **kwargs):
    """Give the metric one image per row of ``values (N, T)``."""
    metric.update(maps=torch.as_tensor(values)[..., None, None].expand(-1, -1, 2, 2), ids=ids, **kwargs)
    return metric


def test_mean_is_over_the_defined_values_and_the_others_are_counted():
    metric = feed(MaximumOfMap(), [[1.0], [NAN], [4.0]])
    assert metric.compute().item() == 2.5
    assert metric.counts() == (3, 1)


def test_nothing_defined_gives_nan():
    metric = feed(MaximumOfMap(), [[NAN], [NAN]])
    assert metric.compute().isnan() and metric.counts() == (2, 2)


def test_nothing_scored():
    metric = MaximumOfMap()
    assert metric.per_image().shape == (0, 0) and metric.rows() == [] and metric.counts() == (0, 0)
    with pytest.warns(UserWarning, match="before the ``update``"):
        assert metric.compute().isnan()
    feed(metric, [[2.0]], ["late"])
    assert metric.rows() == [("late", 0, 2.0)] and metric.compute() == 2


def test_per_image_and_rows_keep_the_order_of_arrival():
    metric = MaximumOfMap()
    feed(metric, [[3.0, 30.0], [1.0, 10.0]], ["z", "a"], targets=torch.tensor([[5, 2], [7, 0]]))
    feed(metric, [[2.0, 20.0]], ["m"], targets=torch.tensor([[1, 3]]))
    assert metric.per_image().tolist() == [[3, 30], [1, 10], [2, 20]]
    assert metric.rows() == [("z", 5, 3), ("z", 2, 30), ("a", 7, 1), ("a", 0, 10), ("m", 1, 2), ("m", 3, 20)]


def test_fewer_queries_leave_nan_in_the_table():
    metric = feed(feed(MaximumOfMap(), [[1.0, 2.0]], ["a"]), [[3.0]], ["b"])
    table = metric.per_image()
    assert table[0].tolist() == [1, 2] and table[1, 0] == 3 and table[1, 1].isnan()
    assert metric.counts() == (3, 0)


def test_an_image_that_comes_twice_counts_once():
    metric = feed(MaximumOfMap(), [[1.0, 5.0], [2.0, 6.0], [1.0, 5.0]], ["a", "b", "a"])
    feed(metric, [[2.0, 6.0], [9.0, 9.0]], ["b", "c"])
    assert metric.per_image().tolist() == [[1, 5], [2, 6], [9, 9]]
    assert metric.compute().item() == pytest.approx(32 / 6) and metric.counts() == (6, 0)
    assert [row[0] for row in metric.rows()] == ["a", "a", "b", "b", "c", "c"]


def test_the_same_class_twice_stays_two_queries():
    metric = feed(MaximumOfMap(), [[1.0, 2.0]], ["a"], targets=torch.tensor([[3, 3]]))
    assert metric.rows() == [("a", 3, 1), ("a", 3, 2)]


def test_images_without_ids_are_all_different():
    metric = feed(feed(MaximumOfMap(), [[1.0], [2.0]]), [[3.0], [4.0]])
    names = [name for name, _, _ in metric.rows()]
    assert len(set(names)) == 4 and metric.compute() == 2.5


def test_values_are_kept_in_float64():
    values = [[1.0], [1e-9], [-1.0]]
    maps = torch.tensor(values, dtype=torch.float64)[..., None, None]
    metric = MaximumOfMap()
    metric.update(maps=maps)
    assert metric.per_image().dtype == torch.float64 and metric.compute().dtype == torch.float64
    assert metric.compute().item() == pytest.approx(1e-9 / 3, rel=1e-6)


def test_many_small_values_do_not_drift():
    metric = MaximumOfMap()
    for block in range(10):
        feed(metric, torch.full((1000, 1), 0.1), [f"{block}_{number}" for number in range(1000)])
    assert abs(metric.compute().item() - float(torch.tensor(0.1))) < 1e-15


def test_reset_forgets_everything():
    metric = feed(MaximumOfMap(), [[1.0]], ["a"])
    metric.compute()
    metric.reset()
    assert metric.rows() == [] and metric.per_image().shape == (0, 0)
    assert feed(metric, [[7.0]], ["a"]).compute() == 7


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda metric: pickle.loads(pickle.dumps(metric)), MapMetric.clone])
def test_copies_carry_the_state_and_go_their_own_way(copied):
    metric = feed(MaximumOfMap(), [[1.0]], ["a"])
    other = copied(metric)
    assert other.rows() == metric.rows()
    feed(other, [[3.0]], ["b"])
    assert other.compute() == 2 and metric.compute() == 1


def test_reading_does_not_disturb_accumulating():
    metric = MaximumOfMap()
    for number in range(3):
        feed(metric, [[float(number)]], [str(number)])
        assert len(metric.per_image()) == len(metric.rows()) == metric.counts()[0] == number + 1
        assert metric.compute() == number / 2


def test_default_query_is_the_targets():
    target, images = ClassifierTarget(cnn()), torch.rand(3, 1, 8, 8)
    targets = target.query(images, None, None).targets
    maps, default, explicit = torch.rand(3, 1, 8, 8), DeletionAUC(), DeletionAUC()
    default.update(target=target, images=images, maps=maps)
    explicit.update(target=target, images=images, maps=maps, targets=targets)
    assert default.rows() == explicit.rows() and [row[1] for row in explicit.rows()] == targets.flatten().tolist()


def test_queries_of_one_column_and_of_none_are_the_same():
    flat = feed(MaximumOfMap(), [[1.0], [2.0]], ["a", "b"], targets=torch.tensor([4, 5]))
    column = feed(MaximumOfMap(), [[1.0], [2.0]], ["a", "b"], targets=torch.tensor([[4], [5]]))
    assert flat.rows() == column.rows() == [("a", 4, 1), ("b", 5, 2)]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"images": torch.rand(2, 1, 5, 4)}, "do not fit images"),
        ({"images": torch.rand(3, 1, 4, 4)}, "do not fit images"),
        ({"targets": torch.tensor([1, 2])}, "do not fit targets"),
        ({"targets": torch.tensor([[1, 2, 0]] * 2)}, "do not fit targets"),
        ({"targets": torch.tensor([[1, 2]])}, "do not fit targets"),
        ({"ids": ["a"]}, "1 ids for 2 images"),
        ({"ids": ["a", "b", "c"]}, "3 ids for 2 images"),
    ],
)
def test_shapes_that_disagree_are_refused_and_nothing_is_kept(wrong, message):
    metric = MaximumOfMap()
    with pytest.raises(ValueError, match=message):
        metric.update(**({"maps": torch.rand(2, 2, 4, 4)} | wrong))
    assert metric.rows() == []


@pytest.mark.parametrize("metric", [PointingGame(), RelevanceMass()])
def test_metrics_that_need_masks_say_so(metric):
    with pytest.raises(ValueError, match=f"{type(metric).__name__} needs masks"):
        metric.update(maps=torch.rand(1, 1, 4, 4))
    with pytest.raises(ValueError, match=r"Masks \(1, 1, 4, 5\) do not fit maps \(1, 1, 4, 4\)"):
        metric.update(maps=torch.rand(1, 1, 4, 4), masks=torch.ones(1, 1, 4, 5))


# ------------------------------------------------------------------ ids


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=24)))
def test_ids_survive(ids):
    assert decode_ids(encode_ids(ids)) == ids


@pytest.mark.parametrize("name", ["Zelle_ä", "細胞/01.png", "🧫" * 24, "x" * 96, "a b,c\n\"d'"])
def test_unusual_ids_come_back(name):
    assert feed(MaximumOfMap(), [[1.0]], [name]).rows() == [(name, 0, 1.0)]


def test_long_ids_stay_different_and_readable():
    head = "folder/with/a/very/long/path/" * 5
    ids = [head + "one", head + "two", "ä" * 200, "ä" * 201]
    metric = feed(MaximumOfMap(), [[1.0], [2.0], [3.0], [4.0]], ids)
    names = [row[0] for row in metric.rows()]
    assert len(set(names)) == 4 and metric.compute() == 2.5
    assert names[0].startswith(head[:70]) and names[2].startswith("ä" * 30)
    feed(metric, [[1.0]], [ids[0]])
    assert metric.counts() == (4, 0), "a long id must be recognized when it comes again"


# ------------------------------------------------------------------ groups


def test_each_image_keeps_its_group():
    metric = MaximumOfMap()
    maps = torch.rand(3, 2, 4, 4)
    metric.update(maps=maps, ids=["a", "b", "c"], groups=["Zelle ä", "x" * 200, ""])
    metric.update(maps=maps[:2], ids=["d", "a"])
    groups = metric.image_groups()
    assert list(groups) == ["a", "b"] and groups["a"] == "Zelle ä" and groups["b"].startswith("x" * 70)
    copy.deepcopy(metric).reset()
    metric.reset()
    assert metric.image_groups() == {}


def test_groups_must_fit():
    with pytest.raises(ValueError, match="1 groups for 2 images; give one group an image"):
        MaximumOfMap().update(maps=torch.rand(2, 1, 4, 4), groups=["a"])
