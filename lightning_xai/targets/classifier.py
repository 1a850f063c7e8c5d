"""A frozen classifier."""

import torch
from torch import Tensor

from lightning_xai.functional.finite import check_outputs
from lightning_xai.targets.base import Target


class ClassifierTarget(Target):
    """A frozen classifier; a query is a class index.

    Example:
        >>> target = ClassifierTarget(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3)))
        >>> target.score(torch.ones(2, 1, 2, 2), torch.tensor([0, 2])).shape
        torch.Size([2, 1])
    """

    def queries(self, images: Tensor, targets: Tensor | None, pixels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Default query: the most probable class. See :meth:`Target.queries`."""
        if pixels is not None:
            raise ValueError(
                "pixels were given, but a classifier has one answer per image; use SegmenterTarget for pixel sets."
            )
        # Once for each shape before an explainer hooks into the model: a pass that fails would leave its mark there.
        if targets is None or not self.classes or not self.knows(images):
            with torch.no_grad():
                logits = self.logits(images)
            check_outputs(logits)
            self.classes = logits.shape[1]
            targets = logits.argmax(dim=1) if targets is None else targets
        targets, _ = self._checked(images, targets, None)
        check_range(targets, self.classes)
        return targets, None


def check_range(targets: Tensor, classes: int) -> None:
    """Refuse a query about a class that the model does not have."""
    if targets.numel() and (int(targets.min()) < 0 or int(targets.max()) >= classes):
        wrong = targets.max() if targets.max() >= classes else targets.min()
        raise ValueError(f"Asked for class {int(wrong)}, but the model has classes 0 to {classes - 1}.")
