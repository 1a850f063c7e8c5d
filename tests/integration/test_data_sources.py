"""Runs on a user's own files, and what a run says about a bad target or bad input."""

import csv
import json
import logging

import nibabel
import numpy as np
import pytest
import torch
from hydra.errors import InstantiationException
from omegaconf.errors import MissingMandatoryValue
from PIL import Image

import train
from lightning_xai.cli import target_cache
from tests.running import bars, bars_folder, bars_npz, configure, rows

PCIM = ("explainer=pcim", "explainer.steps=3")


def table_of(text):
    """The first row of the printed table: metric -> shown value."""
    lines = text.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("explainer "))
    heads = [word for word in lines[start].split()[1:] if not word.startswith("(")]
    return dict(zip(heads, lines[start + 1].split()[1:], strict=True))


# ------------------------------------------------------------------ a user's files


def test_a_folder_of_pictures_with_masks(tmp_path, capsys):
    bars_folder(tmp_path / "photos")
    given = ("data=folder", f"data.root={tmp_path}/photos/images", f"data.mask_root={tmp_path}/photos/masks")
    result = train.main(configure(tmp_path / "run", *given, *PCIM, "data.splits=[0.5,0.25,0.25]"))
    shown = table_of(capsys.readouterr().out)
    assert {"pointing_game", "relevance_mass", "gap"} <= set(shown)
    assert shown["relevance_mass"] == f"{result['test/relevance_mass']:.3f}" and 0 < result["test/relevance_mass"] < 1
    ids = {row["id"] for row in rows(tmp_path / "run" / "per_image.csv")}
    assert len(ids) == 4 and all(name.startswith(("bar_0/", "bar_1/")) for name in ids)


def test_without_masks_there_is_no_localization(tmp_path, capsys):
    bars_folder(tmp_path / "photos")
    given = ("data=folder", f"data.root={tmp_path}/photos/images", "data.splits=[0.5,0.25,0.25]")
    result = train.main(configure(tmp_path / "run", *given, *PCIM))
    assert set(table_of(capsys.readouterr().out)) == {"deletion_auc", "gap", "gap_blur", "insertion_auc", "p_blank"}
    assert "test/relevance_mass" not in result and "test/gap" in result


AFFINE = np.diag([2.0, 3.0, 0.5, 1.0]) + np.array([[0, 0, 0, 7.0], [0] * 4, [0] * 4, [0] * 4])


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    """A manifest of 12 NIfTI volumes with masks and patients, and the overrides that load it."""
    folder = tmp_path_factory.mktemp("volumes")
    images, labels, masks = bars(12, 2)
    with (folder / "table.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "mask", "label", "group"])
        for number, (image, label, mask) in enumerate(zip(images, labels, masks, strict=True)):
            for name, values in (("image", image[..., 0]), ("mask", mask.astype(np.float32))):
                volume = np.repeat(values[:, :, None], 16, axis=2)
                nibabel.save(nibabel.Nifti1Image(volume, AFFINE), folder / f"{name}_{number}.nii.gz")
            table.writerow([f"image_{number}.nii.gz", f"mask_{number}.nii.gz", ("low", "high")[label], number // 2])
    return "data=manifest", f"data.csv={folder}/table.csv", "data.splits=[0.4,0.3,0.3]", "data.batch_size=4"


def test_a_manifest_of_volumes(tmp_path, volumes, capsys):
    result = train.main(configure(tmp_path / "run", *volumes, *PCIM))
    shown = capsys.readouterr().out
    assert 0 < result["test/relevance_mass"] < 1 and np.isfinite(result["test/gap"])
    patients = {int(row["id"].split("_")[1]) // 2 for row in rows(tmp_path / "run" / "per_image.csv")}
    assert 1 <= len(patients) <= 4
    for name in ("per_image.csv", "controls.csv"):
        assert all(row["group"] == str(int(row["id"].split("_")[1]) // 2) for row in rows(tmp_path / "run" / name))
    resampling = json.loads((tmp_path / "run" / "summary.json").read_text())["resampling"]
    assert resampling == {"unit": "groups", "units": len(patients), "images": 2 * len(patients)}
    assert f"over {len(patients)} groups" in shown or f"only {len(patients)} group" in shown
    assert (tmp_path / "run" / "maps" / "test.png").is_file()


def test_predicted_volumes_keep_the_affine_of_the_input(tmp_path, volumes):
    train.main(configure(tmp_path / "run", *volumes, *PCIM, "task=predict"))
    table = rows(tmp_path / "run" / "predictions" / "predictions.csv")
    made = sorted((tmp_path / "run" / "predictions").glob("*.nii.gz"))
    assert made and {row["map"] for row in table} == {path.name for path in made}
    for path in made:
        volume = nibabel.load(path)
        assert volume.shape == (16, 16, 16) and volume.get_fdata().std() > 0
        assert np.allclose(volume.affine, AFFINE)


def test_a_network_is_trained_on_volumes(tmp_path, volumes):
    result = train.main(configure(tmp_path / "run", *volumes))
    kept = torch.load(tmp_path / "run" / "checkpoints" / "best.ckpt", weights_only=True)
    assert any(value.ndim == 5 for value in kept["state_dict"].values()), "no 3-D convolution was trained"
    assert np.isfinite(result["test/gap"])


def test_several_labels_and_five_channels(tmp_path):
    images, labels, _ = bars(24, 2, channels=5)
    several = np.stack([labels == 0, np.arange(24) % 3 == 0], axis=1).astype(int)
    np.savez(tmp_path / "cells.npz", images=images, labels=several)
    given = ("data=npz", f"data.path={tmp_path}/cells.npz", "ask=all")
    result = train.main(configure(tmp_path / "run", *given))
    asked = {(row["id"], row["target"]) for row in rows(tmp_path / "run" / "per_image.csv")}
    assert len(asked) == 2 * len({name for name, _ in asked}), "all classes of every image were asked for"
    assert np.isfinite(result["test/gap"])


# ------------------------------------------------------------------ the target


def test_a_weak_target_is_called_worthless_and_a_good_one_is_not(tmp_path, caplog):
    given = (*bars_npz(tmp_path / "bars.npz").split(), "task=target")
    for bound, warns in ((1.1, True), (0.0, False)):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "lightning_xai"):
            quality = train.main(configure(tmp_path / "run", *given, f"target_trainer.min_accuracy={bound}"))
        said = [text for text in caplog.messages if "a map of a bad model is worthless" in text]
        assert len(said) == warns
        if warns:
            assert f"test accuracy is {quality['target/accuracy']:.3f}, below 1.100" in said[0]


@pytest.mark.parametrize("explainer", [("explainer=amortized_pcim", "trainer.max_epochs=2"), PCIM])
def test_a_run_leaves_the_target_as_it_was(tmp_path, monkeypatch, explainer):
    seen = []
    build = target_cache.build_target

    def spy(*arguments):
        target, quality = build(*arguments)
        seen.append((target, {name: value.clone() for name, value in target.model.state_dict().items()}))
        return target, quality

    monkeypatch.setattr(target_cache, "build_target", spy)
    train.main(configure(tmp_path / "run", *bars_npz(tmp_path / "bars.npz").split(), *explainer))
    ((target, before),) = seen
    after = target.model.state_dict()
    assert sum("running_mean" in name for name in after) == 4, "the target has batch norms to watch"
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert not target.model.training and all(value.grad is None for value in target.model.parameters())


# ------------------------------------------------------------------ bad input


def test_bad_files_are_named(tmp_path):
    bars_folder(tmp_path / "photos")
    folder = ("data=folder", f"data.root={tmp_path}/photos/images", *PCIM)
    cut = tmp_path / "photos" / "images" / "bar_1" / "03.png"
    cut.write_bytes(cut.read_bytes()[:40])
    with pytest.raises(ValueError, match=r"bar_1/03\.png"):
        train.main(configure(tmp_path / "run", *folder))
    (tmp_path / "photos" / "images" / "bar_2").mkdir()
    with pytest.raises(ValueError, match=r"The folder .*bar_2 has no images"):
        train.main(configure(tmp_path / "run", *folder))


def test_a_bad_image_can_be_skipped(tmp_path, caplog):
    bars_folder(tmp_path / "photos")
    Image.new("L", (9, 9)).save(tmp_path / "photos" / "masks" / "bar_1" / "03.png")
    given = ("data=folder", f"data.root={tmp_path}/photos/images", f"data.mask_root={tmp_path}/photos/masks")
    with caplog.at_level(logging.WARNING, "lightning_xai"):
        train.main(configure(tmp_path / "run", *given, *PCIM, "data.on_bad_image=skip", "data.splits=[0.5,0.25,0.25]"))
    assert any(text.startswith("Skipped: ") and "03.png" in text for text in caplog.messages)


BAD = {
    "no data.root": (["data=folder"], MissingMandatoryValue, "data.root"),
    "no folder": (["data=folder", "data.root=nowhere"], OSError, "folder nowhere does not exist; correct data.root"),
    "no file": (["data=npz", "data.path=nowhere.npz"], FileNotFoundError, "nowhere.npz does not exist; set data.path"),
    "splits": (["data=npz", "data.path=x.npz", "data.splits=[1,1,1]"], InstantiationException, "data.splits is"),
    "checkpoint": (["ckpt_path=nowhere.ckpt"], FileNotFoundError, "ckpt_path=nowhere.ckpt does not exist"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_settings_get_one_sentence(case, tmp_path):
    overrides, error, sentence = BAD[case]
    with pytest.raises(error) as caught:
        train.main(configure(tmp_path / "run", *overrides))
    assert sentence in str(caught.value)
    assert not (tmp_path / "targets").exists(), "a target was trained before the mistake was noticed"


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (["ask=anything", "explainer=center_prior"], "ask is 'anything'"),
        (["explainer=pcim", "explainer.preset=best"], "Unknown preset 'best'; use one of faithful"),
        (["target.weights=nowhere.pt", "explainer=center_prior"], "There is no weights file nowhere.pt"),
    ],
)
def test_bad_choices_get_one_sentence(settings, sentence, tmp_path):
    data = bars_npz(tmp_path / "bars.npz").split()
    with pytest.raises((ValueError, InstantiationException)) as caught:
        train.main(configure(tmp_path / "run", *data, *settings))
    assert sentence in str(caught.value)


def test_a_channel_count_that_the_target_does_not_take(tmp_path):
    gray, color = (bars_npz(tmp_path / f"{count}.npz", channels=count).split() for count in (1, 3))
    train.main(configure(tmp_path / "run", *color, "task=target"))
    weights = next((tmp_path / "targets").glob("*.ckpt"))
    with pytest.raises(ValueError, match=r"images have 1 channels, but the target takes 3 \(trained with mean \["):
        given = (f"target.weights={weights}", "target.model.in_channels=3", *PCIM)
        train.main(configure(tmp_path / "other", *gray, *given))
    with pytest.raises(InstantiationException, match=r"does not fit SmallCNN .* is \(4, 3, 3, 3\) in the file"):
        train.main(configure(tmp_path / "other", *gray, f"target.weights={weights}", *PCIM))


def test_a_segmenter_without_weights_is_not_trained_here(tmp_path):
    cfg = configure(tmp_path / "run", *bars_npz(tmp_path / "bars.npz").split(), *PCIM)
    cfg.target._target_ = "lightning_xai.targets.SegmenterTarget"
    with pytest.raises(ValueError, match=r"SegmenterTarget has no weights, .* give target\.weights=<file>"):
        train.main(cfg)
