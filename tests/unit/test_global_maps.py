"""PEPPR: the same pixels of all images go, and come back."""

import pytest
import torch
from sklearn.metrics import roc_auc_score

from lightning_xai import ClassifierTarget
from lightning_xai.fills import mean_image
from lightning_xai.global_maps import data_fill, label_auc, peppr, pixel_orders
from tests.helpers import CountingTarget, linear_net

SIDE = 8


def planted(count=60, noise=1.0):
    """Label 1 is brighter in one corner; the model reads that corner, and a little of everything else."""
    generator = torch.Generator().manual_seed(0)
    images = noise * torch.rand(count, 1, SIDE, SIDE, generator=generator)
    labels = torch.arange(count) % 2
    images[labels == 1, :, :2, :2] += 0.3
    weight = torch.full((SIDE, SIDE), 0.05)
    weight[:2, :2] = 4
    target = CountingTarget(linear_net(torch.stack([-weight.flatten(), weight.flatten()])))
    batches = [{"image": images[part], "label": labels[part]} for part in torch.arange(count).split(16)]
    return target, batches, weight, images, labels


@pytest.fixture(scope="module")
def result():
    target, batches, weight, *_ = planted()
    return peppr(target, batches, weight, random_orders=3)


# ------------------------------------------------------------------ what must hold


def test_most_first_is_below_random_is_below_least_first(result):
    numbers = result.summary()
    assert numbers["area_erase"] < numbers["area_random"] < numbers["area_reversed"]
    assert numbers["area_restore"] > numbers["area_random"] > numbers["area_erase"]
    assert numbers["difference"] == pytest.approx(numbers["area_restore"] - numbers["area_erase"])
    assert numbers["sufficient"] <= 0.3, "a tenth of the pixels holds the corner, and the rest says little"


def test_the_plot_shows_every_curve(result, tmp_path):
    figure = result.plot()
    (axes,) = figure.axes
    assert [line.get_label().split()[0] for line in axes.lines[:3]] == ["erase", "erase", "restore"]
    assert axes.lines[0].get_ydata() == pytest.approx(result.erase.mean(dim=0).tolist())
    figure.savefig(tmp_path / "peppr.png")
    assert (tmp_path / "peppr.png").stat().st_size > 5000


def test_restoring_is_erasing_the_least_important_of_the_rest(result):
    assert torch.equal(result.restore, result.erase_reversed.flip(1))
    assert torch.equal(result.erase[:, 0], result.restore[:, -1])
    assert torch.equal(result.erase_random[:, :, 0], result.erase[:, 0].expand(3, -1))


@pytest.mark.parametrize("fill", ["channel_mean", "mean_image", "noise", "zero"])
def test_a_hidden_set_has_one_half_exactly(fill):
    target, batches, weight, *_ = planted(40)
    hidden = peppr(target, batches, weight, (0, 0.3, 1), fill, random_orders=2)
    assert (hidden.erase[:, -1] == 0.5).all() and (hidden.restore[:, 0] == 0.5).all()
    assert (hidden.erase_random[..., -1] == 0.5).all()


def test_curves_are_the_aucs_of_images_hidden_by_hand():
    target, batches, weight, images, labels = planted()
    told = peppr(target, batches, weight, (0, 0.25, 0.5, 1), "mean_image", random_orders=1)
    blank = mean_image(batches)
    order = pixel_orders(weight, 1, 0)[0].flatten().argsort(descending=True)
    for column, count in ((1, 16), (2, 32)):
        hidden = torch.zeros(SIDE * SIDE, dtype=torch.bool)
        hidden[order[:count]] = True
        shown = torch.where(hidden.view(SIDE, SIDE), blank, images)
        other = torch.where(hidden.view(SIDE, SIDE), images, blank)
        for curve, pictures in ((told.erase, shown), (told.restore, other)):
            expected = roc_auc_score(labels, target.predict(pictures)[:, 1].double())
            assert curve[1, column].item() == pytest.approx(expected, abs=1e-12), (column, count)


def test_a_constant_ranking_is_the_first_random_order():
    target, batches, *_ = planted(40)
    flat = peppr(target, batches, torch.ones(SIDE, SIDE), random_orders=2)
    assert torch.equal(flat.erase, flat.erase_random[0]) and not torch.equal(flat.erase, flat.erase_random[1])


def test_batches_and_chunks_do_not_matter():
    target, batches, weight, images, labels = planted(40)
    whole = peppr(target, [{"image": images, "label": labels}], weight, random_orders=2, chunk_size=7)
    parts = peppr(target, batches, weight, random_orders=2)
    for name in ("erase", "restore", "erase_reversed", "erase_random"):
        assert torch.allclose(getattr(whole, name), getattr(parts, name), atol=1e-3), name
    assert torch.allclose(whole.probabilities["erase"], parts.probabilities["erase"], atol=1e-6)


def test_each_picture_is_asked_once():
    """11 steps: erasing and restoring share nothing but the ends; the reverse of one order is the other."""
    target, batches, weight, *_ = planted(40)
    peppr(target, batches, weight, random_orders=5)
    per_image = 1 + 2 * 9 + 5 * 9  # whole, both directions, random orders
    assert sum(target.chunks) == 40 * per_image + len(batches), "one blank a batch"


# ------------------------------------------------------------------ labels


def test_labels_of_one_kind_are_skipped_and_counted():
    target = ClassifierTarget(linear_net(torch.randn(4, SIDE * SIDE)), activation="sigmoid")
    labels = torch.zeros(12, 4, dtype=torch.long)
    labels[:, 0] = 1
    labels[::2, 1] = labels[::3, 3] = 1
    told = peppr(target, [{"image": torch.rand(12, 1, SIDE, SIDE), "label": labels}], torch.rand(SIDE, SIDE))
    assert told.labels == [1, 3] and told.skipped == {0: 12, 2: 0}
    assert told.erase.shape == (2, 11) and told.erase_random.shape == (5, 2, 11) and not told.erase.isnan().any()


def test_no_label_to_score_is_an_error():
    target, batches, weight, *_ = planted(4)
    one = [{"image": batch["image"], "label": torch.ones_like(batch["label"])} for batch in batches]
    with pytest.raises(ValueError, match="No label has both positive and negative images"):
        peppr(target, one, weight)


def test_aucs_are_those_of_scikit_learn():
    values, truth = torch.rand(30, 5, 3).mul(8).round(), torch.rand(30, 3) > 0.6
    auc = label_auc(values, truth)
    for label in range(3):
        for column in range(5):
            expected = roc_auc_score(truth[:, label], values[:, column, label])
            assert auc[label, column].item() == pytest.approx(expected, abs=1e-12)


# ------------------------------------------------------------------ orders, fills, intervals


def test_orders_are_permutations_and_ties_follow_a_fixed_key():
    ranking = torch.tensor([[0.0, 1.0, 1.0], [2.0, 0.0, 1.0]])
    own, *others = pixel_orders(ranking, 2, seed=1).flatten(1)
    for order in (own, *others):
        assert sorted(order.tolist()) == list(range(6))
    assert own.argmax() == 3 and set(own.argsort()[:2].tolist()) == {0, 4}
    assert torch.equal(own, pixel_orders(ranking, 2, seed=1)[0].flatten())
    with pytest.raises(ValueError, match="holds NaN"):
        pixel_orders(torch.tensor([[float("nan"), 1.0]]), 1, 0)


def test_fills_of_the_data():
    batches = [{"image": torch.rand(5, 2, 4, 4) * torch.tensor([1.0, 3.0]).view(1, 2, 1, 1)} for _ in range(3)]
    everything = torch.cat([batch["image"] for batch in batches])
    assert torch.allclose(data_fill(batches, "mean_image", 0), everything.mean(0, keepdim=True), atol=1e-6)
    level = data_fill(batches, "channel_mean", 0)
    assert torch.allclose(level, everything.mean(dim=(0, 2, 3)).view(1, 2, 1, 1).expand_as(level), atol=1e-6)
    noise = data_fill([{"image": torch.rand(5, 2, 64, 64)}], "noise", 0)
    assert torch.allclose(noise.std(dim=(2, 3)), torch.full((1, 2), 1 / 12**0.5), atol=0.02)
    assert not data_fill(batches, "zero", 0).any()
    with pytest.raises(ValueError, match="no batch"):
        mean_image([])


def test_intervals_hold_the_estimate_and_differ_where_the_map_is_right(result):
    intervals, numbers = result.bootstrap(samples=50), result.summary()
    for name, (low, high) in intervals.items():
        assert low <= numbers[name] <= high and high - low < 0.5, name
    assert intervals["difference"][0] > 0, "the corner's map is better than chance"
    assert intervals == result.bootstrap(samples=50)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fill": "black"}, "Unknown fill 'black'"),
        ({"fractions": (0.1, 1)}, "reach from 0 to 1"),
        ({"random_orders": 0}, "at least one order"),
    ],
)
def test_bad_settings(settings, message):
    target, batches, weight, *_ = planted(8)
    with pytest.raises(ValueError, match=message):
        peppr(target, batches, weight, **settings)


def test_three_dimensions():
    target = ClassifierTarget(linear_net(torch.randn(2, 64)))
    batches = [{"image": torch.rand(10, 1, 4, 4, 4), "label": torch.arange(10) % 2}]
    assert peppr(target, batches, torch.rand(4, 4, 4), (0, 0.5, 1)).erase.shape == (2, 3)
