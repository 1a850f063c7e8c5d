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

from lightning_xai import ClassifierTarget
from lightning_xai.functional.segmentation import IGNORED
from lightning_xai.networks.mask_net import SmallCNN
from lightning_xai.targets.training.class_metrics import classifier_metrics
from lightning_xai.targets.training.classifier import ClassifierTask, fit_target, warn_if_weak
from lightning_xai.targets.weights import load_model


class Bars(LightningDataModule):
    """Noise with a bright bar: horizontal (0) or vertical (1), in units far from 0 and 1."""

    def __init__(self, label):
        super().__init__()
        self.label = label

    def images(self, seed, count=64):
        torch.manual_seed(seed)
        samples = []
        for i in range(count):
            image, position = 100 + torch.rand(1, 12, 12), int(torch.randint(3, 9, ()))
            image[(0, position) if i % 2 == 0 else (0, slice(None), position)] += 2
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
    module = ClassifierTask(SmallCNN(1, classes, widths=(8, 16)), classes, activation, [100.5], [0.6], lr=1e-2)
    metrics = fit_target(module, make_trainer(tmp_path, epochs=6), Bars(label))
    assert metrics.keys() == {"accuracy", "balanced_accuracy", "auc", "f1", "ece", "absent_classes", "loss"}
    assert metrics["accuracy"] > 0.9, metrics
    assert metrics["ece"] < 0.5 and metrics["loss"] < 0.6


def test_best_epoch_is_restored_and_early_stop_works(tmp_path):
    lightning.seed_everything(0, verbose=False)

    class GetsWorse(ClassifierTask):
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
    module = ClassifierTask(SmallCNN(1, 2, widths=(4,)), 2, mean=[100.5], std=[0.6], class_names=["lying", "standing"])
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


def batch_of(labels, side=12):
    return {"image": torch.rand(len(labels), 1, side, side), "label": labels, "id": list("abcdefgh")[: len(labels)]}


def test_one_logit_of_two_named_classes_is_a_binary_classifier(tmp_path):
    """As the command line makes it: two folders, target.model.num_classes=1 target.activation=sigmoid."""
    lightning.seed_everything(0, verbose=False)
    names = ["lying", "standing"]
    module = ClassifierTask(SmallCNN(1, 1, widths=(8, 16)), 2, "sigmoid", [100.5], [0.6], names, lr=1e-2)
    metrics = fit_target(module, make_trainer(tmp_path, epochs=6), Bars(int))
    assert metrics["accuracy"] > 0.9 and metrics["balanced_accuracy"] > 0.9 and metrics["auc"] > 0.9, metrics
    net = SmallCNN(1, 1, widths=(8, 16))
    target = ClassifierTarget(net, "sigmoid", weights=tmp_path / "best.ckpt", class_names=names)
    batch = next(iter(Bars(int).test_dataloader()))
    found = target.query(batch["image"], None, None).targets[:, 0]
    assert (found == batch["label"]).float().mean() > 0.9, "class 1 is the positive one"


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.filterwarnings("ignore:No positive samples")
def test_a_sigmoid_learns_exclusive_classes_one_against_the_rest(tmp_path, classes):
    lightning.seed_everything(0, verbose=False)
    module = ClassifierTask(SmallCNN(1, classes, widths=(8, 16)), classes, "sigmoid", [100.5], [0.6], lr=1e-2)
    logits, labels = torch.randn(3, classes), torch.tensor([0, 1, 1])
    one_hot = torch.eye(classes)[labels]
    expected = -(one_hot * logits.sigmoid().log() + (1 - one_hot) * (1 - logits.sigmoid()).log()).mean()
    assert float(module._loss(logits, {"label": labels})) == pytest.approx(float(expected), rel=1e-4)
    metrics = fit_target(module, make_trainer(tmp_path, epochs=6), Bars(int))
    assert metrics["accuracy"] > 0.9, metrics


def test_accuracy_of_exclusive_classes_is_that_of_the_largest_probability():
    """Not the fraction of right yes and no: always no would be right nine times of ten."""
    module = ClassifierTask(nn.Flatten(), 4, "sigmoid")
    logits = -torch.eye(4) - 1
    batch = {"label": torch.arange(4)}
    metrics = module.metrics_of(logits, batch)
    metrics.update(*module.judged(logits, batch))
    assert float(metrics.compute()["accuracy"]) == 0


MISFITS = {
    "softmax of one": (1, 2, "softmax", [0, 1], "one logit, whose softmax is always 1; use target.activation=sigmoid"),
    "too many": (5, 2, "softmax", [0, 1], "gives 5 logits, but the data have 2 classes.*or one with target.activation"),
    "too few": (2, 3, "softmax", [0, 2], r"gives 2 logits, but the data have 3 classes; give it 3 outputs"),
    "one of three": (1, 3, "sigmoid", [0, 2], "gives 1 logit, but the data have 3 classes"),
    "sigmoid": (4, 3, "sigmoid", [0, 2], "gives 4 logits, but the data have 3 classes"),
    "one of several": (1, 2, "sigmoid", [[0, 1], [1, 1]], "gives 1 logit, but the data have 2 classes"),
    "multi-hot": (2, 2, "softmax", [[0.0, 1.0], [1.0, 1.0]], "several labels, but the target's activation is softmax"),
    "no labels": (2, 2, "softmax", None, "no labels to train a classifier with"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_logits_that_do_not_fit_the_data_are_refused_before_a_step(case):
    outputs, classes, activation, labels, words = MISFITS[case]
    module = ClassifierTask(SmallCNN(1, outputs, widths=(4,)), classes, activation)
    batch = batch_of(torch.zeros(2) if labels is None else torch.tensor(labels))
    if labels is None:
        del batch["label"]
    before = {name: value.clone() for name, value in module.named_parameters()}
    for step in (module.training_step, module.validation_step):
        with pytest.raises(ValueError, match=words):
            step(batch, 0)
    assert all(torch.equal(value, before[name]) for name, value in module.named_parameters())


class TrainsWithParts(nn.Module):
    """A network that returns more than its logits while it trains, and writes into its input."""

    def __init__(self, parts_of):
        super().__init__()
        self.net, self.parts_of = SmallCNN(1, 2, widths=(8, 16)), parts_of

    def forward(self, x):
        y = self.net(x.mul_(1))
        return self.parts_of(y) if self.training else {"logits": y}


@pytest.mark.parametrize(
    ("parts_of", "output"),
    [
        (lambda y: (y, y.mean()), None),
        (lambda y: {"aux": 0 * y, "out": y}, None),
        (lambda y: [0 * y, y], lambda found: found[-1] if isinstance(found, list) else found["logits"]),
    ],
)
def test_networks_that_return_more_than_logits_train(tmp_path, parts_of, output):
    lightning.seed_everything(0, verbose=False)
    module = ClassifierTask(TrainsWithParts(parts_of), 2, mean=[100.5], std=[0.6], lr=1e-2, output=output)
    assert fit_target(module, make_trainer(tmp_path, epochs=6), Bars(int))["accuracy"] > 0.9
    target = ClassifierTarget(TrainsWithParts(parts_of), weights=tmp_path / "best.ckpt", output=output)
    batch = next(iter(Bars(int).test_dataloader()))
    assert torch.allclose(target.logits(batch["image"]), module.eval()(batch["image"]).detach(), atol=1e-5)


def test_training_leaves_the_images_alone():
    class Writes(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = SmallCNN(1, 2, widths=(4,))

        def forward(self, x):
            return self.net(x.sub_(0.5))

    batch = batch_of(torch.tensor([0, 1]))
    copy = batch["image"].clone()
    ClassifierTask(Writes(), 2)(batch["image"]).sum().backward()
    assert torch.equal(batch["image"], copy)


@pytest.mark.parametrize(("accuracy", "warns"), [(0.62, True), (0.95, False), (float("nan"), True)])
def test_weak_target_warns_in_plain_words(caplog, accuracy, warns):
    with caplog.at_level(logging.WARNING):
        warn_if_weak({"accuracy": accuracy}, 0.9)
    assert ("a map of a bad model is worthless" in caplog.text) == warns


def test_unknown_activation():
    with pytest.raises(ValueError, match="activation is 'relu'; use 'softmax'"):
        ClassifierTask(nn.Identity(), 2, "relu")


@pytest.mark.parametrize("size", [(28, 28), (13, 17), (12, 12, 12)])
def test_small_cnn_keeps_a_quarter_of_the_resolution(size):
    net = SmallCNN(2, 3, spatial_dims=len(size))
    images = torch.rand(2, 2, *size)
    assert net(images).shape == (2, 3)
    assert net.features(images).shape[2:] == tuple(side // 4 for side in size)


@pytest.mark.parametrize("outputs", [1, 3])
def test_uncertain_labels_are_left_out_of_training(outputs):
    task = ClassifierTask(nn.Sequential(nn.Flatten(), nn.Linear(16, outputs)), outputs, activation="sigmoid")
    images, labels = torch.rand(6, 1, 4, 4), torch.randint(0, 2, (6, outputs)).float()
    labels[::2, -1] = IGNORED
    loss = task.training_step({"image": images, "label": labels}, 0)
    logits, known = task(images), labels >= 0
    torch.testing.assert_close(loss, nn.functional.binary_cross_entropy_with_logits(logits[known], labels[known]))
