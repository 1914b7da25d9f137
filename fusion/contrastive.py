"""Contrastive losses between what a brain network predicts and what an image (or a word, or a teacher) is.

All are pure functions of a prediction p and a target t, each (B, D): tokens flattened and L2-normalised (`flattened`). They
differ in one thing, the matrix that says which target belongs to which prediction (`matched`), and are computed in
float32: at a temperature of 0.006 the rounding of bfloat16 would be most of a logit. `temperature` may be a tensor: with
a learned logit scale s it is ``(-s).exp()``.

Sources: Scotti et al. 2023 (MindEye, section 3.2), Scotti et al. 2024 (MindEye2), and their repositories.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from .costs import full_precision, widened
from .mixco import mixco_targets

Temperature = float | Tensor


def flattened(tokens: Tensor) -> Tensor:
    """Flatten tokens (B, ...) to (B, D) and divide each item by its norm."""
    return functional.normalize(widened(tokens).flatten(1), dim=1)


def matched(logits: Tensor, rows: Tensor, columns: Tensor | None = None) -> Tensor:
    """Cross-entropy of logits (B, C) with target distributions over the columns and, if given, over the rows.

    Parameters
    ----------
    logits : Tensor, shape (B, C)
    rows : Tensor, shape (B, C)
        For each prediction, the shares of the targets.
    columns : Tensor, shape (C, B), optional
        For each target, the shares of the predictions; the two directions are averaged.
    """
    loss = -(rows * logits.log_softmax(1)).sum(1).mean()
    if columns is None:
        return loss
    return (loss - (columns * logits.T.log_softmax(1)).sum(1).mean()) / 2


def info_nce(p: Tensor, t: Tensor, temperature: Temperature, *, symmetric: bool = True) -> Tensor:
    """InfoNCE: the i-th target belongs to the i-th prediction; `symmetric` adds the direction from target to prediction."""
    own = torch.eye(len(p), device=p.device)
    return matched(_logits(p, t, temperature), own, own if symmetric else None)


def bimixco(
    p: Tensor,
    t: Tensor,
    temperature: Temperature,
    *,
    beta: Tensor,
    permutation: Tensor,
    symmetric: bool = True,
    equal_columns: bool = False,
    published: bool = False,
) -> Tensor:
    """InfoNCE for mixed voxels: a prediction belongs to two targets, with the shares of the mixture.

    Parameters
    ----------
    p, t : Tensor, shape (B, D)
        Prediction from mixed voxels; targets, not mixed.
    temperature : float or Tensor
    beta, permutation : Tensor, shape (B,)
        Of the `MixDraw`.
    symmetric : bool
        Whether the direction from target to prediction is averaged in.
    equal_columns : bool
        In that direction, the predictions' shares in a target do not sum to 1; all of them together sum to B. As published, a
        target counts by its sum, i.e. the loss is a mean weighted by how much of a target is in the batch. True: the shares
        are divided by their sum and each target counts the same, be there ever so little of it.
    published : bool
        See `mixco_targets`.
    """
    rows = mixco_targets(beta.to(p.device), permutation, published=published)
    columns = rows.T
    if equal_columns:
        columns = columns / columns.sum(1, keepdim=True).clamp_min(torch.finfo(columns.dtype).tiny)
    return matched(_logits(p, t, temperature), rows, columns if symmetric else None)


def soft_clip(p: Tensor, t: Tensor, temperature: Temperature) -> Tensor:
    """SoftCLIP: a prediction belongs to every target as much as its own target resembles it.

    The matrix of the targets is symmetric before its softmax, so its rows serve both directions and sum to 1 in both.
    """
    shares = _logits(t, t, temperature).softmax(1)
    return matched(_logits(p, t, temperature), shares, shares)


def soft_contrastive(student: Tensor, teacher: Tensor, augmented: Tensor, temperature: Temperature) -> Tensor:
    """Soft contrastive distillation: the student shall resemble augmented views of all items as the teacher does.

    Parameters
    ----------
    student, teacher, augmented : Tensor, shape (B, D)
        Prediction; the teacher's features of the image, and of another view of it.
    temperature : float or Tensor
    """
    labels = _logits(teacher, augmented, temperature)
    return matched(_logits(student, augmented, temperature), labels.softmax(1), labels.T.softmax(1))


def soft_sigmoid(p: Tensor, t: Tensor, temperature: Temperature, bias: Temperature) -> Tensor:
    """Sigmoid loss whose labels in [-1, 1] are the targets' own cosines, 1 on the diagonal (MindEye2's code)."""
    with full_precision(t.device):
        labels = (widened(t) @ widened(t).T - 1).fill_diagonal_(0) + torch.eye(len(t), device=t.device)
    return _sigmoid(_logits(p, t, temperature) + bias, labels, labels)


def mixed_sigmoid(
    p: Tensor,
    t: Tensor,
    temperature: Temperature,
    bias: Temperature,
    *,
    beta: Tensor,
    permutation: Tensor,
    published: bool = False,
) -> Tensor:
    """Sigmoid loss for mixed voxels: labels 2 Q - 1 with Q of `mixco_targets` (MindEye2's code).

    Parameters
    ----------
    p, t, temperature, beta, permutation
        As `bimixco`.
    bias : float or Tensor
        Added to the logits.
    published : bool
        Also takes the labels for the second direction from the untransposed matrix, so that they belong to other pairs.
    """
    labels = 2 * mixco_targets(beta.to(p.device), permutation, published=published) - 1
    return _sigmoid(_logits(p, t, temperature) + bias, labels, labels if published else labels.T)


def annealed_temperature(start: float, end: float, steps: int) -> Tensor:
    """Temperatures that go from `start` to `end` along half a cosine, one a step, shape (steps,), float64."""
    if steps < 2:
        return torch.full((max(steps, 0),), end, dtype=torch.float64)
    position = torch.arange(steps, dtype=torch.float64) / (steps - 1)
    return end + (start - end) / 2 * (1 + (math.pi * position).cos())


def _logits(p: Tensor, t: Tensor, temperature: Temperature) -> Tensor:
    if p.dim() != 2 or t.dim() != 2 or p.shape[1] != t.shape[1]:
        raise ValueError(f"prediction and target must be (B, D), flattened; got {tuple(p.shape)} and {tuple(t.shape)}")
    with full_precision(p.device):
        return widened(p) @ widened(t).T / temperature


def _sigmoid(logits: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    forth = -functional.logsigmoid(logits * rows).sum() / len(logits)
    back = -functional.logsigmoid(logits.T * columns).sum() / len(logits)
    return (forth + back) / 2
