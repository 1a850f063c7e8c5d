"""The face that every explainer shows: contexts, queries, steps, checkpoints."""

import contextlib
import copy

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from monai.data import MetaTensor

from lightning_xai import ClassifierTarget, Explainer, SegmenterTarget
from lightning_xai.explainers.query_policy import QueryPolicy
from lightning_xai.structures import Explanation
from lightning_xai.targets import regions as pixel_sets
from tests.helpers import (
    Blobs,
    CountingTarget,
    GradientMap,
    LearnedMap,
    assert_untouched,
    cnn,
    mlp,
    pixel_segmenter,
    segmenter,
    state_of,
    vit,
)


class Nothing(Explainer):
    """Returns the maps that it is given, with an extra of its own."""

    def __init__(self, target, maps):
        super().__init__(target)
        self.maps = maps

    def attribute(self, images, query):
        return Explanation(self.maps(images, query.targets), query, extras={"seen": query.targets.float()})


class Failing(Explainer):
    """Hangs a hook on the model, properly, and raises in the middle of everything."""

    def attribute(self, images, query):
        handle = self.target.model[0].register_forward_hook(lambda *_: None)
        try:
            self.target.score(images.clone().requires_grad_(), query.targets, query.regions).sum().backward()
            raise RuntimeError("out of luck")
        finally:
            handle.remove()


CONTEXTS = {
    "plain": contextlib.nullcontext,
    "no_grad": torch.no_grad,
    "inference": torch.inference_mode,
    "grad": torch.enable_grad,
    "grad_in_no_grad": lambda: nested(torch.no_grad(), torch.enable_grad()),
    "no_grad_in_inference": lambda: nested(torch.inference_mode(), torch.no_grad()),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "autocast_inference": lambda: nested(torch.inference_mode(), torch.autocast("cpu", torch.bfloat16)),
}


@contextlib.contextmanager
def nested(*managers):
    with contextlib.ExitStack() as stack:
        for manager in managers:
            stack.enter_context(manager)
        yield


def trainer(tmp_path, **kwargs):
    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    return Trainer(accelerator="cpu", devices=1, default_root_dir=tmp_path, **(quiet | kwargs))


# ------------------------------------------------------------------ explain


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("kind", ["classifier", "segmenter"])
def test_maps_are_the_same_in_any_context(context, kind):
    """Images, queries and pixel sets made inside the context too: under inference_mode they cannot be saved for
    a backward pass as they are."""
    target = ClassifierTarget(cnn()) if kind == "classifier" else SegmenterTarget(segmenter())
    explainer, images, targets = GradientMap(target), torch.rand(2, 1, 8, 8), torch.tensor([[0, 1], [2, 1]])
    sets = None if kind == "classifier" else torch.rand(2, 2, 8, 8) > 0.3
    expected = explainer.explain(images, targets, sets)
    before = state_of(target)
    with CONTEXTS[context]():
        flags = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        inside = images + 0, targets + 0, None if sets is None else sets & True
        maps = explainer.explain(*inside)
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == flags
    assert maps.dtype == torch.float32 and not maps.requires_grad and maps.grad_fn is None
    assert not maps.is_inference(), "an inference tensor could not be used in a later loss"
    assert expected.abs().max() > 1e-3
    assert torch.allclose(
        maps, expected, rtol=0.05 if "autocast" in context else 1e-6, atol=0.02 * expected.abs().max()
    )
    assert_untouched(before, state_of(target))


@pytest.mark.parametrize(
    ("model", "size"),
    [(cnn(), (8, 8)), (cnn(3), (4, 6, 5)), (mlp(), (8, 8)), (vit(), (8, 8)), (cnn(channels=5), (8, 9))],
)
def test_any_model_and_both_dimensions(model, size):
    channels = 5 if size == (8, 9) else 1
    explainer, images = GradientMap(ClassifierTarget(model)), torch.rand(2, channels, *size)
    before = state_of(explainer.target)
    assert explainer.explain(images).shape == (2, 1, *size)
    maps = explainer.explain(images, torch.tensor([[0, 1, 2]] * 2))
    assert maps.shape == (2, 3, *size) and not torch.allclose(maps[:, 0], maps[:, 1])
    assert_untouched(before, state_of(explainer.target))


def test_default_query_is_the_prediction():
    explainer, images = GradientMap(ClassifierTarget(cnn())), torch.rand(4, 1, 8, 8)
    predicted = explainer.target.predict(images).argmax(1)
    assert torch.equal(explainer.explain(images), explainer.explain(images, predicted))
    assert torch.equal(explainer.explain(images, predicted), explainer.explain(images, predicted[:, None]))


def test_segmenter_explains_its_foreground_classes():
    explainer, images = GradientMap(SegmenterTarget(segmenter())), torch.rand(2, 1, 8, 8)
    maps = explainer.explain(images)
    assert maps.shape == (2, 2, 8, 8)
    one = explainer.explain(images, torch.tensor([2, 2]))
    assert torch.equal(maps[:, 1:], one)
    elsewhere = explainer.explain(images, torch.tensor([2, 2]), torch.rand(2, 1, 8, 8) > 0.5)
    assert not torch.allclose(elsewhere, one)


def test_metatensors_become_plain_tensors():
    explainer, images = GradientMap(ClassifierTarget(cnn())), torch.rand(2, 1, 8, 8)
    expected = explainer.explain(images, torch.tensor([0, 1]))
    for context in (contextlib.nullcontext, torch.inference_mode):
        with context():
            maps = explainer.explain(MetaTensor(images), MetaTensor(torch.tensor([0, 1])))
        assert type(maps) is torch.Tensor and torch.equal(maps, expected)
    explainer = GradientMap(SegmenterTarget(segmenter()))
    maps = explainer.explain(MetaTensor(images), torch.tensor([1, 2]), MetaTensor(torch.ones(2, 1, 8, 8)) > 0)
    assert type(maps) is torch.Tensor


def test_attribute_gets_plain_images_and_complete_queries():
    seen = []

    def spy(images, targets):
        seen.append((type(images), images.requires_grad, images.is_inference(), torch.is_grad_enabled(), targets.shape))
        return torch.zeros(*targets.shape, *images.shape[2:])

    with torch.inference_mode():
        Nothing(ClassifierTarget(cnn()), spy).explain(MetaTensor(torch.rand(2, 1, 8, 8)))
    assert seen == [(torch.Tensor, False, False, True, (2, 1))]


def test_images_that_require_gradients_get_none():
    explainer, images = GradientMap(ClassifierTarget(cnn())), torch.rand(2, 1, 8, 8, requires_grad=True)
    maps = explainer.explain(images)
    assert images.grad is None and images.requires_grad and not maps.requires_grad


def test_maps_are_raw_signed_and_writable():
    explainer = Nothing(
        ClassifierTarget(cnn()), lambda images, targets: torch.tensor(-3.0).expand(*targets.shape, 8, 8)
    )
    maps = explainer.explain(torch.rand(2, 1, 8, 8))
    assert (maps == -3).all()
    maps.add_(1)  # an expanded map would have one memory for all pixels
    assert (maps == -2).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_maps_are_float32_for_any_precision(dtype):
    explainer = GradientMap(ClassifierTarget(cnn())).to(dtype)
    assert explainer.explain(torch.rand(1, 1, 8, 8).to(dtype)).dtype == torch.float32


@pytest.mark.parametrize("value", [1.0, -1.0, float("nan"), float("inf")])
def test_a_query_about_no_pixel_has_a_zero_map(value):
    target = SegmenterTarget(pixel_segmenter(torch.tensor([[1.0], [0.5], [-1.0]])))
    explainer = Nothing(target, lambda images, targets: torch.full((*targets.shape, 4, 4), value))
    maps = explainer.explain(torch.rand(1, 1, 4, 4) + 1)  # class 0 everywhere
    assert torch.equal(maps, torch.zeros(1, 2, 4, 4))
    sets = torch.zeros(1, 2, 4, 4, dtype=torch.bool)
    sets[0, 1, 0, 0] = True
    maps = explainer.explain(torch.rand(1, 1, 4, 4), torch.tensor([[0, 0]]), sets)
    assert torch.equal(maps[0, 0], torch.zeros(4, 4)) and not (maps[0, 1] == 0).any()


def test_impossible_queries_reach_the_user():
    explainer = GradientMap(ClassifierTarget(cnn()))
    with pytest.raises(ValueError, match="class 3, but the model has classes 0 to 2"):
        explainer.explain(torch.rand(1, 1, 8, 8), torch.tensor([3]))
    with pytest.raises(ValueError, match="a classifier has one output per image"):
        explainer.explain(torch.rand(1, 1, 8, 8), pixels=torch.ones(1, 1, 8, 8, dtype=torch.bool))


def test_an_explainer_that_raises_leaves_nothing_behind():
    explainer, images = Failing(ClassifierTarget(cnn())), torch.rand(2, 1, 8, 8)
    before = state_of(explainer.target)
    for context in CONTEXTS.values():
        with context():
            flags = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
            with pytest.raises(RuntimeError, match="out of luck"):
                explainer.explain(images)
            assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == flags
    assert_untouched(before, state_of(explainer.target))
    assert images.grad is None


class Costly(Nothing):
    """Has an extra that costs a pass."""

    def extras(self, images, query):
        return {"p_black": self.target.probability(0 * images, query.targets)}


def test_extras_belong_to_their_explanation():
    explainer = Costly(ClassifierTarget(cnn()), lambda images, targets: torch.zeros(*targets.shape, 8, 8))
    first = explainer.explanation(torch.rand(2, 1, 8, 8), torch.tensor([0, 1]))
    second = explainer.explanation(torch.rand(1, 1, 8, 8), torch.tensor([2]))
    assert first.extras["seen"].flatten().tolist() == [0, 1] and second.extras["seen"].tolist() == [[2]]
    black = explainer.target.predict(torch.zeros(1, 1, 8, 8))[0]
    assert torch.allclose(first.extras["p_black"][:, 0], black[:2])
    assert torch.allclose(second.extras["p_black"][:, 0], black[2:])


def test_extras_cost_their_pass_only_where_they_are_read():
    target = CountingTarget(cnn())
    explainer = Costly(target, lambda images, targets: torch.zeros(*targets.shape, 8, 8))
    images, given = torch.rand(2, 1, 8, 8), torch.tensor([0, 1])
    target.query(images)
    for run, passes in (
        (lambda: explainer.explain(images, given), 0),
        (lambda: explainer.explain(images), 1),
        (lambda: explainer.explanation(images, given), 2),
        (lambda: explainer.validation_step(batch_of(), 0), 1),
        (lambda: explainer.test_step(batch_of(), 0), 2),
        (lambda: explainer.predict_step(batch_of(), 0), 2),
    ):
        target.chunks.clear()
        run()
        assert target.chunks == [2] * passes


def test_an_explanation_is_the_map_with_its_query_and_the_logits():
    for target, pixels in (
        (ClassifierTarget(cnn()), None),
        (SegmenterTarget(segmenter()), torch.rand(2, 2, 8, 8) > 0.5),
    ):
        explainer, images, targets = GradientMap(target), torch.rand(2, 1, 8, 8), torch.tensor([[0, 1], [2, 1]])
        with torch.inference_mode():
            found = explainer.explanation(MetaTensor(images), targets, pixels)
        assert torch.equal(found.maps, explainer.explain(images, targets, pixels))
        assert torch.equal(found.logits, target.logits(images)) and not found.logits.requires_grad
        assert torch.equal(found.query.targets, targets) and not found.extras and not found.alternatives
        assert found.query.regions is None if pixels is None else torch.equal(found.query.regions, pixels)


def test_what_is_missing_is_named():
    explainer = Explainer(ClassifierTarget(cnn()))
    with pytest.raises(NotImplementedError, match="Explainer has no attribute"):
        explainer.explain(torch.rand(1, 1, 8, 8))
    with pytest.raises(NotImplementedError, match="learns nothing.*test it instead"):
        explainer.loss({})


def test_learned_means_trainable_parameters():
    explainer = LearnedMap(ClassifierTarget(cnn()))
    assert explainer.learned and not GradientMap(ClassifierTarget(cnn())).learned
    explainer.requires_grad_(False)
    assert not explainer.learned


# ------------------------------------------------------------------ steps


def batch_of(label=None, **extra):
    label = torch.tensor([2, 0]) if label is None else label
    return {"image": torch.rand(2, 1, 8, 8), "label": label, "id": ["a", "b"], **extra}


def test_steps_ask_about_the_prediction_the_label_or_all_classes():
    target, batch, asked = ClassifierTarget(cnn()), batch_of(), {}
    for ask in ("prediction", "label", "all"):
        explainer = GradientMap(target, QueryPolicy(ask))
        found = explainer.test_step(batch, 0)
        asked[ask] = found.query.targets.tolist()
        assert found.query.regions is None and found.maps.shape == (*found.query.shape, 8, 8)
        assert torch.equal(found.maps, explainer.explain(batch["image"], found.query.targets))
    predicted = target.predict(batch["image"]).argmax(1)
    assert asked == {"prediction": predicted[:, None].tolist(), "label": [[2], [0]], "all": [[0, 1, 2]] * 2}


def test_multi_hot_labels_ask_about_every_class():
    explainer = GradientMap(ClassifierTarget(cnn(), "sigmoid"), query_policy=QueryPolicy("label"))
    found = explainer.test_step(batch_of(torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])), 0)
    assert found.query.targets.tolist() == [[0, 1, 2]] * 2


def test_one_logit_has_two_classes():
    explainer = GradientMap(ClassifierTarget(cnn(classes=1), "sigmoid"), query_policy=QueryPolicy("all"))
    found = explainer.test_step(batch_of(), 0)
    assert found.query.targets.tolist() == [[0, 1]] * 2
    assert torch.allclose(found.maps[:, 0], -found.maps[:, 1])


@pytest.mark.parametrize("meta", [False, True])
def test_steps_ask_a_segmenter_about_three_pixel_sets(meta):
    mask = torch.randint(0, 3, (2, 1, 8, 8))
    batch = batch_of(mask=MetaTensor(mask) if meta else mask)
    target, found = SegmenterTarget(segmenter()), {}
    for name in ("predicted", "reference", "whole"):
        explainer = GradientMap(target, QueryPolicy(region=getattr(pixel_sets, name)))
        found[name] = explainer.test_step(batch, 0)
        assert found[name].query.targets.tolist() == [[1, 2]] * 2
    predicted = target.predict(batch["image"]).argmax(1, keepdim=True)
    classes = torch.tensor([1, 2]).view(1, 2, 1, 1)
    regions = {name: explanation.query.regions for name, explanation in found.items()}
    assert torch.equal(regions["predicted"], predicted == classes)
    assert torch.equal(regions["reference"], mask == classes)
    assert regions["whole"].all() and regions["whole"].shape == (2, 2, 8, 8)
    for explanation in found.values():
        query = explanation.query
        assert type(query.regions) is torch.Tensor
        assert torch.equal(explanation.maps, explainer.explain(batch["image"], query.targets, query.regions))


def test_impossible_settings_are_named():
    explainer = GradientMap(SegmenterTarget(segmenter()), query_policy=QueryPolicy(region=pixel_sets.reference))
    with pytest.raises(ValueError, match="needs masks.*use region=predicted"):
        explainer.test_step(batch_of(), 0)
    with pytest.raises(ValueError, match="'labels'.*prediction, label, all"):
        QueryPolicy("labels")
    explainer = GradientMap(explainer.target, QueryPolicy("label"))
    unlabeled = {name: value for name, value in batch_of().items() if name != "label"}
    with pytest.raises(ValueError, match="needs labels, and the data set has none; use ask=prediction or ask=all"):
        explainer.test_step(unlabeled, 0)


def test_steps_do_not_ask_the_model_more_than_needed():
    target = CountingTarget(cnn())
    explainer = Nothing(target, lambda images, targets: torch.zeros(*targets.shape, 8, 8))
    explainer.test_step(batch_of(), 0)
    assert target.chunks == [2]


class Keep(Callback):
    """Keeps the outputs of every batch end, as callbacks see them."""

    def __init__(self):
        self.seen = []

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        if not trainer.sanity_checking:
            self.seen.append((outputs, batch))

    def on_test_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        self.seen.append((outputs, batch))


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
@pytest.mark.parametrize("kind", [GradientMap, LearnedMap])
def test_every_stage_hands_over_the_same_maps(tmp_path, stage, kind):
    keep, data, explainer = Keep(), Blobs(), kind(ClassifierTarget(cnn()))
    before = state_of(explainer.target)
    result = getattr(trainer(tmp_path, callbacks=[keep]), stage)(explainer, data)
    outputs = result if stage == "predict" else [output for output, _ in keep.seen]
    assert len(outputs) == 3
    for output, batch in zip(outputs, data.loader(), strict=True):
        assert torch.allclose(output.maps, explainer.explain(batch["image"], output.query.targets))
        assert torch.allclose(output.logits, explainer.target.logits(batch["image"]))
    assert_untouched(before, state_of(explainer.target))
    if stage == "validate":
        assert set(result[0]) == ({"val/loss", "val/keep"} if kind is LearnedMap else set())


def test_fit_trains_the_explainer_and_nothing_else(tmp_path):
    keep, explainer = Keep(), LearnedMap(ClassifierTarget(cnn()))
    before = state_of(explainer.target)
    run = trainer(tmp_path, max_epochs=2, callbacks=[keep])
    run.fit(explainer, Blobs())
    assert explainer.net.abs().sum() > 0 and len(keep.seen) == 2 * 3
    assert {"train/loss", "train/keep", "val/loss", "val/keep"} <= set(run.callback_metrics)
    assert_untouched(before, state_of(explainer.target))


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_maps_are_float32_under_every_precision(tmp_path, precision):
    explainer = GradientMap(ClassifierTarget(cnn(), mean=[0.5], std=[0.2]))
    outputs = trainer(tmp_path, precision=precision).predict(explainer, Blobs())
    assert {output.maps.dtype for output in outputs} == {torch.float32}


# ------------------------------------------------------------------ checkpoints


def save(tmp_path, explainer):
    run = trainer(tmp_path, max_epochs=1, enable_checkpointing=True)
    run.fit(explainer, Blobs())
    run.save_checkpoint(tmp_path / "explainer.ckpt")
    return tmp_path / "explainer.ckpt"


def test_a_checkpoint_holds_the_explainer_alone_and_loads_safely(tmp_path):
    explainer = LearnedMap(ClassifierTarget(cnn(), mean=[0.5], std=[0.2]))
    content = torch.load(save(tmp_path, explainer), weights_only=True)
    assert list(content["state_dict"]) == ["net"]
    assert content["target_fingerprint"] == explainer.target.fingerprint()


def test_a_checkpoint_resumes_on_the_same_target(tmp_path):
    explainer = LearnedMap(ClassifierTarget(cnn()))
    path = save(tmp_path, explainer)
    other = LearnedMap(ClassifierTarget(copy.deepcopy(explainer.target.model)))
    trainer(tmp_path).test(other, Blobs(), ckpt_path=path, weights_only=True)
    assert torch.equal(other.net, explainer.net)
    loaded = LearnedMap.load_from_checkpoint(path, target=ClassifierTarget(cnn()), weights_only=True)
    assert torch.equal(loaded.net, explainer.net)


def test_a_checkpoint_of_another_target_is_refused_with_both_names(tmp_path):
    explainer, other = LearnedMap(ClassifierTarget(cnn())), LearnedMap(ClassifierTarget(cnn(seed=1)))
    path = save(tmp_path, explainer)
    with pytest.raises(ValueError, match="explains target") as caught:
        trainer(tmp_path).test(other, Blobs(), ckpt_path=path, weights_only=True)
    assert explainer.target.fingerprint() in str(caught.value) and other.target.fingerprint() in str(caught.value)
