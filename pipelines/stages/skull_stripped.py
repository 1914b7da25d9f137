"""Recognising volumes whose background was set to exactly zero."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...data.volumes import Volume
from .items import BoolArray

MIN_ZERO_SHARE = 0.25
"""A brain fills at most three quarters of any field of view that it was cut out in (of MNI152's, 0.22; of BraTS', 0.2)."""
BRAIN_ML = (600.0, 2300.0)
"""Where the nonzero part is larger than any brain, the scanner zeroed the air around a whole head."""


def zero_share(values: NDArray[np.generic]) -> float:
    """Return the share of voxels that are exactly 0."""
    return 1.0 - float(np.count_nonzero(values)) / values.size


def is_background_zero(values: NDArray[np.generic]) -> bool:
    """Whether so many voxels are exactly 0 that the background must have been set to it."""
    return zero_share(values) >= MIN_ZERO_SHARE


def stripped_mask(volume: Volume) -> BoolArray | None:
    """Return the nonzero region, holes filled, of a skull-stripped volume; None where the volume is not one.

    Parameters
    ----------
    volume : Volume

    Returns
    -------
    ndarray of bool, optional
        On the volume's grid.
    """
    share = zero_share(volume.values)
    inside_ml = (1.0 - share) * volume.values.size * volume.grid.voxel_ml
    if share < MIN_ZERO_SHARE or not BRAIN_ML[0] <= inside_ml <= BRAIN_ML[1]:
        return None
    from scipy import ndimage

    filled: BoolArray = ndimage.binary_fill_holes(volume.values != 0)
    return filled
