"""Tasks besides fit and test on two ranks: the files and numbers of one process."""

import json

import numpy as np
import pytest

import train
from tests.distributed.ranks import run_main, run_train
from tests.running import bars_npz, configure


@pytest.fixture(scope="module")
def bars(tmp_path_factory):
    return bars_npz(tmp_path_factory.mktemp("bars") / "bars.npz", counts=(16, 8, 9)).split()


@pytest.mark.parametrize("explainer", ["hires_cam", "random_map"])
def test_predict_writes_the_maps_of_one_process(on_two_ranks, bars, tmp_path, explainer):
    words = [*bars, "task=predict", f"explainer={explainer}"]
    train.main(configure(tmp_path / "alone", *words))
    on_two_ranks(run_train, tmp_path / "ranks", words)
    alone, shared = (
        {path.name: np.load(path) for path in (tmp_path / name / "predictions").glob("*.npy")}
        for name in ("alone", "ranks")
    )
    assert alone.keys() == shared.keys() and len(alone) == 9
    for name, maps in alone.items():
        assert np.allclose(shared[name], maps, atol=1e-5), name
    assert len({maps.tobytes() for maps in alone.values()}) > 1, "all maps are the same"


def test_sanity_on_two_ranks_is_that_of_one_process(on_two_ranks, bars, tmp_path):
    words = [*bars, "task=sanity", "explainer=hires_cam", "sanity.images=4", "sanity.stages=2", "sanity.label_steps=5"]
    alone = train.main(configure(tmp_path / "alone", *words))
    first, second = on_two_ranks(run_main, tmp_path / "ranks", words)
    assert first == pytest.approx(alone, abs=1e-5, nan_ok=True) and "sanity/passed" in first
    assert not any(name.startswith("sanity/") for name in second), "one rank does it"
    files = [json.loads((tmp_path / name / "sanity.json").read_text()) for name in ("alone", "ranks")]
    assert [check["name"] for check in files[0]["checks"]] == [check["name"] for check in files[1]["checks"]]


def test_global_maps_of_two_ranks_are_those_of_one_process(on_two_ranks, bars, tmp_path):
    words = [*bars, "task=global", "explainer=hires_cam"]
    alone = train.main(configure(tmp_path / "alone", *words))
    first, second = on_two_ranks(run_main, tmp_path / "ranks", words)
    assert any(name.startswith("global/") for name in alone)
    for answers in (first, second):
        shared = {name: value for name, value in answers.items() if name in alone}
        assert shared == pytest.approx({name: alone[name] for name in shared}, abs=1e-4, nan_ok=True)
    assert first.keys() == alone.keys()
