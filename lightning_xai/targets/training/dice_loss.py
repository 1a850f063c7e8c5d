"""Dice and cross-entropy over the pixels that a mask says something about."""

import torch.nn.functional as F
from monai.losses.dice import DiceCELoss, DiceLoss
from monai.networks.utils import one_hot
from torch import Tensor, nn

from lightning_xai.functional.segmentation import IGNORED


class LabeledDiceCE(nn.Module):
    """Computes MONAI's Dice loss plus cross-entropy, leaving out the pixels that the mask ignores.

    Args:
        activation: ``"softmax"``, or ``"sigmoid"`` for one logit.

    Example:
        >>> import torch
        >>> loss, logits = LabeledDiceCE("softmax"), torch.tensor([[[1.0, -9.0], [0.0, 9.0]]])
        >>> half = loss(logits[..., :1], torch.tensor([[[0]]]))
        >>> bool(loss(logits, torch.tensor([[[0, IGNORED]]])).isclose(half))
        True
    """

    def __init__(self, activation: str) -> None:
        super().__init__()
        self.several = activation == "softmax"
        self.whole = DiceCELoss(softmax=self.several, sigmoid=not self.several, to_onehot_y=self.several)
        self.dice = DiceLoss()

    def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
        """Compute the loss, a scalar.

        Args:
            logits: ``(B, K, *S)``.
            mask: ``(B, 1, *S)`` class indices, or `IGNORED`.
        """
        labeled = mask != IGNORED
        if bool(labeled.all()):
            loss: Tensor = self.whole(logits, mask.float())
            return loss
        known = mask.clamp(min=0)
        if self.several:
            probabilities, truth = logits.softmax(dim=1), one_hot(known.float(), logits.shape[1])
            entropy = F.cross_entropy(logits, mask[:, 0], ignore_index=IGNORED, reduction="sum")
        else:
            probabilities, truth = logits.sigmoid(), known.to(logits.dtype)
            entropy = F.binary_cross_entropy_with_logits(logits[labeled], truth[labeled], reduction="sum")
        dice: Tensor = self.dice(probabilities * labeled, truth * labeled)
        return dice + entropy / labeled.sum().clamp(min=1)
