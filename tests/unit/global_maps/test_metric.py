"""GlobalMaps: one map a label and one of all labels, streaming, whatever the order of the images."""

import pytest
import torch
from scipy.stats import rankdata, spearmanr

from lightning_xai.global_maps import GlobalMaps
from lightning_xai.global_maps.aggregation import image_keys, normalize_maps, pixel_fractions, unit_keys
from lightning_xai.global_maps.totals import likeness

SIZES = {"2-D": (6, 5), "3-D": (4, 3, 5)}
OPTIONS = [
    {},
    {"normalization": "max"},
    {"normalization": "rank"},
    {"normalization": "none"},
    {"subset": "all"},
    {"subset": "true_positive"},
    {"reduction": "median"},
    {"reduction": "trimmed_mean", "trim": 0.2},
    {"reduction": "quantile", "quantile": 0.75},
    {"overall": "pairs"},
    {"overall": "pairs", "reduction": "median"},
]


def case(size=(6, 5), count=24, seed=0):
    """Maps of three labels, of which the last has no image; one map is all zero and one has a NaN."""
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(count, 3, *size, generator=generator).exp() - 0.7
    labels = torch.arange(count) % 2
    maps[2, 0], maps[5, 1] = -1, float("nan")
    predictions = torch.where(torch.rand(count, generator=generator) < 0.8, labels, 1 - labels)
    images = torch.rand(count, 2, *size, generator=generator)
    return {"maps": maps, "labels": labels, "predictions": predictions, "images": images}


def stream(batch, order=None, split=7, ids=True, groups=None, **options):
    """The result of batches of at most ``split`` images, which may have groups."""
    order = torch.arange(len(batch["maps"])) if order is None else order
    metric = GlobalMaps(3, **options)
    for part in order.split(split):
        named = [f"image_{int(number)}" for number in part] if ids else None
        asked = None if groups is None else [groups[int(number)] for number in part]
        metric.update(**{name: value[part] for name, value in batch.items()}, ids=named, groups=asked)
    return metric.compute()


def tensors(result):
    """Everything in a result that is a map."""
    return [*result.label_wise, *result.standard_error, result.overall, result.mean_image]


def assert_same(first, second):
    assert (first.count, first.skipped, first.images) == (second.count, second.skipped, second.images)
    assert first.stability == pytest.approx(second.stability, abs=1e-9)
    for one, other in zip(tensors(first), tensors(second), strict=True):
        assert (one is None) == (other is None)
        # Every map is divided by its sum in float32.
        assert one is None or torch.allclose(one, other, rtol=1e-6, atol=1e-9)


# ------------------------------------------------------------------ what must hold


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_streaming_is_stacked_in_any_order(size, options):
    batch = case(size)
    whole = stream(batch, split=100, **options)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(1))
    assert_same(stream(batch, **options), whole)
    assert_same(stream(batch, order, split=1, **options), whole)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_duplicating_every_image_changes_nothing(options):
    batch = case()
    assert_same(stream(batch, torch.arange(24).repeat(2), **options), stream(batch, **options))
    # Also as images of their own, which are as many more.
    doubled = stream({name: torch.cat([value, value]) for name, value in batch.items()}, **options)
    single = stream(batch, **options)
    assert doubled.count == [2 * number for number in single.count]
    if options.get("reduction", "mean") == "mean":
        for one, other in zip(doubled.label_wise[:2], single.label_wise[:2], strict=True):
            assert torch.allclose(one, other)


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_with_mass_one_the_scale_of_a_map_says_nothing(size):
    batch = case(size)
    louder = {**batch, "maps": batch["maps"].clone()}
    louder["maps"][4] *= 1000
    for one, other in zip(tensors(stream(batch)), tensors(stream(louder)), strict=True):
        assert one is None or torch.allclose(one, other, rtol=1e-5)
    plain = stream(batch, normalization="none").label_wise[0]
    assert not torch.allclose(plain, stream(louder, normalization="none").label_wise[0])


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_label_without_images_gives_none_and_a_count_and_nothing_is_nan(options):
    result = stream(case(), **options)
    if options.get("subset") != "all":
        assert result.label_wise[2] is None and result.standard_error[2] is None and result.stability[2] is None
        assert result.count[2] == 0 and "2" not in result.found()
    assert not any(values.isnan().any() for values in tensors(result) if values is not None)


def test_nothing_at_all():
    result = GlobalMaps(["a", "b"]).compute()
    assert result.label_wise == [None, None] and result.overall is None and result.mean_image is None
    assert result.count == [0, 0] and result.images == 0


# ------------------------------------------------------------------ numbers


def test_means_counts_errors_and_the_overall_map_by_hand():
    batch = case()
    result = stream(batch)
    assert result.count == [11, 11, 0] and result.skipped == [1, 1, 0] and result.images == 22
    kept = [[i for i in range(24) if i % 2 == k and i not in (2, 5)] for k in (0, 1)]
    for label, numbers in enumerate(kept):
        maps = batch["maps"][numbers, label].double().clamp(min=0)
        maps /= maps.sum(dim=(1, 2), keepdim=True)
        assert torch.allclose(result.label_wise[label], maps.mean(dim=0), rtol=1e-6)
        assert torch.allclose(result.standard_error[label], maps.std(dim=0) / 11**0.5, rtol=1e-5)
    assert torch.allclose(result.overall, (result.label_wise[0] + result.label_wise[1]) / 2)
    assert result.overall.sum().item() == pytest.approx(1)
    assert torch.allclose(result.mean_image, batch["images"][[*kept[0], *kept[1]]].mean(dim=0), atol=1e-6)


def test_subsets():
    batch = case()
    right = [(batch["predictions"][label::2] == label).sum().item() for label in (0, 1)]
    true = stream(batch, subset="true_positive")
    assert [sum(pair) for pair in zip(true.count[:2], true.skipped[:2], strict=True)] == right
    everything = stream(batch, subset="all")
    assert everything.count == [23, 23, 24]


def test_robust_reductions_by_hand():
    batch = case()
    maps = batch["maps"][[i for i in range(1, 24, 2) if i != 5], 1].double().clamp(min=0)
    maps /= maps.sum(dim=(1, 2), keepdim=True)
    expected = {
        "median": maps.median(dim=0).values,
        "trimmed_mean": maps.sort(dim=0).values[1:-1].mean(dim=0),
        "quantile": maps.quantile(0.9, dim=0),
    }
    for reduction, values in expected.items():
        assert torch.allclose(stream(batch, reduction=reduction).label_wise[1], values, rtol=1e-5), reduction


def test_a_sample_is_bounded_fair_and_the_same_in_any_order():
    maps = torch.arange(400.0).view(400, 1, 1, 1).expand(-1, 1, 2, 2) + 1
    batch = {"maps": maps, "labels": torch.zeros(400, dtype=torch.long)}
    options = {"normalization": "none", "reduction": "median", "capacity": 100}
    metric = stream(batch, **options)
    shuffled = stream(batch, torch.randperm(400), split=33, **options)
    assert torch.equal(metric.label_wise[0], shuffled.label_wise[0])
    assert 150 < metric.label_wise[0][0, 0] < 250, "within five errors of the median of 1 .. 400"


def test_halves_follow_the_ids_and_agree_where_images_do():
    batch = case(count=40)
    batch["maps"][:, :, :2] += 5
    agreeing = stream(batch)
    assert agreeing.stability[0] > 0.4 and agreeing.overall_stability > 0.4
    one = {name: value[:1] for name, value in batch.items()}
    assert stream(one).stability == [None, None, None], "one image has no halves"


def test_maps_of_some_queries_and_several_labels():
    maps = torch.rand(4, 2, 3, 3)
    labels = torch.tensor([[1, 0, 1], [0, 0, 0], [1, 1, 0], [0, 0, 1]])
    metric = GlobalMaps(["a", "b", "c"])
    metric.update(maps=maps, labels=labels, targets=torch.tensor([[0, 2]] * 4))
    result = metric.compute()
    assert result.count == [2, 0, 2] and set(result.found()) == {"a", "c"}
    fractions = maps[[0, 3], 1] / maps[[0, 3], 1].sum(dim=(1, 2), keepdim=True)
    assert torch.allclose(result.label_wise[2], fractions.mean(dim=0).double())


def test_normalizations():
    maps = torch.tensor([[[2.0, -1.0], [2.0, 6.0]], [[0.0, 0.0], [-1.0, 0.0]]])
    expected = {"mass": [0.2, 0, 0.2, 0.6], "max": [1 / 3, 0, 1 / 3, 1], "none": [2, 0, 2, 6], "rank": [0.5, 0, 0.5, 1]}
    for how, values in expected.items():
        scaled, alive = normalize_maps(maps, how)
        assert scaled[0].flatten().tolist() == pytest.approx(values), how
        assert not scaled[1].any() and alive.tolist() == [True, False]


def test_ranks_and_their_correlation_are_scipys():
    values = torch.rand(3, 50).mul(9).round()
    for row, fractions in zip(values, pixel_fractions(values), strict=True):
        assert fractions.tolist() == pytest.approx(((rankdata(row) - 1) / 49).tolist(), abs=1e-6)
    assert likeness(values[0], values[1]) == pytest.approx(spearmanr(values[0], values[1]).statistic)
    assert likeness(torch.ones(5), torch.rand(5)) is None and likeness(None, values[0]) is None
    assert likeness(values[:1], -values[:1]) == -1, "of any number of axes"


def test_keys_split_images_in_halves():
    keys = image_keys([f"image_{number}" for number in range(1000)])
    assert len(keys.unique()) == 1000 and 420 < int((keys & 1).sum()) < 580


# ------------------------------------------------------------------ groups


def test_an_image_is_not_the_group_of_its_name():
    ids = ["ann", "a", "b"]
    keys = unit_keys(ids, ["", "ann", "ann"])
    assert keys[1] == keys[2] != keys[0] == image_keys(ids)[0]
    assert torch.equal(unit_keys(ids, None), image_keys(ids))
    with pytest.raises(ValueError, match="2 groups for 3 images"):
        unit_keys(ids, ["ann", "bob"])


def error_by_hand(maps, groups):
    """Standard error of the mean map over groups: the ratio of their sums to their numbers of maps."""
    names, total = sorted(set(groups)), maps.mean(dim=0)
    rest = torch.zeros_like(total)
    for name in names:
        mine = maps[[group == name for group in groups]]
        rest += (mine.sum(dim=0) - len(mine) * total).square()
    return (rest * len(names) / (len(names) - 1)).sqrt() / len(maps)


def scaled(batch, label):
    """The maps of a label as they are averaged, and the numbers of their images."""
    numbers = [i for i in range(len(batch["maps"])) if i % 2 == label and i not in (2, 5)]
    maps = batch["maps"][numbers, label].double().clamp(min=0)
    return maps / maps.sum(dim=(1, 2), keepdim=True), numbers


@pytest.mark.parametrize("alone", [[], [0, 1, 7]], ids=["all", "some_images_alone"])
def test_errors_are_of_groups_of_any_size(alone):
    batch = case()
    groups = ["" if i in alone else f"patient {int(i**0.5)}" for i in range(24)]
    result = stream(batch, groups=groups)
    plain = stream(batch)
    for label in (0, 1):
        maps, numbers = scaled(batch, label)
        named = [groups[i] or f"image {i}" for i in numbers]
        assert torch.allclose(result.standard_error[label], error_by_hand(maps, named), rtol=1e-5)
        assert result.label_units[label] == len(set(named))
        assert torch.equal(result.label_wise[label], plain.label_wise[label])
    assert result.unit == "groups" and result.units == len({*groups} - {""}) + len(alone) and result.images == 22
    assert plain.unit == "images" and plain.units == 22 and plain.label_units == [11, 11, 0]


def test_copies_of_images_in_their_group_change_no_error():
    batch = case()
    single = stream(batch)
    many = {name: value.repeat(4, *(1,) * (value.ndim - 1)) for name, value in batch.items()}
    result = stream(many, groups=[f"p{i % 24}" for i in range(96)])
    for one, other in zip(single.standard_error[:2], result.standard_error[:2], strict=True):
        assert torch.allclose(one, other, rtol=1e-6)


def test_groups_stay_on_one_side_of_the_halves():
    """Copies of two images: their groups' halves are as different as the images, those of single copies equal."""
    batch = case(count=6)
    many = {name: value[:2].repeat(20, *(1,) * (value.ndim - 1)) for name, value in batch.items()}
    many["labels"] = torch.zeros(40, dtype=torch.long)
    assert stream(many).stability[0] > 0.5
    for seed in range(9):
        grouped = stream(many, groups=[f"{seed} {i % 2}" for i in range(40)])
        assert grouped.stability[0] is None or grouped.stability[0] < 0.5
    assert stream(many, groups=["one"] * 40).stability[0] is None


def test_one_group_has_no_error():
    result = stream(case(), groups=["only"] * 24)
    assert result.standard_error == [None, None, None] and result.units == 1 and result.label_units == [1, 1, 0]


@pytest.mark.parametrize("count", [64, 300])
def test_many_groups_take_bounded_memory_and_any_order(count):
    batch = case(count=4 * count)
    batch["labels"], batch["maps"] = torch.ones_like(batch["labels"]), batch["maps"].abs()
    batch["maps"][5, 1] = 1
    groups = [f"p{i // 4}" for i in range(4 * count)]
    ordered = stream(batch, groups=groups, split=50)
    shuffled = stream(batch, torch.randperm(4 * count, generator=torch.Generator().manual_seed(0)), 33, groups=groups)
    assert_same(ordered, shuffled)
    assert ordered.label_units[1] == count == ordered.units
    maps = batch["maps"][:, 1].double()
    maps /= maps.sum(dim=(1, 2), keepdim=True)
    ratio = ordered.standard_error[1] / error_by_hand(maps, groups)
    assert torch.allclose(ratio, torch.ones(6, 5).double(), rtol=1e-5 if count == 64 else 0.5)
    assert ratio.mean().item() == pytest.approx(1, abs=0.1)


def test_groups_must_fit():
    with pytest.raises(ValueError, match="1 groups for 2 images"):
        GlobalMaps(2).update(maps=torch.rand(2, 1, 4, 4), labels=torch.tensor([0, 1]), groups=["a"])


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"normalization": "sum"}, "was given 'sum'"),
        ({"subset": "some"}, "was given 'some'"),
        ({"reduction": "mode"}, "was given 'mode'"),
        ({"overall": "all"}, "was given 'all'"),
        ({"trim": 0.5}, "a trim below 0.5"),
        ({"capacity": 0}, "at least 1 image"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        GlobalMaps(2, **settings)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"maps": torch.rand(2, 1, 4, 4), "labels": torch.tensor([0, 2])}, "Maps are about classes 0 to 2"),
        ({"maps": torch.rand(2, 1, 4, 4), "labels": torch.ones(2, 2)}, "do not say which of 2 labels"),
        ({"maps": torch.rand(2, 1, 4, 4), "labels": torch.tensor([0])}, "do not fit; maps must be"),
        (
            {"maps": torch.rand(2, 1, 4, 4), "labels": torch.tensor([0, 1]), "images": torch.rand(2, 1, 8, 8)},
            "of the size of the images",
        ),
        ({"maps": torch.rand(2, 1, 4, 4), "labels": torch.tensor([0, 1]), "ids": ["one"]}, "1 ids for 2 images"),
        (
            {"maps": torch.rand(2, 1, 4, 4), "labels": torch.rand(2, 3), "targets": torch.tensor([0, 1])},
            "do not fit 2 labels",
        ),
    ],
)
def test_bad_batches(batch, message):
    with pytest.raises(ValueError, match=message):
        GlobalMaps(2).update(**batch)


def test_true_positives_need_predictions_and_sizes_must_stay():
    metric = GlobalMaps(2, subset="true_positive")
    batch = {"maps": torch.rand(2, 1, 4, 4), "labels": torch.tensor([0, 1])}
    with pytest.raises(ValueError, match="give predictions"):
        metric.update(**batch)
    metric.update(**batch, predictions=torch.tensor([0, 0]))
    with pytest.raises(ValueError, match="resize them all"):
        metric.update(**{**batch, "maps": torch.rand(2, 1, 5, 5)}, predictions=torch.tensor([0, 0]))


def test_a_reset_forgets_everything():
    metric = GlobalMaps(3, reduction="median")
    metric.update(**case())
    metric.reset()
    metric.update(maps=torch.rand(1, 1, 8, 8), labels=torch.tensor([1]))
    assert metric.compute().count == [0, 1, 0]
