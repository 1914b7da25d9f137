"""Masks of runs, and what a run's header says of its place and its time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..nifti import read_volume
from ..nifti_header import LAYOUTS, NiftiHeader, byte_order
from ..volumes import Grid
from .decoding_set import VoxelMask

CODES = {
    "CHI-IN-296": "A mask and a run have different shapes or lie at different places.",
    "CHI-IN-298": "A mask is missing, empty, or has another number of voxels than the betas.",
}

_SECONDS = {8: 1.0, 16: 1e-3, 24: 1e-6}
_TIME_UNITS = 0x38


@dataclass(frozen=True, eq=False)
class Mask:
    """A mask with the grid that it lies on."""

    inside: NDArray[np.bool_]
    grid: Grid

    @property
    def n_voxels(self) -> int:
        """How many voxels are inside."""
        return int(np.count_nonzero(self.inside))

    @property
    def voxels(self) -> VoxelMask:
        """The form that goes with a subject."""
        return VoxelMask(inside=self.inside, affine=self.grid.affine)


def common_mask(paths: Sequence[Path], *, root: Path) -> Mask:
    """Return the voxels that are in every mask (one a run, say).

    Raises
    ------
    InputError
        ``CHI-IN-001`` to ``CHI-IN-022``, ``CHI-IN-296``, ``CHI-IN-298``.
    """
    inside: NDArray[np.bool_] | None = None
    grid: Grid | None = None
    for path in paths:
        relative = path.relative_to(root).as_posix()
        volume = read_volume(path, relative=relative)
        if grid is None or inside is None:
            grid, inside = volume.grid, np.asarray(volume.values) > 0
        else:
            require_same_grid(grid, volume.grid, relative)
            inside &= np.asarray(volume.values) > 0
    if grid is None or inside is None or not inside.any():
        where = paths[-1].relative_to(root).as_posix() if paths else ""
        raise InputError("CHI-IN-298", "no voxel is inside every mask.", "Give masks that overlap.", file=where)
    return Mask(np.ascontiguousarray(inside), grid)


def require_same_grid(mask: Grid, other: Grid, relative: str) -> None:
    """Refuse a run that lies elsewhere than its mask.

    Raises
    ------
    InputError
        ``CHI-IN-296``.
    """
    if not mask.same_as(other, tolerance_mm=0.1):
        shapes = " and ".join("x".join(map(str, grid.shape)) for grid in (mask, other))
        raise InputError(
            "CHI-IN-296",
            f"mask and run lie on different grids ({shapes} voxels).",
            "Give the mask of the same space and resolution.",
            file=relative,
        )


def repetition_time_s(header: NiftiHeader) -> float:
    """Return the time between volumes that a header says; 0 where it says none."""
    layout = LAYOUTS[header.version].newbyteorder(byte_order(header.raw))
    record = np.frombuffer(header.raw, layout, count=1)[0]
    step = float(record["pixdim"][4]) * _SECONDS.get(int(record["xyzt_units"]) & _TIME_UNITS, 1.0)
    return step if math.isfinite(step) and step > 0 else 0.0
