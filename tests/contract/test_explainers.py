"""What every explainer promises, checked for each YAML of configs/explainer, whoever adds it."""

import contextlib
from pathlib import Path

import pytest
import torch
from lightning import Trainer
from monai.data.meta_tensor import MetaTensor

from lightning_xai import Explainer
from tests.contract.explainers import (
    BRIEF,
    CLASSES,
    EXPLAINS,
    FULL,
    KINDS,
    LONG,
    MADE_FOR,
    NAMES,
    PAIRS,
    SAME_CODE,
    SHORT,
    SIZES,
    batches_of,
    class_of,
    each,
    explainer_of,
    images_of,
    leftovers,
)
from tests.helpers import assert_untouched, state_of

CONTEXTS = {
    "no_grad": (torch.no_grad,),
    "inference_mode": (torch.inference_mode,),
    "bf16": (lambda: torch.autocast("cpu", torch.bfloat16),),
    "bf16 in inference_mode": (torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)),
}


def trainer_in(folder: Path, **options) -> Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    quiet |= {"enable_checkpointing": False, "num_sanity_val_steps": 0, "log_every_n_steps": 1}
    return Trainer(accelerator="cpu", devices=1, default_root_dir=folder, **quiet | options)


def assert_maps(maps, shape):
    assert type(maps) is torch.Tensor and maps.dtype == torch.float32
    assert maps.shape == shape
    assert not maps.requires_grad and not maps.is_inference(), "maps must be free of any gradient context"
    assert maps.isfinite().all(), "maps have NaN or infinite values"


def test_there_are_explainers_to_check():
    assert {"pcim", "amortized_pcim", "random_map"} <= set(NAMES)


#: What the base class calls.
METHODS = ("attribute", "explain", "explanation", "explain_with", "explain_batch", "extras", "training_step", "loss")


@pytest.mark.parametrize(("name", "other"), [(name, other) for name, others in SAME_CODE.items() for other in others])
def test_one_that_another_is_checked_for_runs_the_same_code(name, other):
    one, two = class_of(name), class_of(other)
    for method in METHODS:
        assert getattr(one, method) is getattr(two, method), f"{other} has a {method} of its own: check it at length"


@each([*FULL, *(case for case in BRIEF if case[0] in SHORT)])
def test_any_query_gets_a_map_and_nothing_is_left_behind(name, kind, dims):
    explainer, images = explainer_of(name, kind, dims), images_of(dims)
    before, copy = state_of(explainer.target), images.clone()
    kept = explainer.state_dict()
    assert not any("model" in key or "target" in key for key in kept), "the target's weights are in the state_dict"
    assert bool(kept) == explainer.learned, "an explainer that learns nothing has nothing to save"
    default = 1 if kind == "classifier" else CLASSES - 1
    pairs = torch.tensor([[0, 1], [2, 0]])
    for targets, queries in ((None, default), (pairs[:, 0], 1), (pairs, 2)):
        maps = explainer.explain(images, targets)
        assert_maps(maps, (2, queries, *SIZES[dims]))
        found = explainer.explanation(images, targets)
        assert found.query.shape == (2, queries) and torch.equal(found.logits, explainer.target.logits(images))
        assert all(value.shape[0] == 2 for value in found.extras.values())
        assert all(value.shape == maps.shape for value in found.alternatives.values())
        assert torch.equal(maps, explainer.explain(images, targets)), "the same query got another map"
    # The last maps are of all pairs: a query must not depend on the others.
    alone = explainer.explain(images, pairs[:, 1])
    assert torch.allclose(alone, maps[:, 1:], atol=1e-3 * float(maps.abs().max()) + 1e-6)
    assert_untouched(before, state_of(explainer.target))
    assert torch.equal(images, copy) and images.grad is None
    assert leftovers(explainer) == []


@pytest.mark.parametrize(("name", "kind"), sorted(set(PAIRS) - set(MADE_FOR)))
def test_one_not_made_for_this_kind_of_target_says_so(name, kind):
    wrap = KINDS[kind][0]
    with pytest.raises(ValueError, match=f"explains {EXPLAINS[name]}, but a {wrap.__name__} does {wrap.task}"):
        explainer_of(name, kind, 2)


@pytest.mark.parametrize(("name", "dims"), [(name, dims) for name, kind, dims in FULL if kind == "segmenter"])
def test_a_segmenter_is_asked_about_given_pixels(name, dims):
    explainer, images, targets = explainer_of(name, "segmenter", dims), images_of(dims), torch.tensor([[0, 1], [2, 0]])
    one = torch.rand(2, 1, *SIZES[dims]) < 0.5
    shared = explainer.explain(images, targets, one)
    assert_maps(shared, (2, 2, *SIZES[dims]))
    assert torch.equal(shared, explainer.explain(images, targets, one.expand(-1, 2, *SIZES[dims])))
    empty = torch.zeros_like(one)
    assert not explainer.explain(images, targets[:, 0], empty).any(), "no pixel asked about: the map is zero"


@each(LONG)
def test_the_callers_context_does_not_matter(name, kind, dims):
    explainer, images, targets = explainer_of(name, kind, dims), images_of(dims), torch.tensor([0, 2])
    expected = explainer.explain(images, targets)
    before = state_of(explainer.target)
    for context, managers in CONTEXTS.items():
        with contextlib.ExitStack() as stack:
            for manager in managers:
                stack.enter_context(manager())
            flags = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
            maps = explainer.explain(images + 0, targets + 0)  # born in the context
            assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == flags, context
        assert_maps(maps, expected.shape)
        if "bf16" not in context:
            assert torch.allclose(maps, expected, rtol=1e-4, atol=1e-6), context
    assert_untouched(before, state_of(explainer.target))


@each(LONG)
def test_images_together_equal_images_alone(name, kind, dims):
    """In double precision, in which rounding has no say."""
    explainer, images = explainer_of(name, kind, dims).double(), images_of(dims).double()
    targets = torch.tensor([[0, 1], [2, 1]])
    together = explainer.explain(images, targets)
    for row in range(2):
        alone = explainer.explain(images[row : row + 1], targets[row : row + 1])
        assert torch.allclose(together[row : row + 1], alone, rtol=1e-5, atol=1e-6)


@each(LONG)
def test_metatensors_are_taken_as_what_they_hold(name, kind, dims):
    explainer, images, targets = explainer_of(name, kind, dims), images_of(dims), torch.tensor([1, 2])
    maps = explainer.explain(MetaTensor(images), MetaTensor(targets))
    assert_maps(maps, (2, 1, *SIZES[dims]))
    assert torch.equal(maps, explainer.explain(images, targets))


@each(LONG)
def test_test_and_predict_run_under_the_trainer(name, kind, dims, tmp_path):
    explainer, run = explainer_of(name, kind, dims), trainer_in(tmp_path)
    before = state_of(explainer.target)
    run.test(explainer, batches_of(dims), verbose=False)
    outputs = run.predict(explainer, batches_of(dims))
    explainer.eval()
    for output, batch in zip(outputs, batches_of(dims), strict=True):
        images, query = batch["image"], output.query
        assert_maps(output.maps, (*query.shape, *SIZES[dims]))
        assert torch.allclose(output.maps, explainer.explain(images, query.targets, query.regions))
        assert torch.equal(output.logits, explainer.target.logits(images)) and not output.logits.requires_grad
    assert_untouched(before, state_of(explainer.target))
    assert leftovers(explainer) == []


LEARNS = {name for name in NAMES if class_of(name).loss is not Explainer.loss}


@each([(name, kind, dims) for name, kind in MADE_FOR for dims in SIZES if name in LEARNS])
def test_one_that_learns_fits_a_step_and_saves_itself_alone(name, kind, dims, tmp_path):
    explainer = explainer_of(name, kind, dims)
    before, start = state_of(explainer.target), {key: value.clone() for key, value in explainer.state_dict().items()}
    assert explainer.learned and start
    run = trainer_in(tmp_path, max_epochs=1, limit_train_batches=1)
    run.fit(explainer, batches_of(dims), batches_of(dims))
    assert any(not torch.equal(value, start[key]) for key, value in explainer.state_dict().items()), "nothing learned"
    assert {"train/loss", "val/loss"} <= set(run.callback_metrics) and run.callback_metrics["train/loss"].isfinite()
    assert_untouched(before, state_of(explainer.target))
    run.save_checkpoint(tmp_path / "explainer.ckpt")
    content = torch.load(tmp_path / "explainer.ckpt", weights_only=True)
    assert set(content["state_dict"]) == set(start)
    other = type(explainer).load_from_checkpoint(
        tmp_path / "explainer.ckpt", target=explainer.target, weights_only=True
    )
    images, targets = images_of(dims), torch.tensor([0, 2])
    assert torch.equal(other.eval().explain(images, targets), explainer.eval().explain(images, targets))
