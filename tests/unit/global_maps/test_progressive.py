"""PEPPR: the same pixels of all images go, and come back."""

import math

import pytest
import torch
from sklearn.metrics import roc_auc_score

from lightning_xai import ClassifierTarget, SegmenterTarget
from lightning_xai.functional.finite import NotFiniteError
from lightning_xai.functional.segmentation import IGNORED
from lightning_xai.global_maps import peppr
from lightning_xai.global_maps.pixel_orders import closeness, curves_of, data_baseline, pixel_ranks, survey, tie_keys
from lightning_xai.global_maps.result import PEPPRResult, label_auc, score
from lightning_xai.perturbation.baselines import mean_image
from tests.helpers import CountingTarget, linear_net

SIDE = 8


def planted(count=60, noise=1.0):
    """Label 1 is brighter in one corner; the model reads that corner, and a little of everything else."""
    generator = torch.Generator().manual_seed(0)
    images = noise * torch.rand(count, 1, SIDE, SIDE, generator=generator)
    labels = torch.arange(count) % 2
    images[labels == 1, :, :2, :2] += 0.3
    # Small enough that no probability is 1 but for rounding, which would break ties.
    weight = torch.full((SIDE, SIDE), 0.005)
    weight[:2, :2] = 0.4
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
    assert [line.get_label().split()[0] for line in axes.lines[:4]] == ["erase", "erase", "erase", "restore"]
    assert axes.lines[1].get_ydata() == pytest.approx(result.erase.mean(dim=0).tolist())
    figure.savefig(tmp_path / "peppr.png")
    assert (tmp_path / "peppr.png").stat().st_size > 5000


def test_restoring_is_erasing_the_least_important_of_the_rest(result):
    assert torch.equal(result.restore, result.erase_reversed.flip(1))
    assert torch.equal(result.erase[:, 0], result.restore[:, -1])
    assert torch.equal(result.erase_random[:, :, 0], result.erase[:, 0].expand(3, -1))


@pytest.mark.parametrize("fill", ["channel_mean", "mean_image", "noise", "black"])
def test_hidden_images_have_one_half_exactly(fill):
    target, batches, weight, *_ = planted(40)
    hidden = peppr(target, batches, weight, (0, 0.3, 1), fill, random_orders=2)
    assert (hidden.erase[:, -1] == 0.5).all() and (hidden.restore[:, 0] == 0.5).all()
    assert (hidden.erase_random[..., -1] == 0.5).all()


def test_curves_are_the_aucs_of_images_hidden_by_hand():
    target, batches, weight, images, labels = planted()
    outcome = peppr(target, batches, weight, (0, 0.25, 0.5, 1), "mean_image", random_orders=1)
    baseline = mean_image(batches)
    order = pixel_ranks(weight, tie_keys((SIDE, SIDE), 1, 0)[0]).flatten().argsort()
    for column, count in ((1, 16), (2, 32)):
        hidden = torch.zeros(SIDE * SIDE, dtype=torch.bool)
        hidden[order[:count]] = True
        shown = torch.where(hidden.view(SIDE, SIDE), baseline, images)
        other = torch.where(hidden.view(SIDE, SIDE), images, baseline)
        for curve, inputs in ((outcome.erase, shown), (outcome.restore, other)):
            expected = roc_auc_score(labels, target.predict(inputs)[:, 1].double())
            # Of 30 x 30 pairs, rounding may turn two that are all but equal.
            assert curve[1, column].item() == pytest.approx(expected, abs=2.5 / 900), (column, count)


def test_a_constant_ranking_is_the_first_random_order():
    target, batches, *_ = planted(40)
    flat = peppr(target, batches, torch.ones(SIDE, SIDE), random_orders=2)
    assert torch.equal(flat.erase, flat.erase_random[0]) and not torch.equal(flat.erase, flat.erase_random[1])


def test_batches_and_chunks_do_not_matter():
    target, batches, weight, images, labels = planted(40)
    whole = peppr(target, [{"image": images, "label": labels}], weight, random_orders=2, chunk_size=7)
    parts = peppr(target, batches, weight, random_orders=2)
    for name in ("erase", "restore", "erase_reversed", "erase_random"):
        # Of 20 x 20 pairs, rounding may turn two that are all but equal.
        assert torch.allclose(getattr(whole, name), getattr(parts, name), atol=2.5 / 400), name
    assert torch.allclose(whole.values["erase"], parts.values["erase"], atol=1e-6)


def test_each_input_is_evaluated_once():
    """11 steps: erasing and restoring share nothing but the ends; the reverse of one order is the other."""
    target, batches, weight, *_ = planted(40)
    peppr(target, batches, weight, random_orders=5)
    per_image = 1 + 2 * 9 + 5 * 9 + 2 * 9  # whole, both directions, random orders, the center
    assert sum(target.chunks) == 40 * per_image + 1, "one baseline image for all images"


# ------------------------------------------------------------------ labels


def test_labels_of_one_kind_are_skipped_and_counted():
    target = ClassifierTarget(linear_net(torch.randn(4, SIDE * SIDE)), activation="sigmoid")
    labels = torch.zeros(12, 4, dtype=torch.long)
    labels[:, 0] = 1
    labels[::2, 1] = labels[::3, 3] = 1
    outcome = peppr(target, [{"image": torch.rand(12, 1, SIDE, SIDE), "label": labels}], torch.rand(SIDE, SIDE))
    assert outcome.labels == [1, 3] and outcome.skipped == {0: 12, 2: 0}
    assert (
        outcome.erase.shape == (2, 11) and outcome.erase_random.shape == (5, 2, 11) and not outcome.erase.isnan().any()
    )


def test_no_label_to_score_is_an_error():
    target, batches, weight, *_ = planted(4)
    one = [{"image": batch["image"], "label": torch.ones_like(batch["label"])} for batch in batches]
    with pytest.raises(ValueError, match="No label has both positive and negative images"):
        peppr(target, one, weight)


def test_aucs_are_those_of_scikit_learn():
    values, truth = torch.rand(30, 3, 5).mul(8).round(), torch.rand(30, 3) > 0.6
    auc = label_auc(values, truth)
    for label in range(3):
        for column in range(5):
            expected = roc_auc_score(truth[:, label], values[:, label, column])
            assert auc[label, column].item() == pytest.approx(expected, abs=1e-12)


def test_scores_of_nan_are_nan_and_of_equal_images_one_half():
    values, truth = torch.full((4, 2, 3), 0.3), torch.tensor([[1, 1], [0, 0], [1, 0], [0, 0]]).bool()
    values[1, 1, 2] = float("nan")
    auc = label_auc(values, truth)
    assert auc.isnan().nonzero().tolist() == [[1, 2]] and (auc[0] == 0.5).all()
    values[:, :, 1] = float("nan")
    assert label_auc(values, truth)[:, 1].isnan().all()
    assert label_auc(values[..., :1], torch.ones(4, 2).bool()).isnan().all(), "one kind of images ranks nothing"
    dice = score(values, truth, "dice")
    assert dice[0, 0].item() == pytest.approx(0.3) and dice[:, 1].isnan().all() and not dice[1, 2].isnan()


def scored_result(whole, metric="auc", hidden=0.5):
    """A result whose scores are those of whole images from half of the pixels on."""
    truth = torch.tensor([[1], [0], [1], [0]]).bool()
    blank = torch.full((4,), hidden)
    values = torch.stack([blank, whole, whole], dim=1).unsqueeze(1)
    names = ("restore", "erase_random_0", "restore:center", "erase:center", "erase_reversed")
    curves = {"erase": values.flip(2), **dict.fromkeys(names, values)}
    return PEPPRResult((0.0, 0.5, 1.0), [0], {}, metric, truth, curves)


@pytest.mark.parametrize(
    ("whole", "sufficient"),
    [
        ([0.9, 0.1, 0.8, 0.2], 0.5),
        ([0.1, 0.9, 0.2, 0.8], None),  # worse than chance
        ([0.5, 0.5, 0.5, 0.5], None),  # chance
        ([float("nan"), 0.1, 0.8, 0.2], None),
    ],
)
def test_nothing_suffices_for_a_model_at_or_below_chance(whole, sufficient):
    result = scored_result(torch.tensor(whole))
    for numbers in (result.summary(), result.per_label()[0]):
        assert numbers["sufficient"] == sufficient if sufficient else math.isnan(numbers["sufficient"])


def test_99_percent_of_hardly_more_than_chance_is_chance():
    """An AUC of .505: a black image has 99 % of it."""
    result = scored_result(torch.tensor([0.9, 0.1, 0.8, 0.2]))
    curves = {name: torch.full((3,), 0.505) for name in result.values}
    curves["restore"][0] = 0.5
    assert math.isnan(result._numbers(curves)["sufficient"])


def test_a_segmenter_that_finds_nothing_has_no_sufficient_pixels():
    zeros = torch.zeros(4)
    assert math.isnan(scored_result(zeros, "dice", hidden=0.0).summary()["sufficient"])
    assert scored_result(torch.full((4,), 0.8), "dice", hidden=0.0).summary()["sufficient"] == 0.5


class BreaksInTheDark(torch.nn.Module):
    """NaN for a black image, else right."""

    def forward(self, images):
        right = torch.cat([5 - 10 * images, 10 * images - 5], dim=1)
        return torch.where(images.flatten(1).any(dim=1).view(-1, 1, 1, 1), right, float("nan"))


def test_a_segmenter_that_answers_nan_has_no_dice_there():
    masks = (torch.rand(4, 1, 6, 6, generator=torch.Generator().manual_seed(0)) > 0.5).long()
    batches = [{"image": 0.8 * masks + 0.1, "mask": masks}]
    found = peppr(SegmenterTarget(BreaksInTheDark()), batches, torch.rand(6, 6), (0, 0.5, 1), "black", 1)
    assert found.erase[0].isnan().tolist() == [False, False, True] and math.isnan(found.summary()["area_erase"])
    broken = [{**batches[0], "image": batches[0]["image"] * torch.tensor([1, 1, 0, 1]).view(-1, 1, 1, 1)}]
    with pytest.raises(NotFiniteError, match="2 of the batch"):
        peppr(SegmenterTarget(BreaksInTheDark()), broken, torch.rand(6, 6), (0, 0.5, 1), "black", 1)


# ------------------------------------------------------------------ orders, baselines, intervals


def test_ranks_are_a_permutation_and_ties_follow_a_fixed_key():
    ranking, keys = torch.tensor([[0.0, 1.0, 1.0], [2.0, 0.0, 1.0]]), tie_keys((2, 3), 2, seed=1)
    ranks = pixel_ranks(ranking, keys[0]).flatten()
    assert sorted(ranks.tolist()) == list(range(6))
    assert ranks[3] == 0 and {int(ranks[0]), int(ranks[4])} == {4, 5}
    assert (keys[0][0] > keys[0][4]) == (ranks[0] < ranks[4]), "of equal pixels the one with the higher key is first"
    with pytest.raises(ValueError, match="holds NaN"):
        pixel_ranks(torch.tensor([[float("nan"), 1.0]]), torch.arange(2))


@pytest.mark.parametrize(("size", "block_size"), [((7, 10), 3), ((4, 6, 5), 2)])
def test_random_orders_keep_blocks_together(size, block_size):
    keys = tie_keys(size, 3, seed=0, block_size=block_size)
    for key in keys.view(3, *size):
        assert sorted(key.flatten().tolist()) == list(range(key.numel()))
        block = key[tuple([slice(block_size)] * len(size))].flatten().sort().values
        assert block[-1] - block[0] == block_size ** len(size) - 1, "the pixels of a block follow each other"
    assert not torch.equal(keys[0], keys[1])


@pytest.mark.parametrize("size", [(7, 9), (3, 4, 5)])
def test_masks_nest_and_have_exactly_the_rounded_fraction(size):
    generator = torch.Generator().manual_seed(0)
    fractions, pixels = [step / 13 for step in range(14)], torch.Size(size).numel()
    curves = curves_of(torch.rand(size, generator=generator).mul(4).round(), {}, fractions, 2, 0, block_size=1)
    for name, masks in curves.items():
        for fraction, mask in zip(fractions, masks, strict=True):
            hidden = pixels - int(mask.sum())
            expected = round(fraction * pixels) if not name.startswith("restore") else pixels - round(fraction * pixels)
            assert hidden == expected, (name, fraction)
        for smaller, larger in zip(masks, masks[1:], strict=False):
            grows = name.startswith("restore")
            assert not (smaller & ~larger if grows else larger & ~smaller).any(), name
    for one, other in zip(curves["restore"], reversed(curves["erase_reversed"]), strict=True):
        assert int((one ^ other).sum()) <= 1, "fractions that are no tenths may round apart by a pixel"


def test_the_center_comes_first():
    distance = closeness((5, 7))
    assert distance.argmax() == 2 * 7 + 3 and distance[0, 0] == distance.min() == distance[-1, -1]


def test_baselines_of_the_data():
    batches = [{"image": torch.rand(5, 2, 4, 4) * torch.tensor([1.0, 3.0]).view(1, 2, 1, 1)} for _ in range(3)]
    everything, statistics = torch.cat([batch["image"] for batch in batches]), survey(batches)
    assert torch.allclose(data_baseline(statistics, "mean_image", 0), everything.mean(0, keepdim=True), atol=1e-6)
    level = data_baseline(statistics, "channel_mean", 0)
    assert torch.allclose(level, everything.mean(dim=(0, 2, 3)).view(1, 2, 1, 1).expand_as(level), atol=1e-6)
    noise = data_baseline(survey([{"image": torch.rand(5, 2, 64, 64)}]), "noise", 0)
    assert torch.allclose(noise.std(dim=(2, 3)), torch.full((1, 2), 1 / 12**0.5), atol=0.02)
    assert not data_baseline(statistics, "black", 0).any()
    with pytest.raises(ValueError, match="no batch"):
        survey([])
    with pytest.raises(ValueError, match="one size"):
        survey([*batches, {"image": torch.rand(1, 2, 5, 5)}])
    with pytest.raises(ValueError, match="Some labels are uncertain, .* set data.uncertain=zero or one"):
        survey([{"image": torch.rand(2, 1, 4, 4), "label": torch.tensor([[0.0, 1], [1, -1]])}])


def test_intervals_hold_the_estimate_and_differ_where_the_map_is_right(result):
    intervals, numbers = result.bootstrap(samples=50), result.summary()
    for name, (low, high) in intervals.items():
        assert low <= numbers[name] <= high and high - low < 0.5, name
    assert intervals["random_minus_erase"][0] > 0 and intervals["reversed_minus_random"][0] > 0
    assert intervals["difference"][0] > 0, "the corner's map is better than chance"
    assert intervals == result.bootstrap(samples=50)


def scores_of(truth, seed=0, units=None, copies=1):
    """A result of noisy scores, each image ``copies`` times in its group."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(*truth.shape, 3, generator=generator) + 0.5 * truth.unsqueeze(2)
    names = ("erase", "restore", "erase_reversed", "erase_random_0", "erase:center", "restore:center")
    values = {name: torch.roll(noise, number, dims=2).repeat(copies, 1, 1) for number, name in enumerate(names)}
    for name in ("restore", "restore:center"):
        values[name][..., -1] = values["erase"][..., 0]
    labels = list(range(truth.shape[1]))
    return PEPPRResult((0.0, 0.5, 1.0), labels, {}, "auc", truth.repeat(copies, 1), values, units)


def exclusive(count, classes):
    return torch.arange(count).unsqueeze(1) % classes == torch.arange(classes)


@pytest.mark.parametrize("count", [6, 40])
def test_copies_of_images_in_their_group_do_not_narrow_an_interval(count):
    single = scores_of(exclusive(count, 2)).bootstrap(400)
    grouped = scores_of(exclusive(count, 2), units=torch.arange(count).repeat(6), copies=6).bootstrap(400)
    alone = scores_of(exclusive(count, 2), copies=6).bootstrap(400)
    width = {name: high - low for name, (low, high) in single.items()}
    for name in ("difference", "area_erase"):
        assert grouped[name][1] - grouped[name][0] == pytest.approx(width[name], rel=0.2), name
        assert alone[name][1] - alone[name][0] < 0.6 * width[name], "copies taken for independent"


def test_one_group_has_no_interval_but_a_summary_and_a_figure(tmp_path):
    result = scores_of(exclusive(20, 2), units=torch.zeros(20, dtype=torch.long))
    assert all(math.isnan(end) for ends in result.bootstrap(10).values() for end in ends)
    assert all(band.isnan().all() for band in result.bands(10).values())
    assert result.resampling == {"unit": "groups", "units": 1, "images": 20} and 0 < result.summary()["full"] <= 1
    result.plot(10).savefig(tmp_path / "figure.png")


@pytest.mark.parametrize("classes", [30, 100])
def test_intervals_of_many_rare_labels_come_to_an_end(classes):
    """Two images a label, so that no resample has all of them."""
    result = scores_of(exclusive(2 * classes, classes))
    low, high = result.bootstrap(20)["full"]
    assert 0 < low < high <= 1 and result.rare == []


def test_labels_of_one_image_are_judged_alone_and_left_out_of_means_and_intervals():
    truth = torch.cat([exclusive(40, 2), torch.zeros(40, 2).bool()], dim=1)
    truth[0, 2], truth[:39, 3] = True, True  # one positive image, one negative
    result = scores_of(truth)
    assert result.rare == [2, 3] and set(result.per_label()) == {0, 1, 2, 3}
    assert result.summary()["full"] == pytest.approx(result.erase[:2, 0].mean().item())
    low, high = result.bootstrap(50)["full"]
    assert low <= result.summary()["full"] <= high
    every = scores_of(torch.eye(8).bool())
    assert every.rare == list(range(8)) and math.isnan(every.bootstrap(10)["full"][0])
    assert every.summary()["full"] == pytest.approx(every.erase[:, 0].mean().item()), "there is nothing else to average"


def test_labels_of_one_group_are_rare_whatever_their_images():
    result = scores_of(exclusive(40, 2), units=torch.tensor([0, 1] * 4 + [0, 2] * 16))
    assert result.rare == [0, 1], "all images of label 0 are of one patient, so are the others of label 1"


def test_below_ten_groups_intervals_are_students_and_stay_in_range():
    result = scores_of(exclusive(8, 2))
    for name, (low, high) in result.bootstrap(200).items():
        assert low <= high, name
        if name not in ("difference", "difference_center", "random_minus_erase", "reversed_minus_random"):
            assert low >= 0 and high <= 1, name


def test_groups_come_from_the_batches():
    target, batches, weight, *_ = planted(32)
    names = [f"p{number // 4}" if number < 28 else "" for number in range(32)]
    grouped = [{**batch, "group": names[16 * number : 16 * number + 16]} for number, batch in enumerate(batches)]
    plain, result = (peppr(target, each, weight, (0, 0.5, 1), random_orders=1) for each in (batches, grouped))
    assert result.resampling == {"unit": "groups", "units": 7 + 4, "images": 32}
    assert plain.resampling == {"unit": "images", "units": 32, "images": 32}
    assert result.summary() == plain.summary() and result.bootstrap(20) != plain.bootstrap(20)
    assert survey(grouped).digest == survey(batches).digest, "outputs that were kept are still good"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fill": "median"}, "Unknown fill 'median'"),
        ({"fractions": (0.1, 1)}, "reach from 0 to 1"),
        ({"random_orders": 0}, "at least one order"),
        ({"block_size": 0}, "blocks of at least one pixel"),
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


# ------------------------------------------------------------------ comparisons, segmenters, resuming, retraining


def halves():
    """Two labels, each shown by one half of the image."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.rand(80, 2, generator=generator) > 0.5
    images = torch.rand(80, 1, SIDE, SIDE, generator=generator)
    images[labels[:, 0], :, :, :4] += 0.2
    images[labels[:, 1], :, :, 4:] += 0.2
    left, right = torch.zeros(2, SIDE, SIDE)
    left[:, :4] = right[:, 4:] = 1
    weight = torch.stack([left.flatten(), right.flatten()])
    target = ClassifierTarget(linear_net(weight, torch.tensor([-20.0, -20.0])), activation="sigmoid")
    return target, [{"image": images, "label": labels}], {"left": left, "right": right}


def test_the_map_of_another_label_is_worse():
    target, batches, maps = halves()
    outcome = peppr(target, batches, maps["left"] + maps["right"], others=maps)
    matrix = outcome.specificity()
    assert list(matrix) == outcome.others == ["center", "left", "right"]
    assert matrix["left"][0] > 0.2 > -0.2 > matrix["left"][1]
    assert matrix["right"][1] > 0.2 > -0.2 > matrix["right"][0]
    alone = peppr(target, batches, maps["left"]).per_label()[0]
    assert alone["difference"] == pytest.approx(matrix["left"][0]), "its diagonal is PEPPR with the label's own map"
    with pytest.raises(ValueError, match="maps of one size"):
        peppr(target, batches, maps["left"], others={"small": torch.rand(2, 2)})


@pytest.mark.parametrize("size", [(8, 8), (4, 6, 5)])
def test_a_segmenter_is_judged_by_its_dice(size):
    target = SegmenterTarget(lambda images: torch.cat([5 - 10 * images, 10 * images - 5], dim=1))
    generator = torch.Generator().manual_seed(0)
    masks = (torch.rand(6, 1, *size, generator=generator) > 0.7).long()
    masks[5] = 0  # no Dice is defined here
    images = masks.float() * 0.8 + 0.1
    ranking = masks.float().mean(dim=(0, 1))
    outcome = peppr(target, [{"image": images, "mask": masks}], ranking, fill="black", random_orders=3)
    assert outcome.metric == "dice" and outcome.labels == [1] and outcome.truth.sum() == 5
    assert outcome.erase[0, 0] == 1 and outcome.erase[0, -1] == 0, "this model is perfect, and says nothing of black"
    numbers = outcome.summary()
    assert numbers["area_erase"] < numbers["area_random"] < numbers["area_reversed"]
    half = outcome.fractions.index(0.5)
    ranks = pixel_ranks(ranking, tie_keys(ranking.shape, 3, 0)[0])
    kept = (masks * (ranks >= ranking.numel() // 2))[:5].flatten(1).sum(dim=1).double()
    expected = (2 * kept / (kept + masks[:5].flatten(1).sum(dim=1))).mean()
    assert outcome.erase[0, half].item() == pytest.approx(expected.item(), abs=1e-6)
    assert outcome.plot(samples=5).axes[0].get_ylabel().startswith("Dice")
    with pytest.raises(ValueError, match="have no mask"):
        peppr(target, [{"image": images}], ranking)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_the_dice_of_a_segmenter_leaves_out_what_masks_ignore(activation):
    target = SegmenterTarget(lambda images: torch.cat([5 - 10 * images, 10 * images - 5], dim=1), activation)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(6, 1, 8, 8, generator=generator)
    masks = (torch.rand(6, 1, 8, 8, generator=generator) > 0.5).long()
    masks[..., 5:] = IGNORED
    ranking = torch.rand(8, 8, generator=generator)
    ranking[:, 5:] -= 2  # of the pixels that count the same are hidden with the others and without them
    whole = peppr(target, [{"image": images, "mask": masks}], ranking, (0, 20 / 64, 1), fill="black")
    kept = peppr(target, [{"image": images[..., :5], "mask": masks[..., :5]}], ranking[:, :5], (0, 0.5, 1), "black")
    torch.testing.assert_close(whole.erase, kept.erase)


def test_masks_of_background_alone_are_an_error_that_says_so():
    target = SegmenterTarget(lambda images: torch.cat([5 - 10 * images, 10 * images - 5], dim=1))
    batch = {"image": torch.rand(3, 1, 4, 4), "mask": torch.zeros(3, 1, 4, 4, dtype=torch.long)}
    with pytest.raises(ValueError, match="show no class but the background, so no Dice is defined"):
        peppr(target, [batch], torch.rand(4, 4))


def test_a_killed_run_goes_on_at_the_next_step(tmp_path):
    target, batches, weight, *_ = planted(40)

    class Killed(list):
        """Gives no more batches after some passes over the data."""

        left = 20

        def __iter__(self):
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
            return super().__iter__()

    with pytest.raises(KeyboardInterrupt):
        peppr(target, Killed(batches), weight, cache_dir=tmp_path)
    files = {path: path.read_bytes() for path in tmp_path.rglob("*.npy")}
    assert len(files) == 19, "one pass surveys the data"
    before = len(target.chunks)
    resumed = peppr(target, batches, weight, cache_dir=tmp_path)
    whole = len(target.chunks) - before
    fresh = peppr(target, batches, weight)
    assert all(path.read_bytes() == content for path, content in files.items())
    assert len(target.chunks) - before - whole > whole, "the first steps were not evaluated again"
    assert all(torch.equal(curve, fresh.curves[name]) for name, curve in resumed.curves.items())
    evaluated = len(target.chunks)
    peppr(target, batches, weight, fill="black", cache_dir=tmp_path)
    assert len(target.chunks) - evaluated > whole, "another baseline has other outputs"


def test_retraining_fits_a_new_model_at_every_step():
    target, batches, weight, images, labels = planted(40)
    shown = []

    def retrain(hide):
        inputs = hide(images)
        shown.append(int((inputs != inputs[:1]).any(dim=0).sum()))
        visible = (inputs - inputs.mean(dim=0)).abs().amax(dim=0).flatten() > 0
        difference = inputs[labels == 1].mean(dim=0) - inputs[labels == 0].mean(dim=0)
        line = difference.flatten() * visible
        return ClassifierTarget(linear_net(torch.stack([-line, line])))

    outcome = peppr(target, batches, weight, (0, 0.25, 0.5, 1), random_orders=1, retrain=retrain)
    pixels = SIDE * SIDE
    assert pixels not in shown, "whole images need no new model"
    assert sorted(set(shown)) == [0, pixels // 4, pixels // 2, 3 * pixels // 4]
    plain = peppr(target, batches, weight, (0, 0.25, 0.5, 1), random_orders=1)
    assert torch.equal(outcome.erase[:, 0], plain.erase[:, 0]) and not torch.equal(outcome.erase, plain.erase)
    assert (outcome.erase[:, -1] == 0.5).all()


def test_a_blur_keeps_something_of_every_image():
    target, batches, weight, *_ = planted(40)
    outcome = peppr(target, batches, weight, (0, 0.5, 1), "blur", random_orders=1)
    assert not (outcome.erase[:, -1] == 0.5).all() and torch.equal(outcome.restore, outcome.erase_reversed.flip(1))
