"""Overlap losses for exclusive classes (softmax) and for nested regions (sigmoid)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

SMOOTH = 1e-5


def soft_dice(probability: Tensor, target: Tensor) -> Tensor:
    """Return the Dice overlap a channel, summed over batch and space (Milletari et al. 2016, with the plain denominator).

    Parameters
    ----------
    probability, target : Tensor, shape (B, C, X, Y, Z)

    Returns
    -------
    Tensor, shape (C,)
    """
    axes = (0, 2, 3, 4)
    overlap = (probability * target).sum(dim=axes)
    return (2 * overlap + SMOOTH) / (probability.sum(dim=axes) + target.sum(dim=axes) + SMOOTH)


def class_loss(logits: Tensor, labels: Tensor, *, focal: bool = False) -> Tensor:
    """Dice + cross-entropy (or focal) for exclusive classes; the background has no part in the Dice.

    Parameters
    ----------
    logits : Tensor, shape (B, C, X, Y, Z)
    labels : Tensor of int64, shape (B, X, Y, Z)
    focal : bool
        Weigh the cross-entropy by (1 - p)^2 (Lin et al. 2017).
    """
    logits = logits.float()
    log_probability = F.log_softmax(logits, dim=1)
    probability = log_probability.exp()
    target = F.one_hot(labels, logits.shape[1]).movedim(-1, 1).to(logits.dtype)
    true_log = (log_probability * target).sum(dim=1)
    entropy = -((1 - true_log.exp()) ** 2 * true_log).mean() if focal else -true_log.mean()
    return 1 - soft_dice(probability[:, 1:], target[:, 1:]).mean() + entropy


def region_loss(logits: Tensor, regions: Tensor, *, focal: bool = False) -> Tensor:
    """Dice + binary cross-entropy (or focal) for regions that may nest.

    Parameters
    ----------
    logits, regions : Tensor, shape (B, R, X, Y, Z)
        `regions` holds 0 and 1.
    focal : bool
    """
    logits, regions = logits.float(), regions.float()
    entropy = F.binary_cross_entropy_with_logits(logits, regions, reduction="none")
    if focal:
        entropy = entropy * (1 - torch.exp(-entropy)) ** 2
    return 1 - soft_dice(torch.sigmoid(logits), regions).mean() + entropy.mean()


def loss_of(outputs: Tensor | list[Tensor], target: Tensor, *, focal: bool) -> Tensor:
    """Return the loss; deeper outputs (deep supervision) count half as much a level.

    A floating-point target holds regions, an integer one holds labels.
    """
    levels = outputs if isinstance(outputs, list) else [outputs]
    total = torch.zeros((), device=target.device)
    weight_sum = 0.0
    for depth, logits in enumerate(levels):
        weight = 0.5**depth
        small = target if depth == 0 else _smaller(target, logits.shape[2:])
        one = region_loss if target.is_floating_point() else class_loss
        total = total + weight * one(logits, small, focal=focal)
        weight_sum += weight
    return total / weight_sum


def _smaller(target: Tensor, size: torch.Size) -> Tensor:
    if target.is_floating_point():
        return F.interpolate(target, size=size, mode="nearest")
    return F.interpolate(target[:, None].float(), size=size, mode="nearest")[:, 0].long()
