"""A network in shards learns and explains what whole copies do."""

import pytest
import torch
from lightning import Trainer

from lightning_xai import ClassifierTarget
from lightning_xai.explainers import AmortizedPCIM
from lightning_xai.functional.sharding import FullyShardedStrategy
from tests.distributed.ranks import run_train
from tests.helpers import Blobs, cnn
from tests.running import bars_npz, rows


@pytest.fixture(scope="module")
def bars(tmp_path_factory):
    return bars_npz(tmp_path_factory.mktemp("bars") / "bars.npz", counts=(16, 8, 8)).split()


def test_shards_give_the_numbers_of_whole_copies(on_two_ranks, bars, tmp_path):
    found = {}
    for trainer in ("ddp", "fsdp"):
        words = [*bars, f"trainer={trainer}", "trainer.max_epochs=2"]
        found[trainer] = on_two_ranks(run_train, tmp_path / trainer, words)[0]
    assert found["ddp"] == pytest.approx(found["fsdp"], abs=2e-3) and found["ddp"]
    kept = [
        torch.load(tmp_path / trainer / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for trainer in found
    ]
    assert kept[0].keys() == kept[1].keys()
    for name, value in kept[0].items():
        assert torch.allclose(value, kept[1][name], atol=1e-3), name
    assert len(rows(tmp_path / "fsdp" / "per_image.csv")) == len(rows(tmp_path / "ddp" / "per_image.csv"))


def held(rank):
    """Weights of the network, and how many of them a rank holds in training."""
    explainer = AmortizedPCIM(ClassifierTarget(cnn()))
    trainer = Trainer(
        accelerator="cpu", devices=2, strategy=FullyShardedStrategy(), max_steps=1, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(explainer, Blobs(side=16))
    parameters = list(explainer.net.parameters())
    return sum(one.numel() for one in parameters), sum(one.to_local().numel() for one in parameters)


def test_each_rank_holds_half_of_the_weights(on_two_ranks):
    (whole, first), (_, second) = on_two_ranks(held)
    assert first + second == whole and max(first, second) < 0.6 * whole


def test_what_is_not_in_a_network_is_refused(on_two_ranks, bars, tmp_path):
    with pytest.raises(
        AssertionError, match=r"ValueError: trainer=fsdp shards .* CAPE has other weights, .* trainer=ddp\."
    ):
        on_two_ranks(run_train, tmp_path / "cape", [*bars, "trainer=fsdp", "explainer=cape", "metrics=cape"])
