"""U-Noise: the published noise and loss, its optimum in closed form, what it learns, and the visibility objective."""

import pytest
import torch
import torch.nn.functional as F
from lightning import Trainer
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader

from lightning_xai import ClassifierTarget, SegmenterTarget
from lightning_xai.explainers import UNoise
from lightning_xai.networks.mask_net import UNet
from tests.helpers import assert_untouched, cnn, pixel_segmenter, segmenter, state_of


class Constant(nn.Module):
    """The same logits for every image: ``(maps, *S)``."""

    def __init__(self, values):
        super().__init__()
        self.values = nn.Parameter(torch.as_tensor(values, dtype=torch.float32))

    def forward(self, images):
        return self.values.expand(len(images), *self.values.shape[:1], *images.shape[2:])


def constant(value, size=(8, 8), maps=1):
    return Constant(torch.full((maps, *size), float(value)))


def binary(weight, channels=1):
    """One logit a pixel: ``weight`` times the first channel."""
    values = torch.zeros(1, channels)
    values[0, 0] = weight
    return SegmenterTarget(pixel_segmenter(values), "sigmoid")


def batch_of(images, mask=None):
    mask = torch.zeros_like(images[:, :1]).long() if mask is None else mask
    return {"image": images, "mask": mask, "id": [str(row) for row in range(len(images))]}


# ------------------------------------------------------------------ the noise and the loss


@pytest.mark.parametrize("dims", [2, 3])
def test_noise_is_the_published_and_the_same_in_all_channels(dims):
    """In the model's normalized space: ``(x' - x) / std`` is ``eps (B (max - min) + min)``."""
    target = SegmenterTarget(segmenter(dims, channels=2), mean=[0.4, 0.1], std=[0.3, 2.0])
    explainer = UNoise(target, min_scale=0.5, max_scale=3.0, dims=dims)
    images = torch.rand(2, 2, *(8, 6, 4)[:dims])
    mask, noise = torch.rand_like(images[:, :1]), torch.randn_like(images[:, :1])
    added = target.normalize(explainer.noised(images, mask, noise)) - target.normalize(images)
    expected = noise * (mask * 2.5 + 0.5)
    assert torch.allclose(added, expected.expand_as(added), atol=1e-5)


def test_the_loss_is_utility_minus_the_mean_log_of_the_mask():
    target, images = binary(1.5), torch.rand(3, 1, 8, 8)
    explainer = UNoise(target, noise_weight=0.02, net=constant(0.3)).eval()
    answers = (torch.rand(3, 1, 8, 8) > 0.5).long()
    values = explainer.loss(batch_of(images, answers))
    noise = torch.randn((1, 1, 8, 8), generator=torch.Generator().manual_seed(0))  # the same for all images
    fraction = torch.tensor(0.3).sigmoid()
    logits = 1.5 * (images + noise * (4 * fraction + 1))
    utility = F.binary_cross_entropy_with_logits(logits, answers.float())
    assert float(values["utility"]) == pytest.approx(float(utility), rel=1e-5)
    assert float(values["loss"]) == pytest.approx(float(utility - 0.02 * fraction.log()), rel=1e-5)
    assert float(values["mask_mean"]) == pytest.approx(float(fraction))


def test_the_price_of_clear_pixels_has_the_gradient_of_the_paper():
    """A model that does not look: the gradient of the loss is ``-lambda (1 - B) / numel``."""
    explainer = UNoise(binary(0.0), noise_weight=0.05, net=Constant(torch.randn(1, 8, 8)))
    explainer.loss(batch_of(torch.rand(2, 1, 8, 8)))["loss"].backward()
    fraction = explainer.net.values.detach().sigmoid()
    assert torch.allclose(explainer.net.values.grad, -0.05 * (1 - fraction) / 64, atol=1e-8)


def test_equal_scales_leave_the_utility_without_a_gradient():
    explainer = UNoise(binary(2.0), min_scale=2.0, max_scale=2.0, net=Constant(torch.randn(1, 8, 8)))
    explainer.loss(batch_of(torch.rand(2, 1, 8, 8)))["utility"].backward()
    assert not explainer.net.values.grad.any()


def test_the_optimum_of_a_linear_model_is_where_theory_says():
    """``(max - min) w^2 s E[sigma'(l + w s eps)] B = lambda``: for w .1, l 0, lambda .01 at B = .39434."""
    torch.manual_seed(0)
    side, fraction = 512, 0.39434
    logit = torch.tensor(fraction).logit()
    explainer = UNoise(binary(0.1), noise_weight=0.01, net=constant(logit, (side, side)))
    answers = (torch.rand(8, 1, side, side) > 0.5).long()
    explainer.loss(batch_of(torch.zeros(8, 1, side, side), answers))["loss"].backward()
    price = 0.01 * (1 - fraction)
    assert abs(float(explainer.net.values.grad.sum())) < 0.03 * price
    for away in (-0.5, 0.5):
        other = UNoise(binary(0.1), noise_weight=0.01, net=constant(logit + away, (side, side)))
        other.loss(batch_of(torch.zeros(8, 1, side, side), answers))["loss"].backward()
        assert float(other.net.values.grad.sum()) * away > 0, "it is no minimum"


def optimized(explainer, batch, steps=200, lr=0.2):
    optimizer = torch.optim.Adam(explainer.net.parameters(), lr=lr)
    torch.manual_seed(0)
    for _ in range(steps):
        optimizer.zero_grad()
        explainer.loss(batch)["loss"].backward()
        optimizer.step()
    return explainer.net.values.detach().sigmoid()


class LooksAtTheLeft(nn.Module):
    """Every pixel's logit is that of the left half's brightness."""

    def forward(self, images):
        return 4 * images[..., :4].mean(dim=(1, 2, 3), keepdim=True).expand(-1, 1, *images.shape[2:])


def test_ignored_pixels_drown_and_used_ones_stay_clear():
    target = SegmenterTarget(LooksAtTheLeft(), "sigmoid")
    images = torch.cat([torch.ones(4, 1, 8, 8), -torch.ones(4, 1, 8, 8)])
    batch = batch_of(images, (images > 0).long())
    fraction = optimized(UNoise(target, min_scale=0.0, noise_weight=0.01, net=constant(0.0)), batch)
    assert fraction[..., 4:].min() > 0.95 and fraction[..., :4].max() < 0.5
    costly = optimized(UNoise(target, min_scale=0.0, noise_weight=0.1, net=constant(0.0)), batch)
    assert costly.mean() > fraction.mean() + 0.02, "a larger lambda must raise the mask"


def test_a_model_that_does_not_look_lets_everything_drown():
    batch = batch_of(torch.rand(2, 1, 8, 8))
    assert optimized(UNoise(binary(0.0), noise_weight=0.1, net=constant(0.0)), batch).min() > 0.98


# ------------------------------------------------------------------ answers, classes, maps


def test_the_reference_is_the_mask_or_the_prediction():
    target, images = SegmenterTarget(segmenter()), torch.rand(2, 1, 8, 8)
    mask = torch.randint(0, 3, (2, 1, 8, 8))
    assert torch.equal(UNoise(target, channels=1).truth(batch_of(images, mask)), mask[:, 0])
    own = UNoise(target, channels=1, reference="prediction")
    assert torch.equal(own.truth({"image": images}), target.predict(images).argmax(dim=1))
    logits = torch.randn(2, 3, 8, 8)
    assert torch.equal(own.truth({"image": images, "logits": logits}), logits.argmax(dim=1)), "no pass where one was"
    with pytest.raises(ValueError, match="The data have no mask of one class; use reference=prediction"):
        UNoise(target, channels=1).truth({"image": images})
    labels = torch.tensor([0, 2])
    assert torch.equal(UNoise(ClassifierTarget(cnn()), channels=1).truth({"image": images, "label": labels}), labels)


def test_utility_of_several_classes_one_class_and_a_sigmoid():
    logits, answers = torch.randn(2, 3, 4, 4), torch.randint(0, 3, (2, 4, 4))
    explainer = UNoise(SegmenterTarget(segmenter()))
    assert torch.equal(explainer.utility(logits, answers, None), F.cross_entropy(logits, answers))
    asked = torch.tensor([1, 2])
    p = logits.softmax(dim=1)[torch.arange(2), asked]
    expected = F.binary_cross_entropy(p, (answers == asked.view(2, 1, 1)).float())
    assert torch.allclose(explainer.utility(logits, answers, asked), expected, atol=1e-6)
    pair = torch.cat([-logits[:, :1], logits[:, :1]], dim=1)
    single = UNoise(binary(1.0), channels=1).utility(pair, answers.clamp(max=1), None)
    assert torch.allclose(single, F.binary_cross_entropy_with_logits(logits[:, 0], answers.clamp(max=1).float()))
    visible = UNoise(SegmenterTarget(segmenter()), objective="visibility")
    perfect = 30.0 * F.one_hot(answers, 3).movedim(-1, 1)
    assert float(visible.utility(perfect, answers, None)) == pytest.approx(0, abs=1e-4)
    assert float(visible.utility(logits, answers, None)) > float(F.cross_entropy(logits, answers)) + 0.1


def several(classes=3, background=None):
    """A segmenter whose classes do not exclude each other."""
    return SegmenterTarget(segmenter(classes=classes), "sigmoid", background=background)


@pytest.mark.parametrize("objective", ["noise", "visibility"])
def test_channels_of_a_sigmoid_are_judged_each_by_itself(objective):
    logits, truth = torch.randn(2, 3, 4, 4), torch.rand(2, 3, 4, 4) > 0.6
    explainer = UNoise(several(), objective=objective)
    entropy = F.binary_cross_entropy_with_logits(logits, truth.float())
    found = explainer.utility(logits, truth, None)
    if objective == "noise":
        assert torch.allclose(found, entropy)
        labels = torch.randint(0, 3, (2, 4, 4))
        one_hot = F.one_hot(labels, 3).movedim(-1, 1).float()
        assert torch.allclose(
            explainer.utility(logits, labels, None), F.binary_cross_entropy_with_logits(logits, one_hot)
        )
    else:
        p, t = logits.sigmoid().flatten(2), truth.flatten(2).float()
        dice = 1 - (2 * (p * t).sum(2) + 1e-5) / (p.sum(2) + t.sum(2) + 1e-5)
        assert torch.allclose(found, entropy + dice.mean(), atol=1e-5)
    asked = torch.tensor([0, 2])
    own, wanted = logits[torch.arange(2), asked], truth[torch.arange(2), asked].float()
    alone = UNoise(several(), per_class=True).utility(logits, truth, asked)
    assert torch.allclose(alone, F.binary_cross_entropy_with_logits(own, wanted))


def test_multi_hot_references_are_taken_in_full():
    images, mask = torch.rand(2, 1, 8, 8), torch.rand(2, 3, 8, 8) > 0.5
    explainer, target = UNoise(several(), noise_weight=0.0, min_scale=0, max_scale=1e-9).eval(), several()
    with torch.no_grad():
        wanted = F.binary_cross_entropy_with_logits(target.logits(images), mask.float())
    for given in (mask, mask.long()):
        assert torch.allclose(explainer.loss(batch_of(images, given))["utility"], wanted, atol=1e-5)
    own = UNoise(several(), reference="prediction").truth({"image": images})
    assert torch.equal(own, target.logits(images) > 0)
    labels = torch.tensor([[1, 0, 1], [0, 0, 1]])
    classifier = UNoise(ClassifierTarget(cnn(), "sigmoid"), channels=1)
    assert torch.equal(classifier.truth({"image": images, "label": labels}), labels > 0)
    exclusive = UNoise(SegmenterTarget(segmenter()), channels=1)
    with pytest.raises(ValueError, match="mask holds several classes at once, and the target's softmax allows one"):
        exclusive.truth({"image": images, "mask": mask})
    with pytest.raises(ValueError, match="The reference has 2 classes, but the model gives 3 logits"):
        explainer.loss(batch_of(images, mask[:, :2]))


def test_validation_of_an_image_does_not_depend_on_its_batch():
    images, mask = torch.rand(4, 1, 8, 8), torch.randint(0, 3, (4, 1, 8, 8))
    for options in ({}, {"per_class": True}, {"objective": "visibility"}):
        explainer = UNoise(SegmenterTarget(segmenter(), class_names=["a", "b", "c"]), channels=1, **options).eval()
        whole = batch_of(images, mask)
        alone = [
            explainer.loss({name: values[row : row + 1] for name, values in whole.items()})["loss"] for row in range(4)
        ]
        assert torch.allclose(explainer.loss(whole)["loss"], torch.stack(alone).mean(), atol=1e-5), options


def test_the_map_is_one_minus_the_mask_and_classes_may_have_their_own():
    target, images = SegmenterTarget(segmenter(), class_names=["a", "b", "c"]), torch.rand(2, 1, 8, 8)
    shared = UNoise(target, channels=1)
    maps = shared.explain(images, torch.tensor([[1, 2]] * 2))
    assert torch.equal(maps[:, 0], maps[:, 1]) and torch.allclose(maps[:, :1], 1 - shared.mask(images), atol=1e-6)
    own = UNoise(target, channels=1, per_class=True)
    maps = own.explain(images, torch.tensor([[2, 1]] * 2))
    assert torch.allclose(maps, 1 - own.mask(images)[:, [2, 1]], atol=1e-6)
    batch = batch_of(images, torch.randint(0, 3, (2, 1, 8, 8)))
    own.loss(batch)["loss"].backward()
    moved = own.net.head.bias.grad
    assert moved[0] == 0 and moved[1:].any(), "the background is not explained by itself"


def test_hiding_by_the_mask():
    target = SegmenterTarget(segmenter(), mean=[0.4], std=[0.2])
    images, explainer = torch.rand(2, 1, 8, 8), UNoise(target, net=Constant(torch.randn(1, 8, 8)))
    assert torch.equal(explainer.visible(images, 1.0), images)
    fractions = []
    for threshold in (0.0, 0.3, 0.5, 0.8):
        hidden = explainer.visible(images, threshold)
        kept = (hidden == images).float()
        assert torch.equal(hidden == 0.4, kept == 0) or not kept.all()
        fractions.append(float(kept.mean()))
    assert fractions == sorted(fractions) and fractions[0] == 0, "coverage falls with the threshold"


def test_any_size_is_padded_for_the_network():
    explainer = UNoise(SegmenterTarget(segmenter()), size="large")
    assert explainer.mask(torch.rand(2, 1, 13, 9)).shape == (2, 1, 13, 9)
    volumes = UNoise(SegmenterTarget(segmenter(3)), size="medium", dims=3)
    assert volumes.mask(torch.rand(1, 1, 6, 7, 5)).shape == (1, 1, 6, 7, 5)


# ------------------------------------------------------------------ training


def spots(count=16, side=16):
    """Noise with a bright 4 x 4 spot, which is class 1."""
    generator, items = torch.Generator().manual_seed(0), []
    for number in range(count):
        image, mask = 0.3 * torch.rand(1, side, side, generator=generator), torch.zeros(1, side, side).long()
        row, column = torch.randint(2, side - 6, (2,), generator=generator).tolist()
        image[:, row : row + 4, column : column + 4] += 1
        mask[:, row : row + 4, column : column + 4] = 1
        items.append({"image": image, "mask": mask, "id": str(number)})
    return DataLoader(items, batch_size=8)


def fit(explainer, folder, epochs):
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = Trainer(accelerator="cpu", max_epochs=epochs, default_root_dir=folder, logger=False, **quiet)
    trainer.fit(explainer, spots(), spots())
    return trainer


class Normed(nn.Module):
    """A 1x1 segmenter of spots behind a batch norm, whose buffers a training could spoil."""

    def __init__(self):
        super().__init__()
        self.norm, self.head = nn.BatchNorm2d(1), nn.Conv2d(1, 2, 1)
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor([-6.0, 6.0]).view(2, 1, 1, 1))
            self.head.bias.copy_(torch.tensor([4.0, -4.0]))

    def forward(self, images):
        return self.head(self.norm(images))


@pytest.mark.parametrize("objective", ["noise", "visibility"])
@pytest.mark.parametrize("reference", ["mask", "prediction"])
def test_it_learns_where_the_object_is_and_leaves_the_model_alone(objective, reference, tmp_path):
    torch.manual_seed(0)
    target = SegmenterTarget(Normed())
    options = {"noise_weight": 0.02, "min_scale": 0.0, "reference": reference, "lr": 1e-2}
    explainer = UNoise(target, channels=1, objective=objective, **options)
    before = state_of(target)
    trainer = fit(explainer, tmp_path, 40)
    assert_untouched(before, state_of(target))
    assert {"train/loss", "train/utility", "val/loss", "val/mask_mean"} <= set(trainer.callback_metrics)
    batch = next(iter(spots()))
    explainer.train()  # as a training leaves it: explaining must neither use nor change the batch's statistics
    buffers = {name: value.clone() for name, value in explainer.net.named_buffers()}
    maps = explainer.explain(batch["image"], torch.tensor([1] * 8))
    assert all(torch.equal(value, buffers[name]) for name, value in explainer.net.named_buffers())
    assert torch.allclose(maps[:1], explainer.explain(batch["image"][:1], torch.tensor([1])), atol=1e-5)
    ranks = maps.flatten(1).argsort(dim=1).argsort(dim=1).view_as(maps) / 255
    inside = ranks[batch["mask"] > 0].mean()
    assert inside > 0.75, f"the object's pixels rank at {inside:.2f} of 1"


def test_validation_repeats_itself_and_draws_nothing():
    explainer = UNoise(SegmenterTarget(segmenter())).eval()
    for made in (explainer, UNoise(explainer.target, channels=1, objective="visibility").eval()):
        batch = batch_of(torch.rand(2, 1, 8, 8), torch.randint(0, 3, (2, 1, 8, 8)))
        state = torch.get_rng_state()
        first = made.loss(batch)["loss"]
        assert torch.equal(made.loss(batch)["loss"], first) and torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("outputs", [1, 3])
def test_it_may_start_as_a_segmenter_turned_round(outputs, tmp_path):
    torch.manual_seed(0)
    net = UNet(1, outputs, depth=2)
    torch.save({"state_dict": {f"model.{key}": value for key, value in net.state_dict().items()}}, tmp_path / "net.pt")
    explainer = UNoise(SegmenterTarget(segmenter()), init_from=tmp_path / "net.pt").eval()
    images = torch.rand(2, 1, 8, 8)
    with torch.no_grad():
        logits = net.eval()(images)
        expected = -logits if outputs == 1 else logits[:, :1] - logits[:, 1:].mean(dim=1, keepdim=True)
        assert torch.allclose(explainer.raw(images), expected, atol=1e-5)
    with pytest.raises(ValueError, match="does not fit UNet"):
        UNoise(explainer.target, size="medium", channels=1, init_from=tmp_path / "net.pt")
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    again = UNoise(explainer.target, channels=1, init_from=tmp_path / "net.safetensors").eval()
    assert torch.equal(again.raw(images), explainer.raw(images))
    torch.save(net, tmp_path / "pickled.pt")
    with pytest.raises(ValueError, match=r"pickled\.pt holds pickled Python objects, .* is refused"):
        UNoise(explainer.target, channels=1, init_from=tmp_path / "pickled.pt")
    with pytest.raises(FileNotFoundError, match="init_from names .*none.pt"):
        UNoise(explainer.target, channels=1, init_from=tmp_path / "none.pt")


def test_clear_errors():
    target = SegmenterTarget(segmenter())
    with pytest.raises(ValueError, match="size is 'tiny'.* use one of small, medium, large"):
        UNoise(target, "tiny", channels=1)
    with pytest.raises(ValueError, match="min_scale is 6.0, max_scale 5.0"):
        UNoise(target, min_scale=6.0, channels=1)
    with pytest.raises(ValueError, match="do not say its in_channels; give the SegmenterTarget in_channels="):
        UNoise(SegmenterTarget(lambda images: images))
    with pytest.raises(ValueError, match="Every class has a mask of its own"):
        UNoise(target, per_class=True).visible(torch.rand(1, 1, 8, 8), 0.5)
