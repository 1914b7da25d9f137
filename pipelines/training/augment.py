"""Changes to a patch of a real case: flips, intensity scale and shift a channel, noise."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .settings import Augmentation


def augment(
    image: NDArray[np.float32], labels: NDArray[np.uint8], rng: np.random.Generator, settings: Augmentation
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Return a changed patch; voxels that are exactly zero (outside the brain) stay zero.

    Parameters
    ----------
    image : ndarray, shape (C, X, Y, Z)
    labels : ndarray, shape (X, Y, Z)
    rng : Generator
    settings : Augmentation
    """
    axes = [axis for axis in range(3) if rng.random() < settings.flip]
    if axes:
        image = np.flip(image, tuple(axis + 1 for axis in axes))
        labels = np.flip(labels, tuple(axes))
    shape = (image.shape[0], 1, 1, 1)
    scale = 1 + rng.uniform(-settings.scale, settings.scale, shape)
    shift = rng.uniform(-settings.shift, settings.shift, shape)
    noise = settings.noise * rng.random() * rng.standard_normal(image.shape, dtype=np.float32)
    changed = np.where(image == 0, 0, image * scale + shift + noise)
    return changed.astype(np.float32), np.ascontiguousarray(labels)
