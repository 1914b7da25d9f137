"""Single-trial responses on disk, read row by row: a subject's betas never have to be in memory as a whole."""

from __future__ import annotations

import ast
import os
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError

CODES = {
    "CHI-IN-260": "A .npy file of betas is damaged, or is not a table of numbers (trials x voxels).",
    "CHI-IN-261": "A trial names a row that the betas do not have.",
}


class Betas(Protocol):
    """Responses of one subject: trials x voxels, anywhere."""

    @property
    def shape(self) -> tuple[int, int]:
        """Trials and voxels."""

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return some rows, (k, V), in the order asked for; a row may be asked for twice."""


class ArrayBetas:
    """Betas in memory.

    Parameters
    ----------
    values : ndarray, shape (n, V)
    """

    def __init__(self, values: NDArray[np.floating]) -> None:
        if values.ndim != 2:
            raise ValueError(f"trials x voxels are needed, got shape {values.shape}")
        self.values = values

    @property
    def shape(self) -> tuple[int, int]:
        """Trials and voxels."""
        return self.values.shape[0], self.values.shape[1]

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return some rows."""
        check_rows(rows, self.shape[0])
        return np.ascontiguousarray(self.values[rows], dtype=np.float32)


class StoredBetas:
    """Betas in a .npy file (float16, float32, float64 or int16; C order), read by position and not mapped into memory.

    A memory map would count every page that was ever touched as resident; single reads of one row (62 kB for 15,724 voxels in
    float32) are as fast and leave the cache to the system.

    Parameters
    ----------
    path : Path
    relative : str
        For messages.
    scale : float
        What stored values are divided by (NSD's int16: 300).

    Raises
    ------
    InputError
        ``CHI-IN-260``.
    """

    def __init__(self, path: Path, *, relative: str = "", scale: float = 1.0) -> None:
        self.path, self.scale = path, scale
        self._shape, self._dtype, self._offset = _npy_header(path, relative or path.name)

    @property
    def shape(self) -> tuple[int, int]:
        """Trials and voxels."""
        return self._shape

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return some rows; neighbours on disk are read together."""
        check_rows(rows, self._shape[0])
        n_voxels, size = self._shape[1], self._dtype.itemsize
        found = np.empty((len(rows), n_voxels), dtype=np.float32)
        order = np.argsort(rows, kind="stable")
        breaks = np.flatnonzero(np.diff(rows[order]) != 1) + 1
        with self.path.open("rb", buffering=0) as file:
            for run in np.split(order, breaks) if len(rows) else []:
                start, count = int(rows[run[0]]), len(run)
                data = os.pread(file.fileno(), count * n_voxels * size, self._offset + start * n_voxels * size)
                found[run] = np.frombuffer(data, dtype=self._dtype).reshape(count, n_voxels)
        if self.scale != 1.0:
            found /= self.scale
        return found


def check_rows(rows: NDArray[np.int64], n_rows: int) -> None:
    """Refuse rows outside 0 .. n_rows - 1.

    Raises
    ------
    InputError
        ``CHI-IN-261``.
    """
    if len(rows) and (rows.min() < 0 or rows.max() >= n_rows):
        raise InputError(
            "CHI-IN-261",
            f"a trial points at row {int(rows.max() if rows.max() >= n_rows else rows.min())} of betas with {n_rows} rows.",
            "Rows count from 0; a table that counts from 1 must be shifted, and sessions must not be missing.",
        )


def _npy_header(path: Path, relative: str) -> tuple[tuple[int, int], np.dtype[np.generic], int]:
    """Read the header of a .npy file without numpy's loader, which could be led to unpickle."""
    problem = ""
    try:
        with path.open("rb") as file:
            magic = file.read(8)
            width = 2 if magic[6:7] == b"\x01" else 4
            length = int.from_bytes(file.read(width), "little")
            text = file.read(length).decode("latin-1") if magic[:6] == b"\x93NUMPY" and length < 65_536 else ""
            header = ast.literal_eval(text.strip()) if text else {}
            offset, size = file.tell(), path.stat().st_size
    except (OSError, ValueError, SyntaxError, RecursionError, MemoryError):
        header, offset, size = {}, 0, 0
    if not isinstance(header, dict) or set(header) != {"descr", "fortran_order", "shape"}:
        problem = "it has no readable header"
    elif header["descr"] not in {"<f2", "<f4", "<f8", "<i2"}:
        problem = f"its type is {str(header['descr'])[:20]}, and float16, float32, float64 or int16 is needed"
    elif header["fortran_order"] or not _is_table(header["shape"]):
        problem = "it is not a table of trials x voxels in C order"
    else:
        dtype, shape = np.dtype(header["descr"]), header["shape"]
        if offset + shape[0] * shape[1] * dtype.itemsize != size:
            problem = f"its header promises {shape[0]} x {shape[1]} values and its length is another"
        else:
            return (int(shape[0]), int(shape[1])), dtype, offset
    raise InputError(
        "CHI-IN-260", f"the betas cannot be used: {problem}.", "Save them again with numpy.", file=relative
    )


def _is_table(shape: object) -> bool:
    return isinstance(shape, tuple) and len(shape) == 2 and all(isinstance(n, int) and n > 0 for n in shape)
