"""debug=...: quick runs that find mistakes before a long one does."""

import pytest

import train
from tests.running import bars_npz, configure, rows

BATCH = 8


@pytest.fixture
def bars(tmp_path):
    return bars_npz(tmp_path / "bars.npz", counts=(32, 16, 16)).split()


@pytest.mark.parametrize("words", [("explainer=amortized_pcim",), ("explainer=grad_cam", "task=global")])
def test_a_fast_dev_run_goes_through_every_stage_with_one_batch(words, bars, tmp_path):
    few = ("global.samples=5", "global.random_orders=1") if "task=global" in words else ()
    results = train.main(configure(tmp_path / "run", *bars, "debug=fast_dev_run", *words, *few))
    assert {name.partition("/")[0] for name in results} >= {"target", "global" if few else "test"}
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert not left & {"metrics.csv", "checkpoints", "wandb"}
    if not few:
        assert len({row["id"] for row in rows(tmp_path / "run" / "per_image.csv")}) == BATCH


def test_overfit_sees_the_same_two_batches_in_every_epoch(bars, tmp_path):
    cfg = configure(tmp_path / "run", *bars, "debug=overfit")
    assert cfg.trainer.max_epochs == 1, "the command line wins"
    cfg.trainer.max_epochs = 12
    train.main(cfg)
    losses = [float(row["train/loss"]) for row in rows(tmp_path / "run" / "metrics.csv") if row["train/loss"]]
    assert len(losses) == 2 * 12 and sum(losses[-4:]) < sum(losses[:4])
