"""A given target is measured on two ranks as in one process: every test image counts once."""

import json

import pytest
import torch
from lightning import LightningDataModule, Trainer
from torch.utils.data import DataLoader

from lightning_xai import ClassifierTarget, SegmenterTarget
from lightning_xai.networks.mask_net import SmallCNN
from lightning_xai.targets.testing import measure
from tests.distributed.ranks import run_train
from tests.distributed.test_logged import QUIET, classifier, samples
from tests.helpers import segmenter
from tests.running import bars_npz


class Samples(LightningDataModule):
    def __init__(self, count, batch_size, several=False):
        super().__init__()
        self.items, self.batch_size = samples(count), batch_size
        for number, item in enumerate(self.items if several else ()):
            item["label"] = torch.tensor([number % 2, 1 - number % 2, int(number % 3 == 0)])

    def test_dataloader(self):
        return DataLoader(self.items, batch_size=self.batch_size)


def measured(rank, kind, count, batch_size, ranks):
    """The numbers of a target, and the sentence about its classes."""
    strategy = {"strategy": "ddp", "devices": ranks} if ranks > 1 else {"devices": 1}
    trainer = Trainer(accelerator="cpu", **QUIET, **strategy)
    torch.manual_seed(0)
    if kind == "segmenter":
        target = SegmenterTarget(segmenter())
    else:
        target = ClassifierTarget(classifier(), "sigmoid" if kind == "several labels" else "softmax")
    return measure(target, trainer, Samples(count, batch_size, kind == "several labels"), list("abc"))


@pytest.mark.parametrize("kind", ["classifier", "several labels", "segmenter"])
@pytest.mark.parametrize("count", [13, 1])
def test_the_numbers_and_what_is_said_are_those_of_one_process(on_two_ranks, kind, count):
    numbers, said = measured(0, kind, count, 4, 1)
    for found, sentence in on_two_ranks(measured, kind, count, 2, 2):
        assert found == pytest.approx(numbers, abs=1e-5, nan_ok=True) and sentence == said
    if kind == "classifier" and count > 1:
        assert said is not None and "labels" in said, "the untrained network is at chance"


def test_a_run_on_two_ranks_measures_it_once(on_two_ranks, tmp_path):
    torch.manual_seed(0)
    torch.save(SmallCNN(1, 2, widths=(4, 8)).state_dict(), tmp_path / "net.pt")
    words = [*bars_npz(tmp_path / "bars.npz").split(), f"target.weights={tmp_path / 'net.pt'}", "explainer=edge_map"]
    results = on_two_ranks(run_train, tmp_path / "run", words)
    kept = json.loads((tmp_path / "run" / "target_quality.json").read_text())
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert kept and summary["target"] == {f"target/{name}": value for name, value in kept.items()}
    assert results[0]["target/accuracy"] == kept["accuracy"] and kept["absent_classes"] == 0
