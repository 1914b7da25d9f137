"""A volume and the grid that it lies on."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Affine = NDArray[np.float64]
"""Voxel indices to millimetres, RAS+ (x to the patient's right), shape (4, 4)."""


@dataclass(frozen=True, eq=False)
class Grid:
    """Where the voxels of a 3-D volume lie, with what is needed to write a volume on the same grid again.

    Parameters
    ----------
    shape : tuple of int
        (X, Y, Z).
    affine : ndarray, shape (4, 4)
        Voxel to RAS+ millimetres: the sform when its code is > 0, else the qform, else the pixel sizes.
    nifti_header : bytes
        The header as read (348 or 540 bytes, in its own byte order), so that an output keeps qform, sform, codes and
        units bit for bit; empty for other formats.
    """

    shape: tuple[int, int, int]
    affine: Affine
    nifti_header: bytes = field(default=b"", repr=False)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxels along each array axis."""
        x, y, z = np.sqrt((self.affine[:3, :3] ** 2).sum(axis=0))
        return float(x), float(y), float(z)

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000.0

    def same_as(self, other: Grid, tolerance_mm: float = 1e-3) -> bool:
        """Whether voxel (i, j, k) lies at the same place (within `tolerance_mm` at every corner) in both grids."""
        if self.shape != other.shape:
            return False
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in self.shape], indexing="ij")).reshape(3, -1)
        corners = np.vstack([corners, np.ones(corners.shape[1])])
        return bool(np.abs((self.affine - other.affine) @ corners).max() <= tolerance_mm)


@dataclass(frozen=True, eq=False)
class Volume:
    """Voxel values on a grid.

    Parameters
    ----------
    values : ndarray, shape (X, Y, Z)
        Scaled values (``scl_slope`` and ``RescaleSlope`` already applied).
    grid : Grid
    """

    values: NDArray[np.generic]
    grid: Grid
