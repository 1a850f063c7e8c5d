"""Which explainers work on which kinds of models: "works", or the sentence with which one refuses.

Usage: ``python benchmarks/model_kinds.py [--side 64] [--only vit]``. Random weights, nothing is downloaded; models of
libraries that are not installed are left out, and named. ``make test-external`` installs them in ``.venv-external``.
"""

import argparse
import logging
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.torchvision_operators import declare_operators  # noqa: E402

declare_operators()

from lightning_xai import ClassifierTarget, Explainer, SegmenterTarget  # noqa: E402
from lightning_xai.explainers import (  # noqa: E402
    CAM,
    CAPE,
    PCIM,
    RISE,
    AblationCAM,
    AmortizedPCIM,
    CaptumExplainer,
    GradCAM,
    ScoreCAM,
    UNoise,
)
from lightning_xai.networks.external import huggingface, monai_bundle, smp, timm, torchvision, torchxrayvision  # noqa: E402, I001
from lightning_xai.networks.external.common import MissingPackageError  # noqa: E402
from lightning_xai.networks.mask_net import SmallCNN, UNet  # noqa: E402
from lightning_xai.targets import Target  # noqa: E402
from lightning_xai.targets.layers.find import auto_layer  # noqa: E402

CLASSES = 3
SMALL_VIT = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 96}
BUNDLE = """{"network_def": {"_target_": "UNet", "spatial_dims": 2, "in_channels": 3, "out_channels": 3,
"channels": [8, 16, 32], "strides": [2, 2], "num_res_units": 1}}"""

Maker = Callable[[list[int], Path], Target]


def classifier(build: Callable[..., nn.Module], name: str, channels: int = 3, **options: Any) -> Maker:
    """Make targets of a library's classifier."""
    return lambda size, _: ClassifierTarget(
        lived_in(build(name, CLASSES, in_channels=channels, size=size, **options)), in_channels=channels
    )


def segmenter(build: Callable[..., nn.Module], name: str, **options: Any) -> Maker:
    """Make targets of a library's segmenter."""
    return lambda size, _: SegmenterTarget(lived_in(build(name, CLASSES, in_channels=3, size=size, **options)))


def bundle(size: list[int], folder: Path) -> Target:
    """A MONAI bundle with its weights."""
    for name in ("configs", "models"):
        (folder / name).mkdir()
    (folder / "configs" / "inference.json").write_text(BUNDLE)
    torch.save(lived_in(monai_bundle.monai_bundle(folder)).state_dict(), folder / "models" / "model.pt")
    return SegmenterTarget(monai_bundle.monai_bundle(folder), weights=folder / "models" / "model.pt")


def script(net: nn.Module, wrap: type[Target], trace: bool) -> Maker:
    """A TorchScript file."""

    def make(size: list[int], folder: Path) -> Target:
        network = lived_in(net).eval()
        example = torch.rand(2, 3, *size)
        (torch.jit.trace(network, example) if trace else torch.jit.script(network)).save(folder / "net.pt")
        return wrap(None, weights=folder / "net.pt", allow_code=True, in_channels=3, num_classes=CLASSES)

    return make


def export(size: list[int], folder: Path) -> Target:
    """A torch.export file."""
    network = lived_in(SmallCNN(3, CLASSES, widths=(8, 16))).eval()
    batch = {0: torch.export.Dim("batch", min=1, max=4096)}
    program = torch.export.export(network, (torch.rand(2, 3, *size),), dynamic_shapes=(batch,))
    torch.export.save(program, folder / "net.pt2")
    return ClassifierTarget(None, weights=folder / "net.pt2", allow_code=True, in_channels=3, num_classes=CLASSES)


MODELS: dict[str, Maker] = {
    "timm resnet50": classifier(timm.timm_classifier, "resnet50"),
    "timm convnext_atto": classifier(timm.timm_classifier, "convnext_atto"),
    "timm swin_tiny": classifier(timm.timm_classifier, "swin_tiny_patch4_window7_224"),
    "timm vit_tiny": classifier(timm.timm_classifier, "vit_tiny_patch16_224"),
    "torchvision fcn_resnet50": segmenter(torchvision.torchvision_segmenter, "fcn_resnet50"),
    "torchvision deeplabv3": segmenter(torchvision.torchvision_segmenter, "deeplabv3_mobilenet_v3_large"),
    "smp unet": segmenter(smp.smp_segmenter, "unet", encoder="resnet18"),
    "HF vit": classifier(huggingface.huggingface_classifier, "vit", **SMALL_VIT, patch_size=8),
    "HF segformer": segmenter(huggingface.huggingface_segmenter, "segformer"),
    "torchxrayvision densenet": classifier(
        torchxrayvision.torchxrayvision_classifier, "densenet121-res224-all", channels=1
    ),
    "MONAI bundle (U-Net)": bundle,
    "TorchScript (scripted)": script(SmallCNN(3, CLASSES, widths=(8, 16)), ClassifierTarget, trace=False),
    "TorchScript (traced)": script(SmallCNN(3, CLASSES, widths=(8, 16)), ClassifierTarget, trace=True),
    "TorchScript (segmenter)": script(UNet(3, CLASSES, depth=2, width=8), SegmenterTarget, trace=True),
    "torch.export": export,
}
EXPLAINERS: dict[str, Callable[[Target], Explainer]] = {
    "gradient CAM": GradCAM,
    "Score-CAM": lambda target: ScoreCAM(target),
    "Ablation-CAM": lambda target: AblationCAM(target),
    "CAPE": CAPE,
    "CAM": CAM,
    "PCIM": lambda target: PCIM(target, steps=3),
    "AmortizedPCIM": lambda target: AmortizedPCIM(target),
    "U-Noise": lambda target: UNoise(target),
    "RISE": lambda target: RISE(target, masks=20),
    "Captum gradient": lambda target: CaptumExplainer(target, "IntegratedGradients", n_steps=4),
    "Captum hiding": lambda target: CaptumExplainer(
        target, "Occlusion", sliding_window_shapes=(target.in_channels, 16, 16), strides=(target.in_channels, 16, 16)
    ),
}


def lived_in(model: nn.Module) -> nn.Module:
    """Move the weights away from where a network starts: some begin with zeros, through which no gradient goes."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in model.parameters():
            spread = float(value.std()) if value.numel() > 1 else 0.0
            # In proportion, or the logits of deep networks reach hundreds, where no probability has a gradient.
            value.add_((0.1 * spread or 0.02) * torch.randn(value.shape, generator=generator))
    return model


def verdict(target: Target, make: Callable[[Target], Explainer], images: Tensor) -> str:
    """What comes of explaining two classes of two images, after a step of training where the explainer learns."""
    queries = torch.tensor([[0, 1], [2, 1]])
    everything = torch.ones(2, 1, *images.shape[2:], dtype=torch.bool) if target.dense else None
    try:
        explainer = make(target)
        if type(explainer).loss is not Explainer.loss:
            mask = torch.zeros(2, 1, *images.shape[2:], dtype=torch.long)
            mask[..., : images.shape[-1] // 2] = 1
            loss = explainer.loss({"image": images, "label": queries[:, 0], "mask": mask, "id": ["a", "b"]})
            assert torch.isfinite(loss["loss"]), "a loss that is not finite"
        maps = explainer.eval().explain(images, queries, everything)
    except ValueError as refusal:
        return str(refusal).replace("\n", " ")
    except Exception as error:  # what no explainer should raise
        return f"FAILS with {type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
    assert maps.shape == (2, 2, *images.shape[2:])
    if not maps.isfinite().all():
        return "FAILS: values that are not finite"
    return "works" if all(values.std() > 0 for values in maps.flatten(0, 1)) else "works, but a map is constant"


def layer_of(target: Target, images: Tensor) -> str:
    """The layer that class activation maps are computed from by default."""
    try:
        return f"`{auto_layer(target, images, torch.tensor([[0, 1], [2, 1]]))}`"
    except ValueError:
        return "none"


def main() -> None:
    """Print the verdict of every pair, and the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--only", default="")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    table: dict[str, list[str]] = {}
    sentences: list[str] = []
    for model, make in MODELS.items():
        if given.only not in model:
            continue
        with tempfile.TemporaryDirectory() as folder:
            torch.manual_seed(0)
            try:
                target = make([given.side] * 2, Path(folder))
            except MissingPackageError as missing:
                print(f"{model}: left out, {missing}", flush=True)
                continue
            images = torch.rand(2, target.in_channels or 3, given.side, given.side)
            target.logits(images)
            table[model] = [layer_of(target, images)]
            print(f"{model:26s} {'layer of CAMs':16s} {table[model][0]}", flush=True)
            for explainer, method in EXPLAINERS.items():
                said = verdict(target, method, images)
                print(f"{model:26s} {explainer:16s} {said}", flush=True)
                if not said.startswith("works"):
                    if said not in sentences:
                        sentences.append(said)
                    said = f"({sentences.index(said) + 1})"
                table[model].append(said)
    print("\n| " + " | ".join(("model", "layer of CAMs", *EXPLAINERS)) + " |\n|" + " --- |" * (len(EXPLAINERS) + 2))
    for model, row in table.items():
        print(f"| {model} | " + " | ".join(row) + " |")
    for number, said in enumerate(sentences, start=1):
        print(f"\n({number}) {said}")


if __name__ == "__main__":
    main()
