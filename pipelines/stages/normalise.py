"""Intensities as the network expects them, one slab at a time."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .items import BoolArray

FloatArray = NDArray[np.float32]
PERCENTILES = (0.5, 99.5)


def normalise(
    image: FloatArray, how: Literal["zscore-nonzero", "percentile", "none"], mask: BoolArray | None = None
) -> None:
    """Normalise one channel in place; voxels outside the mask become 0.

    Parameters
    ----------
    image : ndarray of float32, shape (X, Y, Z), C order
    how : str
        ``zscore-nonzero``: mean 0 and standard deviation 1 over the mask or, without one, over the nonzero voxels (the zeros
        stay 0), as MONAI's ``NormalizeIntensity(nonzero=True, channel_wise=True)`` does. ``percentile``: the 0.5th to
        the 99.5th percentile over the mask or the whole volume become 0 to 1, values beyond are clipped.
    mask : ndarray of bool, same shape, optional
    """
    if mask is not None:
        for slab, inside in zip(image, mask, strict=True):
            slab *= inside
    if how == "zscore-nonzero":
        _zscore(image, mask)
    elif how == "percentile":
        _percentile(image, mask)


def _zscore(image: FloatArray, mask: BoolArray | None) -> None:
    n, total, squares = 0, 0.0, 0.0
    for x, slab in enumerate(image):
        # Voxels outside are 0 and add nothing, so that no gather is needed; float64, since sums over 10^7 voxels are taken.
        n += int(np.count_nonzero(slab if mask is None else mask[x]))
        flat = slab.ravel().astype(np.float64)
        total += float(flat.sum())
        squares += float(np.einsum("i,i->", flat, flat))  # not BLAS: its threads spin longer than these short sums take
    if n == 0:
        return
    mean = total / n
    deviation = max(squares / n - mean * mean, 0.0) ** 0.5
    scale = np.float32(deviation if deviation > 0 else 1.0)
    for x, slab in enumerate(image):
        outside = (slab == 0) if mask is None else ~mask[x]
        slab -= np.float32(mean)
        slab /= scale
        slab[outside] = 0


def _percentile(image: FloatArray, mask: BoolArray | None) -> None:
    values = image if mask is None else image[mask]
    if values.size == 0:
        return
    low, high = (np.float32(v) for v in np.percentile(values, PERCENTILES))
    span = high - low if high > low else np.float32(1)
    for x, slab in enumerate(image):
        np.clip(slab, low, high, out=slab)
        slab -= low
        slab /= span
        if mask is not None:
            slab *= mask[x]
