"""What every explainer promises, checked for each YAML of configs/explainer, whoever adds it."""

import contextlib
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import get_class, instantiate
from lightning import Trainer
from monai.data.meta_tensor import MetaTensor
from omegaconf import OmegaConf, open_dict
from torch.utils.data import DataLoader

from lightning_xai import ClassifierTarget, Explainer, SegmenterTarget
from tests.helpers import assert_untouched, cnn, segmenter, state_of

CONFIGS = Path(__file__).parents[2] / "configs"
NAMES = sorted(path.stem for path in (CONFIGS / "explainer").glob("*.yaml"))
SIZES = {2: (16, 20), 3: (16, 16, 18)}
CLASSES = 3
KINDS = {"classifier": (ClassifierTarget, cnn), "segmenter": (SegmenterTarget, segmenter)}


def class_of(name: str) -> type[Explainer]:
    """The class that a YAML names, itself or in the one that it starts from."""
    node = OmegaConf.load(CONFIGS / "explainer" / f"{name}.yaml")
    return get_class(node._target_) if "_target_" in node else class_of(node.defaults[0])


EXPLAINS = {name: class_of(name).explains for name in NAMES}
PAIRS = [(name, kind) for name in NAMES for kind in KINDS]
MADE_FOR = [(name, kind) for name, kind in PAIRS if EXPLAINS[name] in (None, KINDS[kind][0].task)]
CASES = [(name, kind, dims) for name, kind in MADE_FOR for dims in SIZES]
each_case = pytest.mark.parametrize(("name", "kind", "dims"), CASES, ids=["-".join(map(str, case)) for case in CASES])
#: What a YAML sets for real images, cut down to what a contract needs.
QUICK = {"steps": 2, "masks": 40, "n_samples": 20, "n_steps": 5, "smooth": 3}
CONTEXTS = {
    "no_grad": (torch.no_grad,),
    "inference_mode": (torch.inference_mode,),
    "bf16": (lambda: torch.autocast("cpu", torch.bfloat16),),
    "bf16 in inference_mode": (torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)),
}


def explainer_of(name: str, kind: str, dims: int) -> Explainer:
    """The explainer of a YAML, as train.py makes it, around a tiny target."""
    wrap, net = KINDS[kind]
    names = [f"class {number}" for number in range(CLASSES)]
    target = wrap(net(dims, classes=CLASSES), mean=[0.4], std=[0.3], class_names=names)
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose("train", [f"explainer={name}"])
    with open_dict(cfg):
        cfg.data_info = {"channels": 1, "dims": dims, "classes": CLASSES, "class_names": names}
        cfg.data_info.update(
            {"activation": "softmax", "mean": [0.4], "std": [0.3], "has_masks": True, "fingerprint": "none"}
        )
        cfg.explainer.update({key: value for key, value in QUICK.items() if key in cfg.explainer})
    torch.manual_seed(1)
    made: Explainer = instantiate(cfg.explainer)(target)
    return made.eval()


def images_of(dims: int, count: int = 2) -> torch.Tensor:
    return torch.rand(count, 1, *SIZES[dims], generator=torch.Generator().manual_seed(dims))


def batches_of(dims: int) -> DataLoader:
    """Three images in batches of two, so that the last batch is short."""
    masks = torch.arange(3).view(3, 1, *(1,) * dims).expand(-1, 1, *SIZES[dims])
    rows = enumerate(zip(images_of(dims, 3), masks, strict=True))
    items = [{"image": image, "mask": mask, "label": number, "id": str(number)} for number, (image, mask) in rows]
    return DataLoader(items, batch_size=2)


def trainer_in(folder: Path, **options) -> Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    quiet |= {"enable_checkpointing": False, "num_sanity_val_steps": 0, "log_every_n_steps": 1}
    return Trainer(accelerator="cpu", devices=1, default_root_dir=folder, **quiet | options)


def leftovers(explainer: Explainer) -> list[str]:
    """Hooks and gradients that a call has left, in the explainer or in its target."""
    found = []
    for root in (explainer, explainer.target.model):
        for name, module in root.named_modules():
            kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
            found += [f"{kind} of {name or type(root).__name__}" for kind in kinds if getattr(module, kind)]
        found += [f"gradient of {name}" for name, value in root.named_parameters() if value.grad is not None]
    return found


def assert_maps(maps, shape):
    assert type(maps) is torch.Tensor and maps.dtype == torch.float32
    assert maps.shape == shape
    assert not maps.requires_grad and not maps.is_inference(), "maps must be free of any gradient context"
    assert maps.isfinite().all(), "maps have NaN or infinite values"


def test_there_are_explainers_to_check():
    assert {"pcim", "amortized_pcim", "random_map"} <= set(NAMES)


@each_case
def test_any_query_gets_a_map_and_nothing_is_left_behind(name, kind, dims):
    explainer, images = explainer_of(name, kind, dims), images_of(dims)
    before, copy = state_of(explainer.target), images.clone()
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


@pytest.mark.parametrize(("name", "dims"), [(name, dims) for name, kind, dims in CASES if kind == "segmenter"])
def test_a_segmenter_is_asked_about_given_pixels(name, dims):
    explainer, images, targets = explainer_of(name, "segmenter", dims), images_of(dims), torch.tensor([[0, 1], [2, 0]])
    one = torch.rand(2, 1, *SIZES[dims]) < 0.5
    shared = explainer.explain(images, targets, one)
    assert_maps(shared, (2, 2, *SIZES[dims]))
    assert torch.equal(shared, explainer.explain(images, targets, one.expand(-1, 2, *SIZES[dims])))
    empty = torch.zeros_like(one)
    assert not explainer.explain(images, targets[:, 0], empty).any(), "no pixel asked about: the map is zero"


@each_case
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


@each_case
def test_images_together_equal_images_alone(name, kind, dims):
    """In double precision, in which rounding has no say."""
    explainer, images = explainer_of(name, kind, dims).double(), images_of(dims).double()
    targets = torch.tensor([[0, 1], [2, 1]])
    together = explainer.explain(images, targets)
    for row in range(2):
        alone = explainer.explain(images[row : row + 1], targets[row : row + 1])
        assert torch.allclose(together[row : row + 1], alone, rtol=1e-5, atol=1e-6)


@each_case
def test_metatensors_are_taken_as_what_they_hold(name, kind, dims):
    explainer, images, targets = explainer_of(name, kind, dims), images_of(dims), torch.tensor([1, 2])
    maps = explainer.explain(MetaTensor(images), MetaTensor(targets))
    assert_maps(maps, (2, 1, *SIZES[dims]))
    assert torch.equal(maps, explainer.explain(images, targets))


@each_case
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


@each_case
def test_one_that_learns_fits_a_step_and_saves_itself_alone(name, kind, dims, tmp_path):
    explainer = explainer_of(name, kind, dims)
    before, start = state_of(explainer.target), {key: value.clone() for key, value in explainer.state_dict().items()}
    assert not any("model" in key or "target" in key for key in start), "the target's weights are in the state_dict"
    if not explainer.learned:
        assert not start, "an explainer that learns nothing has nothing to save"
        return
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
