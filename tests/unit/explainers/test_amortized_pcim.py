"""Amortized PCIM: a network learns what PCIM optimizes, and its prediction can be refined."""

import logging

import pytest
import torch
from lightning import LightningDataModule, Trainer
from torch.utils.data import DataLoader

from lightning_xai import ClassifierTarget, SegmenterTarget
from lightning_xai.explainers import PCIM, AmortizedPCIM
from tests.helpers import assert_untouched, cnn, segmenter, state_of
from tests.planted import SquareFinder, correlation, squares

SIDE = 16


class Squares(LightningDataModule):
    """Images with a planted square that is the only evidence."""

    def __init__(self, count=32, batch_size=8):
        super().__init__()
        images, masks = squares(count, SIDE)
        pairs = enumerate(zip(images, masks, strict=True))
        self.items = [{"image": image, "mask": mask.long(), "label": 1, "id": f"{i}"} for i, (image, mask) in pairs]
        self.batch_size = batch_size

    def train_dataloader(self):
        return DataLoader(self.items, batch_size=self.batch_size, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.items, batch_size=self.batch_size)


def fit(explainer, folder, epochs, data=None, **options):
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "num_sanity_val_steps": 0}
    quiet |= {"enable_checkpointing": False, "log_every_n_steps": 1, "accelerator": "cpu"}
    trainer = Trainer(max_epochs=epochs, default_root_dir=folder, **quiet | options)
    trainer.fit(explainer, datamodule=data or Squares())
    return trainer


def explainer_of(target=None, seed=0, **options):
    target = target or ClassifierTarget(cnn())  # seeds itself
    torch.manual_seed(seed)
    return AmortizedPCIM(target, **{"classes": 3, "channels": 1} | options)


def top_in_square(maps, masks):
    """Fraction of the nine highest pixels that lie in the square of nine."""
    return float(masks.flatten(1).gather(1, maps.flatten(1).topk(9).indices).float().mean())


def validation_loss(explainer, images):
    with torch.no_grad():
        return float(explainer.eval().loss({"image": images})["loss"])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """An explainer trained on planted squares, and the validation loss of its start and its end."""
    torch.manual_seed(0)
    data, held_out = Squares(), squares(8, SIDE)
    # Of this seed's untrained features none happens to show the square.
    explainer = explainer_of(ClassifierTarget(SquareFinder()), seed=1, classes=2, lr=0.01, any_class=0.0)
    losses = [validation_loss(explainer, held_out[0])]
    fit(explainer, tmp_path_factory.mktemp("fit"), 30, data)
    losses.append(validation_loss(explainer, held_out[0]))
    return explainer.eval(), held_out, losses


# ------------------------------------------------------------------ learning


def test_training_lowers_the_loss_on_new_images(trained):
    _, _, (before, after) = trained
    assert after < before - 0.05, f"from {before:.3f} to {after:.3f}"


def test_the_trained_map_ranks_the_square_on_top(trained):
    explainer, (images, masks), _ = trained
    asked = torch.ones(len(images), dtype=torch.long)
    top = top_in_square(explainer.explain(images, asked), masks)
    fresh = explainer_of(explainer.target, seed=1, classes=2).eval()
    assert top > 0.6 and top > top_in_square(fresh.explain(images, asked), masks) + 0.4


def test_only_the_network_learns_and_is_saved(trained, tmp_path):
    target = ClassifierTarget(cnn())
    before, explainer = state_of(target), explainer_of(target)
    assert explainer.learned
    trainer = fit(explainer, tmp_path, 1)
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    kept = torch.load(tmp_path / "end.ckpt", weights_only=True)
    assert kept["state_dict"] and all(name.startswith("net.") for name in kept["state_dict"])
    assert kept["target_fingerprint"] == target.fingerprint()
    count = sum(value.numel() for value in explainer.net.state_dict().values())
    assert sum(value.numel() for value in kept["state_dict"].values()) == count
    assert_untouched(before, state_of(target))


def test_a_checkpoint_gives_the_same_maps_again(tmp_path):
    target, images = ClassifierTarget(cnn()), torch.rand(3, 1, SIDE, SIDE)
    explainer = explainer_of(target)
    fit(explainer, tmp_path, 1).save_checkpoint(tmp_path / "end.ckpt")
    loaded = AmortizedPCIM.load_from_checkpoint(tmp_path / "end.ckpt", target=target, weights_only=True)
    assert torch.equal(loaded.eval().explain(images), explainer.eval().explain(images))
    assert loaded.hparams["classes"] == 3 and "target" not in loaded.hparams


def test_one_seed_one_training(tmp_path):
    results = []
    for seed in (0, 0, 1):
        torch.manual_seed(5)
        data = Squares(16)
        explainer = explainer_of(seed=seed)
        fit(explainer, tmp_path, 1, data)
        results.append(torch.cat([value.flatten() for value in explainer.state_dict().values()]))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_bf16_training_lowers_the_loss_too(tmp_path):
    explainer = explainer_of(ClassifierTarget(SquareFinder()), classes=2, lr=0.01, any_class=0.0)
    data, images = Squares(), squares(8, SIDE)[0]
    before = validation_loss(explainer, images)
    fit(explainer, tmp_path, 8, data, precision="bf16-mixed")
    assert all(value.dtype == torch.float32 and value.isfinite().all() for value in explainer.parameters())
    assert validation_loss(explainer, images) < before
    assert explainer.explain(images).dtype == torch.float32


def test_validation_leaves_the_random_numbers_of_training_alone():
    explainer = explainer_of().eval()
    before = torch.get_rng_state()
    losses = [explainer.loss({"image": torch.ones(2, 1, SIDE, SIDE)})["loss"] for _ in range(2)]
    assert torch.equal(*losses), "a validation loss that draws does not compare between epochs"
    assert torch.equal(torch.get_rng_state(), before), "validation drew random numbers"


def test_every_class_is_asked_about_in_training():
    """Otherwise the rows of classes that the target seldom predicts would never learn."""
    sure = ClassifierTarget(SquareFinder())
    explainer = explainer_of(sure, classes=2, any_class=1.0).train()
    gradients = []
    for _ in range(4):
        loss = explainer.loss({"image": squares(8, SIDE)[0]})["loss"]
        gradients.append(
            torch.autograd.grad(loss, [p for p in explainer.parameters() if len(p) == 2], allow_unused=True)
        )
    assert gradients[0], "no parameter has a row a class"
    assert all(any(row[cls].any() for row in step) for step in gradients for cls in (0, 1))


# ------------------------------------------------------------------ queries and batches


def test_the_map_depends_on_the_asked_class():
    explainer, images = explainer_of().eval(), torch.rand(2, 1, SIDE, SIDE)
    maps = explainer.explain(images, torch.tensor([[0, 1, 2]] * 2))
    for image in maps:
        for first, second in ((0, 1), (0, 2), (1, 2)):
            assert correlation(image[first], image[second]) < 0.99
    assert torch.allclose(explainer.explain(images, torch.tensor([2, 1]))[:, 0], maps[[0, 1], [2, 1]], atol=1e-6)


@pytest.mark.parametrize("refine_steps", [0, 4])
def test_an_image_has_the_same_map_in_any_batch(refine_steps):
    explainer = explainer_of(ClassifierTarget(cnn().double()), refine_steps=refine_steps).double().eval()
    images, asked = torch.rand(4, 1, SIDE, SIDE, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    together = explainer.explain(images, asked)
    alone = torch.cat([explainer.explain(images[i : i + 1], asked[i : i + 1]) for i in range(4)])
    assert torch.allclose(together, alone, atol=1e-6)
    backwards = explainer.explain(images.flip(0), asked.flip(0)).flip(0)
    assert torch.allclose(together, backwards, atol=1e-6)


def test_volumes():
    explainer = explainer_of(ClassifierTarget(cnn(3)), dims=3).eval()
    images = torch.rand(2, 1, 16, 16, 20)
    maps = explainer.explain(images, torch.tensor([[0, 1]] * 2))
    assert maps.shape == (2, 2, 16, 16, 20) and maps.flatten(2).std(dim=2).gt(0).all()
    loss = explainer.train().loss({"image": images})["loss"]
    loss.backward()
    assert loss.isfinite() and any(value.grad.abs().sum() > 0 for value in explainer.parameters())


def test_a_segmenter_can_be_learned():
    explainer = explainer_of(SegmenterTarget(segmenter()))
    loss = explainer.train().loss({"image": torch.rand(2, 1, SIDE, SIDE)})["loss"]
    loss.backward()
    assert loss.isfinite() and any(value.grad.abs().sum() > 0 for value in explainer.parameters())


# ------------------------------------------------------------------ refinement


def count_backwards(monkeypatch):
    calls = []
    grad = torch.autograd.grad

    def counted(*args, **kwargs):
        calls.append(1)
        return grad(*args, **kwargs)

    monkeypatch.setattr(torch.autograd, "grad", counted)
    return calls


@pytest.mark.parametrize("steps", [0, 3])
def test_refinement_costs_one_backward_pass_a_step_and_nothing_without(steps, monkeypatch):
    explainer, images = explainer_of(refine_steps=steps).eval(), torch.rand(2, 1, SIDE, SIDE)
    calls = count_backwards(monkeypatch)
    monkeypatch.setattr(torch.Tensor, "backward", lambda *_, **__: calls.append(1))
    explainer.explain(images)
    assert len(calls) == steps


def test_refinement_starts_from_the_prediction():
    target, images = ClassifierTarget(cnn()), torch.rand(2, 1, SIDE, SIDE)
    asked = torch.tensor([0, 1])
    predicted, refined = (explainer_of(target, refine_steps=steps).eval().explain(images, asked) for steps in (0, 2))
    scratch = PCIM(target, steps=2).explain(images, asked)
    moved, elsewhere = (refined - predicted).abs().mean(), (refined - scratch).abs().mean()
    assert 0 < moved < elsewhere, "two steps must change the prediction, and not start anew"


def test_refinement_is_as_smooth_as_pcim_and_training_as_smooth_as_it_says():
    explainer = explainer_of(refine_steps=3, tv=0.5)
    assert explainer.tv == PCIM(explainer.target).tv == 10
    batch = {"image": torch.rand(2, 1, SIDE, SIDE), "id": ["a", "b"]}
    losses = explainer.eval().loss(batch)
    torch.testing.assert_close(losses["loss"], losses["faithful"] + 0.5 * losses["tv"])
    assert explainer_of(refine_tv=2.0).tv == 2


def test_refinement_asks_about_the_prediction_without_shifting_it():
    images = torch.rand(2, 1, SIDE, SIDE)
    assert not explainer_of(refine_steps=5).exploration(0, images).any()
    assert PCIM(ClassifierTarget(cnn()), steps=5).exploration(0, images).any()


def test_refining_a_trained_map_keeps_its_top(trained):
    explainer, (images, masks), _ = trained
    asked = torch.ones(len(images), dtype=torch.long)
    refined = explainer_of(explainer.target, classes=2, refine_steps=10)
    refined.load_state_dict(explainer.state_dict())
    maps = refined.eval().explain(images, asked)
    assert not torch.equal(maps, explainer.explain(images, asked))
    assert top_in_square(maps, masks) > 0.6


# ------------------------------------------------------------------ starting from a checkpoint


@pytest.fixture
def checkpoint(tmp_path):
    explainer = explainer_of(seed=3)
    path = tmp_path / "start.ckpt"
    stored = {"state_dict": explainer.state_dict(), "target_fingerprint": explainer.target.fingerprint()}
    torch.save(stored, path)
    return path, explainer.eval()


def test_weights_of_the_same_target_are_taken_over_whole(checkpoint):
    path, first = checkpoint
    images = torch.rand(2, 1, SIDE, SIDE)
    again = explainer_of(seed=4, init_from=path).eval()
    assert torch.equal(again.explain(images, torch.tensor([0, 2])), first.explain(images, torch.tensor([0, 2])))


@pytest.mark.parametrize("classes", [3, 5])
def test_weights_of_another_target_are_mixed_with_fresh_ones(checkpoint, classes, caplog):
    path, first = checkpoint
    other = ClassifierTarget(cnn(classes=classes, seed=7))
    fresh = explainer_of(other, seed=4, classes=classes).state_dict()
    with caplog.at_level(logging.INFO, "lightning_xai"):
        tuned = explainer_of(other, seed=4, classes=classes, init_from=path).state_dict()
    assert "explains another target" in caplog.text
    assert ("from 3 to 5 classes" in caplog.text) == (classes == 5)
    for name, old in first.state_dict().items():
        # New classes start from the mean of the old.
        old = old if old.shape == fresh[name].shape else old.mean(dim=0, keepdim=True)
        assert torch.allclose(tuned[name], (old + fresh[name]) / 2, atol=1e-6), name


def test_other_channels_start_fresh_and_are_named(checkpoint, caplog):
    path, _ = checkpoint
    with caplog.at_level(logging.WARNING, "lightning_xai"):
        tuned = explainer_of(ClassifierTarget(cnn(channels=2)), channels=2, init_from=path)
    assert "Not taken over from" in caplog.text and "starts fresh: net." in caplog.text
    assert tuned.eval().explain(torch.rand(2, 2, SIDE, SIDE)).isfinite().all()


def test_weights_that_are_not_finite_are_no_start(checkpoint, tmp_path):
    content = torch.load(checkpoint[0], weights_only=True)
    content["state_dict"]["net.head.weight"][0] = torch.nan
    torch.save(content, tmp_path / "nan.ckpt")
    with pytest.raises(ValueError, match=r"nan\.ckpt holds weights that are NaN or infinite, in net\.head\.weight;"):
        explainer_of(init_from=tmp_path / "nan.ckpt")


def test_nothing_that_fits_and_no_file_are_errors(tmp_path):
    torch.save({"state_dict": {"other.weight": torch.zeros(3)}}, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match="Nothing in .*other.ckpt fits this AmortizedPCIM"):
        explainer_of(init_from=tmp_path / "other.ckpt")
    torch.save([1, 2], tmp_path / "list.ckpt")
    with pytest.raises(ValueError, match="Nothing in .*list.ckpt fits this AmortizedPCIM"):
        explainer_of(init_from=tmp_path / "list.ckpt")
    torch.save({"state_dict": {}, "net": torch.nn.Linear(1, 1)}, tmp_path / "pickled.ckpt")
    with pytest.raises(ValueError, match=r"pickled\.ckpt holds pickled Python objects, .* is refused"):
        explainer_of(init_from=tmp_path / "pickled.ckpt")
    with pytest.raises(FileNotFoundError, match=r"init_from names .*none\.ckpt, which does not exist"):
        explainer_of(init_from=tmp_path / "none.ckpt")


def test_sizes_are_the_targets_or_are_named_in_a_sentence():
    with pytest.raises(ValueError, match="do not say its num_classes; give the ClassifierTarget num_classes="):
        AmortizedPCIM(ClassifierTarget(torch.nn.Flatten()))
    explainer = AmortizedPCIM(ClassifierTarget(cnn()))
    assert explainer.classes == 3 and explainer.hparams["classes"] is None
    assert explainer.eval().explain(torch.rand(1, 1, SIDE, SIDE)).shape == (1, 1, SIDE, SIDE)
