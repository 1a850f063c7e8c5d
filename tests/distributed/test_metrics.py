"""Two ranks with uneven shards: the same values as one process, every image once."""

from unittest.mock import patch

import torch
import torch.distributed as dist
from pytest import approx, fixture, mark

from lightning_xai import ClassifierTarget, SegmenterTarget
from lightning_xai.callbacks import Faithfulness
from lightning_xai.explainers import CenterPrior, RandomMap
from lightning_xai.metrics import (
    ADCC,
    ROAD,
    Infidelity,
    InsertionDeletionGap,
    MapMetric,
    MaxSensitivity,
    OffTargetLeakage,
    PixelAUC,
    PointingGame,
    RelevanceMass,
    TopClassesIoU,
    VisibilityCurve,
)
from tests.helpers import Blobs, GradientMap, cnn, segmenter

COUNT = 7
#: Which images each rank scores; the sampler repeated image 0 to even out "padded".
SHARDS = {
    "uneven": ([0, 2, 4, 5, 6], [1, 3]),
    "padded": ([0, 2, 4, 6], [1, 3, 5, 0]),
    "one_rank_has_none": (list(range(COUNT)), []),
    "first_rank_has_none": ([], list(range(COUNT))),
    "nothing": ([], []),
}
METRICS = {"gap": InsertionDeletionGap, "mass": RelevanceMass, "pointing": PointingGame}
#: The last image is a unit by itself.
GROUPS = ["ann", "ann", "bo", "bo", "bo", "ann", ""]
#: Those whose values hold more than one number, explain again, or follow from all images together.
FAMILIES = {
    "road": ROAD,
    "auc": PixelAUC,
    "adcc": ADCC,
    "top2": TopClassesIoU,
    "infidelity": lambda: Infidelity(samples=4),
    "sensitivity": lambda: MaxSensitivity(samples=2),
    "leakage": OffTargetLeakage,
    "visibility": lambda: VisibilityCurve(steps=5),
}


def case():
    generator = torch.Generator().manual_seed(0)
    images, maps = torch.rand(COUNT, 1, 8, 8, generator=generator), torch.rand(COUNT, 2, 8, 8, generator=generator)
    masks = (torch.rand(COUNT, 1, 8, 8, generator=generator) > 0.6).long()
    maps[3], masks[5] = 0.5, 0  # undefined values travel too
    targets = torch.arange(2).expand(COUNT, -1)
    return {"images": images, "maps": maps, "masks": masks, "targets": targets}, [f"bild_ä_{i}" for i in range(COUNT)]


def metrics_of(which, target, kinds=METRICS):
    """Metrics over some of the images, one by one, as batches of any size must agree."""
    batch, ids = case()
    metrics = {name: kind() for name, kind in kinds.items()}
    for metric in metrics.values():
        asked = SegmenterTarget(segmenter()) if metric.needs_segmenter else target
        for place in which:
            part = {name: value[place : place + 1] for name, value in batch.items()}
            metric.update(target=asked, explainer=GradientMap(asked), ids=[ids[place]], groups=[GROUPS[place]], **part)
    return metrics


def read(metric):
    value = metric.compute()
    return {
        "value": value,
        "counts": metric.counts(),
        "rows": metric.rows(),
        "table": metric.per_image(),
        "groups": metric.image_groups(),
    }


def faithfulness(rank, folder):
    """A test whose second rank has no batch: it must take part in every gathering all the same."""
    explainer = CenterPrior(ClassifierTarget(cnn()))
    callback = Faithfulness({name: kind() for name, kind in METRICS.items()}, controls={"random": RandomMap})
    values = {"default_root_dir": folder, "loggers": [], "sanity_checking": False, "is_global_zero": rank == 0}
    trainer = type("Trainer", (), values)()
    callback.on_test_epoch_start(trainer, explainer)
    for number, batch in enumerate(Blobs(masks=False).loader() if rank == 0 else []):
        callback.on_test_batch_end(trainer, explainer, explainer.explain_batch(batch), batch, number)
    gatherings, gather = [], MapMetric.sync

    def counted(metric, *arguments, **options):
        gatherings.append(options.get("should_sync", True))
        gather(metric, *arguments, **options)

    with patch.object(MapMetric, "sync", counted):
        callback.on_test_epoch_end(trainer, explainer)
    return {"results": callback.results, "groups": callback.groups, "gatherings": sum(gatherings)}


def work(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    target, answers = ClassifierTarget(cnn()), {}
    for name, shards in SHARDS.items():
        metrics = metrics_of(shards[rank], target)
        answers[name] = {metric: read(value) for metric, value in metrics.items()}
        # Gathering must leave this rank's own part as it was: it goes on accumulating.
        answers[name]["again"] = metrics["mass"].counts()
    families = metrics_of(SHARDS["padded"][rank], target, FAMILIES)
    answers["families"] = {
        name: read(metric) | {"references": metric.reference_means()} for name, metric in families.items()
    }
    answers["faithfulness"] = faithfulness(rank, folder)
    torch.save(answers, f"{folder}/rank{rank}.pt")


@fixture(scope="module")
def ranks(on_two_ranks, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    on_two_ranks(work, str(folder))
    return folder, [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


@mark.parametrize("metric", METRICS)
@mark.parametrize("shards", SHARDS)
def test_two_ranks_equal_one_process(ranks, shards, metric):
    alone = metrics_of([] if shards == "nothing" else range(COUNT), ClassifierTarget(cnn()))[metric]
    expected = {name: (query, value) for name, query, value in alone.rows()}
    for answers in ranks[1]:
        answer = answers[shards][metric]
        if shards == "nothing":
            assert answer["value"].isnan() and answer["counts"] == (0, 0)
            assert answer["rows"] == [] and answer["table"].shape == (0, 0)
            continue
        assert answer["value"].item() == approx(alone.compute().item(), abs=1e-12)
        assert answer["counts"] == alone.counts() == (2 * COUNT, 4 if metric == "pointing" else 2)
        asked = [(name, query) for name, query, _ in answer["rows"]]
        assert len(set(asked)) == len(asked) == 2 * COUNT, "an image was counted twice, or lost"
        gathered = {(name, query): value for name, query, value in answer["rows"]}
        for name, query, value in alone.rows():
            assert gathered[name, query] == approx(value, abs=1e-12, nan_ok=True), (name, query)
        assert answer["table"].shape == (COUNT, 2) and set(expected) == {name for name, _ in gathered}


@mark.parametrize("shards", sorted(set(SHARDS) - {"nothing"}))
def test_the_group_of_every_image_travels(ranks, shards):
    for answers in ranks[1]:
        for metric in METRICS:
            assert answers[shards][metric]["groups"] == dict(zip(case()[1][:-1], GROUPS[:-1], strict=True))


@mark.parametrize("metric", FAMILIES)
def test_every_family_is_exact_on_two_ranks(ranks, metric):
    alone = metrics_of(range(COUNT), ClassifierTarget(cnn()), {metric: FAMILIES[metric]})[metric]
    expected = {(name, query): value for name, query, value in alone.rows()}
    for answers in ranks[1]:
        answer = answers["families"][metric]
        assert answer["value"].item() == approx(alone.compute().item(), abs=1e-12)
        assert answer["counts"] == alone.counts()
        if metric != "sensitivity":  # a constant map has a distance
            assert 0 < alone.counts()[1] < 2 * COUNT, "nothing undefined traveled"
        assert len(answer["rows"]) == 2 * COUNT, "an image was counted twice, or lost"
        assert {(name, query): value for name, query, value in answer["rows"]} == approx(
            expected, abs=1e-12, nan_ok=True
        )
        assert answer["references"] == approx(alone.reference_means(), abs=1e-12, nan_ok=True)


@mark.parametrize("shards", SHARDS)
def test_both_ranks_read_the_same_and_can_read_again(ranks, shards):
    first, second = (answers[shards] for answers in ranks[1])
    for metric in METRICS:
        assert repr(first[metric]["rows"]) == repr(second[metric]["rows"])
    assert first["again"] == second["again"] == first["mass"]["counts"]


def test_a_rank_without_batches_does_not_hold_up_the_callback(ranks):
    folder, answers = ranks
    first, second = (answer["faithfulness"]["results"] for answer in answers)
    assert repr(first) == repr(second)
    assert list(first) == ["CenterPrior", "random"] and list(first["CenterPrior"]) == ["gap"], (
        "no masks, no localization"
    )
    assert len(first["CenterPrior"]["gap"]) == 6
    for answer in answers:
        assert answer["faithfulness"]["gatherings"] == 2 * len(METRICS), "a metric is gathered once, whatever is read"
    assert len((folder / "per_image.csv").read_text().splitlines()) == 1 + 6
