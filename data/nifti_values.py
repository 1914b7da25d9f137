"""Stored bytes to values: scaling, byte order and type."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .errors import InputError
from .nifti_header import NiftiHeader


def to_values(
    block: NDArray[np.uint8], header: NiftiHeader, dtype: DTypeLike | None, relative: str
) -> NDArray[np.generic]:
    """Turn the stored bytes of one volume into scaled values.

    Parameters
    ----------
    block : ndarray of uint8
        `header.volume_bytes` of them.
    header : NiftiHeader
    dtype : dtype, optional
        Type of the result; None: the stored type where the header asks for no scaling, else float32.
    relative : str
        Name for messages.

    Returns
    -------
    ndarray, shape (X, Y, Z)
        In Fortran order; the block itself where type, byte order and scaling already fit.

    Raises
    ------
    InputError
        CHI-IN-020 where an integer type is asked for and cannot hold the values.
    """
    stored = block.view(header.dtype).reshape(header.shape, order="F")
    scaled = (header.slope, header.inter) != (1.0, 0.0)
    kind = np.dtype(dtype) if dtype is not None else np.dtype(np.float32) if scaled else header.dtype.newbyteorder("=")
    if kind.kind in "iu":
        return _whole(stored, header, kind, relative)
    with np.errstate(over="ignore"):  # float64 beyond float32 becomes infinite, which `all_finite` finds
        if not scaled:
            return stored.astype(kind, order="F", copy=False)
        # float32 holds every 16-bit value and float32 exactly; wider types would lose digits before an intercept takes them back.
        if kind == np.float32 and header.dtype.itemsize * (1 if header.dtype.kind == "f" else 2) <= 4:
            out = stored.astype(np.float32, order="F")
            out *= np.float32(header.slope)
            if header.inter:
                out += np.float32(header.inter)
            return out
        result = np.empty(header.shape, kind, order="F")
        for k in range(header.shape[2]):
            result[..., k] = stored[..., k].astype(np.float64) * header.slope + header.inter
        return result


def _whole(stored: NDArray[np.generic], header: NiftiHeader, kind: np.dtype[Any], relative: str) -> NDArray[np.generic]:
    """Values as integers, refused where that would change them."""
    values = stored
    if header.dtype.kind == "f" or (header.slope, header.inter) != (1.0, 0.0):
        with np.errstate(over="ignore", invalid="ignore"):
            values = stored.astype(np.float64) * header.slope + header.inter
            exact = bool((values == np.rint(values)).all()) and math.isfinite(float(values.sum()))
    else:
        exact = True
    limits = np.iinfo(kind)
    if not exact or int(values.min()) < limits.min or int(values.max()) > limits.max:
        raise InputError(
            "CHI-IN-020",
            f"the voxel values are not whole numbers from {limits.min} to {limits.max}.",
            "Give a label map, written without scaling.",
            file=relative,
        )
    return values.astype(kind, order="F", copy=False)


def _parts(flat: NDArray[Any], n: int) -> Iterator[NDArray[Any]]:
    return (flat[start : start + n] for start in range(0, flat.size, n))


def all_finite(values: NDArray[np.generic]) -> bool:
    """Whether no value is NaN or infinite; a contiguous volume is read once and never copied.

    Parameters
    ----------
    values : ndarray
        Of any type and order; integers are finite without a look.
    """
    if values.dtype.kind != "f":
        return True
    flat = values.ravel(order="K")
    if values.dtype == np.float32:
        # The dot product of a block with zeros is NaN exactly where the block holds NaN or an infinity; BLAS reads at full speed.
        zeros = np.zeros(min(flat.size, 1 << 16), np.float32)
        with np.errstate(invalid="ignore"):
            return all(float(np.dot(part, zeros[: part.size])) == 0.0 for part in _parts(flat, 1 << 16))
    return all(bool(np.isfinite(part).all()) for part in _parts(flat, 1 << 16))
