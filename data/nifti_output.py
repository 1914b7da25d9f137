"""Header of an output: the geometry of the input bit for bit, and nothing personal."""

from __future__ import annotations

from typing import Any

import numpy as np

from .nifti_affine import affine_of
from .nifti_header import DATA_STARTS, LAYOUTS, SIZES, TYPES, byte_order
from .volumes import Grid

_KEPT = ("sizeof_hdr", "qform_code", "sform_code", "quatern", "qoffset", "srow", "xyzt_units", "dim_info")
_TYPE_CODES = {np.dtype(kind): code for code, kind in TYPES.items()}


def output_header(grid: Grid, dtype: np.dtype[Any], *, slope: float = 1.0) -> bytes:
    """Return header and the four bytes that say "no extension" for a 3-D image on `grid`.

    Geometry (qform, sform, their codes, units, ``pixdim[0:4]``) is the input's, bit for bit and in its byte order. Every field that
    can hold a name, a date or a remark is blank, and so is what described the input's values (intent, slice timing, display range).

    Parameters
    ----------
    grid : Grid
        Where its `nifti_header` is empty or contradicts `affine`, a NIfTI-1 header is built: sform code 1, and qform code 1 where
        the axes are at right angles.
    dtype : dtype
        Voxel type; its byte order is ignored.
    slope : float
        ``scl_slope`` of the output.
    """
    raw = grid.nifti_header if _describes(grid) else _built_header(grid)
    version = 1 if len(raw) == SIZES[1] else 2
    layout = LAYOUTS[version].newbyteorder(byte_order(raw))
    old, new = np.frombuffer(raw, layout, count=1), np.zeros(1, layout)
    for name in _KEPT:
        new[name] = old[name]
    new["pixdim"][0, :4] = old["pixdim"][0, :4]
    new["dim"] = (3, *grid.shape, 1, 1, 1, 1)
    new["datatype"] = _TYPE_CODES[dtype.newbyteorder("=")]
    new["bitpix"] = dtype.itemsize * 8
    new["vox_offset"] = DATA_STARTS[version]
    new["scl_slope"] = slope
    if version == 1:
        new["regular"] = b"r"  # what SPM and FSL write; the standard leaves it open
        new["magic"] = b"n+1"
    else:
        new["magic"] = b"n+2\0\r\n\x1a\n"
    return new.tobytes() + bytes(4)


def _describes(grid: Grid) -> bool:
    """Whether the kept header still says what the grid says (a caller may have cropped or moved the grid)."""
    raw = grid.nifti_header
    if len(raw) not in SIZES.values():
        return False
    order = byte_order(raw)
    record = np.frombuffer(raw, LAYOUTS[1 if len(raw) == SIZES[1] else 2].newbyteorder(order), count=1)[0]
    return bool(np.array_equal(affine_of(record, grid.shape), grid.affine))


def _built_header(grid: Grid) -> bytes:
    """A NIfTI-1 header for an affine (NIfTI-2 where an axis does not fit in 16 bits)."""
    version = 1 if max(grid.shape) < 1 << 15 else 2
    record = np.zeros(1, LAYOUTS[version].newbyteorder("<"))
    record["sizeof_hdr"] = SIZES[version]
    record["xyzt_units"] = 2  # millimetres
    record["sform_code"] = 1  # scanner
    record["srow"] = grid.affine[:3]
    spacing = np.array(grid.spacing_mm)
    axes = grid.affine[:3, :3] / spacing
    handed = -1.0 if np.linalg.det(axes) < 0 else 1.0
    record["pixdim"][0, :4] = (handed, *spacing)
    if np.allclose(axes.T @ axes, np.eye(3), atol=1e-5):  # a quaternion cannot hold a shear
        from scipy.spatial.transform import Rotation

        record["qform_code"] = 1
        record["quatern"] = Rotation.from_matrix(axes * (1, 1, handed)).as_quat(canonical=True)[:3]
        record["qoffset"] = grid.affine[:3, 3]
    return record.tobytes()
