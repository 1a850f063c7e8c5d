"""Visibility curves of two ranks: the numbers and the picture of one process."""

import subprocess
import sys

import pytest
from hydra import compose, initialize_config_dir

import train
from tests.running import CONFIGS, bars_npz, rows, tiny


def segmenting(folder, words):
    """Overrides of a tiny segmenter whose maps need no training."""
    words = [*words, "data.mask_classes=[background,bar]", "target=unet_unoise", "target.model.depth=2"]
    words += ["target.model.width=4", "target_trainer=segmenter", "explainer=hires_cam", "metrics=visibility"]
    return [word for word in tiny(folder, *words) if "widths" not in word]


def test_the_curves_of_two_ranks_are_those_of_one_process(tmp_path):
    bars = bars_npz(tmp_path / "bars.npz", counts=(16, 8, 9)).split()
    alone, shared = tmp_path / "alone", tmp_path / "ranks"
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        train.main(compose("train", segmenting(alone, bars)))
    words = [word for word in segmenting(shared, bars) if not word.startswith("run_dir=")]
    done = subprocess.run(
        [
            sys.executable,
            CONFIGS.parent / "train.py",
            *words,
            f"hydra.run.dir={shared}",
            "trainer=ddp",
            "trainer.devices=2",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "MEMBER: 2/2" in done.stderr
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
