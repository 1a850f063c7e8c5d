"""What is logged on two ranks is what one process logs: each image counts once, and train/loss is that of all ranks."""

import lightning
import pytest
import torch
from lightning import Trainer
from torch.utils.data import DataLoader

from lightning_xai import ClassifierTarget, SegmenterTarget
from lightning_xai.explainers import CAPE, AmortizedPCIM, UNoise
from lightning_xai.networks.mask_net import SmallCNN
from lightning_xai.targets.training.classifier import ClassifierTask
from lightning_xai.targets.training.segmenter import SegmenterTask
from tests.helpers import segmenter

QUIET = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False, "enable_model_summary": False}


def samples(count):
    generator = torch.Generator().manual_seed(1)
    return [
        {
            "image": torch.rand(1, 16, 16, generator=generator),
            "label": torch.randint(0, 3, (), generator=generator),
            "mask": torch.randint(0, 3, (1, 16, 16), generator=generator),
            "id": f"i{number}",
        }
        for number in range(count)
    ]


def classifier():
    net = SmallCNN(1, 3)
    net.head.weight.data.mul_(30)
    return net


KINDS = {
    "cape": lambda: CAPE(ClassifierTarget(classifier()), cache=None),
    "amortized_pcim": lambda: AmortizedPCIM(ClassifierTarget(classifier())),
    "unoise": lambda: UNoise(SegmenterTarget(segmenter(), class_names=list("abc")), channels=1, per_class=True),
    "unoise_visibility": lambda: UNoise(SegmenterTarget(segmenter()), channels=1, objective="visibility"),
    "classifier": lambda: ClassifierTask(classifier(), 3),
    "segmenter": lambda: SegmenterTask(segmenter(), 3),
}


def logged(rank, kind, count, batch_size, ranks, stage):
    """The numbers of an evaluation, or of an epoch of training, in this process."""
    lightning.seed_everything(0, verbose=False)
    module = KINDS[kind]()
    strategy = {"strategy": "ddp", "devices": ranks} if ranks > 1 else {"devices": 1}
    trainer = Trainer(accelerator="cpu", max_epochs=1, num_sanity_val_steps=0, **QUIET, **strategy)
    loader = DataLoader(samples(count), batch_size=batch_size)
    if stage == "fit":
        trainer.fit(module, loader)
    else:
        getattr(trainer, stage)(module, loader, verbose=False)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


@pytest.mark.parametrize(
    ("kind", "stage", "count"),
    [
        *((kind, "validate", 9) for kind in KINDS),
        *((kind, "test", 7) for kind in ("cape", "classifier")),
        *(
            (kind, "validate", 1) for kind in ("cape", "classifier", "segmenter")
        ),  # the second rank has nothing but a repeat
    ],
)
def test_an_evaluation_counts_each_image_once(on_two_ranks, kind, stage, count):
    alone = logged(0, kind, count, 4, 1, stage)
    assert any("loss" in name for name in alone)
    for shared in on_two_ranks(logged, kind, count, 2, 2, stage):
        assert shared == pytest.approx(alone, abs=1e-5, nan_ok=True)


@pytest.mark.parametrize(("kind", "name"), [("cape", "train/loss"), ("classifier", "target/train_loss")])
def test_the_training_loss_is_that_of_all_ranks(on_two_ranks, kind, name):
    """One step of 8 images, on two ranks of 4 each."""
    alone = logged(0, kind, 8, 8, 1, "fit")
    first, second = on_two_ranks(logged, kind, 8, 4, 2, "fit")
    assert first == second, "ranks disagree"
    # Batch norms see the images of their rank alone, so a classifier's loss differs a little.
    assert first[name] == pytest.approx(alone[name], abs=1e-5 if kind == "cape" else 0.5)
