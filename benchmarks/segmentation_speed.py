"""What segmentation costs: U-Noise's training step, the time to explain an image, and a large volume's memory.

Usage: ``python benchmarks/segmentation_speed.py [--repeats 5] [--skip-volume]``. One thread, processor time, medians.
"""

import argparse
import resource
import time

import torch
import torch.nn.functional as F
from cam_speed import compare, forward
from torch import Tensor

from lightning_xai import SegmenterTarget
from lightning_xai.explainers import CaptumExplainer, GradCAM, HiResCAM, UNoise
from lightning_xai.networks.mask_net import UNet

SIDE, BATCH, WINDOW = 128, 8, 96
VOLUME = (192, 192, 128)
GIBIBYTE = 2**20  # ru_maxrss counts KiB


def training_step(repeats: int) -> None:
    """U-Noise's step against a loop of the same two networks without this package."""
    target = SegmenterTarget(UNet(1, 2, 5, 16), mean=[0.5], std=[0.25])
    ours = UNoise(target, channels=1, classes=2)
    bare = UNet(1, 1, 2, 16)
    segmenter = target.model
    optimizers = [torch.optim.Adam(net.parameters(), 3e-3) for net in (ours.net, bare)]
    images, masks = torch.rand(BATCH, 1, SIDE, SIDE), torch.randint(0, 2, (BATCH, 1, SIDE, SIDE))
    batch = {"image": images, "mask": masks, "id": list("abcdefgh")}
    ours.log_dict = lambda *_, **__: None  # type: ignore[method-assign]

    def bare_step() -> None:
        normalized = (images - 0.5) / 0.25
        raw = bare(normalized)
        noise = torch.randn_like(raw) * (raw.sigmoid() * 4 + 1)
        loss = F.cross_entropy(segmenter(normalized + noise), masks[:, 0]) - 1e-3 * F.logsigmoid(raw).mean()
        optimizers[1].zero_grad()
        loss.backward()
        optimizers[1].step()

    def own_step() -> None:
        optimizers[0].zero_grad()
        ours.training_step(batch, 0).backward()
        optimizers[0].step()

    compare(f"training step, {BATCH} images of {SIDE} px", {"bare loop": bare_step, "U-Noise": own_step}, repeats)


def explanation(repeats: int) -> None:
    """One image, one class."""
    target, image = SegmenterTarget(UNet(1, 2, 5, 16), mean=[0.5], std=[0.25]), torch.rand(1, 1, SIDE, SIDE)
    asked, pixels = torch.tensor([[1]]), torch.ones(1, 1, SIDE, SIDE, dtype=torch.bool)
    explainers = {f"U-Noise {size}": UNoise(target, size=size) for size in ("small", "medium", "large")}
    explainers |= {"Seg-Grad-CAM": GradCAM(target), "Seg-HiRes": HiResCAM(target)}
    explainers["occlusion, 16 px"] = CaptumExplainer(target, "Occlusion", baseline="zero", patch=16)

    works = {name: lambda own=own: own.explain(image, asked, pixels) for name, own in explainers.items()}
    compare(
        f"one explanation, {SIDE} px, beside a forward pass",
        {"forward pass": lambda: forward(target, image), **works},
        repeats,
    )


def volume() -> None:
    """A volume window by window: time, and the process's peak memory."""
    target = SegmenterTarget(UNet(1, 3, 3, 8, dims=3), mean=[0.5], std=[0.25], window=WINDOW)
    image = torch.rand(1, 1, *VOLUME)
    print(f"a volume of {VOLUME} in windows of {WINDOW}, two classes")
    for name, explainer in (("Seg-HiRes", HiResCAM(target)), ("U-Noise", UNoise(target, dims=3))):
        start = time.perf_counter()
        maps: Tensor = explainer.explain(image)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / GIBIBYTE
        print(
            f"  {name:<12} {tuple(maps.shape)}  {time.perf_counter() - start:6.1f} s  peak {peak:.2f} GiB", flush=True
        )


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--skip-volume", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if not arguments.skip_volume:
        volume()
    training_step(arguments.repeats)
    explanation(arguments.repeats)


if __name__ == "__main__":
    main()
