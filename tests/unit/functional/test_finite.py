"""NaN and infinite losses, weights and outputs stop a run with a sentence that names where and which images."""

import copy
import math

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins import MixedPrecision
from torch import nn
from torch.utils.data import DataLoader

from lightning_xai import ClassifierTarget, Explainer, SegmenterTarget
from lightning_xai.callbacks import Faithfulness
from lightning_xai.explainers import RandomMap
from lightning_xai.explainers.query_policy import QueryPolicy
from lightning_xai.functional import finite
from lightning_xai.functional.finite import TOLERATED, LossWatch, NotFiniteError, NotFiniteOutputError, check_outputs
from lightning_xai.metrics import DeletionAUC
from lightning_xai.targets.regions import RegionContext, predicted, probable
from lightning_xai.targets.training.classifier import ClassifierTask
from lightning_xai.targets.training.segmenter import SegmenterTask
from tests.helpers import Blobs, GradientMap, LearnedMap, cnn, segmenter

NAN, INF = float("nan"), float("inf")


def trainer_of(tmp_path, *callbacks, **options):
    options = {"max_epochs": 3, "enable_checkpointing": bool(callbacks)} | options
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(accelerator="cpu", default_root_dir=tmp_path, callbacks=list(callbacks), **quiet, **options)


class Spoilt(LearnedMap):
    """Its training loss takes given values from a step on; ``val`` that of every validation."""

    def __init__(self, values=(), start=4, val=None):
        super().__init__(ClassifierTarget(cnn()))
        self.values, self.start, self.val, self.calls = list(values), start, val, 0

    def loss(self, batch):
        losses = super().loss(batch)
        number, self.calls = self.calls - self.start, self.calls + self.training
        if self.training and 0 <= number < len(self.values):
            return losses | {"loss": losses["loss"] * self.values[number]}
        return losses | ({"loss": losses["loss"] * self.val} if self.val and not self.training else {})


class Answers(nn.Module):
    """A model whose logits are spoilt for images whose first pixel is above 0.9."""

    def __init__(self, net, value=NAN):
        super().__init__()
        self.net, self.value = net, value

    def forward(self, images):
        logits = self.net(images)
        bad = (images[:, 0, 0, 0] > 0.9).view(-1, *(1,) * (logits.ndim - 1))
        return torch.where(bad, torch.full_like(logits, self.value), logits)


class OneBad(Blobs):
    """Only the fourth image makes :class:`Answers` fail."""

    def __init__(self):
        super().__init__()
        for number, item in enumerate(self.items):
            item["image"][0, 0, 0] = 0.95 if number == 3 else 0.5


def broken(kind, value=NAN):
    return (
        ClassifierTarget(Answers(cnn(), value))
        if kind == "classifier"
        else SegmenterTarget(Answers(segmenter(), value))
    )


# ------------------------------------------------------------------ losses


@pytest.mark.parametrize(("value", "word"), [(NAN, "NaN"), (INF, "infinite"), (-INF, "infinite")])
def test_a_training_loss_stops_at_once_and_names_epoch_step_and_images(tmp_path, value, word):
    module = Spoilt([value])
    with pytest.raises(ValueError, match=f"training loss is {word}") as caught:
        trainer_of(tmp_path).fit(module, Blobs())
    sentence = f"The training loss is {word} in epoch 1, step 4 (images blob_2, blob_3): lower the learning rate"
    assert str(caught.value).startswith(sentence) and str(caught.value).endswith("look at these images.")
    assert module.net.isfinite().all() and module.calls == 5, "it trained on"


def test_the_newest_checkpoint_is_named(tmp_path):
    kept = ModelCheckpoint(tmp_path, "best", save_last=True, enable_version_counter=False)
    with pytest.raises(NotFiniteError, match=rf"the newest checkpoint is {tmp_path}/\w+\.ckpt\.$"):
        trainer_of(tmp_path, kept).fit(Spoilt([NAN]), Blobs())


def test_a_long_batch_is_not_listed_to_its_end():
    module = Spoilt()
    with pytest.raises(NotFiniteError, match=r"\(images 0, 1, 2, 3, 4, 5, 6, 7 and 92 more\)"):
        LossWatch()(module, torch.tensor(NAN), {"id": range(100)})
    with pytest.raises(NotFiniteError, match=r"\(image 7\)"):
        LossWatch()(module, torch.tensor(NAN), {"id": ["7"]})
    with pytest.raises(NotFiniteError, match=r"in epoch 0, step 0: lower"):
        LossWatch()(module, torch.tensor(NAN), {})


@pytest.mark.parametrize("value", [NAN, INF])
def test_a_validation_loss_stops_too(tmp_path, value):
    kept = ModelCheckpoint(tmp_path, monitor="val/loss")
    with pytest.raises(NotFiniteError, match=r"validation loss is (NaN|infinite) in epoch 0, step 3 \(images blob_0, "):
        trainer_of(tmp_path, kept, num_sanity_val_steps=0).fit(Spoilt(val=value), Blobs())
    assert not list(tmp_path.glob("*.ckpt"))


class Arrival:
    """Stands for the event of a CUDA device."""

    def __init__(self):
        self.waits = 0

    def synchronize(self):
        self.waits += 1


def test_a_loss_that_is_still_on_its_way_is_looked_at_in_the_next_step(monkeypatch):
    arrivals = []

    def sent(loss):
        arrivals.append(Arrival())
        return loss, arrivals[-1]

    monkeypatch.setattr(finite, "sent", sent)
    watch, module = LossWatch(), Spoilt()
    watch(module, torch.tensor(1.0), {"id": ["a"]})
    assert arrivals[0].waits == 0, "the host waited for its own step"
    watch(module, torch.tensor(NAN), {"id": ["b"]})
    assert [arrival.waits for arrival in arrivals] == [1, 0]
    with pytest.raises(NotFiniteError, match=r"training loss is NaN .*\(image b\)"):
        watch(module, torch.tensor(1.0), {"id": ["c"]})


def test_a_copy_of_a_module_watches_by_itself():
    module = Spoilt()
    module.loss_watch._pending = torch.tensor(NAN), "here", lambda: None
    assert copy.deepcopy(module).loss_watch._pending is None


@pytest.mark.parametrize(("count", "stops"), [(TOLERATED, False), (TOLERATED + 1, True)])
def test_a_grad_scaler_may_skip_some_steps_in_a_row(tmp_path, count, stops):
    module = Spoilt([NAN] * count)
    trainer = trainer_of(tmp_path, max_epochs=6, limit_val_batches=0, plugins=MixedPrecision("16-mixed", "cpu"))
    if not stops:
        trainer.fit(module, Blobs())
        assert module.calls == 18 and module.net.isfinite().all()
        return
    with pytest.raises(NotFiniteError, match=r"training loss is NaN .*train in precision=32-true or bf16-mixed"):
        trainer.fit(module, Blobs())


def test_losses_that_a_grad_scaler_skips_now_and_then_pass(tmp_path):
    module = Spoilt([NAN, 1.0] * 12, start=0)
    trainer_of(tmp_path, max_epochs=8, limit_val_batches=0, plugins=MixedPrecision("16-mixed", "cpu")).fit(
        module, Blobs()
    )
    assert module.calls == 24


# ------------------------------------------------------------------ weights


def test_no_checkpoint_of_weights_that_are_not_finite_is_written_or_read(tmp_path):
    class LastStep(LearnedMap):
        def on_train_batch_end(self, *args):
            self.net.data[0, 0, 0, 0] = NAN if self.global_step == 3 else 0

    kept = ModelCheckpoint(tmp_path, "best", save_last=True)
    with pytest.raises(NotFiniteError, match=r"LastStep in epoch 0, step 3 .*NaN or infinite, in net; lower the learn"):
        trainer_of(tmp_path, kept, limit_val_batches=0).fit(LastStep(ClassifierTarget(cnn())), Blobs())
    assert not list(tmp_path.glob("*.ckpt"))
    explainer = LearnedMap(ClassifierTarget(cnn()))
    content = {"state_dict": {"net": torch.full((1, 1, 8, 8), INF)}, "pytorch-lightning_version": "2.6.6"}
    torch.save(content, tmp_path / "bad.ckpt")
    with pytest.raises(NotFiniteError, match=r"The checkpoint holds weights that are NaN or infinite, in net;"):
        trainer_of(tmp_path).test(explainer, Blobs(), ckpt_path=tmp_path / "bad.ckpt", weights_only=True)


# ------------------------------------------------------------------ outputs


@pytest.mark.parametrize("value", [NAN, INF])
@pytest.mark.parametrize("kind", ["classifier", "segmenter"])
@pytest.mark.parametrize("stage", ["test", "predict", "validate"])
def test_a_target_that_fails_on_an_image_is_an_error_that_names_it(tmp_path, stage, kind, value):
    explainer = RandomMap(broken(kind, value))
    with pytest.raises(NotFiniteError, match=r"The target's logits are NaN or infinite for image blob_3: give a"):
        getattr(trainer_of(tmp_path), stage)(explainer, OneBad())


def test_it_is_found_in_training(tmp_path):
    with pytest.raises(NotFiniteError, match="NaN or infinite for image blob_3 in epoch 0, step 1: give a target"):
        trainer_of(tmp_path, num_sanity_val_steps=0).fit(LearnedMap(broken("classifier")), OneBad())


def test_the_newest_checkpoint_is_named_where_there_is_one(tmp_path):
    kept = ModelCheckpoint(tmp_path, "kept", every_n_train_steps=1)
    with pytest.raises(NotFiniteError, match=rf"are too few\); the newest checkpoint is {tmp_path}/kept.ckpt\.$"):
        trainer_of(tmp_path, kept, num_sanity_val_steps=0).fit(LearnedMap(broken("classifier")), OneBad())


def test_it_is_found_in_the_metrics_where_no_query_needs_the_model(tmp_path):
    explainer = RandomMap(broken("classifier"), query_policy=QueryPolicy("label"))
    with pytest.raises(NotFiniteError, match="NaN or infinite for image blob_3:"):
        trainer_of(tmp_path, Faithfulness({"deletion": DeletionAUC(steps=2)})).test(explainer, OneBad())


def test_it_is_found_by_a_map_of_nan(tmp_path):
    class Times(Explainer):
        def attribute(self, images, query):
            targets = query.targets
            return self.target.score(images, targets).view(*targets.shape, 1, 1).expand(-1, -1, *images.shape[2:])

    explainer = Times(broken("classifier"), query_policy=QueryPolicy("label"))
    with pytest.raises(NotFiniteError, match="NaN or infinite for image blob_3:"):
        trainer_of(tmp_path).predict(explainer, OneBad())


def test_an_explainer_that_fails_on_an_image_is_counted(tmp_path):
    class Fails(GradientMap):
        def attribute(self, images, query):
            maps = super().attribute(images, query)
            return torch.where(images[:, 0, 0, 0].view(-1, 1, 1, 1) > 0.9, NAN, maps)

    scored = Faithfulness({"deletion": DeletionAUC(steps=2)})
    trainer_of(tmp_path, scored).test(Fails(ClassifierTarget(cnn())), OneBad())
    values = {name: value for name, _, value in scored.results["Fails"]["deletion"]}
    assert len(values) == 6 and [name for name, value in values.items() if math.isnan(value)] == ["blob_3"]


def test_a_target_may_fail_where_pixels_are_hidden(tmp_path):
    """Division by the deviation of an image is a number for every image that is not constant."""

    class Standardizing(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = cnn()

        def forward(self, images):
            return self.net(images / images.std(dim=(1, 2, 3), keepdim=True))

    scored = Faithfulness({"deletion": DeletionAUC(steps=2, fill="zero")})
    trainer_of(tmp_path, scored).test(RandomMap(ClassifierTarget(Standardizing())), Blobs())
    assert all(math.isnan(value) for *_, value in scored.results["RandomMap"]["deletion"])


def test_direct_calls_name_the_rows():
    images = torch.full((4, 1, 8, 8), 0.5)
    images[1:3, 0, 0, 0] = 0.95
    target = broken("segmenter")
    for ask in (predicted, probable):
        with pytest.raises(NotFiniteOutputError, match="images number 1, 2 of the batch"):
            ask(RegionContext(target, images, torch.ones(4, 1).long()))
    with pytest.raises(NotFiniteOutputError, match="images number 1, 2 of the batch"):
        broken("classifier").query(images, None, None)
    check_outputs(target.logits(images[:1]))


# ------------------------------------------------------------------ target training


def samples():
    return DataLoader(Blobs().items, batch_size=2)


@pytest.mark.parametrize("kind", ["classifier", "segmenter"])
def test_training_a_target_stops_at_nan(tmp_path, kind):
    module = ClassifierTask(cnn(), 3) if kind == "classifier" else SegmenterTask(segmenter(classes=2), 2)
    module.hparams["lr"] = 1e30
    trainer = trainer_of(tmp_path, num_sanity_val_steps=0)
    with pytest.raises(
        NotFiniteError, match=r"(training|validation) loss is (NaN|infinite) in epoch 0, step \d \(image"
    ):
        trainer.fit(module, samples(), samples())


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_judging_a_target_stops_at_nan(tmp_path, stage):
    module = ClassifierTask(Answers(cnn()), 3)
    with pytest.raises(NotFiniteError, match=r"(validation|test) loss is NaN .*\(images blob_2, blob_3\)"):
        getattr(trainer_of(tmp_path), stage)(module, DataLoader(OneBad().items, batch_size=2))


def test_a_target_of_nan_weights_is_not_kept(tmp_path):
    class LastStep(ClassifierTask):
        def on_train_batch_end(self, *args):
            self.model[0].weight.data.fill_(NAN if self.global_step == 3 else 0)

    kept = ModelCheckpoint(tmp_path, "best")
    with pytest.raises(NotFiniteError, match=r"The target in epoch 0, step 3 .*, in model\.0\.weight; lower the learn"):
        trainer_of(tmp_path, kept, limit_val_batches=0).fit(LastStep(cnn(), 3), samples())
    assert not list(tmp_path.glob("*.ckpt"))
