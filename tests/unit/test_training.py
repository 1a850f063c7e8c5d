"""Target training: metrics for every kind of label, the best checkpoint, and a file that a target can load."""

import logging

import lightning
import pytest
import torch
from lightning import LightningDataModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from sklearn.metrics import balanced_accuracy_score, f1_score, roc_auc_score
from torch import nn
from torch.utils.data import DataLoader

from lightning_xai.nets import SmallCNN
from lightning_xai.training import TargetTrainer, classifier_metrics, fit_target, warn_if_weak
from lightning_xai.weights import load_model


class Bars(LightningDataModule):
    """Noise with a bright bar: horizontal (0) or vertical (1), in units far from 0 and 1."""

    def __init__(self, label):
        super().__init__()
        self.label = label

    def images(self, seed, count=64):
        torch.manual_seed(seed)
        samples = []
        for i in range(count):
            image, place = 100 + torch.rand(1, 12, 12), int(torch.randint(3, 9, ()))
            image[(0, place) if i % 2 == 0 else (0, slice(None), place)] += 2
            samples.append({"image": image, "label": self.label(i % 2), "id": f"{seed}_{i}"})
        return samples

    def train_dataloader(self):
        return DataLoader(self.images(0), batch_size=16, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.images(1), batch_size=16)

    def test_dataloader(self):
        return DataLoader(self.images(2), batch_size=24)


def make_trainer(tmp_path, epochs=4, patience=5):
    return Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        callbacks=[
            EarlyStopping("target/val_loss", patience=patience),
            ModelCheckpoint(tmp_path, "best", monitor="target/val_loss", enable_version_counter=False),
        ],
    )


LABELS = {
    "two classes": (2, "softmax", int),
    "one logit": (1, "sigmoid", int),
    "several labels": (3, "sigmoid", lambda k: torch.tensor([float(k == 0), float(k == 1), 1.0])),
}


@pytest.mark.parametrize("case", LABELS)
@pytest.mark.filterwarnings("ignore:No negative samples")
def test_learns_and_reports(tmp_path, case):
    classes, activation, label = LABELS[case]
    lightning.seed_everything(0, verbose=False)
    module = TargetTrainer(SmallCNN(1, classes, widths=(8, 16)), classes, activation, [100.5], [0.6], lr=1e-2)
    metrics = fit_target(module, make_trainer(tmp_path, epochs=6), Bars(label))
    assert metrics.keys() == {"accuracy", "balanced_accuracy", "auc", "f1", "ece", "loss"}
    assert metrics["accuracy"] > 0.9, metrics
    assert metrics["ece"] < 0.5 and metrics["loss"] < 0.6


def test_best_epoch_is_restored_and_early_stop_works(tmp_path):
    lightning.seed_everything(0, verbose=False)

    class GetsWorse(TargetTrainer):
        """Learns in the first epoch, then is spoilt on purpose."""

        def on_train_epoch_start(self):
            if self.current_epoch > 1:
                self.model.head.bias.data = torch.tensor([50.0, -50.0])

    module = GetsWorse(SmallCNN(1, 2, widths=(8, 16)), 2, mean=[100.5], std=[0.6], lr=1e-2)
    trainer = make_trainer(tmp_path, epochs=20, patience=2)
    fit_target(module, trainer, Bars(int))
    assert trainer.current_epoch < 10, "no early stop"
    assert module.model.head.bias.abs().max() < 5, "the last weights were kept, not the best"


def test_checkpoint_is_a_weights_file(tmp_path):
    lightning.seed_everything(0, verbose=False)
    module = TargetTrainer(SmallCNN(1, 2, widths=(4,)), 2, mean=[100.5], std=[0.6], class_names=["lying", "standing"])
    fit_target(module, make_trainer(tmp_path, epochs=1), Bars(int))
    model, info = load_model(SmallCNN(1, 2, widths=(4,)), tmp_path / "best.ckpt")
    assert (info.mean, info.std, info.class_names, info.prefix) == ([100.5], [0.6], ["lying", "standing"], "model.")
    images = torch.stack([sample["image"] for sample in Bars(int).images(3, 4)])
    with torch.no_grad():
        assert torch.equal(model.eval()((images - 100.5) / 0.6), module.eval()(images))
    assert all(key.startswith("model.") for key in module.state_dict()), "statistics leak into the checkpoint"


def test_metrics_agree_with_sklearn():
    torch.manual_seed(0)
    p, y = torch.rand(200, 4).softmax(1), torch.randint(0, 4, (200,))
    found = classifier_metrics(4, "softmax")
    found.update(p, y)
    values, guess = {k: float(v) for k, v in found.compute().items()}, p.argmax(1)
    assert values["accuracy"] == pytest.approx(float((guess == y).float().mean()))
    assert values["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(y, guess))
    assert values["f1"] == pytest.approx(f1_score(y, guess, average="macro"))
    assert values["auc"] == pytest.approx(roc_auc_score(y, p, multi_class="ovr"), abs=1e-5)


@pytest.mark.parametrize("classes", [1, 3])
def test_sigmoid_metrics_agree_with_sklearn(classes):
    torch.manual_seed(0)
    p, y = torch.rand(200, classes), (torch.rand(200, classes) < 0.2).long()
    found = classifier_metrics(classes, "sigmoid")
    found.update(p.squeeze(1), y.squeeze(1))
    values, columns = {k: float(v) for k, v in found.compute().items()}, range(classes)
    expected = [balanced_accuracy_score(y[:, k], p[:, k] > 0.5) for k in columns]
    assert values["balanced_accuracy"] == pytest.approx(sum(expected) / classes)
    assert values["auc"] == pytest.approx(roc_auc_score(y, p), abs=1e-5)
    bins = (p * 15).ceil().long().clamp(min=1)
    gaps = [(p[bins == k] - y[bins == k]).sum().abs() for k in range(1, 16)]
    assert values["ece"] == pytest.approx(float(sum(gaps)) / y.numel(), abs=1e-5)


@pytest.mark.parametrize(("accuracy", "warns"), [(0.62, True), (0.95, False), (float("nan"), True)])
def test_weak_target_warns_in_plain_words(caplog, accuracy, warns):
    with caplog.at_level(logging.WARNING):
        warn_if_weak({"accuracy": accuracy}, 0.9)
    assert ("a map of a bad model is worthless" in caplog.text) == warns


def test_unknown_activation():
    with pytest.raises(ValueError, match="activation is 'relu'; use 'softmax'"):
        TargetTrainer(nn.Identity(), 2, "relu")


@pytest.mark.parametrize("size", [(28, 28), (13, 17), (12, 12, 12)])
def test_small_cnn_keeps_a_quarter_of_the_resolution(size):
    net = SmallCNN(2, 3, spatial_dims=len(size))
    images = torch.rand(2, 2, *size)
    assert net(images).shape == (2, 3)
    assert net.features(images).shape[2:] == tuple(side // 4 for side in size)
