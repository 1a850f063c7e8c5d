"""Let torchvision import where its compiled part was built for another PyTorch, as it is beside one for CPUs alone."""

from importlib.util import find_spec
from pathlib import Path

import torch

#: Kept, for what it declares goes with it.
LIBRARY = torch.library.Library("torchvision", "FRAGMENT")


def declare_operators() -> None:
    """Declare the two operators whose shapes torchvision registers when it is imported.

    No classifier or segmenter calls them. Nothing happens where torchvision is not installed, or loads its own.
    """
    found = find_spec("torchvision")
    if found is None or hasattr(torch.ops.torchvision, "nms"):
        return
    try:
        for path in Path(str(found.origin)).parent.glob("_C.*"):
            torch.ops.load_library(path)
    except OSError:
        for name in ("nms", "qnms"):
            LIBRARY.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
