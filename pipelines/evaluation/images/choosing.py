"""Choosing among candidates, and the two baselines without a decoder. Nothing here is ever given the true image.

Best-of-n by the true image (MindBridge's script) raises every two-way score: it cannot be expressed with these functions.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .retrieval import cosines

Selection = Literal["brain", "none"]


def choose_candidates(candidates: Tensor, brain: Tensor, *, select: Selection = "brain") -> NDArray[np.int64]:
    """Choose one of several reconstructions a trial.

    Parameters
    ----------
    candidates : Tensor, shape (n, s, ...)
        Tokens of s candidate images a trial, in the space of `brain`.
    brain : Tensor, shape (n, ...)
        The network's own projected tokens of the trial.
    select : "brain" or "none"
        The highest cosine with the brain's tokens (MindEye), or always the first (MindEye2).

    Returns
    -------
    ndarray of int64, shape (n,)
    """
    if len(candidates) != len(brain) or candidates.ndim < 3 or not candidates.shape[1]:
        raise ValueError(f"candidates (n, s, ...) of the trials (n, ...) are needed, got {tuple(candidates.shape)}")
    if select == "none":
        return np.zeros(len(brain), dtype=np.int64)
    if select != "brain":
        raise ValueError(f"select must be 'brain' or 'none', got {select!r}")
    own = torch.nn.functional.normalize(candidates.flatten(2).float(), dim=2)
    similarity = torch.einsum("nsf,nf->ns", own, torch.nn.functional.normalize(brain.flatten(1).float(), dim=1))
    return np.asarray(similarity.argmax(1).cpu().numpy(), dtype=np.int64)


def nearest_training_images(brain: Tensor, bank: Tensor) -> NDArray[np.int64]:
    """Retrieval-only baseline: for each trial (n, ...) the row of the bank of training images' tokens (m, ...) with the highest cosine."""
    return np.asarray(cosines(brain, bank).argmax(1), dtype=np.int64)


def mean_image(training: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Mean of the training images (m, S, S, 3), the reconstruction of one who saw no brain."""
    if training.ndim != 4 or not len(training):
        raise ValueError(f"images (m, S, S, 3) are needed, got {training.shape}")
    total = np.zeros(training.shape[1:], dtype=np.float64)
    for image in training:
        total += image
    return np.rint(total / len(training)).astype(np.uint8)
