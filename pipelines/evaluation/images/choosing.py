"""The two baselines without a decoder. Nothing here is ever given the true image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .retrieval import cosines


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
