"""The recipes for segmenters on real data, cut short: their maps, their table, and where volumes lie in the world."""

import json

import nibabel
import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

import train
from tests.running import CONFIGS, tiny

CURVES = ("visibility", *(f"visible_{fraction}" for fraction in (10, 20, 50, 70)))
STEPS = [f"metrics.{name}.steps=2" for name in CURVES]
STEPS += [f"metrics.{name}.steps=1" for name in ("leak_shifted", "leak_noise")]


def short(folder, name, *overrides):
    """The configuration of a recipe, cut to seconds."""
    words = [word for word in tiny(folder, f"experiment={name}", *STEPS, *overrides) if "widths" not in word]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("train", words)


def test_vessels_of_the_published_network(data_root, tmp_path):
    results = train.main(short(tmp_path / "run", "seghires_vessels", "data.limit=2", "data.size=256"))
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert set(summary["explainers"]) == set(summary["borda"]) == {"HiResCAM", "seg_hires_cam_decoder", "seg_grad_cam"}
    assert set(summary["controls"]) == {"random", "reversed", "oracle", "center", "edge"}
    rows = summary["explainers"] | summary["controls"]
    table = {name: values["visible_50"]["mean"] for name, values in rows.items()}
    assert results["test/visible_50"] == pytest.approx(table["HiResCAM"])
    assert table["HiResCAM"] > table["random"] + 0.1, "what the map shows must be enough to find vessels"
    assert (tmp_path / "run" / "maps" / "test.png").is_file()


def test_a_mask_for_each_class_of_volumes_in_their_place(data_root, tmp_path):
    fast = ["data.limit=2", "metrics.leak_swapped.steps=1", "trainer.check_val_every_n_epoch=1"]
    run = tmp_path / "run"
    results = train.main(short(run, "unoise_hippocampus_3d", *fast, "data.size=[24,32,24]"))
    assert {"target/dice_anterior", "target/dice_posterior", "test/visibility", "test/leak_swapped"} <= set(results)
    summary = json.loads((run / "summary.json").read_text())
    assert set(summary["explainers"]) == {"UNoise", "seg_grad_cam", "seg_hires_cam"}
    assert set(summary["controls"]) == {"random", "reversed", "oracle", "center", "edge"}
    assert (run / "maps" / "test.png").is_file()

    (weights,) = (tmp_path / "targets").glob("*.ckpt")
    apply = ["task=predict", f"ckpt_path={run / 'checkpoints' / 'best.ckpt'}", f"target.weights={weights}"]
    cfg = short(tmp_path / "applied", "unoise_hippocampus_3d", *fast, *apply)  # at the data's own size
    train.main(cfg)
    data = instantiate(cfg.data)
    data.setup()
    batch = next(iter(data.test_dataloader()))
    for name in batch["id"]:
        written = nibabel.load(tmp_path / "applied" / "predictions" / f"{name}.nii.gz")
        file = nibabel.load(data_root / "msd_hippocampus" / "images" / f"{name}.nii.gz")
        assert written.shape == (*file.shape, 2), "one map for each class, on the file's grid"
        assert np.allclose(written.affine, file.affine, atol=1e-4)
