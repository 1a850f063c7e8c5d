"""What a metric set costs beyond its passes: the full set against (passes x one pass of a full batch).

Usage: ``python benchmarks/metric_overhead.py [--images 1 32] [--models resnet18 unet] [--metrics full]``. One thread.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from hydra.utils import instantiate
from monai.networks.nets import BasicUNet, resnet18
from omegaconf import OmegaConf
from torch import Tensor

from lightning_xai import ClassifierTarget, SegmenterTarget
from lightning_xai.explainers import CaptumExplainer
from lightning_xai.metrics import MetricSuite
from lightning_xai.metrics.base import make_batch
from lightning_xai.targets import Target

CONFIGS = Path(__file__).parents[1] / "configs" / "metrics"
SIDE, CHUNK = 224, 64


def resnet() -> tuple[Target, str]:
    """ResNet-18 with a usual stem and 10 classes, and the layer that its maps come from."""
    net = resnet18(pretrained=False, spatial_dims=2, n_input_channels=3, num_classes=10, conv1_t_stride=2)
    return ClassifierTarget(net, mean=[0.5] * 3, std=[0.25] * 3), "layer4"


def unet() -> tuple[Target, str]:
    """A 2-D U-Net of 16 channels at image resolution, two foreground classes, and the layer of its maps."""
    net = BasicUNet(2, 3, 3, features=(16, 16, 32, 64, 128, 16))
    return SegmenterTarget(net, mean=[0.5] * 3, std=[0.25] * 3), "down_4"


MODELS: dict[str, Callable[[], tuple[Target, str]]] = {"resnet18": resnet, "unet": unet}


def seconds(work: Callable[[], object]) -> float:
    """Processor time of one call, in one thread: what else runs on the machine does not count."""
    start = time.process_time()
    work()
    return time.process_time() - start


def scene(target: Target, count: int) -> dict[str, Tensor | None]:
    """Smooth images with masks, queries about one class, and their pixel sets."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 28, 28, generator=generator)
    images = torch.nn.functional.interpolate(coarse, size=(SIDE, SIDE), mode="bilinear")
    masks = torch.zeros(count, 1, SIDE, SIDE, dtype=torch.long)
    masks[..., 60:150, 80:170] = 1
    segments = isinstance(target, SegmenterTarget)
    queries = torch.ones(count, 1, dtype=torch.long)
    return {"images": images, "masks": masks, "targets": queries, "pixels": masks > 0 if segments else None}


def compare(name: str, count: int, metrics: str, repeats: int) -> None:
    """Print the time of the suite for so many images, that of its passes alone, and their ratio."""
    torch.manual_seed(0)
    target, layer = MODELS[name]()
    explainer = CaptumExplainer(target, "LayerGradientXActivation", layer=layer)
    members = {key: instantiate(value) for key, value in OmegaConf.load(CONFIGS / f"{metrics}.yaml").items()}
    batch = scene(target, count)
    maps = explainer.explain(batch["images"], batch["targets"], batch["pixels"])
    whole = make_batch(maps, target, *(batch[key] for key in ("images", "targets", "masks", "pixels")), explainer, None)
    cost = MetricSuite({key: metric for key, metric in members.items() if metric.lacks(whole) is None}).passes()

    many = torch.rand(CHUNK, 3, SIDE, SIDE)
    asked = torch.ones(CHUNK, 1, dtype=torch.long)
    sets = None if batch["pixels"] is None else torch.ones(CHUNK, 1, SIDE, SIDE, dtype=torch.bool)
    times: dict[str, list[float]] = {"forward": [], "explain": [], "suite": []}
    for _ in range(repeats):
        with torch.no_grad():
            times["forward"].append(seconds(lambda: target.logits(many)) / CHUNK)
        times["explain"].append(seconds(lambda: explainer.explain(many, asked, sets)) / CHUNK)
        suite = MetricSuite(members, CHUNK)
        suite.reset()
        call = {"target": target, "maps": maps, "explainer": explainer, **batch}
        times["suite"].append(seconds(lambda: suite.update(**call)))  # noqa: B023 - called at once
    one = {key: statistics.median(values) for key, values in times.items()}
    passes = count * (cost["passes"] * one["forward"] + cost["explanations"] * one["explain"])
    print(
        f"  {name:8s} {count:3d} images: {cost['passes']} passes of {1000 * one['forward']:.1f} ms and "
        f"{cost['explanations']} explanations of {1000 * one['explain']:.1f} ms an image = {passes:.2f} s; "
        f"suite {one['suite']:.2f} s; ratio {one['suite'] / passes:.3f}",
        flush=True,
    )


def main() -> None:
    """Compare for every model and number of images."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--metrics", default="full")
    parser.add_argument("--repeats", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"metrics={options.metrics}, {SIDE} px, chunks of {CHUNK}, one thread")
    for name in options.models:
        for count in options.images:
            compare(name, count, options.metrics, 3 * options.repeats if count == 1 else options.repeats)


if __name__ == "__main__":
    main()
