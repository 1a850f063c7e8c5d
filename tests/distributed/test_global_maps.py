"""Global maps on two ranks: the same as in one process, whatever images a sampler repeated or a rank lacks."""

import json

import numpy as np
import pytest
import torch
import torch.distributed as dist

import train
from lightning_xai.global_maps import GlobalMaps
from tests.distributed.ranks import run_train
from tests.running import bars_npz, configure

COUNT = 9
#: Which images each rank is given; the sampler repeats the first images to even out "padded".
SHARDS = {
    "uneven": ([0, 2, 4, 5, 6, 8], [1, 3, 7]),
    "padded": ([0, 2, 4, 6, 8], [1, 3, 5, 7, 0]),
    "one_image": ([0], [0]),
    "one_rank_has_none": (list(range(COUNT)), []),
    "first_rank_has_none": ([], list(range(COUNT))),
    "nothing": ([], []),
}
OPTIONS = {
    "mean": {},
    "grouped": {"grouped": True},
    "median": {"reduction": "median", "capacity": 3},
    "pairs": {"overall": "pairs"},
}


def of_images(numbers, grouped=False, **options):
    generator = torch.Generator().manual_seed(0)
    maps, images = (torch.rand(COUNT, channels, 4, 5, generator=generator) for channels in (3, 2))
    maps[0, 0] = 0  # the image that is repeated has a map that is skipped
    labels = torch.arange(COUNT) % 2
    metric = GlobalMaps(3, **options)
    for number in numbers:
        part = slice(number, number + 1)
        groups = [f"patient {number // 3}" if number < 8 else ""] if grouped else None
        named = {"ids": [f"bild_{number}"], "groups": groups}
        metric.update(maps=maps[part], images=images[part], labels=labels[part], **named)
    return metric


def as_plain_tensor(result):
    return {name: value for name, value in vars(result).items()}


def work(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    answers = {}
    for shards, numbers in SHARDS.items():
        for name, options in OPTIONS.items():
            metric = of_images(numbers[rank], **options)
            answers[shards, name] = as_plain_tensor(metric.compute())
    metric = of_images([1, 2, 3])
    try:
        metric.compute()
        answers["shared"] = ""
    except ValueError as error:
        answers["shared"] = str(error)
    torch.save(answers, f"{folder}/rank{rank}.pt")


@pytest.fixture(scope="module")
def ranks(on_two_ranks, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    on_two_ranks(work, str(folder))
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("shards", SHARDS)
def test_two_ranks_equal_one_process(ranks, shards, name):
    expected = as_plain_tensor(of_images(sorted({*SHARDS[shards][0], *SHARDS[shards][1]}), **OPTIONS[name]).compute())
    for answers in ranks:
        told = answers[shards, name]
        for field in ("count", "skipped", "images", "labels", "units", "label_units", "unit"):
            assert told[field] == expected[field], field
        assert told["stability"] == pytest.approx(expected["stability"])
        for field in ("label_wise", "standard_error", "overall", "mean_image"):
            values, wanted = (part if isinstance(part, list) else [part] for part in (told[field], expected[field]))
            for one, other in zip(values, wanted, strict=True):
                assert (one is None) == (other is None), field
                assert one is None or torch.allclose(one, other, rtol=1e-12), field


def test_images_that_two_ranks_were_given_are_an_error(ranks):
    for answers in ranks:
        assert answers["shared"].startswith("2 images were added to GlobalMaps on two ranks")


def test_the_task_makes_the_same_maps_on_two_ranks(on_two_ranks, tmp_path):
    """Nine validation images: Lightning's sampler gives the second rank the first image once more."""
    bars = [*bars_npz(tmp_path / "bars.npz", counts=(16, 9, 10)).split(), "task=global", "explainer=grad_cam"]
    bars += ["global.fractions=[0,0.5,1]", "global.random_orders=1", "global.samples=10"]
    train.main(configure(tmp_path / "alone", *bars))
    folder = tmp_path / "ranks"
    on_two_ranks(run_train, folder, bars)
    one, two = (json.loads((path / "global.json").read_text()) for path in (tmp_path / "alone", folder))
    assert one["images"] == two["images"] == 9 and one["labels"] == two["labels"]
    with np.load(tmp_path / "alone/global/maps.npz") as first, np.load(folder / "global/maps.npz") as second:
        for name in ("label_wise", "overall", "standard_error", "mean_image"):
            assert np.allclose(first[name], second[name], atol=1e-6), name
    for bias, other in zip(one["biases"], two["biases"], strict=True):
        assert len(bias["images"]) == len({name for name, _ in other["images"]}) == len(other["images"])
    assert one["peppr"]["summary"] == pytest.approx(two["peppr"]["summary"], abs=0.05)
