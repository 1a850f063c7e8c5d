"""CAPE through train.py: on bars with the whole folder of a run, and on a CIFAR ResNet that someone else trained."""

import json

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

import train
from lightning_xai.cli.components import note_data_info
from lightning_xai.cli.target_cache import build_target
from lightning_xai.explainers import CAPE
from tests.running import CONFIGS, bars_npz, configure

LOGGED = {"loss", "kd", "agreement", "confidence", "target_confidence", "accuracy", "target_accuracy", "t1", "t2", "t3"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run on bars: its folder and what it returned."""
    folder = tmp_path_factory.mktemp("cape") / "run"
    bars = bars_npz(folder.parent / "bars.npz").split()
    cfg = configure(folder, *bars, "explainer=cape", "explainer.cache=file", "metrics=cape", "trainer.max_epochs=2")
    return folder, bars, train.main(cfg)


def test_the_summary_judges_all_three_maps_and_says_how_well_the_head_agrees(finished):
    folder, _, results = finished
    summary = json.loads((folder / "summary.json").read_text())
    assert list(summary["explainers"]) == ["CAPE", "CAPE mu", "CAPE cam"]
    assert set(summary["controls"]) == {"random", "center", "edge"}
    assert set(summary["borda"]) == {"CAPE", "CAPE mu", "CAPE cam"} and sum(summary["borda"].values()) in (9, 12, 15)
    table = ["average_drop", "increase", "drop_in_deletion", "adcc", "top2_iou_scaled"]
    assert summary["borda_metrics"] == table, "the paper's columns, once each"
    assert set(summary["logged"]) == LOGGED and 0 <= summary["logged"]["agreement"] <= 1
    assert summary["logged"]["agreement"] == pytest.approx(results["test/agreement"])
    assert summary["metrics"]["top2_iou_scaled"]["options"] == {"threshold": 0.2, "scaled": "min_max"}


def test_contributions_are_drawn_and_features_are_kept(finished):
    folder, _, _ = finished
    assert len(list((folder / "maps").glob("contributions_*.png"))) == 4
    files = sorted((folder.parent / "targets" / "features").iterdir())
    assert [path.name.partition("_")[2] for path in files] == ["features.npy", "logits.npy"]


def test_the_checkpoint_gives_the_same_numbers_again(finished):
    folder, bars, results = finished
    words = ("explainer=cape", "metrics=cape", "task=test", f"ckpt_path={folder / 'checkpoints' / 'best.ckpt'}")
    again = train.main(configure(folder.parent / "again", *bars, *words))
    assert {name: again[name] for name in again if name.startswith("test/")} == pytest.approx(
        {name: value for name, value in results.items() if name.startswith("test/")}, abs=1e-5
    )


def test_a_classifier_is_trained_along(finished, tmp_path):
    _, bars, _ = finished
    words = ("explainer=cape", "explainer.mode=ts", "explainer.lr=0.1", "target.weights=builtin")
    results = train.main(
        configure(tmp_path / "ts", *bars, *words, "trainer.max_epochs=30", "+trainer.check_val_every_n_epoch=15")
    )
    content = torch.load(tmp_path / "ts" / "checkpoints" / "best.ckpt", weights_only=True)
    assert {"backbone.head.weight", "head.weight", "log_temperatures"} <= set(content["state_dict"])
    assert results["test/target_accuracy"] > 0.8 and "test/ce" in results


def test_a_cifar_resnet_that_someone_else_trained(data_root, tmp_path):
    """The weights fit, the accuracy is the known one, and a short post-fitting follows the model."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose("train", ["experiment=cape_cifar", f"run_dir={tmp_path}", "data.limit=600"])
    data = instantiate(cfg.data)
    data.setup()
    note_data_info(cfg, data)
    target, _ = build_target(cfg, data)
    cape = CAPE(target, lr=0.01, anchor=1.0)
    quiet = {"logger": False, "callbacks": [], "enable_checkpointing": False, "enable_progress_bar": False}
    before = target.fingerprint()
    instantiate(cfg.trainer, **quiet, max_epochs=5, limit_val_batches=0).fit(cape, datamodule=cape.fit_data(data))
    batches = list(data.test_dataloader())
    own, model = (
        torch.cat([ask(batch["image"]).detach() for batch in batches]) for ask in (cape.probabilities, target.predict)
    )
    labels = torch.cat([batch["label"] for batch in batches])
    assert target.fingerprint() == before and len(labels) == 600
    assert 0.80 < (model.argmax(dim=1) == labels).float().mean() < 0.87, "ResNet-56 has 0.832 on all JPG copies"
    assert (own.argmax(dim=1) == model.argmax(dim=1)).float().mean() > 0.92
