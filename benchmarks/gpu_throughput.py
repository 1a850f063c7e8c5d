"""Images per second, use of the device, and memory of every explainer, in several settings of the target.

On a CPU seconds are those of the processor, in one thread: what else runs on the machine does not count.

Usage: ``python benchmarks/gpu_throughput.py`` on a GPU: a ResNet-50 at 224 px and a U-Net at 256 px. On a CPU, small:
``python benchmarks/gpu_throughput.py --device cpu --side 64 --images 2 --quick``. Prints a Markdown table.
"""

import argparse
import multiprocessing
import os
import resource
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from monai.networks.nets import BasicUNet, resnet50
from omegaconf import open_dict

from lightning_xai import ClassifierTarget, Explainer, SegmenterTarget
from lightning_xai.targets import Target

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
NAMES = sorted(path.stem for path in (CONFIGS / "explainer").glob("*.yaml"))
CLASSES = [f"class {number}" for number in range(10)]
SETTINGS = ("fp32", "bf16", "channels_last", "compile", "all")
#: What ``--quick`` cuts down, by the name of the option.
QUICK = {"steps": 10, "masks": 32, "n_samples": 16, "n_steps": 8, "smooth": 4}


def resnet(**options: Any) -> Target:
    """ResNet-50 with a usual stem."""
    net = resnet50(pretrained=False, spatial_dims=2, n_input_channels=3, num_classes=10, conv1_t_stride=2)
    return ClassifierTarget(net, mean=[0.5] * 3, std=[0.25] * 3, class_names=CLASSES, **options)


def unet(**options: Any) -> Target:
    """A 2-D U-Net of 32 channels at image resolution."""
    net = BasicUNet(2, 3, 10, features=(32, 32, 64, 128, 256, 32))
    return SegmenterTarget(net, mean=[0.5] * 3, std=[0.25] * 3, class_names=CLASSES, **options)


MODELS: dict[str, tuple[Callable[..., Target], int]] = {"resnet50": (resnet, 224), "unet": (unet, 256)}


def explainer_of(name: str, target: Target, quick: bool) -> Explainer:
    """The explainer of a YAML as ``train.py`` composes it."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose("train", [f"explainer={name}"])
    with open_dict(cfg):
        known = {"channels": 3, "dims": 2, "classes": 10, "class_names": CLASSES, "activation": "softmax"}
        cfg.data_info = known | {"mean": [0.5] * 3, "std": [0.25] * 3, "has_masks": False, "fingerprint": ""}
        if quick:
            cfg.explainer.update({key: value for key, value in QUICK.items() if cfg.explainer.get(key, 0) != 0})
    explainer: Explainer = instantiate(cfg.explainer)(target)
    return explainer.eval()


class Use:
    """Measures seconds, and how busy a device is meanwhile: the driver's number for a GPU, the share of a core else."""

    def __init__(self, device: str) -> None:
        self.device, self.samples, self.done = device, list[float](), threading.Event()

    def __enter__(self) -> "Use":
        self.wall, self.processor = time.perf_counter(), time.process_time()
        self.thread = threading.Thread(target=self._sample, daemon=True)
        if self.device == "cuda":
            self.thread.start()
        return self

    def _sample(self) -> None:
        while not self.done.wait(0.05):
            self.samples.append(torch.cuda.utilization())

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.perf_counter() - self.wall if self.device == "cuda" else time.process_time() - self.processor

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.total = self.seconds
        if self.device == "cuda":
            self.thread.join()
            self.percent = sum(self.samples) / max(1, len(self.samples))
        else:
            self.percent = 100 * self.total / (time.perf_counter() - self.wall)


def measure(name: str, model: str, setting: str, options: argparse.Namespace) -> dict[str, float]:
    """Explain a batch often enough, after one that warms up."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    make, side = MODELS[model]
    side = options.side or side
    several = setting == "all"
    target = make(channels_last=several or setting == "channels_last", compile=several or setting == "compile")
    explainer = explainer_of(name, target, options.quick).to(options.device)
    images = torch.rand(options.images, 3, side, side, device=options.device)
    targets = torch.ones(options.images, 1, dtype=torch.long, device=options.device)
    amp = torch.autocast(options.device, torch.bfloat16) if several or setting == "bf16" else nullcontext()
    cuda = options.device == "cuda"
    with amp:
        explainer.explain(images, targets)
        if cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        rounds = 0
        with Use(options.device) as use:
            while not rounds or use.seconds < options.seconds:
                explainer.explain(images, targets)
                rounds += 1
            if cuda:
                torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() if cuda else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"rate": rounds * options.images / use.total, "use": use.percent, "memory": peak / 2**20}


def in_a_process(*arguments: Any) -> dict[str, float] | str:
    """Measure in a process of its own, whose memory is that of this case alone; what fails is told in a sentence."""
    # Forked, with everything imported: the first process computes nothing.
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=send, args=(theirs, *arguments))
    process.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        return f"ended with status {process.exitcode}"
    finally:
        process.join()


def send(connection: Any, *arguments: Any) -> None:
    """Send what :func:`measure` returns, or why it does not."""
    try:
        connection.send(measure(*arguments))
    except Exception as error:
        connection.send(f"{type(error).__name__}: {str(error).splitlines()[0]}")


def main() -> None:
    """Measure every explainer on every model in every setting."""
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # a process that has started CUDA cannot be forked
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--explainers", nargs="+", default=NAMES, choices=NAMES)
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=SETTINGS)
    parser.add_argument("--images", type=int, default=32, help="images a batch")
    parser.add_argument("--side", type=int, help="pixels, instead of each model's own")
    parser.add_argument("--seconds", type=float, default=5.0, help="measured for at least so long")
    parser.add_argument("--quick", action="store_true", help=f"fewer steps and samples: {QUICK}")
    options = parser.parse_args()
    side = options.side or "224 and 256"
    print(f"{options.device}; {options.images} images of {side} px{', quick' * options.quick}\n")
    print("| model | explainer | setting | images/s | use | peak memory |\n| --- | --- | --- | ---: | ---: | ---: |")
    for model in options.models:
        for name in options.explainers:
            for setting in options.settings:
                found = in_a_process(name, model, setting, options)
                cells = (
                    found
                    if isinstance(found, str)
                    else f"{found['rate']:.3g} | {found['use']:.0f} % | {found['memory']:.0f} MiB"
                )
                print(f"| {model} | `{name}` | {setting} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
