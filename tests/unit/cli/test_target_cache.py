"""The target of a run: under which key it is kept, who waits for it, and which trainer it takes."""

import threading

import pytest

from lightning_xai.cli import target_cache
from tests.running import cfg_of

RECIPE = {
    "target": {"_target_": "a.ClassifierTarget", "model": {"widths": [4]}, "weights": None},
    "target_trainer": {
        "min_accuracy": 0.9,
        "patience": 5,
        "module": {"lr": 0.1},
        "trainer": {"max_epochs": 2, "default_root_dir": "${run_dir}/target"},
    },
    "data": {"path": "x.npz"},
    "data_info": {"fingerprint": "abc"},
    "explainer": {"lr": 1},
}


def key_of(change="", run="here"):
    cfg = cfg_of(run, **RECIPE)
    if change:
        cfg.merge_with_dotlist([change])
    return target_cache.target_key(cfg)


def test_the_key_of_a_target_is_short_and_stable():
    assert key_of() == key_of() and len(key_of()) == 16
    cfg = cfg_of("here", **RECIPE)
    target_cache.target_key(cfg)
    assert cfg.run_dir == "here" and cfg == cfg_of("here", **RECIPE), "asking for the key changed the config"


@pytest.mark.parametrize(
    "change",
    [
        "seed=1",
        "data_info.fingerprint=other",
        "data.path=y.npz",
        "target.model.widths=[8]",
        "target_trainer.patience=6",
        "target_trainer.module.lr=0.2",
        "target_trainer.trainer.max_epochs=3",
        "target_trainer.trainer.limit_train_batches=1",
    ],
)
def test_what_decides_the_training_is_in_the_key(change):
    assert key_of(change) != key_of()


def test_where_and_what_else_is_not_in_the_key():
    assert key_of(run="elsewhere") == key_of()
    for change in ("task=test", "explainer.lr=2", "target_trainer.min_accuracy=0.5"):
        assert key_of(change) == key_of(), change


def weights_of(folder, **changes):
    cfg = cfg_of(folder / "run", target_dir=str(folder / "targets"), **(RECIPE | changes))
    return cfg, target_cache.trained_weights(cfg, None)


@pytest.fixture
def trainings(monkeypatch):
    """The paths of the targets that were trained."""
    made = []

    def train(cfg, data, weights):
        made.append(weights)
        weights.write_text("weights")

    monkeypatch.setattr(target_cache, "train_target", train)
    return made


def test_a_target_is_trained_once_and_recorded(tmp_path, trainings):
    cfg, weights = weights_of(tmp_path)
    assert trainings == [weights] == [tmp_path / "targets" / f"{key_of()}.ckpt"]
    assert cfg.target_weights == str(weights.resolve()) and weights_of(tmp_path)[1] == weights and len(trainings) == 1


def test_the_recorded_weights_are_taken_whatever_the_data(tmp_path, trainings):
    _, weights = weights_of(tmp_path)
    other = {"data": {"path": "other"}, "data_info": {}, "seed": 9}
    assert weights_of(tmp_path, target_weights=str(weights), **other)[1] == weights
    (tmp_path / "targets").rename(tmp_path / "moved")
    moved = {"target_weights": str(weights), "target_dir": str(tmp_path / "moved"), **other}
    assert target_cache.trained_weights(cfg_of("run", **(RECIPE | moved)), None) == tmp_path / "moved" / weights.name
    assert len(trainings) == 1


def test_recorded_weights_that_are_gone_are_trained_again_only_where_no_checkpoint_needs_them(tmp_path, trainings):
    gone = str(tmp_path / "targets" / "gone.ckpt")
    with pytest.raises(
        FileNotFoundError, match=r"The target of best\.ckpt was kept in .*gone\.ckpt, which is gone; put"
    ):
        weights_of(tmp_path, target_weights=gone, ckpt_path="best.ckpt")
    assert str(weights_of(tmp_path, target_weights=gone, ckpt_path="last")[1]) == gone and len(trainings) == 1


def test_a_target_dir_that_cannot_be_made_is_refused_before_the_training(tmp_path, trainings):
    (tmp_path / "targets").write_text("")
    with pytest.raises(ValueError, match=r"target_dir=.*targets cannot be made \(File exists\)"):
        weights_of(tmp_path)
    assert not trainings


def test_other_ranks_wait_for_the_file(tmp_path, monkeypatch):
    path = tmp_path / "target.ckpt"
    writer = threading.Timer(0.2, path.write_text, ["weights"])
    writer.start()
    target_cache.wait_for(path)
    assert path.read_text() == "weights"
    writer.join()
    monkeypatch.setattr(target_cache, "WAIT_FOR_TARGET", 0.0)
    with pytest.raises(TimeoutError, match=r"Rank zero did not write .*none.ckpt .* train it first with task=target"):
        target_cache.wait_for(tmp_path / "none.ckpt")


@pytest.mark.parametrize(("target", "trainer"), [("Segmenter", "Classifier"), ("Classifier", "Segmenter")])
def test_a_trainer_of_another_kind_of_target_is_refused(target, trainer, tmp_path):
    parts = {
        "target": {"_target_": f"lightning_xai.targets.{target}Target"},
        "target_trainer": {"module": {"_target_": f"lightning_xai.targets.training.{trainer.lower()}.{trainer}Task"}},
    }
    with pytest.raises(ValueError, match=f"{target}Target has no weights, and .*{trainer}Task does not train it"):
        target_cache.train_target(cfg_of(tmp_path, **parts), None, tmp_path / "none.ckpt")
