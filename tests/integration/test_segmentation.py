"""Segmenters through train.py: trained on masks, kept, explained for every class, and volumes by window."""

import csv
import json

import nibabel
import numpy as np
import pytest
from hydra import compose, initialize_config_dir

import train
from tests.running import CONFIGS, bars_npz, tiny


def test_a_segmenter_is_trained_on_the_masks_and_explained(tmp_path):
    words = [*bars_npz(tmp_path / "bars.npz").split(), "data.mask_classes=[background,bar]", "target=unet_unoise"]
    words += ["target.model.depth=2", "target.model.width=8", "target_trainer=segmenter"]
    words = [word for word in tiny(tmp_path / "run", *words, "explainer=hires_cam") if "widths" not in word]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose("train", [*words, "target_trainer.trainer.max_epochs=30", "region=reference"])
    results = train.main(cfg)
    assert results["target/dice"] == pytest.approx(results["target/dice_bar"]) and results["target/dice"] > 0.8
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert set(summary["explainers"]) == {"HiResCAM"} and set(summary["controls"]) == {"random", "center", "edge"}
    assert (tmp_path / "run" / "maps" / "test.png").is_file()


def composed(*words):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("train", [word for word in words if "widths" not in word])


def test_visibility_curves_come_with_their_bounds_whatever_pixels_are_asked_about(tmp_path):
    words = [*bars_npz(tmp_path / "bars.npz").split(), "data.mask_classes=[background,bar]", "target=unet_unoise"]
    words += ["target.model.depth=2", "target.model.width=4", "target_trainer=segmenter"]
    words += ["metrics=visibility", "region=component", "explainer=unoise_visibility", "explainer.reference=mask"]
    results = train.main(composed(*tiny(tmp_path / "run", *words)))
    assert {"test/visible_10", "test/leak_shifted"} <= set(results)
    folder = tmp_path / "run"
    summary = json.loads((folder / "summary.json").read_text())
    assert set(summary["controls"]) == {"random", "reversed", "oracle", "center", "edge"}
    assert (folder / "maps" / "visibility_image.png").is_file() and (folder / "visibility.csv").is_file()


@pytest.fixture
def volumes(tmp_path):
    """Eight NIfTI volumes with a bright block of class 1 and a dark one of class 2, in their own place of the world."""
    rng, affine = np.random.default_rng(0), np.diag([1.0, 1.0, 2.0, 1.0])
    affine[:3, 3] = (-5, 7, 11)
    with (tmp_path / "index.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image"])
        for number in range(8):
            mask, values = np.zeros((18, 14, 10), np.uint8), 0.1 * rng.random((18, 14, 10), np.float32) + 0.4
            mask[2:8, 3:9, 2:7], mask[10:15, 3:9, 2:7] = 1, 2
            values[mask == 1] += 0.5
            values[mask == 2] -= 0.4
            for folder, content in (("images", values), ("masks", mask)):
                (tmp_path / folder).mkdir(exist_ok=True)
                nibabel.save(nibabel.Nifti1Image(content, affine), tmp_path / folder / f"v{number}.nii.gz")
            writer.writerow([f"v{number}.nii.gz"])
    return tmp_path, affine


def test_volumes_larger_than_the_window_go_from_nifti_to_nifti(volumes):
    root, affine = volumes
    words = ["data=manifest", f"data.csv={root}/index.csv", "data.label_column=null", "data.batch_size=2"]
    words += [
        f"data.image_root={root}/images",
        f"data.mask_root={root}/masks",
        "data.mask_classes=[background,up,down]",
    ]
    words += ["target=unet_unoise", "target.model.depth=2", "target.model.width=4", "target.window=8"]
    patch = "{_target_: monai.transforms.RandSpatialCropd, keys: [image, mask], roi_size: 8, random_size: false}"
    words += ["target_trainer=segmenter", "explainer=unoise_visibility", "explainer.per_class=true"]
    words += [f"data.augment=[{patch}]", "task=predict"]
    train.main(composed(*tiny(root / "run", *words)))
    files = sorted((root / "run" / "predictions").glob("*.nii.gz"))
    assert files and all(nibabel.load(file).shape == (18, 14, 10, 2) for file in files)
    written = nibabel.load(files[0])
    assert np.allclose(written.affine, affine)
    maps = np.asarray(written.get_fdata())
    assert np.isfinite(maps).all() and maps.std() > 0
