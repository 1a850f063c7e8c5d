"""Runs that start from a checkpoint of another run, whose config and target they take; what a killed run leaves."""

import json
import shutil

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

import train
from lightning_xai.cli import target_cache
from lightning_xai.cli.tasks import explain
from tests.running import TINY, bars, bars_folder, bars_npz, configure, on_top, rows, tiny, without_validation


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def trained(shared):
    """A run that has little of the default config, and what it returned."""
    bars_folder(shared / "photos", count=24)
    words = ("data=folder", f"data.root={shared}/photos/images", "explainer.tv=0.5", "data.limit=12", "seed=3")
    return shared / "mine", train.main(configure(shared / "mine", *words, "trainer.max_epochs=2"))


@pytest.fixture
def no_training(monkeypatch):
    def refuse(*_):
        raise AssertionError("a target was trained")

    monkeypatch.setattr(target_cache, "train_target", refuse)


def best_of(folder):
    return f"ckpt_path={folder}/checkpoints/best.ckpt"


def content_of(folder):
    return {path: (path.stat().st_mtime_ns, path.is_file() and path.read_bytes()) for path in folder.rglob("*")}


def flat_folder(root, count, side=16):
    """Images in one folder, without classes."""
    root.mkdir()
    for number, image in enumerate(bars(count, 2, seed=9)[0]):
        picture = Image.fromarray((255 * image[..., 0]).astype(np.uint8))
        picture.resize((side, side)).save(root / f"new_{number}.png")


# ------------------------------------------------------------------ test, global, sanity


def test_a_checkpoint_is_enough_to_test_it(trained, shared, no_training):
    folder, result = trained
    before = content_of(folder)
    assert train.main(on_top(shared / "tested", "task=test", best_of(folder))) == without_validation(result)
    assert content_of(folder) == before, "the run's own folder was touched"
    assert (shared / "tested" / "per_image.csv").read_text() == (folder / "per_image.csv").read_text()
    kept = OmegaConf.load(shared / "tested" / "config.yaml")
    assert kept.from_run == f"{folder}/config.yaml" and kept.seed == 3 and kept.explainer.tv == 0.5


def test_other_metrics_win_over_the_runs(trained, shared, no_training):
    result = train.main(on_top(shared / "paper", "task=test", best_of(trained[0]), "metrics=paper"))
    assert "test/adcc" in result and "test/gap" not in result


def test_a_test_in_the_runs_own_folder_keeps_its_results_and_config(trained, shared, no_training):
    folder = shared / "again"
    shutil.copytree(trained[0], folder)
    config = (folder / "config.yaml").read_text()
    train.main(on_top(folder, "task=test", best_of(folder), "metrics=paper"))
    assert (folder / "config.yaml").read_text() == config and not (folder / "earlier").exists()
    assert [row["epoch"] for row in rows(folder / "metrics.csv") if row["val/loss"]] == ["0", "1"]


def test_the_same_model_is_tested_on_other_data(trained, shared, no_training):
    bars_folder(shared / "elsewhere", count=18)
    words = ("task=test", best_of(trained[0]), f"data.root={shared}/elsewhere/images")
    train.main(on_top(shared / "external", *words))
    kept, own = (OmegaConf.load(folder / "config.yaml") for folder in (shared / "external", trained[0]))
    assert kept.data_info == own.data_info and kept.target_weights == own.target_weights


def test_data_with_other_classes_are_one_sentence(trained, shared):
    bars_folder(shared / "three", count=18, classes=3)
    words = ("task=test", best_of(trained[0]), f"data.root={shared}/three/images")
    with pytest.raises(ValueError, match=r"The data has class names \['bar_0', 'bar_1', 'bar_2'\], but the run of"):
        train.main(on_top(shared / "refused", *words))


def test_another_target_is_one_sentence(trained, shared):
    words = ("task=test", best_of(trained[0]), "target.model.widths=[4,4]")
    with pytest.raises(ValueError, match="The checkpoint explains target .* but this target is"):
        train.main(on_top(shared / "refused", *words))


def test_a_target_that_is_gone_is_one_sentence(trained, shared, no_training):
    folder = shared / "without"
    shutil.copytree(trained[0], folder)
    config = OmegaConf.load(folder / "config.yaml")
    config.target_weights = str(shared / "nowhere" / "x.ckpt")
    OmegaConf.save(config, folder / "config.yaml")
    with pytest.raises(FileNotFoundError, match=r"was kept in .*nowhere/x\.ckpt, which is gone; put it back, or give"):
        train.main(on_top(shared / "refused", "task=test", best_of(folder)))


def test_global_maps_of_a_checkpoint(trained, shared, no_training):
    few = ("global.random_orders=1", "global.samples=5", "global.fractions=[0,0.5,1]")
    result = train.main(on_top(shared / "global", "task=global", best_of(trained[0]), *few))
    assert "global/area_erase" in result and not (shared / "global" / "checkpoints").exists()


def test_the_explainer_of_a_checkpoint_is_checked_for_sanity(trained, shared):
    few = ("sanity.images=2", "sanity.stages=2", "sanity.label_steps=2", "trainer.max_epochs=1")
    result = train.main(on_top(shared / "sanity", "task=sanity", best_of(trained[0]), *few))
    assert "sanity/passed" in result
    assert OmegaConf.load(shared / "sanity" / "config.yaml").explainer.tv == 0.5


# ------------------------------------------------------------------ predict


def test_predict_explains_the_runs_test_images(trained, shared, no_training):
    train.main(on_top(shared / "predicted", "task=predict", best_of(trained[0])))
    tested = {row["id"].replace("/", "_") for row in rows(trained[0] / "per_image.csv")}
    assert {path.stem for path in (shared / "predicted" / "predictions").glob("*.npy")} == tested


class Unlabeled:
    """What a data module gives after ``setup("predict")``: every image of its folder, and no label."""

    def setup(self, stage=None):
        assert stage == "predict", "new images have no splits"
        self.channels, self.spatial_dims, self.split_items, self.class_names = 1, 2, {}, []
        paths = sorted(path for path in (self.new_root).glob("*.png"))
        shape = tuple(self.size)
        pictures = [Image.open(path).resize(shape[::-1]) for path in paths]
        arrays = [torch.tensor(np.asarray(picture, np.float32)[None] / 255) for picture in pictures]
        self.samples = [{"image": array, "id": path.stem} for array, path in zip(arrays, paths, strict=True)]

    def predict_dataloader(self):
        return torch.utils.data.DataLoader(self.samples, batch_size=self.batch_size)


@pytest.mark.parametrize("count", [1, 5])
def test_predict_brings_the_runs_facts_to_new_images(trained, shared, count, monkeypatch, no_training):
    root = shared / f"stub_{count}"
    flat_folder(root, count, side=24)
    monkeypatch.setattr("lightning_xai.data.FolderData.setup", Unlabeled.setup)
    monkeypatch.setattr("lightning_xai.data.FolderData.predict_dataloader", Unlabeled.predict_dataloader)
    monkeypatch.setattr("lightning_xai.data.FolderData.new_root", root, raising=False)
    # The run's data_info know the size from the data module on.
    config = OmegaConf.load(trained[0] / "config.yaml")
    folder = shared / f"with_size_{count}"
    shutil.copytree(trained[0], folder)
    config.data_info.size = [16, 16]
    OmegaConf.save(config, folder / "config.yaml")
    cfg = on_top(shared / f"stub_run_{count}", "task=predict", best_of(folder), f"data.root={root}")
    train.main(cfg)
    maps = {path.stem: np.load(path) for path in (shared / f"stub_run_{count}" / "predictions").glob("*.npy")}
    assert set(maps) == {f"new_{number}" for number in range(count)}
    assert {values.shape for values in maps.values()} == {(1, 16, 16)}, "the size that the target knows"
    assert cfg.data_info == config.data_info and cfg.data.limit is None


@pytest.mark.parametrize("count", [1, 13])
def test_predict_explains_every_image_of_a_flat_folder(trained, shared, count, no_training):
    """With the real data module: no labels, no splits, more images than the training was limited to."""
    root = shared / f"flat_{count}"
    flat_folder(root, count, side=24)
    cfg = on_top(shared / f"flat_run_{count}", "task=predict", best_of(trained[0]), f"data.root={root}")
    assert not any(name.startswith("test/") for name in train.main(cfg))
    maps = [np.load(path) for path in (shared / f"flat_run_{count}" / "predictions").glob("*.npy")]
    assert len(maps) == count and {values.shape for values in maps} == {(1, 24, 24)}, "maps are of the file's size"
    kept = OmegaConf.load(shared / f"flat_run_{count}" / "config.yaml")
    assert kept.data_info == OmegaConf.load(trained[0] / "config.yaml").data_info


def test_predict_takes_another_layout_too(trained, shared, no_training):
    words = bars_npz(shared / "new.npz", counts=(4, 3, 2)).split()
    train.main(on_top(shared / "from_npz", "task=predict", best_of(trained[0]), *words))
    assert len(list((shared / "from_npz" / "predictions").glob("*.npy"))) == 9


# ------------------------------------------------------------------ going on


def test_last_goes_on_with_the_runs_own_config(trained, shared):
    folder = shared / "goes_on"
    shutil.copytree(trained[0], folder)
    train.main(on_top(folder, "ckpt_path=last", "trainer.max_epochs=3"))
    assert [row["epoch"] for row in rows(folder / "metrics.csv") if row["val/loss"]] == ["0", "1", "2"]
    assert len([row for row in rows(folder / "metrics.csv") if row["test/gap"]]) == 1, "that of the new end"
    assert OmegaConf.load(folder / "config.yaml").trainer.max_epochs == 3


@pytest.mark.parametrize("mode", ["min", "max"])
def test_last_is_the_last_epoch_and_best_the_best(tmp_path, mode):
    words = (*bars_npz(tmp_path / "bars.npz").split(), "trainer.max_epochs=3", f"+callbacks.checkpoint.mode={mode}")
    train.main(configure(tmp_path / "run", *words, "explainer.lr=0.003"))
    losses = [float(row["val/loss"]) for row in rows(tmp_path / "run" / "metrics.csv") if row["val/loss"]]
    epochs = {
        name: torch.load(tmp_path / "run" / "checkpoints" / f"{name}.ckpt", weights_only=True)["epoch"]
        for name in ("best", "last")
    }
    assert epochs == {"last": 2, "best": losses.index(max(losses) if mode == "max" else min(losses))}
    assert {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}


def test_a_run_that_goes_on_remembers_its_best(tmp_path):
    """The first epoch stays the best one, before and after the interruption."""
    words = (*bars_npz(tmp_path / "bars.npz").split(), "trainer.max_epochs=4", "+callbacks.checkpoint.mode=max")
    first = configure(tmp_path / "run", *words, "explainer.lr=0.003")
    first.trainer.max_epochs = 2
    train.main(first)
    kept = torch.load(tmp_path / "run" / "checkpoints" / "best.ckpt", weights_only=True)
    train.main(configure(tmp_path / "run", *words, "explainer.lr=0.003", "ckpt_path=last"))
    losses = [float(row["val/loss"]) for row in rows(tmp_path / "run" / "metrics.csv") if row["val/loss"]]
    assert len(losses) == 4 and max(losses) == losses[0]
    now = torch.load(tmp_path / "run" / "checkpoints" / "best.ckpt", weights_only=True)
    assert now["epoch"] == kept["epoch"] == 0
    assert torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] == 3


@pytest.mark.parametrize(("module", "killed"), [(target_cache, "train_target"), (explain, "build_explainer")])
def test_the_config_is_there_when_a_run_is_killed(tmp_path, module, killed, monkeypatch):
    words = bars_npz(tmp_path / "bars.npz").split()
    monkeypatch.setattr(module, killed, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        train.main(configure(tmp_path / "run", *words))
    assert OmegaConf.load(tmp_path / "run" / "config.yaml").data_info.classes == 2
    assert not (tmp_path / "run" / ".lock").exists()
    monkeypatch.undo()
    result = train.main(on_top(tmp_path / "run", "ckpt_path=last"))
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["checkpoint"] and "test/gap" in result


def test_the_words_of_a_run_can_be_repeated_on_top_of_it(trained, shared, no_training):
    """As a script does that adds task=test to the line of its training."""
    words = [word for word in tiny(shared / "repeated") if not word.startswith("run_dir=")]
    assert set(TINY) <= set(words)
    again = ("data=folder", f"data.root={shared}/photos/images", "explainer.tv=0.5", "data.limit=12", "seed=3")
    result = train.main(on_top(shared / "repeated", *words, *again, "task=test", best_of(trained[0])))
    assert result == without_validation(trained[1])
