"""CAPE: the published 4-D formula, the sums that must hold, the frozen classifier, and training along with it."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning import Trainer
from torch.utils.data import DataLoader

from lightning_xai import ClassifierTarget
from lightning_xai.explainers import CAM, CAPE, GradCAM, HiResCAM
from lightning_xai.explainers.cape.contributions import distillation, log_contributions, mu_cape
from lightning_xai.functional.resize import spread
from lightning_xai.metrics import AverageDrop
from lightning_xai.networks.mask_net import SmallCNN
from tests.helpers import assert_untouched, cnn, state_of

TEMPERATURES = (0.7, 1.6, 1.3)


def seeded(*shape, seed=0, scale=3.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def four_d(maps, t1, t2):
    """The published form: for each region a softmax over all classes and all regions, ``(B, K, N, N)``."""
    flat = maps.flatten(2)
    mean = flat.mean(dim=1)
    pairs = flat[..., None] / t1 + mean[:, None, None, :] / t2
    own = flat / t1 + mean[:, None] / t2
    return (own.exp() / pairs.exp().sum(dim=(1, 3))[:, None]).view_as(maps)


def fitted(target=None, dims=2, classes=3, **options):
    """A CAPE whose head and temperatures differ from the copy that it starts as."""
    cape = CAPE(ClassifierTarget(cnn(dims, classes=classes)) if target is None else target, **options).eval()
    torch.manual_seed(5)
    with torch.no_grad():
        cape.head.weight.add_(0.3 * torch.randn_like(cape.head.weight))
        cape.log_temperatures.copy_(torch.tensor([0.4, -0.3, 0.2]))
    return cape


def images_of(dims=2, count=3):
    return torch.rand(count, 1, *(9, 7, 5)[:dims], generator=torch.Generator().manual_seed(dims))


# ------------------------------------------------------------------ the formula


@pytest.mark.parametrize("shape", [(2, 4, 3, 3), (1, 7, 5, 2), (2, 3, 2, 2, 3), (1, 2, 1, 1)])
@pytest.mark.parametrize("soft", [False, True])
def test_the_factorized_form_equals_the_published_one(shape, soft):
    maps, (t1, t2, t3) = seeded(*shape), TEMPERATURES
    t1, t2 = (t1 * t3, t2 * t3) if soft else (t1, t2)
    ours = log_contributions(maps, t1, t2).exp()
    assert torch.allclose(ours, four_d(maps, t1, t2), atol=1e-12)
    assert torch.allclose(log_contributions(maps.float(), t1, t2).exp().double(), ours, atol=1e-6)


def test_mu_is_the_rectified_exponent_without_t3():
    maps, (t1, t2, _) = seeded(2, 4, 3, 3), TEMPERATURES
    expected = (maps / t1 + maps.sum(dim=1, keepdim=True) / 4 / t2).clamp(min=0)
    assert torch.allclose(mu_cape(maps, t1, t2), expected, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(
    classes=st.integers(1, 6),
    sides=st.lists(st.integers(1, 5), min_size=2, max_size=3),
    scale=st.sampled_from([0.0, 1.0, 30.0, 1e4]),
    seed=st.integers(0, 99),
)
def test_contributions_are_fractions_of_one(classes, sides, scale, seed):
    maps = seeded(2, classes, *sides, seed=seed, scale=scale)
    fractions = log_contributions(maps, *TEMPERATURES[:2]).exp()
    assert (fractions >= 0).all() and fractions.isfinite().all()
    assert torch.allclose(fractions.flatten(1).sum(dim=1), torch.ones(2, dtype=torch.float64))
    weights = (maps.mean(dim=1).flatten(1) / TEMPERATURES[1]).softmax(dim=1)
    assert torch.allclose(fractions.sum(dim=1).flatten(1), weights, atol=1e-12)


def test_one_region_with_temperature_one_is_the_vanilla_softmax():
    maps = seeded(3, 5, 1, 1)
    assert torch.allclose(log_contributions(maps, 1.0, 0.3).exp().flatten(1), maps.flatten(1).softmax(dim=1))


def test_a_constant_changes_nothing_and_a_constant_per_class_no_region_weight():
    maps, temperatures = seeded(2, 4, 3, 3), TEMPERATURES[:2]
    base = log_contributions(maps, *temperatures)
    assert torch.allclose(log_contributions(maps + 7.5, *temperatures), base, atol=1e-12)
    shifted = log_contributions(maps + seeded(1, 4, 1, 1, seed=9), *temperatures)
    assert not torch.allclose(shifted, base, atol=0.1)
    assert torch.allclose(shifted.exp().sum(dim=1), base.exp().sum(dim=1), atol=1e-12)


def test_a_hot_t2_weighs_all_regions_alike():
    weights = log_contributions(seeded(2, 4, 3, 5), 1.0, 1e9).exp().sum(dim=1)
    assert torch.allclose(weights, torch.full_like(weights, 1 / 15), atol=1e-8)


# ------------------------------------------------------------------ distillation


def test_distillation_is_the_divergence_between_teacher_and_soft_output():
    maps, teacher, (t1, t2, t3) = seeded(3, 4, 2, 2), seeded(3, 4, seed=1), TEMPERATURES
    soft = four_d(maps, t1 * t3, t2 * t3).flatten(2).sum(dim=2)
    wanted = (teacher / 2).softmax(dim=1)
    expected = 4 * (wanted * (wanted / soft).log()).sum(dim=1).mean()
    assert distillation(teacher, maps, t1 * t3, t2 * t3, 2.0) == pytest.approx(float(expected), rel=1e-9)
    perfect = seeded(3, 4, 1, 1)
    assert float(distillation(perfect.flatten(1) * 2, perfect, 1.0, 1.0, 2.0)) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("scale", [1.0, 1e4])
@pytest.mark.parametrize("autocast", [False, True])
def test_distillation_is_finite_and_not_negative(scale, autocast):
    cape = fitted()
    with torch.no_grad():
        cape.head.weight.mul_(scale)
    batch = {"features": seeded(4, 6, 3, 3).float(), "logits": scale * seeded(4, 3, seed=2).float()}
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        values = cape.loss(batch)
    values["loss"].backward()
    assert values["kd"].isfinite() and values["kd"] >= 0 and values["kd"].dtype == torch.float32
    assert all(value.grad.isfinite().all() for value in cape.parameters())


def test_the_head_runs_in_float32_under_bf16():
    cape, features = fitted(), seeded(2, 6, 3, 3).float()
    with torch.autocast("cpu", torch.bfloat16):
        maps = cape.class_maps(features)
    assert torch.equal(maps, cape.class_maps(features)) and maps.dtype == torch.float32


# ------------------------------------------------------------------ maps


@pytest.mark.parametrize("dims", [2, 3])
def test_the_map_sums_to_the_class_probability(dims):
    cape, images = fitted(dims=dims), images_of(dims)
    targets = torch.tensor([[0, 1, 2]] * 3)
    maps, probabilities = cape.explain(images, targets), cape.probabilities(images)
    assert torch.allclose(maps.flatten(2).sum(dim=2), probabilities, atol=1e-5)
    assert torch.allclose(probabilities.sum(dim=1), torch.ones(3), atol=1e-6)
    contributions = cape.contributions(images)
    assert contributions.shape == (3, 3, *images.shape[2:]) and not contributions.requires_grad
    assert torch.allclose(contributions.flatten(2).sum(dim=2), probabilities)
    found = cape.explanation(images, targets[:, 1:])
    assert torch.allclose(found.extras["p_cape"], probabilities[:, 1:], atol=1e-6)
    assert torch.allclose(found.extras["contributions"], contributions, atol=1e-6)


@pytest.mark.parametrize(("regions", "size"), [((7, 7), (224, 224)), ((4, 3), (31, 50)), ((2, 3, 4), (9, 10, 11))])
def test_enlarging_keeps_the_mass_of_every_region(regions, size):
    count = torch.Size(regions).numel()
    one_hot = torch.eye(count, dtype=torch.float64).view(1, count, *regions)
    large = spread(one_hot, size)
    assert large.shape == (1, count, *size) and (large >= 0).all()
    assert torch.allclose(large.flatten(2).sum(dim=2), torch.ones(1, count, dtype=torch.float64))
    # Each region's mass lies around its own place: the center of mass moves by less than half a region.
    places = torch.stack(torch.meshgrid(*(torch.linspace(0.5 / s, 1 - 0.5 / s, s) for s in size), indexing="ij"))
    centers = torch.stack(torch.meshgrid(*(torch.linspace(0.5 / s, 1 - 0.5 / s, s) for s in regions), indexing="ij"))
    means = torch.einsum("r...,d...->rd", large[0].float(), places)
    away = (means - centers.flatten(1).T).abs() * torch.tensor(regions)
    assert float(away.max()) < 0.5


def test_fewer_pixels_than_regions_keep_the_mass_too():
    maps = seeded(1, 2, 6, 4).abs()
    small = spread(maps, (3, 2))
    assert torch.allclose(small.sum(dim=(2, 3)), maps.sum(dim=(2, 3)))
    assert torch.equal(spread(maps, (6, 4)), maps)


def test_the_three_maps_come_from_the_same_pass():
    net = SmallCNN(1, 3)
    passes = []
    net.register_forward_hook(lambda *_: passes.append(1))
    cape, images, targets = fitted(ClassifierTarget(net)), torch.rand(2, 1, 24, 24), torch.tensor([[0, 1, 2]] * 2)
    cape.explain(images, targets)  # finds the head and the number of classes
    maps = cape.class_maps(cape.features(images)[0])
    t1, t2, _ = cape.temperatures
    for name, expected in {
        "cape": spread(log_contributions(maps, t1, t2).exp(), (24, 24)),
        "mu": F.interpolate(mu_cape(maps, t1, t2), (24, 24), mode="bilinear"),
    }.items():
        passes.clear()
        assert torch.allclose(cape.view(name).explain(images, targets), expected, atol=1e-6), name
        assert len(passes) == 1
    assert torch.equal(cape.view("cam").explain(images, targets), CAM(cape.target).explain(images, targets))
    assert cape.map == "cape" and cape.view("mu").head is cape.head


@pytest.mark.parametrize("dims", [2, 3])
def test_the_closed_form_cam_equals_gradcam_and_hirescam(dims):
    target, images, targets = ClassifierTarget(cnn(dims)), images_of(dims), torch.tensor([[0, 2], [1, 0], [2, 2]])
    for sign in (False, True):
        cam = CAM(target, negative=sign).explain(images, targets)
        for other in (GradCAM, HiResCAM):
            assert torch.allclose(cam, other(target, "3", negative=sign).explain(images, targets), atol=1e-6)
    logits = target.logits(images).gather(1, targets) - target.model[-1].bias[targets]
    assert torch.allclose(-cam.flatten(2).sum(dim=2), logits, atol=1e-5)


def test_class_against_class_sums_to_the_difference_of_the_probabilities():
    cape, images = fitted(), images_of()
    first, second = torch.tensor([0, 1, 2]), torch.tensor([2, 0, 2])
    maps, p = cape.versus(images, first, second), cape.probabilities(images)
    rows = torch.arange(3)
    assert maps.shape == (3, 9, 7)
    assert torch.allclose(maps.sum(dim=(1, 2)), p[rows, first] - p[rows, second], atol=1e-6)
    assert torch.allclose(maps, -cape.versus(images, second, first), atol=1e-6)
    assert maps[2].abs().max() < 1e-6, "a class against itself"
    assert (maps[0] < 0).any() and (maps[0] > 0).any()


def test_a_start_from_the_copy_has_the_targets_own_class_maps():
    target, images = ClassifierTarget(cnn()), images_of()
    cape = CAPE(target)
    means = cape.class_maps(cape.features(images)[0]).flatten(2).mean(dim=2)
    assert torch.allclose(means, target.logits(images), atol=1e-5)
    other = CAPE(target, mode="ts")
    assert not torch.allclose(other.head.weight, cape.head.weight)


def test_one_logit_becomes_two_classes_that_exclude_each_other():
    target, images = ClassifierTarget(cnn(classes=1), "sigmoid"), images_of()
    cape = CAPE(target)
    means = cape.class_maps(cape.features(images)[0]).flatten(2).mean(dim=2)
    assert torch.allclose(means.softmax(dim=1), target.predict(images), atol=1e-6)
    maps = cape.explain(images, torch.tensor([[0, 1]] * 3))
    assert torch.allclose(maps.flatten(1).sum(dim=1), torch.ones(3), atol=1e-5)


def test_what_cape_cannot_explain_is_refused():
    with pytest.raises(ValueError, match="do not exclude each other .* use a CAM or PCIM for a multi-label model"):
        CAPE(ClassifierTarget(cnn(), "sigmoid"))
    with pytest.raises(ValueError, match="mode is 'posthoc', map 'cape'; use mode=pf | ts"):
        CAPE(ClassifierTarget(cnn()), mode="posthoc")
    with pytest.raises(ValueError, match="map 'mucape'"):
        CAPE(ClassifierTarget(cnn()), map="mucape")


def test_its_own_head_answers_the_masking_metrics():
    cape, images = fitted(), images_of()
    targets = cape.target.predict(images).argmax(dim=1)
    metric = AverageDrop(head="explainer")
    maps = cape.explain(images, targets)
    metric.update(target=cape.target, images=images, maps=maps, targets=targets, explainer=cape)
    flat = maps.flatten(2)
    low, high = flat.amin(dim=2), flat.amax(dim=2)
    scaled = (maps - low[..., None, None]) / (high - low)[..., None, None]
    whole, kept = (cape.probabilities(x).gather(1, targets[:, None]) for x in (images, images * scaled))
    assert torch.allclose(metric.per_image().float(), ((whole - kept).clamp(min=0) / whole), atol=1e-5)


# ------------------------------------------------------------------ training


def batches(classes=3, count=12, size=4):
    images = images_of(count=count)
    items = [{"image": image, "label": row % classes, "id": str(row)} for row, image in enumerate(images)]
    return DataLoader(items, batch_size=size)


def fit(cape, folder, epochs=3, **options):
    quiet = {
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "logger": False,
        "enable_checkpointing": False,
    }
    trainer = Trainer(
        accelerator="cpu", devices=1, default_root_dir=folder, max_epochs=epochs, log_every_n_steps=1, **quiet | options
    )
    trainer.fit(cape, batches(), batches())
    return trainer


def test_post_fitting_lowers_the_divergence_and_leaves_the_classifier_alone(tmp_path):
    cape = CAPE(ClassifierTarget(cnn()), lr=0.05)
    before = state_of(cape.target)
    batch = next(iter(batches(size=12)))
    start = float(cape.loss(batch)["kd"].detach())
    trainer = fit(cape, tmp_path, epochs=20)
    assert float(cape.loss(batch)["kd"].detach()) < 0.5 * start
    assert_untouched(before, state_of(cape.target))
    logged = {name.removeprefix("val/") for name in trainer.callback_metrics if name.startswith("val/")}
    wanted = {"loss", "kd", "agreement", "accuracy", "target_accuracy", "confidence", "target_confidence"}
    assert wanted | {"t1", "t2", "t3"} <= logged and "ce" not in logged
    assert float(trainer.callback_metrics["val/t1"]) == pytest.approx(float(cape.temperatures[0].detach()))


def test_test_reports_the_agreement_with_the_model(tmp_path):
    cape = fitted()
    trainer = Trainer(logger=False, enable_progress_bar=False, default_root_dir=tmp_path, accelerator="cpu")
    trainer.test(cape, batches(), verbose=False)
    images = images_of(count=12)
    own, target = cape.probabilities(images), cape.target.predict(images)
    agreement = (own.argmax(dim=1) == target.argmax(dim=1)).float().mean()
    assert float(trainer.callback_metrics["test/agreement"]) == pytest.approx(float(agreement))
    assert float(trainer.callback_metrics["test/confidence"]) == pytest.approx(float(own.amax(dim=1).mean()), abs=1e-6)


def test_the_anchor_pulls_the_head_back_to_the_copy(tmp_path):
    free, held = (CAPE(ClassifierTarget(cnn()), lr=0.02, anchor=anchor) for anchor in (0.0, 10.0))
    distances = []
    for cape in (free, held):
        fit(cape, tmp_path, epochs=10)
        distances.append(float((cape.head.weight - cape.pooled.weight).detach().square().sum()))
    assert distances[1] < 0.2 * distances[0]


def test_training_along_learns_the_classifier_by_cross_entropy_alone(tmp_path):
    cape = CAPE(ClassifierTarget(cnn()), mode="ts", lr=0.05)
    cape.setup("fit")
    batch = next(iter(batches()))
    values = cape.loss(batch)
    values["kd"].backward(retain_graph=True)
    assert all(value.grad is None for value in cape.backbone.parameters()), "CAPE's gradient reaches the classifier"
    values["ce"].backward()
    assert all(value.grad is not None and value.grad.any() for value in cape.backbone[-1].parameters())
    assert torch.allclose(values["loss"], values["kd"] + values["ce"])
    cape.teardown("fit")


def test_a_classifier_trained_along_is_frozen_again_and_travels_with_the_checkpoint(tmp_path):
    cape = CAPE(ClassifierTarget(cnn()), mode="ts", lr=0.05)
    before, running = cape.target.fingerprint(), cape.backbone[1].running_mean.clone()
    trainer = fit(cape, tmp_path)
    model = cape.target.model
    assert cape.target.fingerprint() != before and not torch.equal(model[1].running_mean, running)
    assert not any(module.training for module in model.modules())
    assert not any(value.requires_grad for value in model.parameters())
    trainer.save_checkpoint(tmp_path / "ts.ckpt")
    images = images_of()
    after = state_of(cape.target)
    expected = cape.explain(images)
    assert_untouched(after, state_of(cape.target))
    fresh = ClassifierTarget(cnn(seed=3))
    loaded = CAPE.load_from_checkpoint(tmp_path / "ts.ckpt", target=fresh, weights_only=True)
    assert loaded.mode == "ts" and fresh.fingerprint() == cape.target.fingerprint()
    assert torch.equal(loaded.eval().explain(images), expected)


def test_a_post_fitted_checkpoint_of_another_classifier_is_refused(tmp_path):
    fit(cape := CAPE(ClassifierTarget(cnn())), tmp_path, epochs=1).save_checkpoint(tmp_path / "pf.ckpt")
    with pytest.raises(ValueError, match=f"explains target {cape.target.fingerprint()}"):
        CAPE.load_from_checkpoint(tmp_path / "pf.ckpt", target=ClassifierTarget(cnn(seed=1)), weights_only=True)
