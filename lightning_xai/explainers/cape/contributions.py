"""The formulas of CAPE: contributions of class maps, and how they are fitted to a classifier."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_xai.functional.resize import spread
from lightning_xai.functional.segmentation import gather_classes


def difference(contributions: Tensor, first: Tensor, second: Tensor, size: torch.Size) -> Tensor:
    """What regions contribute to one class minus what they contribute to another, enlarged.

    Args:
        contributions: ``(B, K, *regions)``.
        first: ``(B,)`` classes.
        second: ``(B,)`` classes that they are compared with.
        size: ``*S``.

    Returns:
        ``(B, *S)``, signed.
    """
    both = torch.stack([first, second], dim=1).to(contributions.device).long()
    return spread(gather_classes(contributions, both), size).diff(dim=1)[:, 0].neg()


def log_contributions(maps: Tensor, t1: Tensor | float, t2: Tensor | float) -> Tensor:
    """``log P_c(i) = log softmax_c(M_c(i) / T1) + log softmax_i(mean_c M_c(i) / T2)``.

    The published form, a softmax over all pairs of regions, factorizes exactly into these two. Eq. 5-7 of the paper.

    Args:
        maps: ``M``, ``(B, K, *N)``.
        t1: Temperature of the classes; times ``T3`` for the soft output.
        t2: Temperature of the regions; times ``T3`` for the soft output.

    Returns:
        ``(B, K, *N)``.
    """
    flat = maps.flatten(2)
    logs = (flat / t1).log_softmax(dim=1) + (flat.mean(dim=1, keepdim=True) / t2).log_softmax(dim=2)
    return logs.view_as(maps)


def mu_cape(maps: Tensor, t1: Tensor | float, t2: Tensor | float) -> Tensor:
    """``relu(M_c(i) / T1 + mean_c M_c(i) / T2)``, ``(B, K, *N)``."""
    return (maps / t1 + maps.mean(dim=1, keepdim=True) / t2).relu()


def distillation(teacher: Tensor, maps: Tensor, t1: Tensor | float, t2: Tensor | float, temperature: float) -> Tensor:
    """``T^2 KL(softmax(teacher / T) || P_soft)``, mean over the batch.

    Args:
        teacher: The classifier's logits ``(B, K)``.
        maps: ``M``, ``(B, K, *N)``.
        t1: ``T1 T3``.
        t2: ``T2 T3``.
        temperature: ``T``.
    """
    soft = log_contributions(maps, t1, t2).flatten(2).logsumexp(dim=2)
    wanted = (teacher.to(soft) / temperature).log_softmax(dim=1)
    return temperature**2 * F.kl_div(soft, wanted, reduction="batchmean", log_target=True)


def compared(own: Tensor, target: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
    """Agreement, mean confidence and, with labels ``(B,)``, accuracy of CAPE's and the target's probabilities."""
    (confidence, predicted), (target_confidence, target_predicted) = own.max(dim=1), target.max(dim=1)
    values = {"agreement": (predicted == target_predicted).float().mean()}
    values |= {"confidence": confidence.mean(), "target_confidence": target_confidence.mean()}
    if labels is not None:
        values["accuracy"] = (predicted == labels).float().mean()
        values["target_accuracy"] = (target_predicted == labels).float().mean()
    return values
