"""An explainer's training that starts from a checkpoint of another data set and another target."""

import logging

import pytest
import torch

import train
from tests.running import bars_npz, configure

#: A learning rate of 0 leaves the start as it was, so that the checkpoint shows it.
FROZEN = "explainer.lr=0.0"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Checkpoint of a run on two classes with one channel."""
    folder = tmp_path_factory.mktemp("trained")
    train.main(configure(folder / "run", *bars_npz(folder / "bars.npz").split(), "explainer.lr=0.03"))
    return folder / "run" / "checkpoints" / "best.ckpt"


def weights(path):
    return torch.load(path, weights_only=True)["state_dict"]


def fine_tune(folder, trained, *overrides, **data):
    given = [*bars_npz(folder / "bars.npz", **data).split(), f"explainer.init_from={trained}", *overrides]
    result = train.main(configure(folder / "run", *given))
    return result, weights(folder / "run" / "checkpoints" / "best.ckpt")


def halves(folder, start, old, *overrides, **data):
    """How far every weight of ``start`` is from the middle between ``old`` and a fresh start of the same seed."""
    train.main(configure(folder / "fresh", *bars_npz(folder / "fresh.npz", **data).split(), FROZEN, *overrides))
    fresh = weights(folder / "fresh" / "checkpoints" / "best.ckpt")
    return {name: float((value - (old[name] + fresh[name]) / 2).abs().max()) for name, value in start.items()}


def test_another_number_of_classes_starts_half_fresh(tmp_path, trained, caplog):
    with caplog.at_level(logging.INFO, "lightning_xai"):
        result, start = fine_tune(tmp_path, trained, FROZEN, classes=3)
    old = weights(trained)
    per_class = [name for name, value in start.items() if value.shape != old[name].shape]
    assert sorted(per_class) == ["net.head.bias", "net.head.weight"], "only what has a row per class may differ"
    old |= {name: old[name].mean(dim=0, keepdim=True).expand_as(start[name]) for name in per_class}
    off = halves(tmp_path, start, old, classes=3)
    assert max(off.values()) < 1e-5, off
    assert "Fine-tuning from 2 to 3 classes" in caplog.text and "Not taken over" not in caplog.text
    assert "explains another target" in caplog.text
    assert "test/gap" in result


def test_the_same_target_is_taken_over_whole(tmp_path, trained):
    _, start = fine_tune(tmp_path, trained, FROZEN)
    assert all(torch.equal(value, start[name]) for name, value in weights(trained).items())


def test_fine_tuning_goes_on_learning(tmp_path, trained):
    _, tuned = fine_tune(tmp_path, trained, classes=2)
    old = weights(trained)
    assert any(not torch.equal(value, old[name]) for name, value in tuned.items())


def test_another_number_of_channels_says_what_starts_fresh(tmp_path, trained, caplog):
    with caplog.at_level(logging.WARNING, "lightning_xai"):
        result, start = fine_tune(tmp_path, trained, FROZEN, channels=3)
    old = weights(trained)
    other = sorted(name for name, value in start.items() if value.shape != old[name].shape)
    (said,) = [record.getMessage() for record in caplog.records if "Not taken over" in record.getMessage()]
    assert other and f"starts fresh: {', '.join(other)}." in said
    assert not any(torch.equal(value, old[name]) for name, value in start.items() if name.endswith("conv.weight"))
    assert "test/gap" in result


def test_a_resume_with_another_target_is_refused_and_points_to_fine_tuning(tmp_path, trained):
    data = bars_npz(tmp_path / "bars.npz").split()
    with pytest.raises(ValueError, match=r"explains target \w{16}, but this target is \w{16}.*explainer\.init_from="):
        train.main(configure(tmp_path / "run", *data, "target.model.widths=[4,4]", f"ckpt_path={trained}"))


def test_a_checkpoint_of_something_else_is_refused(tmp_path, trained):
    target = next((trained.parents[2] / "targets").glob("*.ckpt"))
    with pytest.raises(ValueError, match=r"Nothing in .*\.ckpt fits this AmortizedPCIM"):
        fine_tune(tmp_path, target)
    with pytest.raises(FileNotFoundError, match=r"init_from names .*nowhere\.ckpt, which does not exist"):
        fine_tune(tmp_path, "nowhere.ckpt")
