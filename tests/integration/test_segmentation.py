"""Segmenters through train.py: trained on masks, kept, and explained for every class."""

import json

import pytest
from hydra import compose, initialize_config_dir

import train
from tests.running import CONFIGS, bars_npz, tiny


def test_a_segmenter_is_trained_on_the_masks_and_explained(tmp_path):
    words = [*bars_npz(tmp_path / "bars.npz").split(), "data.mask_classes=[background,bar]", "target=unet_unoise"]
    words += ["target.model.depth=2", "target.model.width=8", "target_trainer=segmenter"]
    words = [word for word in tiny(tmp_path / "run", *words, "explainer=hires_cam") if "widths" not in word]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose("train", [*words, "target_trainer.trainer.max_epochs=30", "pixels=reference"])
    results = train.main(cfg)
    assert results["target/dice"] == pytest.approx(results["target/dice_bar"]) and results["target/dice"] > 0.8
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert {"HiResCAM", "random", "center", "edge"} == set(summary["explainers"])
    assert (tmp_path / "run" / "maps" / "test.png").is_file()
