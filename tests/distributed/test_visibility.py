"""Visibility curves of two ranks: the numbers and the picture of one process."""

import pytest

import train
from tests.distributed.ranks import run_train
from tests.running import bars_npz, configure, rows


def segmenting(words):
    """Overrides of a tiny segmenter whose maps need no training."""
    words = [*words, "data.mask_classes=[background,bar]", "target=unet_unoise", "target.model.depth=2"]
    return [*words, "target.model.width=4", "target_trainer=segmenter", "explainer=hires_cam", "metrics=visibility"]


def test_the_curves_of_two_ranks_are_those_of_one_process(on_two_ranks, tmp_path):
    words = segmenting(bars_npz(tmp_path / "bars.npz", counts=(16, 8, 9)).split())
    alone, shared = tmp_path / "alone", tmp_path / "ranks"
    train.main(configure(alone, *words))
    on_two_ranks(run_train, shared, words)
    one, two = (
        {
            (row["scope"], row["content"], row["explainer"], row["fraction"]): (float(row["dice"]), int(row["images"]))
            for row in rows(folder / "visibility.csv")
        }
        for folder in (alone, shared)
    )
    assert one.keys() == two.keys() and {key[2] for key in one} >= {"HiResCAM", "random", "reversed", "oracle"}
    for key, (dice, images) in one.items():
        assert two[key] == (pytest.approx(dice, abs=1e-5), images), key
    assert (shared / "maps" / "visibility_image.png").is_file()
