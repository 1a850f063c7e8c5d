"""The explainers that the contract is checked on: every YAML of configs/explainer, around tiny targets."""

import functools
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf, open_dict

from lightning_xai import ClassifierTarget, Explainer, SegmenterTarget
from tests.helpers import cnn, segmenter

CONFIGS = Path(__file__).parents[2] / "configs"
NAMES = sorted(path.stem for path in (CONFIGS / "explainer").glob("*.yaml"))
SIZES = {2: (16, 20), 3: (16, 16, 18)}
CLASSES = 3
KINDS = {"classifier": (ClassifierTarget, cnn), "segmenter": (SegmenterTarget, segmenter)}
#: What a YAML sets for real images, cut down to what a contract needs.
QUICK = {"steps": 2, "masks": 40, "n_samples": 20, "n_steps": 5, "smooth": 3}
#: YAMLs that run another one's code but for a formula or the name of Captum's method: the other one is checked at
#: length for them, and they in the tests of all (``BRIEF``). One that stands in no line is checked at length.
SAME_CODE = {
    "grad_cam": ("grad_cam_plus_plus", "hires_cam", "layer_cam", "xgrad_cam"),
    "captum_deep_lift": ("captum_guided_backprop", "captum_input_x_gradient", "captum_saliency"),
    "captum_occlusion": ("captum_feature_ablation",),
    "unoise": ("unoise_visibility",),
}
SHORT = {name for others in SAME_CODE.values() for name in others}


def class_of(name: str) -> type[Explainer]:
    """The class that a YAML names, itself or in the one that it starts from."""
    node = OmegaConf.load(CONFIGS / "explainer" / f"{name}.yaml")
    return get_class(node._target_) if "_target_" in node else class_of(node.defaults[0])


EXPLAINS = {name: class_of(name).explains for name in NAMES}
PAIRS = [(name, kind) for name in NAMES for kind in KINDS]
MADE_FOR = [(name, kind) for name, kind in PAIRS if EXPLAINS[name] in (None, KINDS[kind][0].task)]
#: Each kind of target and each number of dimensions once.
BRIEF = [(name, kind, 2 if kind == "classifier" else 3) for name, kind in MADE_FOR]
LONG = [case for case in BRIEF if case[0] not in SHORT]
#: Both numbers of dimensions for each kind of target.
FULL = [(name, kind, dims) for name, kind, _ in LONG for dims in SIZES]


def each(cases: list[tuple[str, str, int]]) -> pytest.MarkDecorator:
    """A test for each of these cases."""
    return pytest.mark.parametrize(("name", "kind", "dims"), cases, ids=["-".join(map(str, case)) for case in cases])


@functools.cache
def config_of(name: str, dims: int) -> DictConfig:
    """The configuration of a YAML, as train.py composes and completes it."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose("train", [f"explainer={name}"])
    with open_dict(cfg):
        names = [f"class {number}" for number in range(CLASSES)]
        cfg.data_info = {"channels": 1, "dims": dims, "classes": CLASSES, "class_names": names}
        cfg.data_info.update(
            {"activation": "softmax", "mean": [0.4], "std": [0.3], "has_masks": True, "fingerprint": "none"}
        )
        cfg.explainer.update({key: value for key, value in QUICK.items() if key in cfg.explainer})
    return cfg.explainer


def explainer_of(name: str, kind: str, dims: int, model: torch.nn.Module | None = None) -> Explainer:
    """The explainer of a YAML around a tiny target."""
    wrap, net = KINDS[kind]
    model = net(dims, classes=CLASSES) if model is None else model
    target = wrap(model, mean=[0.4], std=[0.3], class_names=[f"class {number}" for number in range(CLASSES)])
    torch.manual_seed(1)
    made: Explainer = instantiate(config_of(name, dims))(target)
    return made.eval()


def images_of(dims: int, count: int = 2) -> torch.Tensor:
    return torch.rand(count, 1, *SIZES[dims], generator=torch.Generator().manual_seed(dims))


def batches_of(dims: int) -> torch.utils.data.DataLoader:
    """Three images in batches of two, so that the last batch is short."""
    masks = torch.arange(3).view(3, 1, *(1,) * dims).expand(-1, 1, *SIZES[dims])
    rows = enumerate(zip(images_of(dims, 3), masks, strict=True))
    items = [{"image": image, "mask": mask, "label": number, "id": str(number)} for number, (image, mask) in rows]
    return torch.utils.data.DataLoader(items, batch_size=2)


def leftovers(explainer: Explainer) -> list[str]:
    """Hooks and gradients that a call has left, in the explainer or in its target."""
    found = []
    for root in (explainer, explainer.target.model):
        for name, module in root.named_modules():
            kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
            found += [f"{kind} of {name or type(root).__name__}" for kind in kinds if getattr(module, kind)]
        found += [f"gradient of {name}" for name, value in root.named_parameters() if value.grad is not None]
    return found
