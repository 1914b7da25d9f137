"""Runs on a grid, volume by volume: only the voxels of a mask are ever kept."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..atomic import atomic_path
from ..errors import InputError, ResourceError
from ..nifti import read_volume
from ..nifti_header import LAYOUTS, NiftiHeader, byte_order, header_size, parse_header
from ..nifti_stream import open_bytes
from ..nifti_values import to_values
from ..volumes import Grid
from .betas import ArrayBetas, Betas, StoredBetas
from .decoding_set import VoxelMask
from .scattered_betas import require_finite

CODES = {
    "CHI-IN-296": "A mask and a run have different shapes or lie at different places.",
    "CHI-IN-298": "A mask is missing, empty, or has another number of voxels than the betas.",
    "CHI-RES-075": "Betas do not fit in memory and no folder for a cache was given.",
}

MAX_IN_MEMORY = 2 << 30
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


def run_header(path: Path, *, relative: str) -> NiftiHeader:
    """Read the header of a 4-D run.

    Raises
    ------
    InputError
        ``CHI-IN-001`` to ``CHI-IN-022``.
    """
    with open_bytes(path, relative, None) as source:
        start = source.read(4)
        raw = start + source.read(header_size(start, relative=relative) - len(start))
        header = parse_header(raw, relative=relative)
        if header.claimed_bytes > source.limit:
            raise _cut_off(relative)
        return header


def repetition_time_s(header: NiftiHeader) -> float:
    """Return the time between volumes that a header says; 0 where it says none."""
    layout = LAYOUTS[header.version].newbyteorder(byte_order(header.raw))
    record = np.frombuffer(header.raw, layout, count=1)[0]
    step = float(record["pixdim"][4]) * _SECONDS.get(int(record["xyzt_units"]) & _TIME_UNITS, 1.0)
    return step if math.isfinite(step) and step > 0 else 0.0


def masked_volumes(path: Path, mask: Mask, *, relative: str) -> Iterator[NDArray[np.float32]]:
    """Yield the voxels of each volume of a run, (V,), in one pass over the file.

    Raises
    ------
    InputError
        ``CHI-IN-001`` to ``CHI-IN-022``, ``CHI-IN-284``, ``CHI-IN-296``.
    """
    header = run_header(path, relative=relative)
    require_same_grid(mask.grid, header.grid, relative)
    with open_bytes(path, relative, None) as source:
        source.skip(header.vox_offset)
        for _ in range(header.n_volumes):
            block = np.empty(header.volume_bytes, np.uint8)
            if source.fill(block.data) < header.volume_bytes:
                raise _cut_off(relative)
            voxels = to_values(block, header, np.float32, relative)[mask.inside].astype(np.float32, copy=False)
            require_finite(voxels[None], relative)
            yield voxels


def stored_rows(rows: Iterator[NDArray[np.float32]], n_rows: int, n_voxels: int, final: Path | None) -> Betas:
    """Keep rows as they come: in a .npy file, which appears when it is whole, or in memory.

    Parameters
    ----------
    rows : iterator of ndarray, shape (V,) or (k, V)
    n_rows, n_voxels : int
    final : Path, optional
        Where the file goes. None: memory, up to 2 GiB.

    Raises
    ------
    ResourceError
        ``CHI-RES-075``, and those of `atomic.atomic_path`.
    """
    if final is None:
        if n_rows * n_voxels * 4 > MAX_IN_MEMORY:
            raise ResourceError(
                "CHI-RES-075",
                f"{n_rows} trials x {n_voxels} voxels take more than 2 GiB of memory.",
                "Give a folder for a cache, or a smaller mask.",
            )
        kept = [np.atleast_2d(part) for part in rows]
        return ArrayBetas(np.concatenate(kept))
    with atomic_path(final) as temporary, temporary.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (n_rows, n_voxels)}
        np.lib.format.write_array_header_1_0(file, header)
        for part in rows:
            file.write(np.ascontiguousarray(part, dtype="<f4").data)
    return StoredBetas(final, relative=final.name)


def _cut_off(relative: str) -> InputError:
    return InputError(
        "CHI-IN-014",
        "the file ends before the last voxel that its header claims.",
        "Copy it again from where it came.",
        file=relative,
    )
