"""A training that ends anywhere, and goes on from last.ckpt, ends like one that was never interrupted."""

import os
import signal

import numpy as np
import pytest
import torch
from lightning import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from monai.transforms.intensity.dictionary import RandGaussianNoised
from monai.transforms.spatial.dictionary import RandFlipd

from lightning_xai import ClassifierTarget, SegmenterTarget
from lightning_xai.callbacks import LastCheckpoint
from lightning_xai.data import Item
from lightning_xai.explainers import CAPE, AmortizedPCIM, UNoise
from lightning_xai.functional.checkpoint_io import WholeCheckpoints
from lightning_xai.functional.interruption import interruption
from lightning_xai.loggers import RunCSVLogger
from lightning_xai.targets.training.classifier import ClassifierTask
from tests.helpers import cnn, segmenter
from tests.unit.conftest import ArrayData

STEPS = 4  # an epoch: 13 training images, 4 a batch
EPOCHS = 3


class Killed(BaseException):
    """As a kill: nothing that runs at an ordinary end runs."""


class At(Callback):
    """Does something when a step, or the validation after it, has come so far."""

    def __init__(self, do, step, hook="on_train_batch_end"):
        self.do, self.step = do, step
        setattr(self, hook, self._look)

    def _look(self, trainer, *_):
        if trainer.global_step == self.step and not trainer.sanity_checking:
            self.do()


def kill():
    raise Killed


def tell_to_end():
    os.kill(os.getpid(), signal.SIGTERM)


def data_of(masks):
    rng = np.random.default_rng(0)
    splits = ["train"] * 13 + ["val"] * 4 + ["test"] * 3
    items = [
        Item(
            f"i{i}",
            rng.integers(0, 256, (16, 16), np.uint8),
            i % 3,
            split=split,
            mask=rng.integers(0, 3, (16, 16), np.uint8) if masks else None,
        )
        for i, split in enumerate(splits)
    ]
    changes = [RandFlipd(["image"], 0.5, 0), RandGaussianNoised(["image"], prob=0.5)]
    classes = ["x", "y", "z"] if masks else None
    return ArrayData(items, ["a", "b", "c"], batch_size=4, augment=changes, seed=3, mask_classes=classes)


def amortized():
    return AmortizedPCIM(ClassifierTarget(cnn())), data_of(masks=False)


def unoise():
    return UNoise(SegmenterTarget(segmenter())), data_of(masks=True)


def cape():
    explainer, data = CAPE(ClassifierTarget(cnn()), lr=0.1), data_of(masks=False)
    data.setup()
    return explainer, explainer.fit_data(data)


def target():
    return ClassifierTask(cnn(), 3, lr=0.05), data_of(masks=False)


def fit(folder, make, *extra, go_on=False, save_every=2, **options):
    seed_everything(1, verbose=False)
    module, data = make()
    monitor = "target/val_loss" if make is target else "val/loss"
    best = ModelCheckpoint(folder, "best", monitor, enable_version_counter=False)
    trainer = Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        logger=RunCSVLogger(folder),
        callbacks=[*extra, best, LastCheckpoint(folder, save_every)],
        default_root_dir=folder,
        plugins=[WholeCheckpoints()],
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(module, data, ckpt_path=folder / "last.ckpt" if go_on else None, weights_only=True)
    return module


def whole(tmp_path_factory, make, **options):
    folder = tmp_path_factory.mktemp("whole")
    return fit(folder, make, **options).state_dict(), folder


def assert_the_same(folder, module, reference):
    state, whole_folder = reference
    for name, value in module.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert (folder / "metrics.csv").read_text() == (whole_folder / "metrics.csv").read_text()
    best, expected = (torch.load(path / "best.ckpt", weights_only=True) for path in (folder, whole_folder))
    assert best["global_step"] == expected["global_step"]
    for name, value in best["state_dict"].items():
        assert torch.equal(value, expected["state_dict"][name]), name


@pytest.mark.parametrize("make", [amortized, unoise, cape, target])
def test_killed_within_an_epoch_or_after_it(tmp_path_factory, make):
    reference = whole(tmp_path_factory, make)
    for step, save_every in ((3, 2), (4, 2), (7, 2), (10, 2), (12, 2), (5, None), (12, None)):
        folder = tmp_path_factory.mktemp("killed")
        with pytest.raises(Killed):
            fit(folder, make, At(kill, step), save_every=save_every)
        assert_the_same(folder, fit(folder, make, go_on=True, save_every=save_every), reference)


def test_a_training_that_was_stopped_early_is_over(tmp_path_factory):
    """Also where it was killed after that, in its test."""
    folder = tmp_path_factory.mktemp("early")

    def early():
        return EarlyStopping("target/val_loss", patience=1, min_delta=1e9)

    once = fit(folder, target, early()).state_dict()
    last = torch.load(folder / "last.ckpt", weights_only=True)
    assert last["epoch"] == 1, "before the last epoch"
    again = fit(folder, target, early(), go_on=True).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in once.items())
    assert torch.load(folder / "last.ckpt", weights_only=True)["epoch"] == 1


@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_validation_batch_end"])
@pytest.mark.parametrize("make", [amortized, target])
def test_told_to_end(tmp_path_factory, make, hook):
    reference = whole(tmp_path_factory, make, save_every=None)
    for step in (1, 4, 6, 8, 11, 12) if hook == "on_train_batch_end" else (4, 8, 12):
        folder = tmp_path_factory.mktemp("told")
        with pytest.raises(SystemExit) as left:
            fit(folder, make, At(tell_to_end, step, hook), save_every=None)
        assert left.value.code == 128 + signal.SIGTERM
        last = torch.load(folder / "last.ckpt", weights_only=True)
        assert last["global_step"] == step, "the newest state is saved"
        assert_the_same(folder, fit(folder, make, go_on=True, save_every=None), reference)
    assert interruption.received is None


def test_several_interruptions_with_accumulated_gradients(tmp_path_factory):
    reference = whole(tmp_path_factory, target, accumulate_grad_batches=3)
    folder = tmp_path_factory.mktemp("often")
    for number, step in enumerate((1, 3, 5)):
        with pytest.raises(SystemExit):
            fit(folder, target, At(tell_to_end, step), go_on=number > 0, accumulate_grad_batches=3)
    assert_the_same(folder, fit(folder, target, go_on=True, accumulate_grad_batches=3), reference)


def test_workers_make_no_difference(tmp_path_factory):
    """What is drawn for an image of an epoch is the same in every process, before and after an interruption."""
    seen = []
    for workers in (0, 2):
        data = data_of(masks=False)
        data.num_workers = workers
        data.setup()
        loader = data.train_dataloader()
        seen.append([torch.cat([batch["image"] for batch in loader]) for _ in range(2)])
        loader.load_state_dict({"epoch": 1, "batches": 2})
        assert torch.equal(torch.cat([batch["image"] for batch in loader]), seen[-1][1][8:])
    assert all(torch.equal(*pair) for pair in zip(*seen, strict=True))
    assert not torch.equal(*seen[0])
