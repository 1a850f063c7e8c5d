"""Segmenter training: Dice per class against a count by hand, both kinds of head, weights that a target can load."""

import lightning
import pytest
import torch
from lightning import LightningDataModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from monai.losses import DiceCELoss
from monai.networks.nets import DynUNet, SegResNet
from torch import nn
from torch.utils.data import DataLoader
from torchmetrics.segmentation import DiceScore

from lightning_xai import SegmenterTarget
from lightning_xai.functional.segmentation import IGNORED
from lightning_xai.networks.mask_net import UNet
from lightning_xai.targets.training.classifier import fit_target, warn_if_weak
from lightning_xai.targets.training.segmenter import SegmenterTask, segmenter_metrics

NAMES = ["background", "square", "bar"]


class Shapes(LightningDataModule):
    """Noise around 100 with a bright square (1) and, where there are three classes, a dark bar (2)."""

    def __init__(self, classes=3, dims=2, side=16):
        super().__init__()
        self.classes, self.dims, self.side = classes, dims, side

    def loader(self, seed):
        generator, items = torch.Generator().manual_seed(seed), []
        for number in range(24):
            mask = torch.zeros(1, *(self.side,) * self.dims, dtype=torch.long)
            row, column = torch.randint(0, self.side - 6, (2,), generator=generator).tolist()
            mask[:, row : row + 5, column : column + 5] = 1
            if self.classes == 3:
                mask[:, -1] = 2
            values = torch.tensor([0.0, 2.0, -2.0])[mask]
            image = 100 + values + 0.3 * torch.rand(mask.shape, generator=generator)
            items.append({"image": image, "mask": mask, "id": f"{seed}_{number}"})
        return DataLoader(items, batch_size=8, shuffle=seed == 0, generator=generator)

    def train_dataloader(self):
        return self.loader(0)

    def val_dataloader(self):
        return self.loader(1)

    test_dataloader = val_dataloader


def train(module, data, folder, epochs=40):
    checkpoint = ModelCheckpoint(folder, "best", monitor="target/val_loss", enable_version_counter=False)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(accelerator="cpu", max_epochs=epochs, default_root_dir=folder, callbacks=[checkpoint], **quiet)
    return fit_target(module, trainer, data)


def test_dice_of_each_class_is_counted_image_by_image():
    predicted = torch.tensor([[[0, 1, 1, 2]], [[0, 0, 1, 1]], [[0, 0, 0, 0]]])
    true = torch.tensor([[[0, 1, 2, 2]], [[0, 1, 1, 1]], [[0, 0, 0, 0]]])
    metrics = segmenter_metrics(NAMES)
    metrics.update(predicted[:2], true[:2])
    metrics.update(predicted[2:], true[2:])
    values = {name: float(value) for name, value in metrics.compute().items()}
    square, bar = (2 / 3 + 4 / 5) / 2, 2 / 3  # the third image has neither, the second no bar
    assert values == pytest.approx({"dice": (square + bar) / 2, "dice_square": square, "dice_bar": bar})
    metrics = segmenter_metrics(["background", "square"])
    metrics.update(torch.zeros(1, 2, 2, dtype=torch.long), torch.zeros(1, 2, 2, dtype=torch.long))
    assert metrics.compute()["dice"].isnan(), "nothing to find is no success"


def test_the_images_of_a_batch_are_compared_once_whatever_the_number_of_classes(monkeypatch):
    seen = []
    update = DiceScore.update
    monkeypatch.setattr(DiceScore, "update", lambda self, *values: (seen.append(1), update(self, *values))[1])
    metrics = segmenter_metrics([str(number) for number in range(9)]).clone(prefix="target/test_")
    for _ in range(2):
        metrics.update(torch.zeros(1, 4, 4, dtype=torch.long), torch.ones(1, 4, 4, dtype=torch.long))
    assert len(seen) == 2 and metrics.compute()["target/test_dice_1"] == 0
    metrics.reset()
    metrics.update(torch.ones(1, 4, 4, dtype=torch.long), torch.ones(1, 4, 4, dtype=torch.long))
    values = metrics.compute()
    assert values["target/test_dice_1"] == 1 and values["target/test_dice_2"].isnan()


@pytest.mark.parametrize("kind", ["three classes", "one logit", "volumes"])
def test_learns_and_reports(tmp_path, kind):
    lightning.seed_everything(0, verbose=False)
    classes, dims = (3, 2) if kind == "three classes" else (2, 3 if kind == "volumes" else 2)
    activation = "sigmoid" if kind == "one logit" else "softmax"
    net = UNet(1, 1 if kind == "one logit" else classes, depth=2, width=8, dims=dims)
    statistics = {"mean": [100.1], "std": [1.0], "class_names": NAMES[:classes]}
    module = SegmenterTask(net, classes, activation, **statistics, lr=1e-2)
    quality = train(module, Shapes(classes, dims, 8 if dims == 3 else 16), tmp_path)
    assert quality.keys() == {"dice", "loss", *(f"dice_{name}" for name in NAMES[1:classes])}
    assert quality["dice"] > 0.9 and quality["dice_square"] > 0.9, quality
    target = SegmenterTarget(UNet(1, net.head.out_channels, 2, 8, dims), activation, weights=tmp_path / "best.ckpt")
    assert target.class_names == NAMES[:classes] and target.mean.tolist() == pytest.approx([100.1])
    batch = next(iter(Shapes(classes, dims, 8 if dims == 3 else 16).val_dataloader()))
    prediction = target.predict(batch["image"]).argmax(dim=1)
    assert (prediction == batch["mask"][:, 0]).float().mean() > 0.95


def test_other_networks_train_too(tmp_path):
    lightning.seed_everything(0, verbose=False)
    net = SegResNet(2, init_filters=8, in_channels=1, out_channels=3, blocks_down=(1, 1), blocks_up=(1,))
    module = SegmenterTask(net, 3, mean=[100.0], std=[1.0], class_names=NAMES, lr=1e-2)
    assert train(module, Shapes(), tmp_path)["dice"] > 0.7


def test_evaluation_goes_by_window_and_training_takes_what_comes():
    sides = []

    class Seen(nn.Conv2d):
        def forward(self, images):
            sides.append(tuple(images.shape[2:]))
            return super().forward(images)

    module = SegmenterTask(Seen(1, 2, 1), 2, window=8)
    images = torch.rand(2, 1, 20, 12)
    whole = module.train()(images)
    assert set(sides) == {(20, 12)}
    sides.clear()
    assert torch.allclose(module.eval()(images), whole, atol=1e-5)
    assert set(sides) == {(8, 8)}


@pytest.mark.parametrize("dims", [2, 3])
def test_sides_that_the_network_cannot_halve_train_and_are_explained_alike(tmp_path, dims):
    lightning.seed_everything(0, verbose=False)
    net, side = UNet(1, 2, depth=3, width=8, dims=dims), 17 if dims == 2 else 9
    module = SegmenterTask(net, 2, mean=[100.1], std=[1.0], class_names=NAMES[:2], lr=1e-2)
    assert train(module, Shapes(2, dims, side), tmp_path, 40 if dims == 2 else 15)["dice"] > 0.8
    target = SegmenterTarget(UNet(1, 2, depth=3, width=8, dims=dims), weights=tmp_path / "best.ckpt")
    batch = next(iter(Shapes(2, dims, side).val_dataloader()))
    assert torch.allclose(target.logits(batch["image"]), module.eval()(batch["image"]).detach(), atol=1e-4)


class Deep(nn.Module):
    """Deep supervision: a list from the full size down while it trains, the full size alone afterwards."""

    def __init__(self):
        super().__init__()
        self.net = UNet(1, 3, depth=2, width=8)

    def forward(self, x):
        y = self.net(x)
        return [y, y[..., ::2, ::2]] if self.training else {"out": y}


@pytest.mark.parametrize("kind", ["list", "stacked"])
def test_deep_supervision_trains_on_the_full_size(tmp_path, kind):
    lightning.seed_everything(0, verbose=False)
    sizes = {"kernel_size": [3, 3, 3], "strides": [1, 2, 2], "upsample_kernel_size": [2, 2], "filters": [8, 8, 8]}
    net = Deep() if kind == "list" else DynUNet(2, 1, 3, **sizes, deep_supervision=True, deep_supr_num=1)
    module = SegmenterTask(net, 3, mean=[100.0], std=[1.0], class_names=NAMES, lr=1e-2)
    assert train(module, Shapes(), tmp_path)["dice"] > 0.7


@pytest.mark.parametrize("squeezed", [False, True])
def test_a_squeezed_logit_trains_too(tmp_path, squeezed):
    class Squeezes(UNet):
        def forward(self, images):
            return super().forward(images).squeeze(1) if squeezed else super().forward(images)

    lightning.seed_everything(0, verbose=False)
    module = SegmenterTask(Squeezes(1, 1, depth=2, width=8), 2, "sigmoid", mean=[100.1], std=[1.0], lr=1e-2)
    assert train(module, Shapes(2), tmp_path, 10)["dice"] > 0.7


@pytest.mark.parametrize(
    ("outputs", "classes", "activation", "words"),
    [
        (3, 2, "softmax", "gives 3 logits for each pixel, but the data have 2 classes.*softmax gives 2"),
        (2, 3, "softmax", "gives 2 logits for each pixel, but the data have 3 classes.*softmax gives 3"),
        (1, 2, "softmax", "gives 1 logit for each pixel.*or use target.activation=sigmoid"),
        (2, 2, "sigmoid", "gives 2 logits for each pixel.*sigmoid gives 1"),
    ],
)
def test_logits_that_do_not_fit_the_masks_are_refused_before_a_step(outputs, classes, activation, words):
    module = SegmenterTask(nn.Conv2d(1, outputs, 1), classes, activation)
    batch = {"image": torch.rand(2, 1, 8, 8), "mask": torch.zeros(2, 1, 8, 8, dtype=torch.long)}
    with pytest.raises(ValueError, match=words):
        module.training_step(batch, 0)
    with pytest.raises(ValueError, match="no masks to train a segmenter with"):
        SegmenterTask(nn.Conv2d(1, 2, 1), 2).training_step({"image": batch["image"]}, 0)


def test_a_sigmoid_tells_two_classes_apart():
    with pytest.raises(ValueError, match="tells 2 classes apart, not 3; use softmax"):
        SegmenterTask(nn.Conv2d(1, 1, 1), 3, "sigmoid")


def test_a_weak_segmenter_is_warned_of_by_its_dice(caplog):
    warn_if_weak({"dice": 0.31, "loss": 1.0}, 0.7)
    assert "test dice is 0.310, below 0.700" in caplog.text


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("dims", [2, 3])
def test_ignored_pixels_change_neither_loss_nor_gradient_nor_dice(activation, dims):
    classes, size = (3 if activation == "softmax" else 2), (2, 8, 8)[-dims:]
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, classes if activation == "softmax" else 1, *size, generator=generator, requires_grad=True)
    mask = torch.randint(0, classes, (2, 1, *size), generator=generator)
    mask[:, :, ..., -3:] = IGNORED
    names = NAMES[:classes]
    task = SegmenterTask(nn.Identity(), classes, activation, class_names=names)
    kept = {"logits": logits[..., :-3], "mask": mask[..., :-3]}
    (gradient,) = torch.autograd.grad(task._loss(logits, {"mask": mask}), logits)
    torch.testing.assert_close(task._loss(logits, {"mask": mask}), task._loss(kept["logits"], kept))
    assert not gradient[..., -3:].any() and gradient[..., :-3].all()
    values = []
    for part, truth in ((logits, mask), (kept["logits"], kept["mask"])):
        metrics = segmenter_metrics(names)
        metrics.update(*task.judged(part, {"mask": truth}))
        values.append(metrics.compute())
    assert values[0] == values[1]
    assert task._loss(logits, {"mask": torch.full_like(mask, IGNORED)}).isfinite()


def test_without_ignored_pixels_the_loss_is_monais():
    logits, mask = torch.randn(2, 3, 8, 8), torch.randint(0, 3, (2, 1, 8, 8))
    expected = DiceCELoss(softmax=True, to_onehot_y=True)(logits, mask.float())
    assert torch.equal(SegmenterTask(nn.Identity(), 3)._loss(logits, {"mask": mask}), expected)


@pytest.mark.parametrize(
    "names",
    [
        ["w. matter", "T1.5"],
        ["a/b", "a.b"],
        ["'quoted'", '"quoted"'],
        ["大脳", "Größe"],
        ["...", "///"],
        ["a\\b", "a b"],
    ],
    ids=str,
)
def test_class_names_may_hold_anything(tmp_path, names):
    module = SegmenterTask(UNet(1, 3, depth=2, width=4), 3, class_names=["background", *names])
    quality = train(module, Shapes(), tmp_path, epochs=1)
    each = [name for name in quality if name.startswith("dice_")]
    assert len(each) == 2 and not any(mark in "".join(each) for mark in "./\\'\" ")
    assert SegmenterTarget(UNet(1, 3, depth=2, width=4), weights=tmp_path / "best.ckpt").class_names[1:] == names
