"""A frozen classifier."""

from torch import Tensor
from typing_extensions import override

from lightning_xai.targets.base import Target


class ClassifierTarget(Target):
    """A frozen classifier; a query is a class index, by default the most probable class.

    Example:
        >>> import torch
        >>> target = ClassifierTarget(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3)))
        >>> target.score(torch.ones(2, 1, 2, 2), torch.tensor([0, 2])).shape
        torch.Size([2, 1])
    """

    task = "classification"
    reference_key = "label"

    @override
    def default_targets(self, images: Tensor, logits: Tensor | None) -> Tensor:
        """The most probable class ``(B,)``."""
        assert logits is not None
        return self.predicted_classes(logits)
