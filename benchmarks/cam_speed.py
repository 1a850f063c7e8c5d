"""Class activation maps of all classes at once, against the passes they need and against Captum class by class.

Usage: ``python benchmarks/cam_speed.py [--repeats 5] [--skip-brute-force]``. One thread, processor time, medians.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from captum.attr import LayerGradCam, LayerGradientXActivation
from monai.networks.nets import BasicUNet, resnet18
from torch import Tensor

from lightning_xai import ClassifierTarget, Explainer, SegmenterTarget
from lightning_xai.explainers import AblationCAM, GradCAM, HiResCAM
from lightning_xai.targets import Target

LABELS, CLASSES, SIDE, UNET_SIDE = 14, 9, 224, 128
MANY, MANY_SIDE = (250, 500, 1000), 112
WIDTHS = (32, 32, 64, 128, 256, 32)
UNET_LAYER = "upcat_1"


def seconds(work: Callable[[], object]) -> float:
    """Processor time of one call, in one thread: what else runs on the machine does not count."""
    start = time.process_time()
    work()
    return time.process_time() - start


def compare(title: str, works: dict[str, Callable[[], object]], repeats: int) -> None:
    """Print the median time of every work, and how many of the first it takes. They alternate."""
    for work in works.values():
        work()
    times = [[seconds(work) for work in works.values()] for _ in range(repeats)]
    print(f"{title} (medians of {repeats})")
    for index, name in enumerate(works):
        own = statistics.median(row[index] for row in times)
        ratio = statistics.median(row[index] / row[0] for row in times)
        print(f"  {name:58s} {1000 * own:9.1f} ms  {ratio:8.2f} x", flush=True)


def forward(target: Target, image: Tensor) -> Tensor:
    """One pass without gradients."""
    with torch.no_grad():
        return target.logits(image)


def class_by_class(method: type, target: Target, layer: str, image: Tensor, sets: Tensor | None) -> Tensor:
    """Captum's maps ``(T, *s)``: a forward and a backward pass each."""
    classes = LABELS if sets is None else CLASSES
    asked = torch.arange(classes).view(-1, 1)
    maps = []
    for number in range(classes):
        pixels = None if sets is None else sets[:, number : number + 1]

        def score(images: Tensor, number: int = number, pixels: Tensor | None = pixels) -> Tensor:
            return target.score(images, asked[number : number + 1], pixels)[:, 0]

        # Captum needs gradients, which the frozen model has none of: the image asks for them.
        leaf = image.clone().requires_grad_(True)
        attribution = method(score, target.model.get_submodule(layer)).attribute(leaf)
        maps.append(attribution.detach().sum(dim=1)[0])
    return torch.stack(maps)


def check(explainer: Explainer, peer: Tensor, maps: Tensor) -> None:
    """Stop if what is timed is not the same: a map of ours at image resolution and the peer's."""
    side = maps.shape[-1]
    large = torch.nn.functional.interpolate(peer.unsqueeze(0), size=(side, side), mode="bilinear", align_corners=False)
    difference = float((maps - large).abs().max() / large.abs().max())
    if difference > 1e-4:
        raise SystemExit(f"{type(explainer).__name__} is not the peer's map: {difference:.1e} of its maximum apart.")


def classifier(repeats: int) -> None:
    """14 labels of a ResNet-18."""
    torch.manual_seed(0)
    net = resnet18(pretrained=False, spatial_dims=2, n_input_channels=3, num_classes=LABELS, conv1_t_stride=2)
    target, image, asked = ClassifierTarget(net), torch.rand(1, 3, SIDE, SIDE), torch.arange(LABELS).unsqueeze(0)

    def peer() -> Tensor:
        return class_by_class(LayerGradCam, target, "layer4", image, None)

    ours, auto = GradCAM(target, "layer4"), GradCAM(target)
    check(ours, peer(), ours.explain(image, asked))
    works = {
        "one forward pass": lambda: forward(target, image),
        f"GradCAM, {LABELS} classes in one explain()": lambda: ours.explain(image, asked),
        "the same, layer='auto' (found at the first call)": lambda: auto.explain(image, asked),
        f"Captum LayerGradCam, {LABELS} times": peer,
    }
    compare(f"MONAI resnet18, {SIDE} px, layer4", works, repeats)


def many_classes(repeats: int) -> None:
    """Every class of a ResNet-18 of up to 1,000; the first 14 maps are checked against Captum's."""
    for classes in MANY:
        torch.manual_seed(0)
        net = resnet18(pretrained=False, spatial_dims=2, n_input_channels=3, num_classes=classes, conv1_t_stride=2)
        target, image = ClassifierTarget(net), torch.rand(1, 3, MANY_SIDE, MANY_SIDE)
        asked = torch.arange(classes).unsqueeze(0)
        grad, hires = GradCAM(target, "layer4"), HiResCAM(target, "layer4")
        peer = class_by_class(LayerGradCam, target, "layer4", image, None)
        check(grad, peer, grad.explain(image, asked)[:, :LABELS])
        works = {
            "one forward pass": lambda target=target, image=image: forward(target, image),
            f"GradCAM, {classes} classes in one explain()": lambda cam=grad, x=image, t=asked: cam.explain(x, t),
            f"HiResCAM, {classes} classes in one explain()": lambda cam=hires, x=image, t=asked: cam.explain(x, t),
        }
        compare(f"MONAI resnet18 of {classes} classes, {MANY_SIDE} px, layer4", works, repeats)


def segmenter(repeats: int) -> None:
    """9 classes of a U-Net."""
    torch.manual_seed(0)
    target, image = SegmenterTarget(BasicUNet(2, 1, CLASSES, WIDTHS)), torch.rand(1, 1, UNET_SIDE, UNET_SIDE)
    asked = torch.arange(CLASSES).unsqueeze(0)
    sets = torch.rand(1, CLASSES, UNET_SIDE, UNET_SIDE) < 0.1
    ours, mean = HiResCAM(target, UNET_LAYER), GradCAM(target, UNET_LAYER)

    def peer(method: type) -> Callable[[], Tensor]:
        return lambda: class_by_class(method, target, UNET_LAYER, image, sets)

    check(ours, peer(LayerGradientXActivation)(), ours.explain(image, asked, sets))
    check(mean, peer(LayerGradCam)(), mean.explain(image, asked, sets))
    works = {
        "one forward pass": lambda: forward(target, image),
        f"Seg-HiRes-Grad CAM, {CLASSES} classes in one explain()": lambda: ours.explain(image, asked, sets),
        f"Seg-Grad-CAM, {CLASSES} classes in one explain()": lambda: mean.explain(image, asked, sets),
        f"Captum LayerGradientXActivation, {CLASSES} times": peer(LayerGradientXActivation),
        f"Captum LayerGradCam, {CLASSES} times": peer(LayerGradCam),
    }
    compare(f"MONAI BasicUNet, {UNET_SIDE} px, {UNET_LAYER}", works, repeats)


def ablation(repeats: int, sizes: Sequence[int] = (64,)) -> None:
    """512 channels of a ResNet-18, for all 14 labels."""
    torch.manual_seed(0)
    net = resnet18(pretrained=False, spatial_dims=2, n_input_channels=3, num_classes=LABELS, conv1_t_stride=2)
    target, image, asked = ClassifierTarget(net), torch.rand(1, 3, SIDE, SIDE), torch.arange(LABELS).unsqueeze(0)
    channels = 512

    def brute(chunk: int) -> Tensor:
        lost = []
        with torch.no_grad():
            whole = target.score(image, asked)
            for start in range(0, channels, chunk):
                index = torch.arange(start, start + chunk)

                def drop(_: object, __: object, output: Tensor, index: Tensor = index) -> Tensor:
                    output = output.clone()
                    output[torch.arange(len(index)), index] = 0
                    return output

                hook = net.layer4.register_forward_hook(drop)
                left = target.score(image.expand(chunk, -1, -1, -1), asked.expand(chunk, -1))
                hook.remove()
                lost.append((whole - left) / whole.abs())
        return torch.cat(lost)

    ours = AblationCAM(target, "layer4")
    features: list[Tensor] = []
    note = net.layer4.register_forward_hook(lambda _, __, output: features.append(output))
    forward(target, image)
    note.remove()
    check(ours, torch.einsum("dt,dhw->thw", brute(64), features[0][0]), ours.explain(image, asked))
    works: dict[str, Callable[[], object]] = {
        "one forward pass": lambda: forward(target, image),
        f"AblationCAM, {channels} channels, {LABELS} classes": lambda: ours.explain(image, asked),
    }
    works |= {f"full forward passes, {chunk} channels each": lambda chunk=chunk: brute(chunk) for chunk in sizes}
    compare(f"MONAI resnet18, {SIDE} px, layer4, ablation", works, repeats)


def main() -> None:
    """Compare for a classifier, of few and of many classes, and a segmenter, then without gradients."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--skip-brute-force", action="store_true", help="of 512 passes each")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("one image, one thread, processor time")
    classifier(options.repeats)
    many_classes(options.repeats)
    segmenter(options.repeats)
    if not options.skip_brute_force:
        ablation(1)


if __name__ == "__main__":
    main()
