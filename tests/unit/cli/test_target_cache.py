"""The target of a run: under which key it is kept, who waits for it, and which trainer it takes."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

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


def test_an_interrupted_training_goes_on_only_with_its_recipe(tmp_path, monkeypatch):
    begun = []
    trainer = SimpleNamespace(checkpoint_callback=SimpleNamespace(best_model_path=tmp_path / "best"))
    monkeypatch.setattr(target_cache, "instantiate", lambda _: trainer)
    monkeypatch.setattr(target_cache, "target_module", lambda _: None)
    (tmp_path / "best").write_text("weights")

    def fit(module, trainer, data, last):
        begun.append(last)
        (tmp_path / "target" / "last.ckpt").write_text("half")
        if len(begun) < 4:
            raise KeyboardInterrupt
        return {}

    monkeypatch.setattr(target_cache, "fit_target", fit)
    cfg = cfg_of(tmp_path, target_trainer={"trainer": {}})
    for recipe in ("first", "first", "second"):
        with pytest.raises(KeyboardInterrupt):
            target_cache.begin_target(cfg, None, tmp_path / "targets" / f"{recipe}.ckpt")
    target_cache.begin_target(cfg, None, tmp_path / "targets" / "second.ckpt")
    last = str(tmp_path / "target" / "last.ckpt")
    assert begun == [None, last, None, last]
    assert not list((tmp_path / "target").iterdir()), "what is kept needs no more"


@pytest.mark.parametrize(("target", "trainer"), [("Segmenter", "Classifier"), ("Classifier", "Segmenter")])
def test_a_trainer_of_another_kind_of_target_is_refused(target, trainer, tmp_path):
    parts = {
        "target": {"_target_": f"lightning_xai.targets.{target}Target"},
        "target_trainer": {"module": {"_target_": f"lightning_xai.targets.training.{trainer.lower()}.{trainer}Task"}},
    }
    with pytest.raises(ValueError, match=f"{target}Target has no weights, and .*{trainer}Task does not train it"):
        target_cache.train_target(cfg_of(tmp_path, **parts), None, tmp_path / "none.ckpt")


class Published(nn.Linear):
    """A network that says what its weights were trained with."""

    def __init__(self, outputs, mean=None):
        super().__init__(4, outputs)
        self.published_mean = self.published_std = mean

    def forward(self, images):
        return super().forward(images.flatten(1))


def with_network(name, **changes):
    target = {"_target_": "lightning_xai.targets.ClassifierTarget", "name": "some", "pretrained": True, "model": {}}
    target["model"] = {"_target_": f"{__name__}.{name}", "outputs": 3} | changes.pop("model", {})
    target |= {"encoder": None, "folder": "x", "mean": "published", "std": "published", "weights": None}
    target |= {"activation": "softmax", "class_names": ["a", "b", "c"]}
    module = {"_target_": "lightning_xai.targets.training.classifier.ClassifierTask"}
    info = {"mean": [0.1], "std": [0.2], "classes": 3}
    return cfg_of("run", target=target | changes, target_trainer={"module": module}, data_info=info)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"model": {"mean": [0.7]}}, ([0.7], [0.7])),
        ({}, ([0.1], [0.2])),
        ({"model": {"mean": [0.7]}, "mean": [0.5], "std": [0.4]}, ([0.5], [0.4])),
        ({"model": {"mean": [0.7]}, "mean": None, "std": None}, (None, None)),
    ],
)
def test_a_target_has_the_statistics_of_its_networks_published_weights(given, expected):
    cfg = with_network("Published", **given)
    target, module = target_cache.make_target(cfg, None), target_cache.target_module(cfg)
    found = [None if each is None else pytest.approx(each.tolist()) for each in (target.mean, target.std)]
    assert found == list(expected) and [module.hparams[name] for name in ("mean", "std")] == list(expected)
    assert cfg.target.name == "some", "the config is left as it is"


def test_what_a_network_is_chosen_by_is_in_the_key():
    assert key_of("target.name=x") != key_of() and key_of("target.pretrained=true") != key_of()


def test_the_weights_of_a_target_are_loaded_into_its_network(tmp_path):
    network = Published(3)
    torch.save(network.state_dict(), tmp_path / "net.pt")
    cfg = with_network("Published")
    assert target_cache.make_target(cfg, tmp_path / "net.pt").fingerprint() == (
        target_cache.make_target(cfg, str(tmp_path / "net.pt")).fingerprint()
    )
    assert torch.equal(target_cache.make_target(cfg, tmp_path / "net.pt").model.weight, network.weight)
