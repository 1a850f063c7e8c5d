"""How often the model is called: never again for what a pass has already given."""

import pytest
import torch
from lightning import Trainer

from lightning_xai import ClassifierTarget, SegmenterTarget
from lightning_xai.explainers import (
    CAM,
    CAPE,
    AblationCAM,
    AmortizedPCIM,
    EigenCAM,
    GradCAM,
    GradCAMPlusPlus,
    HiResCAM,
    LayerCAM,
    ScoreCAM,
    UNoise,
    XGradCAM,
    XResCAM,
)
from lightning_xai.explainers.amortized_pcim import VALIDATION_FRACTIONS as PCIM_FRACTIONS
from lightning_xai.explainers.query_policy import QueryPolicy
from lightning_xai.explainers.unoise import VALIDATION_FRACTIONS as UNOISE_FRACTIONS
from tests.helpers import Blobs, cnn, segmenter

ONE_PASS = [GradCAM, GradCAMPlusPlus, HiResCAM, LayerCAM, XGradCAM, XResCAM, EigenCAM]
#: Channels of the layer "1" of both networks.
CHANNELS = 6


def inputs_of(target):
    """What the model is given from now on, call by call."""
    seen = []
    target.model.register_forward_hook(lambda _module, given, _output: seen.append(given[0].detach().clone()))
    return seen


def target_of(kind):
    """A target that has seen images of 8 x 8 pixels, and the list of what its model is given."""
    target = ClassifierTarget(cnn()) if kind == "classifier" else SegmenterTarget(segmenter())
    target.query(torch.rand(2, 1, 8, 8))
    return target, inputs_of(target)


def stage(name, explainer, data, folder):
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = Trainer(accelerator="cpu", devices=1, logger=False, default_root_dir=folder, **quiet)
    getattr(trainer, name)(explainer, data, verbose=False)


def assert_whole_images_once(seen, data, others):
    """Of each batch its whole images in one call, and in the others ``others`` images each."""
    calls = len(others) + 1
    assert [len(images) for images in seen] == [2, *others] * 3, "3 batches of 2 images"
    for number, batch in enumerate(data.loader()):
        own = seen[number * calls : (number + 1) * calls]
        assert torch.equal(own[0], batch["image"])
        assert not any(torch.equal(given[:2], batch["image"]) for given in own[1:]), "whole images once more"


# ------------------------------------------------------------------ class activation maps


@pytest.mark.parametrize("kind", ["classifier", "segmenter"])
@pytest.mark.parametrize("cam", ONE_PASS)
def test_a_cam_is_one_pass_with_the_default_query_too(cam, kind):
    target, seen = target_of(kind)
    explainer, images = cam(target, "1"), torch.rand(2, 1, 8, 8)
    query = target.query(images)
    for run in (
        lambda: explainer.explain(images),
        lambda: explainer.explain(images, query.targets, query.regions),
        lambda: explainer.explanation(images).maps,
        lambda: explainer.test_step({"image": images, "id": ["a", "b"]}, 0).maps,
    ):
        seen.clear()
        maps = run()
        assert [len(given) for given in seen] == [2]
        assert torch.equal(maps, explainer.explain(images, query.targets, query.regions)) and maps.any()


def test_the_closed_form_cam_is_one_pass():
    target, seen = target_of("classifier")
    explainer, images = CAM(target), torch.rand(2, 1, 8, 8)
    explainer.explain(images)  # finds the head
    seen.clear()
    found = explainer.explanation(images)
    assert [len(given) for given in seen] == [2]
    assert torch.equal(found.query.targets[:, 0], target.predict(images).argmax(dim=1))
    assert torch.equal(found.logits, target.logits(images))


@pytest.mark.parametrize("kind", ["classifier", "segmenter"])
def test_a_layer_is_looked_for_once(kind):
    target, seen = target_of(kind)
    explainer, images = GradCAM(target), torch.rand(2, 1, 8, 8)
    first = explainer.explain(images)
    assert [len(given) for given in seen] == [2, 1, 2], "the query, the layer, the maps"
    seen.clear()
    assert torch.equal(explainer.explain(images), first)
    assert [len(given) for given in seen] == [2]


@pytest.mark.parametrize("kind", ["classifier", "segmenter"])
def test_another_query_policy_costs_nothing(kind):
    target, seen = target_of(kind)
    explainer = HiResCAM(target, "1", query_policy=QueryPolicy("all"))
    batch = {"image": torch.rand(2, 1, 8, 8), "id": ["a", "b"]}
    found = explainer.test_step(batch, 0)
    assert [len(given) for given in seen] == [2] and found.query.shape == (2, 3)


@pytest.mark.parametrize("kind", ["classifier", "segmenter"])
def test_methods_that_ask_again_do_so_channel_by_channel_alone(kind):
    target, seen = target_of(kind)
    images = torch.rand(2, 1, 8, 8)
    query = target.query(images)
    chunks, full = [4, CHANNELS - 4], [4] * (2 * CHANNELS // 4)
    for cam, given, default in (
        (ScoreCAM, [2, *full], [2, *full]),
        # Each image, a trial of two, and the channels; the default query follows from a pass of its own.
        (AblationCAM, [1, 2, *chunks] * 2, [2, *[1, 2, *chunks] * 2]),
    ):
        explainer = cam(target, "1", chunk_size=4)
        for run, expected in (
            (lambda explainer=explainer: explainer.explain(images, query.targets, query.regions), given),
            (lambda explainer=explainer: explainer.explain(images), default),
            (lambda explainer=explainer: explainer.explanation(images), default),
        ):
            seen.clear()
            run()
            assert [len(part) for part in seen] == expected, cam.__name__


def test_a_sweep_with_ablations_observes_nothing():
    target, seen = target_of("classifier")
    AblationCAM(target, chunk_size=4).sweep(torch.rand(1, 1, 8, 8), ["0", "1"], torch.tensor([1]))
    assert [len(part) for part in seen] == [1, 2, 4, 2] * 2


# ------------------------------------------------------------------ learned explainers


def test_an_explanation_of_cape_holds_all_that_one_pass_gives():
    target, seen = target_of("classifier")
    cape, images = CAPE(target).eval(), torch.rand(2, 1, 8, 8)
    cape.explain(images)  # finds the head
    for targets in (None, torch.tensor([[0, 1, 2]] * 2)):
        seen.clear()
        found = cape.explanation(images, targets)
        assert [len(given) for given in seen] == [2]
        asked = found.query.targets
        assert torch.equal(found.maps, cape.view("cape").explain(images, asked))
        assert set(found.alternatives) == set(cape.alternatives()) == {"CAPE mu", "CAPE cam"}
        for name, maps in found.alternatives.items():
            assert torch.equal(maps, cape.view(name.removeprefix("CAPE ")).explain(images, asked)), name
            assert torch.equal(maps, cape.alternatives()[name].explain(images, asked)), name
        assert torch.equal(found.extras["contributions"], cape.contributions(images))
        assert torch.allclose(found.extras["p_cape"], cape.probabilities(images).gather(1, asked))
        assert torch.equal(found.logits, target.logits(images))


@pytest.mark.parametrize("name", ["validate", "test"])
@pytest.mark.parametrize("mode", ["pf", "ts"])
def test_validating_and_testing_cape_is_one_pass_a_batch(mode, name, tmp_path):
    target, _ = target_of("classifier")
    cape, data = CAPE(target, mode=mode), Blobs()
    cape.explain(torch.rand(2, 1, 8, 8))  # finds the head
    seen = inputs_of(target)
    stage(name, cape, data, tmp_path)
    assert_whole_images_once(seen, data, [])


@pytest.mark.parametrize("reference", ["mask", "prediction"])
@pytest.mark.parametrize("per_class", [False, True])
@pytest.mark.parametrize("objective", ["noise", "visibility"])
def test_validating_unoise_costs_the_whole_images_and_what_the_mask_leaves(objective, per_class, reference, tmp_path):
    target, seen = target_of("segmenter")
    options = {"objective": objective, "per_class": per_class, "reference": reference}
    data = Blobs()
    stage("validate", UNoise(target, channels=1, classes=3, **options), data, tmp_path)
    assert_whole_images_once(seen, data, [2] * (1 if objective == "noise" else len(UNOISE_FRACTIONS)))


@pytest.mark.parametrize("kind", ["classifier", "segmenter"])
@pytest.mark.parametrize("refine_steps", [0, 2])
def test_validating_amortized_pcim_costs_the_whole_images_and_the_masked_ones(kind, refine_steps, tmp_path):
    target, seen = target_of(kind)
    side, data = 16, Blobs(side=16)
    target.query(torch.rand(2, 1, side, side))
    seen.clear()
    stage("validate", AmortizedPCIM(target, refine_steps=refine_steps, classes=3, channels=1), data, tmp_path)
    rows = 2 * (1 if kind == "classifier" else 2)
    # What the mask keeps and what it takes go through the model together; the fills are the median and zero.
    assert_whole_images_once(seen, data, [2 * rows] * (refine_steps + 2 * len(PCIM_FRACTIONS)))
