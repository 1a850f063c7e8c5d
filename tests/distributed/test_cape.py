"""CAPE on two ranks: features are written once, the head is fitted as in DDP, TS trains the classifier on both."""

import json

import pytest
import torch

import train
from tests.distributed.ranks import run_train
from tests.running import bars_npz, configure, rows


@pytest.mark.parametrize("mode", ["pf", "ts"])
def test_two_ranks_fit_and_judge_as_one_process_judges(on_two_ranks, mode, tmp_path):
    bars = bars_npz(tmp_path / "bars.npz", counts=(16, 7, 9)).split()
    folder = tmp_path / "run"
    cape = ("explainer=cape", f"explainer.mode={mode}", "explainer.cache=file", "explainer.lr=0.05")
    if mode == "ts":
        cape += ("target.weights=builtin",)
    on_two_ranks(run_train, folder, [*bars, *cape, "trainer.max_epochs=2"])
    features = tmp_path / "targets" / "features"
    assert len(list(features.iterdir()) if features.is_dir() else []) == (2 if mode == "pf" else 0)
    checkpoint = folder / "checkpoints" / "best.ckpt"
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert ("backbone.head.weight" in state) == (mode == "ts") and state["log_temperatures"].any()
    alone = tmp_path / "alone"
    train.main(configure(alone, *bars, *cape, "task=test", f"ckpt_path={checkpoint}"))
    shared, single = (
        {(row["metric"], row["id"], row["target"]): float(row["value"] or "nan") for row in rows(path)}
        for path in (folder / "per_image.csv", alone / "per_image.csv")
    )
    assert len({key[1] for key in shared}) == 9 and shared == pytest.approx(single, abs=1e-5, nan_ok=True)
    agreements = [json.loads((path / "summary.json").read_text())["logged"]["agreement"] for path in (folder, alone)]
    assert agreements[0] == pytest.approx(agreements[1], abs=1e-6), "the image that pads the second rank counts once"
